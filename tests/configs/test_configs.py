"""Every config is a study that can be: evaluated abstractly on its devices, the numbers of its header recomputed.

`weights/` holds the config.json of each model that a config starts from, as published; the weights are not needed.
"""

import importlib
import itertools
import math
from pathlib import Path

import jax
import pytest

from cptlaw.fields import ConfigError
from cptlaw.launching import jobs
from cptlaw.models import transformer
from cptlaw.models.sharding import ShardingError
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid
from cptlaw.studies.footprint import footprint

ROOT = Path(__file__).parents[2]
WEIGHTS = str(Path(__file__).parent / "weights")

# GiB and peak bfloat16 TFLOP/s of a device, its platform, and the share of its peak that the headers count on.
H100, V5E, MFU = (80, 989, "cuda"), (16, 197, "tpu"), 0.4
ROOM = {"cuda": 0.95 * float(jobs.GPU_POOL), "tpu": 0.95}  # of a device's memory
HARDWARE = {
    "pythia": {1: H100, 4: V5E},
    "qwen": {8: H100, 64: V5E},
    "llama_8b": {8: H100, 64: V5E},
    "demo": {1: V5E},
    "study_small": {4: V5E},
    "cpt8": {1: V5E},
    "mixture_small": {1: V5E},
    "usages": {1: V5E},
}
# As published: of the paper's tables or the model cards.
PARAMETERS = {
    "pythia": {"70m": 70_426_624, "160m": 162_322_944, "410m": 405_334_016},
    "qwen": {"0_5b": 463_987_712, "1_8b": 1_836_828_672, "4b": 3_950_369_280},
    "llama_8b": {"8b": 8_030_261_248},
}


def load(name, *variant):
    return config_lib.parse(importlib.import_module(f"configs.{name}").get_config(*variant))


@pytest.fixture(scope="module")
def studies():
    return {name: load(name, *([WEIGHTS] if name in PARAMETERS else [])) for name in HARDWARE}


@pytest.fixture(scope="module")
def footprints(studies):
    """(config, size, devices) -> Footprint, of published models every size and of others the largest."""
    return {
        (name, size, devices): footprint(study, size, devices, platform)
        for name, study in studies.items()
        for size, (devices, (_, _, platform)) in itertools.product(sizes(name, study), HARDWARE[name].items())
    }


def sizes(name, study):
    return list(study.sizes) if name in PARAMETERS else list(study.sizes)[-1:]


def test_every_config_is_tested():
    sources = {path.stem: path.read_text() for path in (ROOT / "configs").glob("*.py")}
    assert {name for name, source in sources.items() if '"grid"' in source or "config.grid" in source} == set(HARDWARE)
    assert load("demo", "fast").held_out.tokens < load("demo").held_out.tokens
    assert load("demo", "biomedical").domains == ("biomedical",)


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_are_the_published_ones(studies, name):
    for size, wanted in PARAMETERS[name].items():
        run = grid.base_run(studies[name], size, 1, {})
        assert transformer.count_params(transformer.Config(**run.model))["total"] == wanted
        assert run.model["dtype"] == "bfloat16" and run.tokens == 0


@pytest.mark.parametrize("name", HARDWARE)
def test_every_run_can_be_planned(studies, name):
    study = studies[name]
    runs = grid.plan(study, study.vocabulary.size, dict.fromkeys(study.corpora, ""))
    assert len({run.id for run in runs}) == len(runs) >= 2
    held_out = [run for run in runs if run.init and run.size == study.held_out.size]
    assert any(tokens > study.held_out.tokens for run in held_out for tokens in run.eval_tokens)


