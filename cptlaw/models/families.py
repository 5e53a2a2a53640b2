"""The families of open weights: Hugging Face's config.json as a `Config` and back, and where each parameter lies.

A layout reads like einops: "(k g c) d -> d k g c" says that the tensor's rows are kv heads, query heads of each and
channels, its columns the model width, and that the parameter has these axes in the other order.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cptlaw.errors import UserError
from cptlaw.models.config import COMPUTATION, Config


class Place(NamedTuple):
    """Where a parameter lies: tensor name ({} is the layer), its layout, and its part of the layout's axis n."""

    name: str
    layout: str
    part: int = 0


_LLAMA = {
    "embed": Place("model.embed_tokens.weight", "v d -> v d"),
    "unembed": Place("lm_head.weight", "v d -> v d"),
    "final_norm": Place("model.norm.weight", "d -> d"),
    "layers/attention_norm": Place("model.layers.{}.input_layernorm.weight", "d -> d"),
    "layers/mlp_norm": Place("model.layers.{}.post_attention_layernorm.weight", "d -> d"),
    "layers/attention/q": Place("model.layers.{}.self_attn.q_proj.weight", "(k g c) d -> d k g c"),
    "layers/attention/k": Place("model.layers.{}.self_attn.k_proj.weight", "(k c) d -> d k c"),
    "layers/attention/v": Place("model.layers.{}.self_attn.v_proj.weight", "(k c) d -> d k c"),
    "layers/attention/o": Place("model.layers.{}.self_attn.o_proj.weight", "d (k g c) -> k g c d"),
    "layers/attention/q_bias": Place("model.layers.{}.self_attn.q_proj.bias", "(k g c) -> k g c"),
    "layers/attention/k_bias": Place("model.layers.{}.self_attn.k_proj.bias", "(k c) -> k c"),
    "layers/attention/v_bias": Place("model.layers.{}.self_attn.v_proj.bias", "(k c) -> k c"),
    "layers/attention/o_bias": Place("model.layers.{}.self_attn.o_proj.bias", "d -> d"),
    "layers/attention/q_norm": Place("model.layers.{}.self_attn.q_norm.weight", "c -> c"),
    "layers/attention/k_norm": Place("model.layers.{}.self_attn.k_norm.weight", "c -> c"),
    "layers/mlp/gate": Place("model.layers.{}.mlp.gate_proj.weight", "f d -> d f"),
    "layers/mlp/up": Place("model.layers.{}.mlp.up_proj.weight", "f d -> d f"),
    "layers/mlp/down": Place("model.layers.{}.mlp.down_proj.weight", "d f -> f d"),
    "layers/mlp/gate_bias": Place("model.layers.{}.mlp.gate_proj.bias", "f -> f"),
    "layers/mlp/up_bias": Place("model.layers.{}.mlp.up_proj.bias", "f -> f"),
    "layers/mlp/down_bias": Place("model.layers.{}.mlp.down_proj.bias", "d -> d"),
}
_NEOX = {
    "embed": Place("gpt_neox.embed_in.weight", "v d -> v d"),
    "unembed": Place("embed_out.weight", "v d -> v d"),
    "final_norm": Place("gpt_neox.final_layer_norm.weight", "d -> d"),
    "final_norm_bias": Place("gpt_neox.final_layer_norm.bias", "d -> d"),
    "layers/attention_norm": Place("gpt_neox.layers.{}.input_layernorm.weight", "d -> d"),
    "layers/attention_norm_bias": Place("gpt_neox.layers.{}.input_layernorm.bias", "d -> d"),
    "layers/mlp_norm": Place("gpt_neox.layers.{}.post_attention_layernorm.weight", "d -> d"),
    "layers/mlp_norm_bias": Place("gpt_neox.layers.{}.post_attention_layernorm.bias", "d -> d"),
    # Every head's query, key and value lie together; there are as many kv heads as heads (g is 1).
    "layers/attention/q": Place("gpt_neox.layers.{}.attention.query_key_value.weight", "(k n g c) d -> d k g c", 0),
    "layers/attention/k": Place("gpt_neox.layers.{}.attention.query_key_value.weight", "(k n c) d -> d k c", 1),
    "layers/attention/v": Place("gpt_neox.layers.{}.attention.query_key_value.weight", "(k n c) d -> d k c", 2),
    "layers/attention/q_bias": Place("gpt_neox.layers.{}.attention.query_key_value.bias", "(k n g c) -> k g c", 0),
    "layers/attention/k_bias": Place("gpt_neox.layers.{}.attention.query_key_value.bias", "(k n c) -> k c", 1),
    "layers/attention/v_bias": Place("gpt_neox.layers.{}.attention.query_key_value.bias", "(k n c) -> k c", 2),
    "layers/attention/o": Place("gpt_neox.layers.{}.attention.dense.weight", "d (k g c) -> k g c d"),
    "layers/attention/o_bias": Place("gpt_neox.layers.{}.attention.dense.bias", "d -> d"),
    "layers/mlp/up": Place("gpt_neox.layers.{}.mlp.dense_h_to_4h.weight", "f d -> d f"),
    "layers/mlp/up_bias": Place("gpt_neox.layers.{}.mlp.dense_h_to_4h.bias", "f -> f"),
    "layers/mlp/down": Place("gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", "d f -> f d"),
    "layers/mlp/down_bias": Place("gpt_neox.layers.{}.mlp.dense_4h_to_h.bias", "d -> d"),
}
PLACES = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "gpt_neox": _NEOX}
# Tensors of a checkpoint that hold nothing to learn (masks and tables that old versions saved).
IGNORED = r"rotary_emb\.inv_freq$|\.attention\.(bias|masked_bias)$"

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# Fields of Config under config.json's names: those of every family, and those of llama3 rescaling.
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
_LLAMA3 = {
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_context": "original_max_position_embeddings",
}


