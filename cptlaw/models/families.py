"""The families of open weights: Hugging Face's config.json as a `Config`, and back.

What is read follows transformers 5.24, field by field: a field that a file leaves out has its family's default, one
that the family's model does not use is left alone, and whatever else would change the computation is refused by name.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cptlaw.errors import UserError
from cptlaw.models.config import COMPUTATION, Config
from cptlaw.registry import Registry


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of open weights.

    Attributes:
      described: from the fields of a folder's config.json to those of one that a family here would have.
      tensor: from the name of a tensor in that family's files to its name in the folder's.
      model_class: of transformers, of those here.
    """

    described: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    tensor: Callable[[str], str] = str
    model_class: str = ""


FAMILIES: Registry[Family] = Registry("family", Family, "@cptlaw.models.families.family")
for _name, _class in {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}.items():
    FAMILIES.add(_name, Family(model_class=_class))


def family(tensor: Callable[[str], str] = str) -> Callable[[Callable[[Mapping[str, Any]], Mapping[str, Any]]], Family]:
    """Makes a family of a function from its config.json to that of a family here which computes the same.

    In a file of your own; `FILE.py:NAME:FOLDER` is then a size's weights in a config's `init_from`. It is for models
    that only name things differently: what their config.json says under other names, and how their tensors are called.

    >>> @family(tensor=lambda name: name.replace("self_attn", "attention"))
    ... def mine(given):
    ...     return {**given, "model_type": "llama", "num_hidden_layers": given["n_layers"]}

    Args:
      tensor: from the name of a tensor in that family's files (model.layers.0.self_attn.q_proj.weight) to its name in
        the folder's.
    """
    return lambda described: Family(described, tensor)


# Why others are not read, and what to do, where there is something to say.
_REFUSED = {
    "gemma3": "has a vision tower, which is not supported; save its text model alone, with transformers' G = "
    "Gemma3ForConditionalGeneration and T = Gemma3ForCausalLM: m = G.from_pretrained(FOLDER); "
    "t = T(m.config.text_config); t.model = m.model.language_model; t.lm_head = m.lm_head; t.save_pretrained(NEW)",
    "qwen3_moe": "has mixtures of experts, which are not supported; take a dense model, such as one of qwen3",
}
_GEMMA = {"norm_placement": "both", "norm_offset": True, "scale_embeddings": True}
# What all models of a family have, and no field of their config.json decides.
_TRAITS: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA,
    "gemma3_text": {**_GEMMA, "qk_norm": True},
    "qwen3": {"qk_norm": True},
    "olmo2": {"norm_placement": "post", "qk_norm": True, "qk_norm_over": "projection"},
    "gpt_neox": {"norm": "layer", "gated": False},
}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}
# Fields of Config under config.json's names, which every family has and no file leaves out.
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
_LLAMA3 = {"rope_low_freq_factor": "low_freq_factor", "rope_high_freq_factor": "high_freq_factor"}
# What a family's config class has in the place of a field that config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": {"mistral": 8, "qwen2": 32, "qwen3": 32, "smollm3": 4, "gemma2": 4, "gemma3_text": 4},
    "head_dim": {"qwen3": 128, "gemma2": 256, "gemma3_text": 256},
    "activation": {"gpt_neox": "gelu", "gemma2": "gelu_pytorch_tanh", "gemma3_text": "gelu_pytorch_tanh"},
    "rms_norm_eps": {"olmo2": 1e-5, "phi3": 1e-5},
    "attention_bias": {"qwen2": True, "gpt_neox": True},
    "tie_word_embeddings": {"smollm3": True, "gemma2": True, "gemma3_text": True},
    "rope_theta": {"smollm3": 2e6, "gemma3_text": 1e6},
    "attn_logit_softcapping": {"gemma2": 50.0},
    "final_logit_softcapping": {"gemma2": 30.0},
    # Of the families that have windows.
    "sliding_window": {
        **{"mistral": 4096, "phi3": None, "qwen2": 4096, "qwen3": 4096, "smollm3": None},
        **{"gemma2": 4096, "gemma3_text": 4096},
    },
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