@pytest.mark.parametrize("name", HARDWARE)
def test_a_step_fits_the_devices_it_is_meant_for(studies, footprints, name):
    for size, (devices, (gib, _, platform)) in itertools.product(sizes(name, studies[name]), HARDWARE[name].items()):
        found = footprints[name, size, devices]
        assert math.prod(found.layout.mesh.shape.values()) == devices
        assert found.activations > 0 and found.total < ROOM[platform] * gib * 2**30
        params = jax.eval_shape(lambda cfg=found.cfg: transformer.init(jax.random.key(0), cfg))
        total = sum(x.size for x in jax.tree.leaves(params))
        assert total == transformer.count_params(found.cfg)["total"]
        if found.layout.mesh.shape["fsdp"] > 1:
            # Norms and biases stay whole; all else is split over every device.
            assert found.gradients == pytest.approx(4 * total / devices, rel=0.02)
        else:
            assert found.gradients == 4 * total
        assert found.state == pytest.approx(3 * found.gradients, abs=64)
        assert found.checkpoint == pytest.approx(12 * total, abs=64)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_header_says_what_it_costs(studies, footprints, name):
    """If this fails after a change on purpose, put the lines that it misses into the config's header."""
    study, header = studies[name], importlib.import_module(f"configs.{name}").__doc__
    runs = grid.plan(study, 1, dict.fromkeys(study.corpora, ""))
    for size in study.grid:
        mine = [run for run in runs if run.size == size]
        flops, tokens = sum(run.flops() for run in mine), sum(run.tokens - run.first_token for run in mine)
        cfg = transformer.Config(**mine[0].model)
        line = f"{size:6} {transformer.flops_per_token(cfg, study.seq_len)['training']:.2e}   {len(mine) - 1:4}"
        line += f"   {tokens:.2e}   {flops:.2e}"
        for devices, (_, tflops, _) in HARDWARE[name].items():
            hours = flops / (devices * tflops * 1e12 * MFU) / 3600
            line += f"   {footprints[name, size, devices].total / 2**30:5.1f} GiB {hours:5.1f} h"
        assert line in header, line


def test_the_header_of_the_open_table_says_what_it_costs(studies):
    study, header = studies["cpt8"], importlib.import_module("configs.cpt8").__doc__
    runs = grid.plan(study, study.vocabulary.size, dict.fromkeys(study.corpora, ""))
    flops = 0.0
    for size in study.sizes:
        mine = [run for run in runs if run.size == size]
        each = transformer.flops_per_token(mine[0].config, study.seq_len)
        training = sum(run.flops() for run in mine)
        scored = sum(len(run.eval_tokens) * len(run.evals) * study.eval_max_tokens for run in mine)
        bases = sum(run.init is None for run in mine)
        line = f"{size:6}{transformer.count_params(mine[0].config)['non_embedding']:14,}{each['training']:14.2e}"
        line += f"{bases:8}{sum(run.init is not None and run.trunk is None for run in mine):7}"
        line += f"{sum(run.tokens - run.first_token for run in mine):11.2e}{training / 1e12:8.0f} TFLOP"
        line += f"{scored * each['forward'] / 1e12:8.0f} TFLOP"
        assert line in header, line
        flops += training + scored * each["forward"]
    assert f"\n{flops / 1e12:.0f} TFLOP." in header and flops < 900e12
    # All shares of at least eight domains at two sizes are there early.
    early = [run for run in runs if run.init][:130]
    assert {run.size for run in early} == {"27k", "99k"}
    cells = {(run.size, tuple(run.shares.items())) for run in early}
    assert len(cells) == 130 and len(study.domains) == 8


def test_what_cannot_be_is_named(studies):
    wide = studies["qwen"]
    with pytest.raises(ShardingError, match=r"dimension \d is not divisible by mesh axis 'fsdp' of size 48"):
        footprint(wide, "4b", 48)
    config = importlib.import_module("configs.qwen").get_config(WEIGHTS)
    config.batch_size, config.cpt.tokens, config.eval_tokens = 32, 32 * 2048, (32 * 2048,)
    config.cpt.warmup_tokens = 0
    with pytest.raises(Exception, match="not divisible by the 64 devices that split a batch"):
        footprint(config_lib.parse(config), "4b", 64)
    with config.unlocked():
        config.sizes["4b"].d_model = 2560
    with pytest.raises(ConfigError, match=r"sizes\.4b\.d_model: the folder in config\.init_from decides it"):
        config_lib.parse(config)
    config = importlib.import_module("configs.llama_8b").get_config(WEIGHTS)
    with config.unlocked():
        config.model.remta = "none"
    with pytest.raises(ConfigError, match=r"config\.model\.remta: no such field; did you mean 'remat'"):
        config_lib.parse(config)