def of_json(given: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Raises UserError naming the architecture, feature or field that it cannot take."""
    family = given.get("model_type")
    if family not in PLACES:
        raise _unsupported("model_type", family, PLACES)
    neox = family == "gpt_neox"
    activation = given.get("hidden_act", "gelu" if neox else "silu")
    if activation not in _ACTIVATIONS:
        raise _unsupported("hidden_act", activation, _ACTIVATIONS)
    if given.get("quantization_config"):
        raise _unsupported("quantization_config", given["quantization_config"], ["full weights"])
    sizes = {ours: _required(given, theirs) for ours, theirs in _SIZES.items()}
    return Config(
        **sizes,
        **_rope(given, 0.25 if neox else 1.0),
        kv_heads=given.get("num_key_value_heads") or sizes["heads"],
        head_dim=given.get("head_dim") or 0,
        norm_eps=given.get("layer_norm_eps", 1e-5) if neox else given.get("rms_norm_eps", 1e-6),
        tie_embeddings=given.get("tie_word_embeddings", False),
        norm="layer" if neox else "rms",
        bias=_bias(family, given),
        activation=_ACTIVATIONS[activation],
        gated=not neox,
        parallel_residual=neox and given.get("use_parallel_residual", True),
        qk_norm=family == "qwen3",
        sliding_window=_window(family, given, sizes["layers"]),
    )


def _rope(given: Mapping[str, Any], fraction: float) -> dict[str, Any]:
    # transformers 5 gathers in rope_parameters what older versions have beside rope_scaling.
    scaling = given.get("rope_parameters") or given.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise _unsupported("rope_scaling", kind, ("default", "linear", "llama3"))
    both = {**given, **scaling}
    fields = {
        "rope_theta": float(both.get("rope_theta", both.get("rotary_emb_base", 10_000))),
        "rotary_fraction": both.get("partial_rotary_factor", both.get("rotary_pct", fraction)),
    }
    if kind != "default":
        fields |= {"rope_scaling": kind, "rope_factor": _required(scaling, "factor")}
    if kind == "llama3":
        fields |= {ours: _required(scaling, theirs) for ours, theirs in _LLAMA3.items()}
    return fields


def _bias(family: str, given: Mapping[str, Any]) -> str:
    if family in ("qwen2", "gpt_neox"):
        if not given.get("attention_bias", True):
            raise _unsupported("attention_bias", False, ["True"])
        return "qkv" if family == "qwen2" else "all"
    attention, mlp = given.get("attention_bias", False), given.get("mlp_bias", False)
    if attention != mlp:
        raise _unsupported("attention_bias", attention, [f"{mlp}, as mlp_bias"])
    return "all" if attention else "none"


def _window(family: str, given: Mapping[str, Any], layers: int) -> int:
    window = given.get("sliding_window") or 0
    if family.startswith("qwen") and not given.get("use_sliding_window", False):
        window = 0
    kinds = given.get("layer_types")
    if kinds is None and window and family.startswith("qwen"):
        full = min(given.get("max_window_layers", layers), layers)
        kinds = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    kinds = set(kinds or ["sliding_attention"])
    if kinds == {"full_attention"}:
        return 0
    if kinds != {"sliding_attention"}:
        raise _unsupported("layer_types", ", ".join(sorted(kinds)), ["full attention, or one window, in all layers"])
    return window


def to_json(cfg: Config) -> dict[str, Any]:
    """A config.json for the Config. Raises UserError naming the fields that no supported architecture can express."""
    if cfg.norm == "layer":
        family = "gpt_neox"
    elif cfg.qk_norm:
        family = "qwen3"
    elif cfg.bias == "qkv":
        family = "qwen2"
    else:
        family = "mistral" if cfg.sliding_window else "llama"
    made = {theirs: getattr(cfg, ours) for ours, theirs in _SIZES.items()}
    made |= {
        "model_type": family,
        "architectures": [_CLASSES[family]],
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == cfg.activation),
        "rope_theta": cfg.rope_theta,
    }
    if cfg.rope_scaling != "none":
        made["rope_scaling"] = {"rope_type": cfg.rope_scaling, "factor": cfg.rope_factor}
    if cfg.rope_scaling == "llama3":
        made["rope_scaling"] |= {theirs: getattr(cfg, ours) for ours, theirs in _LLAMA3.items()}
        made["max_position_embeddings"] = int(cfg.rope_original_context * cfg.rope_factor)
    if family == "gpt_neox":
        made |= {
            "layer_norm_eps": cfg.norm_eps,
            "rotary_pct": cfg.rotary_fraction,
            "rotary_emb_base": cfg.rope_theta,
            "use_parallel_residual": cfg.parallel_residual,
        }
    else:
        made |= {"rms_norm_eps": cfg.norm_eps, "num_key_value_heads": cfg.kv_heads, "head_dim": cfg.head_dim}
        made |= {"sliding_window": cfg.sliding_window or None}
    if family == "llama":
        made |= {"attention_bias": cfg.bias == "all", "mlp_bias": cfg.bias == "all"}
    if family in ("qwen2", "qwen3"):
        made |= {
            "use_sliding_window": cfg.sliding_window > 0,
            "max_window_layers": 0 if cfg.sliding_window else cfg.layers,
        }
    read = dataclasses.asdict(of_json(made))
    lost = [f"{k}={v!r}" for k, v in dataclasses.asdict(cfg).items() if k not in COMPUTATION and read[k] != v]
    if lost:
        raise UserError(f"model: Hugging Face's {family} architecture cannot express {', '.join(lost)}")
    return made


def _required(given: Mapping[str, Any], name: str) -> Any:
    if name not in given:
        raise UserError(f"config.json: {name} is missing")
    return given[name]


def _unsupported(field: str, value: Any, known: Iterable[str]) -> UserError:
    return UserError(f"config.json: {field} {value!r} is not supported, only {', '.join(known)}")