class _Json:
    """The fields of a config.json, checked by type."""

    def __init__(self, given: Mapping[str, Any]):
        self.given, self.family = given, given.get("model_type")

    def number(self, name: str, default: float, source: Mapping[str, Any] | None = None) -> float:
        value = (self.given if source is None else source).get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"config.json: {name} is {value!r}; a number is needed")
        return value

    def default(self, name: str, others: Any = None) -> Any:
        """What the family's config class has in the place of a field; `others` of families that have no own."""
        return _DEFAULTS[name].get(self.family, others)

    def flag(self, name: str, default: bool) -> bool:
        value = self.given.get(name, default)
        if not isinstance(value, bool):
            raise UserError(f"config.json: {name} is {value!r}; true or false is needed")
        return value

    def size(self, name: str) -> int | None:
        """A positive integer; None for null, and where the field is absent and has no default."""
        value = self.given.get(name, _DEFAULTS.get(name, {}).get(self.family))
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"config.json: {name} is {value!r}; a positive integer is needed")
        return value

    def required(self, name: str) -> int:
        _required(self.given, name)
        value = self.size(name)
        if value is None:
            raise UserError(f"config.json: {name} is null; a positive integer is needed")
        return value


def of_json(given: Mapping[str, Any]) -> Config:
    """The Config of a config.json. Raises UserError naming the architecture, feature or field that it cannot take."""
    json_ = _Json(given)
    family: Any = json_.family
    if family in _REFUSED:
        raise UserError(f"config.json: model_type {family!r} {_REFUSED[family]}")
    if family not in FAMILIES:
        raise UserError(
            f"config.json: model_type {family!r} is not supported, only {', '.join(FAMILIES)}; for one that computes "
            "as one of these does, describe it (cptlaw.models.families.family) and give FILE.py:NAME:FOLDER"
        )
    neox, gemma = family == "gpt_neox", family in ("gemma2", "gemma3_text")
    # Gemma's files may have hidden_act too, which its models do not look at.
    name = "hidden_activation" if gemma else "hidden_act"
    activation = given.get(name, json_.default("activation", "silu"))
    if activation not in _ACTIVATIONS:
        raise _unsupported(name, activation, _ACTIVATIONS)
    for name in ("quantization_config", "compression_config", "per_layer_config"):
        if given.get(name):
            raise _unsupported(name, given[name], ["full weights, the same in all layers"])
    if not json_.flag("is_causal", True):
        raise _unsupported("is_causal", False, ["true"])
    if given.get("use_bidirectional_attention"):
        raise _unsupported("use_bidirectional_attention", given["use_bidirectional_attention"], ["false"])
    sizes = {ours: json_.required(theirs) for ours, theirs in _SIZES.items()}
    kv_heads, head_dim = json_.size("num_key_value_heads"), json_.size("head_dim")
    if neox:
        if head_dim not in (None, sizes["d_model"] // sizes["heads"]):
            raise _unsupported("head_dim", head_dim, ["hidden_size / num_attention_heads"])
        kv_heads = head_dim = None
    fields: dict[str, Any] = {**sizes, **_kinds(json_, sizes["layers"])}
    fields |= _gemma3_rope(json_) if family == "gemma3_text" else _rope(json_)
    fields |= _gemma(json_, head_dim) if gemma else {}
    config = Config(
        **fields,
        kv_heads=kv_heads or sizes["heads"],
        head_dim=head_dim or 0,
        norm_eps=json_.number("layer_norm_eps", 1e-5)
        if neox
        else json_.number("rms_norm_eps", json_.default("rms_norm_eps", 1e-6)),
        tie_embeddings=json_.flag("tie_word_embeddings", json_.default("tie_word_embeddings", False)),
        bias=_bias(json_),
        activation=_ACTIVATIONS[activation],
        parallel_residual=neox and json_.flag("use_parallel_residual", True),
        **_TRAITS.get(family, {}),
    )
    return dataclasses.replace(config, described=json.dumps({"config": dict(given)}, sort_keys=True))


def _gemma(json_: _Json, head_dim: int | None) -> dict[str, Any]:
    """Soft caps, of which null is none, and what scores are divided by the square root of."""
    caps = {"attention_softcap": "attn_logit_softcapping", "logit_softcap": "final_logit_softcapping"}
    given = {name: json_.given.get(name, json_.default(name)) for name in caps.values()}
    fields: dict[str, Any] = {
        ours: 0.0 if given[theirs] is None else float(json_.number(theirs, 0, given)) for ours, theirs in caps.items()
    }
    if zero := [theirs for theirs in caps.values() if given[theirs] == 0]:
        raise _unsupported(zero[0], 0, ["numbers above 0, and null for none"])
    if json_.family == "gemma3_text":
        fields.pop("attention_softcap")  # a field of its file that its model does not look at
    scalar = json_.number("query_pre_attn_scalar", 256)
    return fields | {"query_pre_attn_scalar": 0.0 if scalar == head_dim else float(scalar)}


def _gemma3_rope(json_: _Json) -> dict[str, Any]:
    """Rotary fields of a model whose layers with a window have a base of their own, and no rescaling."""
    nested = json_.given.get("rope_parameters") or {}
    names = (_FULL, _SLIDING)
    if not isinstance(nested, dict) or not all(isinstance(nested.get(name) or {}, dict) for name in names):
        raise UserError(
            f"config.json: rope_parameters is {nested!r}; an object or null is needed for {_FULL}, {_SLIDING}"
        )
    if nested and not any(name in nested for name in names):
        raise _unsupported("rope_parameters", ", ".join(nested), [f"objects under {_FULL} and {_SLIDING}"])
    local = nested.get(_SLIDING) or {}
    if (kind := local.get("rope_type", "default")) != "default":
        raise _unsupported(f"rope_parameters.{_SLIDING}.rope_type", kind, ["default"])
    theta = float(json_.number("rope_theta", json_.number("rope_local_base_freq", 1e4), local))
    # Those of the other layers, to which rope_scaling is added.
    scaling = json_.given.get("rope_scaling") or {}
    others = {**(nested.get(_FULL) or {}), **scaling} if isinstance(scaling, dict) else scaling
    name = "rope_scaling" if scaling else "rope_parameters"
    fields = _rope(_Json({**json_.given, "rope_parameters": None, name: others}))
    same = theta == fields["rope_theta"] and "rope_scaling" not in fields
    return fields | {"rope_local_theta": 0.0 if same else theta}


def _rope(json_: _Json) -> dict[str, Any]:
    """Rotary fields of the Config."""
    given, neox = json_.given, json_.family == "gpt_neox"
    name, kind = _rope_kind(given)
    scaling, other = given.get(name) or {}, given.get("rope_parameters") or {}
    theta_name, share_name = ("rotary_emb_base", "rotary_pct") if neox else ("rope_theta", "partial_rotary_factor")
    theta = json_.number("rope_theta", json_.number(theta_name, json_.default("rope_theta", 10_000)), scaling)
    share = json_.number("partial_rotary_factor", json_.number(share_name, 0.25 if neox else 1.0), scaling)
    for field, where in ((theta_name, given), ("rope_theta", given), ("rope_theta", other)):
        if where.get(field, theta) != theta:
            raise UserError(
                f"config.json: {field} is {where[field]!r}, but {theta:g} would be taken; keep the one that is right"
            )
    if json_.family not in ("gpt_neox", "phi3") and share != 1:
        raise _unsupported("partial_rotary_factor", share, ["1"])
    if given.get("partial_rotary_factor", share) != share:
        raise _unsupported("partial_rotary_factor", given["partial_rotary_factor"], [f"{share}, as {share_name}"])
    fields: dict[str, Any] = {"rope_theta": float(theta), "rotary_fraction": float(share)}
    if kind in ("llama3", "yarn"):
        fields["rope_original_context"] = _original_context(given, scaling)
    if kind == "yarn" and scaling.get("factor", 1) is None:
        context = json_.required("max_position_embeddings")
        scaling = scaling | {"factor": context / fields["rope_original_context"]}
    if kind != "default":
        _required(scaling, "factor")
        fields |= {"rope_scaling": kind, "rope_factor": float(json_.number("factor", 1, scaling))}
    if kind == "llama3":
        for ours, theirs in _LLAMA3.items():
            _required(scaling, theirs)
            fields[ours] = float(json_.number(theirs, 1, scaling))
    if kind == "yarn":
        fields |= _yarn(json_, scaling, fields["rope_factor"])
    return fields


def _yarn(json_: _Json, scaling: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Fields of yarn alone; null and 0 stand for their defaults, as in transformers."""
    given = {name: value for name, value in scaling.items() if value}
    temperature = json_.number("attention_factor", 0, given)
    if not temperature and {"mscale", "mscale_all_dim"} <= given.keys():
        # Both multiply the logarithm in the default, of which this is the quotient.
        above, below = (0.1 * json_.number(n, 1, given) * math.log(max(factor, 1)) + 1 for n in _MSCALES)
        temperature = above / below
    return {
        "rope_beta_fast": float(json_.number("beta_fast", 32, given)),
        "rope_beta_slow": float(json_.number("beta_slow", 1, given)),
        "rope_attention_factor": float(temperature),
        "rope_truncate": _Json(scaling).flag("truncate", True),
    }


_MSCALES = ("mscale", "mscale_all_dim")


def _rope_kind(given: Mapping[str, Any]) -> tuple[str, str]:
    """The field that decides, and its rope_type: rope_scaling takes the place of rope_parameters, as in transformers 5.

    Raises UserError for a type that is not supported, and for fields that contradict each other.
    """
    name = next((name for name in ("rope_scaling", "rope_parameters") if given.get(name)), "rope_scaling")
    for field in ("rope_scaling", "rope_parameters"):
        inner = given.get(field) or {}
        if not isinstance(inner, dict):
            raise UserError(f"config.json: {field} is {inner!r}; an object or null is needed")
        if nested := [key for key, value in inner.items() if isinstance(value, dict)]:
            raise _unsupported(field, f"by layer type ({', '.join(nested)})", ["the same in all layers"])
    scaling, other = given.get(name) or {}, given.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    said = {"rope_type": scaling.get("rope_type"), "type": scaling.get("type")}
    if name == "rope_scaling" and (theirs := other.get("rope_type", other.get("type"))) != "default":
        said["rope_parameters.rope_type"] = theirs
    for field, value in said.items():
        if value not in (None, kind):
            raise UserError(f"config.json: {name} says {kind!r}, and {field} {value!r}; keep the one that is right")
    if kind in ("longrope", "su"):
        raise UserError(
            f"config.json: {name} {kind!r} is not supported; take the model's version of the original context, such as "
            "Phi-3-mini-4k"
        )
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise _unsupported(name, kind, ("default", "linear", "llama3", "yarn"))
    # Whatever else Phi-3's file says, transformers takes for longrope or refuses.
    if kind != "default" and given.get("model_type") == "phi3":
        raise _unsupported(name, kind, ["default of phi3"])
    if kind == "default" and scaling.get("factor", 1) != 1:
        factor = scaling["factor"]
        raise UserError(f"config.json: {name} has the factor {factor!r} and no rope_type; name its rope_type")
    return name, kind


def _original_context(given: Mapping[str, Any], scaling: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    values = [value for value in (given.get(name), scaling.get(name)) if value is not None]
    if not values:
        values = [_required(given, "max_position_embeddings")]
    if len(set(values)) > 1:
        raise UserError(f"config.json: {name} is {values[0]!r} and {values[1]!r}; keep the one that is right")
    return values[0]


def _bias(json_: _Json) -> str:
    family = json_.family
    attention = json_.flag("attention_bias", json_.default("attention_bias", False))
    if family in ("qwen2", "gpt_neox"):
        if not attention:
            raise _unsupported("attention_bias", False, ["True"])
        return "qkv" if family == "qwen2" else "all"
    # Only the feed-forward layers of these can have biases.
    mlp = json_.flag("mlp_bias", False) if family in ("llama", "smollm3") else False
    if attention != mlp:
        raise _unsupported("attention_bias", attention, [f"{mlp}, as mlp_bias"])
    return "all" if attention else "none"


def _kinds(json_: _Json, layers: int) -> dict[str, Any]:
    """Fields of the Config that say which layers have a window, and which have no rotary positions."""
    family, switch = json_.family, json_.family in ("qwen2", "qwen3", "smollm3")
    window = json_.size("sliding_window") if family in _DEFAULTS["sliding_window"] else None
    if switch and not json_.flag("use_sliding_window", False):
        window = None
    rotary = _rotary_layers(json_, layers) if family == "smollm3" else [True] * layers
    if family in ("qwen2", "qwen3"):
        full = int(json_.number("max_window_layers", 28))
        slides = [i >= full for i in range(layers)]
    elif family in ("gemma2", "gemma3_text"):
        every = 2 if family == "gemma2" else _interval(json_.given, "sliding_window_pattern", 6)
        slides = [bool((i + 1) % every) for i in range(layers)]
    else:
        slides = [family != "smollm3" or not has for has in rotary]
    own = switch or family in ("gemma2", "gemma3_text")
    made = [_SLIDING if window and slide else _FULL for slide in slides]
    types = json_.given.get("layer_types")
    types = made if types is None else types
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= {_FULL, _SLIDING}:
        said = ", ".join(sorted(set(map(str, types)))) if isinstance(types, list) else types
        raise _unsupported("layer_types", said, [f"a list of {_FULL} and {_SLIDING}, one for each of {layers} layers"])
    # Other families' models do not look at layer_types.
    if types != made and (not own or (window is None and _SLIDING in types)):
        raise _unsupported(
            "layer_types", ", ".join(sorted(set(types))), [f"what sliding_window, {window}, makes of {family}"]
        )
    names = [
        ("sliding" if kind == _SLIDING else "full") if has else ("sliding_nope" if kind == _SLIDING else "nope")
        for kind, has in zip(types, rotary)
    ]
    # The shortest part that is repeated.
    length = next(n for n in range(1, layers + 1) if all(names[i] == names[i % n] for i in range(layers)))
    kinds = ",".join(names[:length])
    return {
        "sliding_window": window if _SLIDING in types else 0,
        "layer_kinds": "" if kinds in ("full", "sliding") else kinds,
    }


def _interval(given: Mapping[str, Any], name: str, default: int) -> int:
    every = given.get(name, default)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(f"config.json: {name} is {every!r}; a positive integer is needed")
    return every


def _rotary_layers(json_: _Json, layers: int) -> list[bool]:
    """Which of SmolLM3's layers have rotary positions: by default all but every fourth."""
    given = json_.given.get("no_rope_layers")
    if given is None:
        every = _interval(json_.given, "no_rope_layer_interval", 4)
        return [bool((i + 1) % every) for i in range(layers)]
    if not isinstance(given, list) or len(given) < layers or not all(has in (0, 1) for has in given):
        raise UserError(
            f"config.json: no_rope_layers is {given!r}; a list is needed that has 1 (rotary positions) or 0 (none) for "
            f"each of {layers} layers"
        )
    return [bool(has) for has in given[:layers]]


def to_json(cfg: Config) -> dict[str, Any]:
    """A config.json for the Config. Raises UserError naming the fields that no supported architecture can express.

    An imported Config gets back the file that it came from. If its architecture was changed since, the new file keeps
    of the old one what is not architecture: the context length, and the ids of special tokens.
    """
    described = json.loads(cfg.described)["config"] if cfg.described else {}
    if described and _same(of_json(described), cfg):
        return described | {"architectures": [FAMILIES[described["model_type"]].model_class]}
    made = _to_json(cfg)
    read = of_json(made)
    if not _same(read, cfg):
        names = [field.name for field in dataclasses.fields(Config) if field.compare and field.name not in COMPUTATION]
        lost = [f"{n}={getattr(cfg, n)!r}" for n in names if getattr(read, n) != getattr(cfg, n)]
        raise UserError(f"model: Hugging Face's {made['model_type']} architecture cannot express {', '.join(lost)}")
    return made | {name: described[name] for name in _KEPT if name in described}


# Fields that are not part of the architecture, so they still hold when the architecture was changed.
_KEPT = (
    *("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"),
    *("attention_dropout", "hidden_dropout", "use_cache"),
)


def _same(a: Config, b: Config) -> bool:
    """Whether two Configs are the same model, however they are computed."""
    return dataclasses.replace(a, **{name: getattr(b, name) for name in COMPUTATION}) == b


def _family(cfg: Config) -> str:
    """The family that can express the Config, or comes nearest."""
    ours = {field.name: field.default for field in dataclasses.fields(Config)}
    names = {name for traits in _TRAITS.values() for name in traits}

    def agree(family: str) -> int:
        traits = ours | _TRAITS.get(family, {})
        return sum(getattr(cfg, name) == traits[name] for name in names)

    family = max(FAMILIES, key=agree)
    if family != "llama":
        return family
    if cfg.layer_kinds and cfg.bias != "qkv":
        return "smollm3"
    if cfg.bias == "qkv":
        return "qwen2"
    if cfg.rotary_fraction < 1:
        return "phi3"
    return "mistral" if cfg.sliding_window else "llama"


def _to_json(cfg: Config) -> dict[str, Any]:
    family = _family(cfg)
    made = {theirs: getattr(cfg, ours) for ours, theirs in _SIZES.items()}
    made |= {
        "model_type": family,
        "architectures": [FAMILIES[family].model_class],
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == cfg.activation),
        "rope_theta": cfg.rope_theta,
    }
    if cfg.rope_scaling != "none":
        made["rope_scaling"] = {"rope_type": cfg.rope_scaling, "factor": cfg.rope_factor}
    if cfg.rope_scaling == "llama3":
        made["rope_scaling"] |= {theirs: getattr(cfg, ours) for ours, theirs in _LLAMA3.items()}
    if cfg.rope_scaling == "yarn":
        made["rope_scaling"] |= {
            "beta_fast": cfg.rope_beta_fast,
            "beta_slow": cfg.rope_beta_slow,
            "truncate": cfg.rope_truncate,
            "attention_factor": cfg.rope_attention_factor or None,
        }
    if cfg.rope_scaling in ("llama3", "yarn"):
        made["rope_scaling"]["original_max_position_embeddings"] = cfg.rope_original_context
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
    if family == "phi3":
        made["partial_rotary_factor"] = cfg.rotary_fraction
    if family == "smollm3":
        made |= {"no_rope_layers": [int(kind.rotary != "none") for kind in cfg.kind_of_each]}
    if family in ("llama", "smollm3"):
        made |= {"attention_bias": cfg.bias == "all", "mlp_bias": cfg.bias == "all"}
    gemma = family in ("gemma2", "gemma3_text")
    if family in ("qwen2", "qwen3", "smollm3") or gemma:
        made |= {"layer_types": [_SLIDING if kind.window else _FULL for kind in cfg.kind_of_each]}
        made |= {} if gemma else {"use_sliding_window": cfg.sliding_window > 0}
    if gemma:
        scalar = cfg.query_pre_attn_scalar or cfg.head_dim
        made |= {
            "hidden_activation": made.pop("hidden_act"),
            "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
            "attn_logit_softcapping": cfg.attention_softcap or None,
            "final_logit_softcapping": cfg.logit_softcap or None,
        }
    if family == "gemma3_text":
        made["rope_local_base_freq"] = cfg.rope_local_theta or cfg.rope_theta
    return made


def _required(given: Mapping[str, Any], name: str) -> Any:
    if name not in given:
        raise UserError(f"config.json: {name} is missing")
    return given[name]


def _unsupported(field: str, value: Any, known: Iterable[str]) -> UserError:
    return UserError(f"config.json: {field} {value!r} is not supported, only {', '.join(known)}")
