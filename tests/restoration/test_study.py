"""The whole study at its smallest, and what is said of finished runs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cptlaw import runs
from cptlaw.cli import main
from cptlaw.configs import restoration_5d, restoration_10d, restoration_demo
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError
from cptlaw.restoration import findings, networks, settings, study
from cptlaw.restoration.settings import parse
from cptlaw.restoration.study import Done


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    root = tmp_path_factory.mktemp("images")
    for i in range(4):
        image = np.rot90(pictures[i % 2].clean, i)
        Image.fromarray((image * 255).astype(np.uint8)).save(root / f"image{i}.png")
    return root


@pytest.fixture(scope="module")
def config(folder):
    config = restoration_demo.get_config("tiny").to_dict()
    return {
        **config,
        "images": {"kind": "folder", "path": str(folder), "held_out": ("image1",)},
        "test": {"patch": 16, "each": 2, "probe": 1},
    }


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A finished study, run by the command: two minutes, most of them the compiler's."""
    root = tmp_path_factory.mktemp("study")
    file = root / "config.py"
    file.write_text(f"def get_config():\n    return {config!r}\n")
    assert main(["-q", "restoration", "study", str(file), "--workdir", str(root / "work")]) == 0
    return root / "work"


@pytest.mark.slow
def test_the_table_is_a_runs_table_that_counts_pre_training(workdir, config):
    asked = parse(config)
    table = runs.read(workdir / "runs.csv")
    assert sorted(set(table["model"])) == sorted(settings.ARMS) and set(table["eval"]) == {"noise", "haze", "all"}
    at = table[table["eval"] == "all"].set_index(["model", "seed", "step"])
    unit = asked.fine_tune.batch_size * asked.fine_tune.crop**2
    steps = asked.fine_tune.steps
    assert at.loc[("scratch", 0, steps), "tokens"] == steps * unit
    dcpt = at.loc[("dcpt", 0, steps), "tokens"] / unit
    longer = at.loc["scratch_longer"].loc[0].index.max()
    assert dcpt == pytest.approx(longer, abs=0.51) and longer > steps  # equal compute, to half a step
    # Arms begin alike where they are alike: scratch is the beginning of the longer run.
    assert at.loc[("scratch", 1, 2), "loss"] == at.loc[("scratch_longer", 1, 2), "loss"]
    assert at.loc[("scratch", 0, 2), "loss"] != at.loc[("scratch", 1, 2), "loss"]


@pytest.mark.slow
def test_the_page_shows_every_arm_and_type(workdir):
    page = (workdir / "report.html").read_text()
    for words in (
        "DCPT is ",
        "the input, untouched",
        "No run is better than the untouched input",
        "raw pixels",
        "held out",
        *settings.ARMS.values(),
    ):
        assert words in page
    assert page.count('src="data:image/png;base64,') == 2 * 5  # types x (input, three arms, truth)
    assert (workdir / "report_figures" / "learning_curves.csv").exists()
    gaps = pd.read_csv(workdir / "differences.csv")
    assert list(gaps["other"]) == list(findings.QUESTIONS) and (gaps["low"] <= gaps["dB"]).all()


@pytest.mark.slow
def test_a_finished_study_is_not_trained_again(workdir, config, monkeypatch):
    before = (workdir / "runs.csv").read_bytes()
    monkeypatch.setattr(study.training, "train", lambda *args, **options: pytest.fail("trained again"))
    study.run(parse(config), workdir)
    assert (workdir / "runs.csv").read_bytes() == before
    with pytest.raises(UserError, match="holds the runs of another config"):
        study.run(dataclasses.replace(parse(config), name="other"), workdir)


@pytest.mark.slow
def test_a_stopped_study_goes_on(workdir, config, tmp_path):
    asked = dataclasses.replace(parse(config), arms=("dcpt",), seeds=(0,))
    with pytest.raises(study.Stopped, match="dcpt-0: stopped at step 1 of its phase dcpt"):
        study.run(asked, tmp_path, should_stop=lambda: True)
    _, (done,) = study.run(asked, tmp_path)
    whole = study.read(workdir / "runs" / "dcpt-0")
    assert done.tests == whole.tests and list(done.psnr) == list(whole.psnr)


