import json
import tracemalloc

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from obstore.store import MemoryStore
from safetensors.numpy import load_file, save_file
from tiny_models import FAMILIES, GOLDEN, LENGTHS, TOKENS, weight

from cptlaw.errors import UserError
from cptlaw.models import families, hf, transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.storage.bucket import Bucket

ONE = Layout(make_mesh(data=1, devices=jax.devices()[:1]))
GOLDEN_LOGITS = {name: np.array(x) for name, x in json.loads(GOLDEN.read_text()).items()}
FORWARD = jax.jit(transformer.apply, static_argnums=1)


def write(folder, config, files: int = 1):
    """The tiny model's folder, as downloaded."""
    names = hf.tensors(config["model_type"], families.of_json(config))
    stored = {name: weight(name, tensor.shape) for name, tensor in names.items()}
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(stored, folder / "model.safetensors")
        return stored
    weight_map = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(stored)}
    for file in set(weight_map.values()):
        save_file({name: x for name, x in stored.items() if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return stored


def packed_logits(cfg, params) -> np.ndarray:
    segments_T = np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS)
    positions_T = np.concatenate([np.arange(n) for n in LENGTHS])
    return np.asarray(FORWARD(params, cfg, TOKENS[None], segments_T[None], positions_T[None]))[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_equal_those_of_transformers_for_each_document(family, tmp_path):
    """The golden logits are regenerated as tiny_models.py says, and only for a new tiny model."""
    write(tmp_path, FAMILIES[family], files=2)
    cfg, params = hf.load(tmp_path, ONE, scan_layers=True)  # compiles faster
    np.testing.assert_allclose(packed_logits(cfg, params), GOLDEN_LOGITS[family], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_equal_the_tree_and_flops_the_program(family):
    cfg = families.of_json(FAMILIES[family])
    tree = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    Layout(make_mesh(fsdp=2, tensor=2, data=2) if cfg.kv_heads > 1 else make_mesh(fsdp=8)).shardings(tree)
    embedding = tree["embed"].size + (tree["unembed"].size if "unembed" in tree else 0)
    total = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert transformer.count_params(cfg) == {"total": total, "non_embedding": total - embedding}

    T = 16
    row = jax.ShapeDtypeStruct((1, T), np.int32)
    program = jax.make_jaxpr(lambda p, *x: transformer.apply(p, cfg, *x))(tree, row, row, row)
    weights, scores = dot_flops(program.jaxpr)
    # The program multiplies all T x T pairs; those that a query sees are counted one by one.
    seen = sum(min(t + 1, kind.window or T) for kind in cfg.kind_of_each for t in range(T))
    assert transformer.flops_per_token(cfg, T)["forward"] * T == weights + scores * seen / T**2 / cfg.layers


def dot_flops(jaxpr) -> tuple[int, int]:
    """FLOPs of the dot_generals of a program: those without batch dimensions (weights), and those with (attention)."""
    flops = [0, 0]
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            ((left, _), (batch, _)) = eqn.params["dimension_numbers"]
            terms = np.prod([eqn.invars[0].aval.shape[i] for i in left])
            flops[len(batch) > 0] += int(2 * terms * np.prod(eqn.outvars[0].aval.shape))
        for inner in jaxprs_in_params(eqn.params):
            flops = [a + b for a, b in zip(flops, dot_flops(inner))]
    return flops[0], flops[1]


@pytest.mark.parametrize("family", ["llama3", "phi3", "pythia"])
def test_every_device_reads_only_its_slices(family, tmp_path, monkeypatch):
    write(tmp_path, FAMILIES[family])
    layout = Layout(make_mesh(data=2, fsdp=2, tensor=2))
    read = []
    whole = hf.Safetensors.read
    monkeypatch.setattr(
        hf.Safetensors, "read", lambda self, *a: (read.append((a[0], whole(self, *a).size)), whole(self, *a))[1]
    )
    cfg, params = hf.load(tmp_path, layout)
    sizes = {
        name: weight(name, tensor.shape).size
        for name, tensor in hf.tensors(FAMILIES[family]["model_type"], cfg).items()
    }
    matrices = [(name, size) for name, size in read if "norm" not in name and not name.endswith("bias")]
    parts = 2 if family == "pythia" else 4
    assert all(size <= sizes[name] / parts or "embed" in name for name, size in matrices)
    abstract = layout.shardings(params)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, params, abstract)))
    jax.tree.map(np.testing.assert_array_equal, params, hf.load(tmp_path, ONE)[1])


