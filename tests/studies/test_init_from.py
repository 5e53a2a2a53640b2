"""A study continues an open model: its base is a folder's weights, measured and not trained."""

import gguf
import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from cptlaw.execution import job, rundir, sweep, worker
from cptlaw.execution.workdir import Workdir
from cptlaw.fields import ConfigError
from cptlaw.models import hf, transformer, weights
from cptlaw.scoring.evaluate import Evaluator
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid
from cptlaw.studies.footprint import footprint

DATA = {"prose": "p", "code": "c"}
CFG = transformer.Config(vocab_size=40, d_model=8, layers=1, heads=2, kv_heads=1, d_ff=24)


@pytest.fixture
def folder(tmp_path):
    params = transformer.init(jax.random.key(5), CFG)
    hf.save(tmp_path / "model", CFG, params)
    return str(tmp_path / "model")


def imported(make_config, folder, **changes):
    only = {"model": {"remat": "full"}, "grid": {"small": {"domain_shares": (0.5,)}}, "sizes": {"small": {}}}
    rest = {"base": None, "held_out__size": "small", "init_from": {"small": folder}}
    return config_lib.parse(make_config(**{**only, **rest, **changes}))


def test_a_study_continues_the_weights_of_a_folder(make_config, folder, workdir):
    study = imported(make_config, folder)
    base, mix = grid.plan(study, 32, DATA)
    assert base.tokens == 0 and base.flops() == 0 and base.weights == folder
    assert base.model["d_ff"] == 24 and base.model["vocab_size"] == 40 and base.model["remat"] == "full"
    assert base.model["qk_norm"] is False and "norm_placement" not in base.model, "the ids of runs hold the model"
    assert worker.train_run(base, workdir) and worker.train_run(mix, workdir)
    table = sweep.collect([base, mix], workdir)
    assert table["tokens"].tolist() == [0, 0, 128, 128, 256, 256]
    assert "pretrain_tokens" not in table, "nobody here knows"

    before = table[(table["tokens"] == 0) & (table["eval"] == "code")]["loss"].item()
    batches = job._eval_batches(Workdir(workdir), "code", 8, 32, None)
    stored = Evaluator(CFG).score(transformer.init(jax.random.key(5), CFG), batches)
    assert before == pytest.approx(stored.loss, rel=1e-5)
    after = table[(table["tokens"] == 256) & (table["eval"] == "code")]["loss"].item()
    assert after < before
    assert rundir.read_result(Workdir(workdir).run(base.id))["state"] == rundir.FINISHED


def test_a_study_continues_a_gguf_file(make_config, folder, workdir):
    """The same weights as llama.cpp has them: other names, and queries and keys with neighbours where halves were."""
    stored = load_file(next((workdir / "model").glob("*.safetensors")))
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers.": "blk.", "model.": "",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
             "self_attn.": "attn_", "mlp.": "ffn_", "_proj": ""}  # fmt: skip
    writer = gguf.GGUFWriter(workdir / "model.gguf", "llama")
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(CFG.norm_eps)
    for name, x in stored.items():
        if "q_proj" in name or "k_proj" in name:
            x = x.reshape(-1, 2, 2, 8).swapaxes(1, 2).reshape(x.shape)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    losses = []
    for path in (folder, str(workdir / "model.gguf")):
        weights.check(path)
        base, *_ = grid.plan(imported(make_config, path), 32, DATA)
        assert base.model["d_ff"] == 24 and base.model["vocab_size"] == 40
        assert worker.train_run(base, workdir)
        losses.append([row["loss"] for row in rundir.read_result(Workdir(workdir).run(base.id))["losses"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_folder_that_lost_a_tensor_fails_the_base_by_its_name(make_config, folder, workdir):
    (file,) = (workdir / "model").glob("*.safetensors")
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file({name: np.array(x) for name, x in tensors.items()}, file)
    base, *_ = grid.plan(imported(make_config, folder), 32, DATA)
    worker.train_run(base, workdir)
    assert "model.layers.0.mlp.up_proj.weight" in rundir.read_result(Workdir(workdir).run(base.id))["reason"]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"init_from": {}}, r"config\.base: missing; small need"),
        ({"grid__small__base_seeds": (1,)}, r"config\.grid\.small\.base_seeds: weights .* have no seed"),
        ({"init_from": {"huge": "x"}}, r"config\.init_from\.huge: no such size"),
        ({"sizes": {"small": {"layers": 2}}}, r"config\.sizes\.small\.layers: the folder in config\.init_from decides"),
    ],
)
def test_what_contradicts_the_folder_is_named(make_config, folder, changes, says):
    with pytest.raises(ConfigError, match=says):
        imported(make_config, folder, **changes)


def test_a_vocabulary_larger_than_the_models_is_named(make_config, folder):
    with pytest.raises(ConfigError, match=r"has 40 token ids and config\.vocabulary 64; use the model's own"):
        grid.plan(imported(make_config, folder), 64, DATA)


def test_what_a_model_from_scratch_asks_of_a_device_knows_its_vocabulary_file(make_config, tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(77)}, unk_token="w0"))
    words.add_special_tokens(["<end>"])
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    study = config_lib.parse(make_config(vocabulary={"kind": "file", "path": str(tmp_path)}))
    size = next(iter(study.grid))
    assert footprint(study, size, 8).cfg.vocab_size == 78
