"""config.json field by field: a family's defaults, what its model does not use, and what is refused by name."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_models import FAMILIES

from cptlaw.errors import UserError
from cptlaw.models import families, hf, transformer
from cptlaw.models.sharding import Layout, make_mesh

ONE = Layout(make_mesh(data=1, devices=jax.devices()[:1]))
LINEAR = {"type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def config(family, **change):
    """A family's tiny config with fields changed; `...` leaves one out."""
    given = {**FAMILIES[family], **change}
    return {name: value for name, value in given.items() if value is not ...}


@pytest.mark.parametrize(
    ("family", "change", "field", "value"),
    [
        ("llama2", {"rms_norm_eps": ...}, "norm_eps", 1e-6),
        ("pythia", {"layer_norm_eps": ...}, "norm_eps", 1e-5),
        ("olmo2", {"rms_norm_eps": ...}, "norm_eps", 1e-5),
        ("olmo2", {"num_key_value_heads": ...}, "kv_heads", 4),
        ("olmo2", {"sliding_window": 4}, "sliding_window", 0),
        ("phi3", {"rms_norm_eps": ...}, "norm_eps", 1e-5),
        ("phi3", {"sliding_window": ...}, "sliding_window", 0),
        ("phi3", {"partial_rotary_factor": ...}, "rotary_fraction", 1.0),
        (
            "phi3",
            {"partial_rotary_factor": ..., "rope_parameters": {"partial_rotary_factor": 0.5}},
            "rotary_fraction",
            0.5,
        ),
        ("llama2", {"rope_theta": ...}, "rope_theta", 10_000.0),
        ("pythia", {"rotary_emb_base": ...}, "rope_theta", 10_000.0),
        ("pythia", {"rotary_pct": ...}, "rotary_fraction", 0.25),
        ("pythia", {"rotary_pct": 0.5}, "rotary_fraction", 0.5),
        ("llama2", {"tie_word_embeddings": ...}, "tie_embeddings", False),
        ("qwen2", {"tie_word_embeddings": ...}, "tie_embeddings", False),
        ("llama2", {"hidden_act": ...}, "activation", "silu"),
        ("pythia", {"hidden_act": ...}, "activation", "gelu"),
        ("llama2", {"hidden_act": "swish"}, "activation", "silu"),
        ("pythia", {"hidden_act": "gelu_fast"}, "activation", "gelu_tanh"),
        ("llama2", {"head_dim": None}, "head_dim", 4),
        ("qwen3", {"head_dim": ...}, "head_dim", 128),
        ("qwen2", {"head_dim": 8}, "head_dim", 8),
        ("llama2", {"num_key_value_heads": ...}, "kv_heads", 4),
        ("llama2", {"num_key_value_heads": None}, "kv_heads", 4),
        ("mistral", {"num_attention_heads": 8, "num_key_value_heads": ...}, "kv_heads", 8),
        ("pythia", {"num_key_value_heads": 1}, "kv_heads", 2),
        ("pythia", {"use_parallel_residual": ...}, "parallel_residual", True),
        ("llama_biased", {}, "bias", "all"),
        ("qwen3", {"mlp_bias": True}, "bias", "none"),
        # Windows: Llama and GPT-NeoX have none, Mistral's default is 4,096, Qwen's needs use_sliding_window.
        ("llama2", {"sliding_window": 4}, "sliding_window", 0),
        ("pythia", {"sliding_window": 4}, "sliding_window", 0),
        ("mistral", {"sliding_window": ...}, "sliding_window", 4096),
        ("mistral", {"sliding_window": None}, "sliding_window", 0),
        ("mistral", {"layer_types": ["sliding_attention"] * 2}, "sliding_window", 4),
        ("qwen2", {"sliding_window": 4}, "sliding_window", 0),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None}, "sliding_window", 0),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4}, "sliding_window", 0),  # after 28 layers
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}, "sliding_window", 4096),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["full_attention"] * 2}, "sliding_window", 0),
        # Windows in some layers: of Qwen after max_window_layers, of SmolLM3 where there are no rotary positions.
        ("qwen2_mixed", {}, "layer_kinds", "full,sliding"),
        ("qwen2_mixed", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_kinds", "sliding,full"),
        ("qwen2_mixed", {"num_hidden_layers": 3, "max_window_layers": 2}, "layer_kinds", "full,full,sliding"),
        ("smollm3", {}, "layer_kinds", "full,full,full,nope"),
        ("smollm3", {"no_rope_layers": [1] * 8}, "layer_kinds", ""),
        ("smollm3", {"no_rope_layer_interval": 2}, "layer_kinds", "full,nope"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 4}, "layer_kinds", "full,full,full,sliding_nope"),
        ("smollm3", {"sliding_window": 4}, "sliding_window", 0),
        ("smollm3", {"rope_theta": ...}, "rope_theta", 2e6),
        ("smollm3", {"tie_word_embeddings": ...}, "tie_embeddings", True),
        ("smollm3", {"num_key_value_heads": ...}, "kv_heads", 4),
        # Gemma: windows in all layers but every second or sixth, unless the file says which.
        ("gemma2", {}, "layer_kinds", "sliding,full"),
        ("gemma2", {"layer_types": ["full_attention"] * 3}, "layer_kinds", ""),
        ("gemma2", {"sliding_window": ...}, "sliding_window", 4096),
        ("gemma2", {"hidden_activation": ..., "hidden_act": "relu2"}, "activation", "gelu_tanh"),
        ("gemma2", {"attn_logit_softcapping": ...}, "attention_softcap", 50.0),
        ("gemma2", {"final_logit_softcapping": ...}, "logit_softcap", 30.0),
        ("gemma2", {"final_logit_softcapping": None}, "logit_softcap", 0.0),
        ("gemma2", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar", 0.0),  # as without it
        ("gemma2", {"query_pre_attn_scalar": ...}, "query_pre_attn_scalar", 256.0),
        ("gemma2", {"head_dim": ...}, "head_dim", 256),
        ("gemma2", {"tie_word_embeddings": ...}, "tie_embeddings", True),
        ("gemma3", {"sliding_window_pattern": ..., "num_hidden_layers": 7}, "layer_kinds", "sliding," * 5 + "full"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attention_softcap", 0.0),
        ("gemma3", {"rope_theta": ..., "rope_scaling": None}, "rope_theta", 1e6),
        ("gemma3", {"rope_local_base_freq": ...}, "rope_local_theta", 1e4),
        ("gemma3", {"rope_local_base_freq": ..., "rope_scaling": None}, "rope_local_theta", 0.0),  # the others' too
        (
            "gemma3",
            {"rope_theta": ..., "rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}},
            "rope_local_theta",
            5.0,
        ),
        ("gemma3", {"rope_theta": ..., "rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "rope_theta", 5.0),
        # YaRN's attention factor: given, by default (0), or by DeepSeek's two scales; null is a default.
        ("qwen3", {"rope_parameters": DEFAULT, "rope_scaling": YARN}, "rope_factor", 4.0),
        ("llama2", {"rope_scaling": {**YARN, "attention_factor": 1.2}}, "rope_attention_factor", 1.2),
        ("llama2", {"rope_scaling": {**YARN, "attention_factor": None, "mscale": 1.0}}, "rope_attention_factor", 0.0),
        ("llama2", {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, "rope_attention_factor", 1.0),
        ("llama2", {"rope_scaling": {**YARN, "beta_fast": None}}, "rope_beta_fast", 32.0),
        ("llama2", {"rope_scaling": {**YARN, "truncate": False}}, "rope_truncate", False),
        ("llama2", {"rope_scaling": {**YARN, "factor": None}, "max_position_embeddings": 512}, "rope_factor", 8.0),
        # rope_scaling takes the place of rope_parameters, as in transformers 5.
        ("llama2", {"rope_parameters": DEFAULT, "rope_scaling": LINEAR}, "rope_factor", 4.0),
        ("llama2", {"rope_parameters": {**LINEAR, "rope_theta": 10_000.0}}, "rope_factor", 4.0),
        ("llama2", {"rope_parameters": {"rope_theta": 50.0}, "rope_theta": ...}, "rope_theta", 50.0),
        ("llama2", {"rope_scaling": {**LINEAR, "rope_theta": 50.0}, "rope_theta": ...}, "rope_theta", 50.0),
        ("llama2", {"rope_scaling": None}, "rope_scaling", "none"),
        ("llama2", {"rope_scaling": {"rope_type": "default"}}, "rope_scaling", "none"),
        ("llama2", {"rope_scaling": LLAMA3}, "rope_original_context", 64),  # max_position_embeddings
        ("llama2", {"rope_scaling": LLAMA3, "original_max_position_embeddings": 16}, "rope_original_context", 16),
        ("pythia", {"rope_scaling": LINEAR}, "rope_factor", 4.0),
        ("llama2", {"attention_dropout": 0.1, "pretraining_tp": 2, "rotary_pct": 0.5}, "rotary_fraction", 1.0),
    ],
)
def test_a_field_means_what_it_means_to_transformers(family, change, field, value):
    assert getattr(families.of_json(config(family, **change)), field) == value


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("llama2", {"rope_parameters": DEFAULT, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("llama2", {"rope_parameters": {**YARN, "rope_type": "ntk"}}, "rope_parameters 'ntk' is not supported"),
        ("llama2", {"rope_scaling": {"rope_type": "yarn"}}, "factor is missing"),
        ("llama2", {"rope_scaling": {**YARN, "beta_fast": "32"}}, "beta_fast is '32'; a number"),
        ("llama2", {"rope_scaling": {**YARN, "truncate": 1}}, "truncate is 1; true or false"),
        ("llama2", {"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 2}}, "rope_beta_slow"),
        ("phi3", {"rope_scaling": YARN}, "rope_scaling 'yarn' is not supported, only default of phi3"),
        ("llama2", {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_scaling 'longrope'"),
        ("llama2", {"rope_scaling": {"type": "linear", "rope_type": "default"}}, "says 'default', and type 'linear'"),
        ("llama2", {"rope_scaling": {"factor": 4.0}}, "factor 4.0 and no rope_type"),
        ("llama2", {"rope_scaling": {"type": "linear", "factor": None}}, "factor is None; a number is needed"),
        ("llama2", {"rope_scaling": {"type": "linear", "factor": "4"}}, "factor is '4'; a number is needed"),
        ("llama2", {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_factor"),
        ("llama2", {"rope_scaling": "linear"}, "rope_scaling is 'linear'; an object or null is needed"),
        ("llama2", {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "rope_low_freq_factor"),
        ("llama2", {"rope_scaling": {**LLAMA3, "high_freq_factor": ...}}, "high_freq_factor"),
        ("llama2", {"rope_scaling": {**LINEAR, "rope_theta": 50.0}}, "rope_theta is 10000.0, but 50 would be taken"),
        ("llama2", {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": LINEAR, "rope_theta": ...},
         "rope_theta is 500000.0, but 10000 would be taken"),
        ("llama2", {"rope_parameters": LLAMA3, "rope_scaling": LINEAR},
         "rope_scaling says 'linear', and rope_parameters.rope_type 'llama3'"),
        ("qwen3", {"rope_parameters": {"full_attention": DEFAULT}}, r"rope_parameters 'by layer type \(full_att"),
        ("llama2", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16},
                    "original_max_position_embeddings": 32}, "original_max_position_embeddings is 32 and 16"),
        ("pythia", {"rope_theta": 50.0}, "rope_theta is 50.0, but 10000 would be taken"),
        ("llama2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("pythia", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 .*0.25, as rotary_pct"),
        ("pythia", {"head_dim": 8}, "head_dim 8"),
        ("pythia", {"attention_bias": False}, "attention_bias False"),
        ("qwen3", {"attention_bias": True}, "attention_bias True"),
        ("mistral", {"attention_bias": True}, "attention_bias True"),
        ("olmo2", {"attention_bias": True}, "attention_bias True"),
        ("phi3", {"rope_scaling": {"type": "longrope", "long_factor": [1]}}, "'longrope' .* take the model's"),
        ("phi3", {"rope_scaling": {"type": "su", "long_factor": [1]}}, "rope_scaling 'su' .* take the model's"),
        ("phi3", {"rope_scaling": LINEAR}, "rope_scaling 'linear' is not supported, only default of phi3"),
        ("phi3", {"layer_types": ["full_attention"] * 2}, "layer_types 'full_attention'"),
        ("llama2", {"mlp_bias": True}, "attention_bias False is not supported, only True, as mlp_bias"),
        ("llama2", {"attention_bias": "yes"}, "attention_bias is 'yes'; true or false is needed"),
        ("llama2", {"tie_word_embeddings": None}, "tie_word_embeddings is None; true or false"),
        ("llama2", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'; a number"),
        ("llama2", {"vocab_size": "32"}, "vocab_size is '32'; a positive integer"),
        ("llama2", {"hidden_size": 16.0}, "hidden_size is 16.0; a positive integer"),
        ("llama2", {"num_hidden_layers": None}, "num_hidden_layers is null"),
        ("llama2", {"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ("llama2", {"hidden_act": None}, "hidden_act None"),
        ("llama2", {"is_causal": False}, "is_causal False"),
        ("llama2", {"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config"),
        ("llama2", {"layer_types": ["sliding_attention"] * 2}, "layer_types 'sliding_attention'"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("mistral", {"sliding_window": None, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types 'full_attention'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types 'sliding_attention'"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention, full_atten"),
        ("smollm3", {"layer_types": ["sliding_attention"] * 6, "sliding_window": 4}, "layer_types 'sliding_attention'"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, r"no_rope_layers is \[1, 1, 1, 0\]; a list .* of 6 layers"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 2, 1, 1]}, "no_rope_layers is"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0; a positive integer"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window is 1; true or false"),
        ("gemma2", {"attention_bias": True}, "attention_bias True"),
        ("gemma2", {"hidden_activation": "relu2"}, "hidden_activation 'relu2'"),
        ("gemma2", {"sliding_window": None, "layer_types": ["sliding_attention"] * 3}, "layer_types 'sliding"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping 0 is not supported, only numbers above 0"),
        ("gemma2", {"final_logit_softcapping": "30"}, "final_logit_softcapping is '30'; a number"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0; a positive integer"),
        ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "only objects under full_attention and sliding_att"),
        ("gemma3", {"rope_parameters": {"full_attention": 3}}, "an object or null is needed for full_attention"),
        ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
         "rope_parameters.sliding_attention.rope_type 'linear' is not supported, only default"),
        ("gemma3", {"model_type": "gemma3"}, "model_type 'gemma3' has a vision tower.*save its text model alone"),
        ("qwen3", {"model_type": "qwen3_moe"}, "model_type 'qwen3_moe' has mixtures of experts.*take a dense model"),
        ("llama2", {"model_type": ...}, "model_type None"),
        ("llama2", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ],
)  # fmt: skip
def test_what_would_change_the_computation_is_refused_by_field_and_value(family, change, says):
    given = config(family, **change)
    if isinstance(given.get("rope_scaling"), dict):
        given["rope_scaling"] = {k: v for k, v in given["rope_scaling"].items() if v is not ...}
    with pytest.raises(UserError, match=says):
        families.of_json(given)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "config.json: not readable"),
        ("[]", r"config.json: not readable \(no object"),
        ("[" * 100_000, "config.json: not readable"),
        ("version https://git-lfs.github.com/spec/v1\noid\n", "config.json: a Git LFS pointer"),
        ('{"model_type": "mamba"}', "model/config.json: model_type 'mamba' is not supported"),
        (json.dumps(config("llama2", num_key_value_heads=3)), "model/config.json: model.kv_heads: 3 does not divide"),
    ],
    ids=["cut", "list", "nested", "pointer", "family", "heads"],
)
def test_errors_name_the_file(tmp_path, content, says):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(UserError, match=says):
        hf.read_config(tmp_path / "model")


EXTRA = {
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": None,
    "initializer_range": 0.01,
    "use_cache": True,
    "attention_dropout": 0.1,
    "transformers_version": "5.24.0",
    "dtype": "float32",
}


@pytest.mark.parametrize(
    "family",
    ["llama3", "mistral", "qwen2_mixed", "qwen3_yarn", "olmo2", "phi3", "smollm3", "gemma2", "gemma3", "pythia"],
)
def test_an_export_gives_back_every_field(family, tmp_path):
    (tmp_path / "a").mkdir()
    given = config(family, **EXTRA, architectures=[families.FAMILIES[FAMILIES[family]["model_type"]].model_class])
    generation = {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6}
    (tmp_path / "a" / "config.json").write_text(json.dumps(given))
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps(generation))
    cfg = dataclasses.replace(hf.read_config(tmp_path / "a"), dtype="bfloat16", scan_layers=True)
    params = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    )
    run = transformer.Config(**{f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg) if f.compare})
    hf.save(tmp_path / "b", cfg, jax.device_put(params))
    hf.save(tmp_path / "c", run, jax.device_put(params), like=tmp_path / "a", metadata={"eos_token_id": 5})
    for name, eos in (("b", [2, 3]), ("c", 5)):
        made = json.loads((tmp_path / name / "config.json").read_text())
        assert made == given | {"eos_token_id": eos}
        assert json.loads((tmp_path / name / "generation_config.json").read_text()) == generation
        assert hf.read_config(tmp_path / name) == hf.read_config(tmp_path / "a")


def test_an_export_of_a_changed_model_keeps_what_is_not_architecture():
    cfg = families.of_json(config("qwen2", **EXTRA))
    wider = dataclasses.replace(cfg, d_ff=48)
    made = families.to_json(wider)
    assert made["intermediate_size"] == 48 and families.of_json(made) == wider
    assert {name: made[name] for name in ("max_position_embeddings", "bos_token_id", "eos_token_id")} == {
        "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": [2, 3]
    }  # fmt: skip
    assert wider != cfg and hash(cfg) == hash(dataclasses.replace(cfg, described=""))