def test_the_host_holds_one_parameter_at_a_time(tmp_path):
    """The peak of NumPy's memory is a part of the model's, though the device (here also the host) holds all."""
    config = FAMILIES["llama2"] | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 16}
    write(tmp_path, config)
    layout = Layout(make_mesh(fsdp=8))
    hf.load(tmp_path, layout)  # imports and caches
    tracemalloc.start()
    cfg, _ = hf.load(tmp_path, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < transformer.count_params(cfg)["total"] * 4 / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_config_json_says_all(family):
    cfg = families.of_json(FAMILIES[family])
    made = json.loads(json.dumps(families.to_json(cfg)))
    assert families.of_json(made) == cfg and made["model_type"] == FAMILIES[family]["model_type"]


@pytest.mark.parametrize("family", ["llama3", "smollm2", "olmo2", "phi3", "pythia"])
def test_what_is_saved_is_what_was_loaded(family, tmp_path):
    (tmp_path / "a").mkdir()
    stored = write(tmp_path / "a", FAMILIES[family])
    cfg, params = hf.load(tmp_path / "a", ONE, dtype="bfloat16", remat="full")
    assert (cfg.dtype, cfg.remat) == ("bfloat16", "full")
    hf.save(tmp_path / "b", cfg, params, file_bytes=10_000, metadata={"eos_token_id": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "b").glob("model-*.safetensors"))
    assert len(files) > 1 and max(file.stat().st_size for file in files) < 20_000
    again = {name: x for file in files for name, x in load_file(file).items()}
    assert again.keys() == stored.keys() == index["weight_map"].keys()
    for name, x in stored.items():
        np.testing.assert_array_equal(again[name], x)
    assert hf.read_config(tmp_path / "b") == families.of_json(FAMILIES[family])
    assert json.loads((tmp_path / "b" / "config.json").read_text())["eos_token_id"] == 3


def test_weights_go_to_a_bucket_and_come_back(tmp_path, monkeypatch):
    bucket = Bucket("gs://weights/tiny", MemoryStore())
    monkeypatch.setattr(Bucket, "open", staticmethod(lambda url: bucket))
    monkeypatch.setenv("CPTLAW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", FAMILIES["llama3"])
    cfg, params = hf.load(tmp_path / "a", ONE)
    hf.save("gs://weights/tiny", cfg, params, file_bytes=10_000)
    assert {"config.json", "model.safetensors.index.json"} < set(bucket.list())
    again, same = hf.load("gs://weights/tiny", ONE)
    assert again.described and jax.tree.all(jax.tree.map(np.array_equal, params, same))
    with pytest.raises(UserError, match="gs://weights/tiny: exists already; name a new folder"):
        hf.save("gs://weights/tiny", cfg, params)


def test_bfloat16_halves_the_file(tmp_path):
    write(tmp_path, FAMILIES["qwen3"])
    cfg, params = hf.load(tmp_path, ONE)
    hf.save(tmp_path / "model", cfg, params, dtype="bfloat16")
    _, read = hf.load(tmp_path / "model", ONE)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).astype("bfloat16").astype("float32"), b), params, read
    )
    with pytest.raises(UserError, match="exists already"):
        hf.save(tmp_path / "model", cfg, params)
    with pytest.raises(UserError, match="float16"):
        hf.save(tmp_path / "other", cfg, params, dtype="float16")


def test_every_wrong_tensor_is_listed(tmp_path):
    stored = write(tmp_path, FAMILIES["qwen2"])
    norm = stored.pop("model.norm.weight")
    stored["model.layers.1.mlp.up_proj.weight"] = np.zeros((16, 24), np.float32)
    stored["model.layers.2.mlp.up_proj.weight"] = norm
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = norm  # nothing to learn
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]  # the tied embedding again
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        hf.load(tmp_path, ONE)
    said = str(error.value)
    assert "model.norm.weight (16,) is missing" in said
    assert "model.layers.2.mlp.up_proj.weight (16,) is not used" in said
    assert "model.layers.1.mlp.up_proj.weight is (16, 24), this model's is (24, 16)" in said
    assert said.count(";") == 2


@pytest.mark.parametrize(
    "family, change, says",
    [
        ("llama2", {"model_type": "gemma3"}, "model_type 'gemma3'"),
        ("llama2", {"hidden_act": "relu2"}, "hidden_act 'relu2'"),
        ("llama2", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_scaling 'dynamic'"),
        ("llama2", {"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ("llama2", {"attention_bias": True}, "attention_bias True"),
        ("llama2", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("mistral", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    ],
    ids=str,
)
def test_an_unsupported_feature_is_named(family, change, says):
    with pytest.raises(UserError, match=says):
        families.of_json(FAMILIES[family] | change)


def test_what_a_config_leaves_open():
    config = {k: v for k, v in FAMILIES["llama2"].items() if k != "num_key_value_heads"}
    assert families.of_json(config).kv_heads == 4
    with pytest.raises(UserError, match="hidden_size is missing"):
        families.of_json({"model_type": "llama", "vocab_size": 3})
    window = {"use_sliding_window": True, "sliding_window": 4}
    assert families.of_json(FAMILIES["qwen2"] | window | {"max_window_layers": 0}).sliding_window == 4
    assert families.of_json(FAMILIES["qwen2"] | window | {"max_window_layers": 2}).sliding_window == 0
    neox = families.of_json(FAMILIES["pythia"])
    with pytest.raises(UserError, match="gpt_neox architecture cannot express sliding_window=5"):
        families.to_json(transformer.Config(**{**vars(neox), "sliding_window": 5}))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: not readable"):
        hf.load(tmp_path, ONE)
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES["llama2"]))
    with pytest.raises(UserError, match="no readable safetensors"):
        hf.load(tmp_path, ONE)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="no readable safetensors"):
        hf.load(tmp_path, ONE)