def _done(arm, seed, psnr):
    return Done(arm, seed, [], np.asarray(psnr), np.zeros(len(psnr)), {}, None, 0.0)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    base = 5 * rng.normal(size=40)  # patches differ far more than arms do
    done = [_done("scratch", s, base + 0.05 * rng.normal(size=40)) for s in range(3)]
    done += [_done("dcpt", s, base + 0.5 + 0.05 * rng.normal(size=40)) for s in range(3)]
    (gap,) = findings.differences(done, labels)
    assert gap.other == "scratch" and gap.mean == pytest.approx(0.5, abs=0.05)
    assert (
        0.4 < gap.low < gap.mean < gap.high < 0.6
        and "Against scratch at equal steps of fine-tuning DCPT is better" in gap.words()
    )


def _curves(asked, gain, offset, seeds=3):
    """Rows of learning curves L = 0.02 + A C^-0.5, where DCPT spends `offset` steps first and has `gain` of
    scratch's A."""
    unit = asked.fine_tune.batch_size * asked.fine_tune.crop**2
    rng = np.random.default_rng(0)
    rows = []
    for arm, a, start in (("scratch_longer", 1.0, 0), ("dcpt", gain, offset)):
        for seed in range(seeds):
            for step in np.geomspace(20, 2000, 12).astype(int):
                tokens = int((step + start) * unit)
                loss = (0.02 + a * 0.1 * (tokens / 1e6) ** -0.5) * np.exp(0.002 * rng.normal())
                rows.append(
                    {
                        "run": f"{arm}-{seed}",
                        "model": arm,
                        "seed": seed,
                        "step": int(step),
                        "tokens": tokens,
                        "eval": "all",
                        "loss": loss,
                        "params": 1000,
                    }
                )
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_payback_finds_that_it_pays_or_never_does(config):
    asked = parse(config)
    better, worse = (findings.payback(asked, _curves(asked, gain, 100)) for gain in (0.8, 1.2))
    assert np.isfinite(better.draws).all() and "it pays from its first test on" in better.words
    assert np.isinf(worse.draws).all() and "it never pays within 100 times" in worse.words


def test_one_seed_has_no_interval(config):
    asked = parse(config)
    with pytest.raises(UserError, match="needs two seeds"):
        findings.payback(asked, _curves(asked, 0.8, 100, seeds=1))


@pytest.mark.parametrize(
    "name, classes, spent", [("restoration_5d", 5, (1.06e18, 1.71e18)), ("restoration_10d", 10, (1.06e18, 1.52e18))]
)
def test_configs_at_the_papers_sizes_have_their_headers_arithmetic(name, classes, spent):
    module = {"restoration_5d": restoration_5d, "restoration_10d": restoration_10d}[name]
    asked = parse(module.get_config())
    assert networks.count_params(asked.network) == 67_888_835
    assert networks.count_params(asked.pair.classifier) == 49_290_505 + (classes - 5) * 513
    assert asked.flops(asked.pretrain) == pytest.approx(spent[0], rel=0.01)
    assert asked.flops(asked.fine_tune) == pytest.approx(spent[1], rel=0.01)
    for figure in spent:
        assert f"{figure:.2e}".replace("+", "") in module.__doc__
    per_crop = networks.flops(asked.pair, 128)
    assert per_crop["dcpt"] == pytest.approx(3.3e11, rel=0.01) and per_crop["fine_tune"] == pytest.approx(
        9.5e10, rel=0.01
    )


def test_the_demo_has_its_headers_arithmetic():
    asked = parse(restoration_demo.get_config())
    extra = asked.phases("scratch_longer")[1].steps - asked.fine_tune.steps
    assert f"cost as much as {extra}" in restoration_demo.__doc__
    assert networks.count_params(asked.network) == pytest.approx(0.16e6, rel=0.05)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"kinds": ("noise", "nois")}, "config.kinds: no degradation 'nois'; did you mean"),
        ({"kinds": ("noise",)}, "config.kinds: a classification needs two"),
        ({"seeds": (1, 1)}, "config.seeds: each once"),
        ({"arms": ("dcpt", "dctp")}, "config.arms"),
        ({"evaluations": 3}, "config.evaluations: must divide"),
        ({"draws": 0}, "config.draws"),
        ({"network": {"kind": "unet"}}, "config.network.kind"),
        ({"network": {"kind": "nafnet", "width": 5}}, "config.network.width"),
        ({"test": {"patch": 8}}, "config.test.patch"),
        ({"pretrain": {"kind": "fine_tune", "steps": 2}}, "config.pretrain.kind: must be dcpt"),
        ({"fine_tune": {"kind": "fine_tune", "steps": 4, "crop": 17}}, "config.fine_tune.crop: must be a multiple"),
        ({"image": {}}, "config.image: no such field; did you mean 'images'"),
    ],
)  # fmt: skip
def test_bad_values_are_named(config, change, field):
    with pytest.raises(ConfigError, match=field):
        parse({**config, **change})
