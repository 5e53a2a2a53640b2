"""Weights of llama.cpp (GGUF), dequantised: the families llama (Llama, SmolLM2), qwen2 and qwen3. Extra `gguf`."""

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.errors import UserError
from cptlaw.lfs import refuse_pointer
from cptlaw.models import families, hf
from cptlaw.models.config import Config
from cptlaw.models.transformer import Params
from cptlaw.paths import local

if TYPE_CHECKING:
    from cptlaw.models.sharding import Layout

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# config.json's fields, by GGUF's names after the architecture; those that llama.cpp needs too.
_NEEDED = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
_FIELDS = _NEEDED | {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
_SCALING = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
# Keys that change nothing here.
_HARMLESS = (
    *("vocab_size", "rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout"),
    *("attention.layer_norm_epsilon", "pooling_type"),
)
# Keys that change the computation unless they have this value.
_NEUTRAL: dict[str, Any] = {
    "attention.sliding_window": 0,
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "logit_scale": 1,
    "residual_scale": 1,
    "embedding_scale": 1,
    "rope.scaling.attn_factor": 1,
    "use_parallel_residual": False,
}


def load(
    path: str | os.PathLike[str], layout: "Layout", *, progress: bool = False, **fields: Any
) -> tuple[Config, Params]:
    """The model in a GGUF file: (Config, float32 params placed by the layout), as `hf.load`.

    Raises WeightsError when the file is not readable, or listing every tensor that is missing, unused (such as the
    `rope_freqs.weight` of Llama 3.1, whose rescaling GGUF does not name) or of another shape.
    """
    cfg = dataclasses.replace(read_config(path), **fields)
    return cfg, load_params(path, cfg, hf.abstract_params(cfg, layout), progress=progress)


def read_config(path: str | os.PathLike[str]) -> Config:
    """The Config of a GGUF file, which is read once while it stays as it is. Raises WeightsError as `load`."""
    file = local(path).expanduser()
    if not file.is_file():
        raise hf.WeightsError(f"{file}: no such file; name a GGUF file on this machine")
    status = file.stat()
    return _read_config(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _read_config(file: Path, size: int, changed: int) -> Config:
    return _Gguf(file).cfg


def load_params(path: str | os.PathLike[str], cfg: Config, abstract: Params, *, progress: bool = False) -> Params:
    """The file's weights as parameters of `cfg`: see `hf.assemble`."""
    source = _Gguf(local(path))
    return hf.assemble(source, source.family, cfg, abstract, progress=progress)


class _Gguf:
    """A GGUF file's tensors under Hugging Face's names, with the rows of queries and keys in its order."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError as error:
            raise hf.WeightsError("GGUF needs the package gguf: pip install 'cptlaw[gguf]'") from error
        self.path = path = path.expanduser()
        self._dequantize = gguf.dequantize
        refuse_pointer(path, hf.WeightsError)
        try:
            reader = gguf.GGUFReader(path)
            given = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
            self.shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in self._tensors.items()}
        except Exception as error:  # the package checks nothing, so that a damaged file may raise anything
            raise hf.WeightsError(
                f"{path}: not a readable GGUF file ({type(error).__name__}: {error}); download it again"
            ) from None
        self.family = str(given.get("general.architecture"))
        if self.family not in ("llama", "qwen2", "qwen3"):
            raise hf.WeightsError(f"{path}: architecture {self.family!r} is not supported, only llama, qwen2, qwen3")
        try:
            self.cfg = families.of_json(self._described(given))
        except UserError as error:
            raise hf.WeightsError(f"{path}: {str(error).removeprefix('config.json: ')}") from error

    def _described(self, given: dict[str, Any]) -> dict[str, Any]:
        """The file as a config.json. Raises UserError naming a key that is missing, or that changes the computation."""
        ours = {name.partition(".")[2]: v for name, v in given.items() if name.startswith(f"{self.family}.")}
        for name in _NEEDED.values():
            if name not in ours:
                raise UserError(f"{self.family}.{name} is missing; download the file again")
        for name, value in ours.items():
            if isinstance(value, list):
                raise UserError(f"{self.family}.{name} is {value!r}: layers of different sizes are not supported")
        described = {theirs: ours[name] for theirs, name in _FIELDS.items() if name in ours}
        described |= {t: given[f"tokenizer.ggml.{n}"] for t, n in _TOKENS.items() if f"tokenizer.ggml.{n}" in given}
        if "model.embed_tokens.weight" not in self.shapes:
            raise UserError("token_embd.weight is missing; download the file again")
        described |= {
            "model_type": self.family,
            "vocab_size": self.shapes["model.embed_tokens.weight"][0],
            "tie_word_embeddings": "lm_head.weight" not in self.shapes,
        }
        described.setdefault("num_key_value_heads", described["num_attention_heads"])
        described.setdefault("head_dim", described["hidden_size"] // described["num_attention_heads"])
        neutral = _NEUTRAL | {
            "attention.value_length": described["head_dim"],
            "rope.dimension_count": described["head_dim"],
        }
        scaling = self._scaling(ours)
        if scaling:
            described["rope_scaling"] = scaling
        known = {*_FIELDS.values(), *_HARMLESS, *_SCALING}
        for name, value in ours.items():
            if name in neutral and value != neutral[name]:
                raise UserError(f"{self.family}.{name} {value!r} is not supported, only {neutral[name]!r}")
            if name not in known and name not in neutral:
                raise UserError(f"{self.family}.{name} {value!r} is not known here, and may change the computation")
        return described

    def _scaling(self, ours: dict[str, Any]) -> dict[str, Any]:
        """rope_scaling of the present keys, or of the one that files had before them."""
        kind, factor = ours.get("rope.scaling.type", "none"), ours.get("rope.scaling.factor")
        old = ours.get("rope.scale_linear") or 1.0
        if old != 1 and (kind not in ("none", "linear") or factor not in (None, old)):
            raise UserError(f"{self.family}.rope.scale_linear {old:g} contradicts rope.scaling.*")
        if old != 1:
            kind, factor = "linear", old
        if kind == "none":
            if factor not in (None, 0, 1):
                raise UserError(f"{self.family}.rope.scaling.factor is {factor:g}, and rope.scaling.type is missing")
            return {}
        if kind != "linear":
            raise UserError(f"{self.family}.rope.scaling.type {kind!r} is not supported, only none and linear")
        if factor is None:
            raise UserError(f"{self.family}.rope.scaling.factor is missing, of rope.scaling.type {kind!r}")
        return {"rope_type": kind, "factor": factor}

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str, index: hf.Index) -> np.ndarray:
        tensor = self._tensors[name]
        # Rows are quantised one by one.
        rows = self._dequantize(tensor.data[index[0]] if len(index) > 1 else tensor.data, tensor.tensor_type)
        if self.family == "llama" and re.search(r"[qk]_proj\.weight$", name):
            # llama.cpp rotates neighbours where Hugging Face rotates halves, and stores a head's rows for that.
            heads = rows.reshape(-1, self.cfg.head_dim // 2, 2, rows.shape[-1])
            rows = heads.swapaxes(1, 2).reshape(rows.shape)
        return rows[:, index[1]] if len(index) > 1 else rows[index[0]]


def _hf_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if match is None or match[2] not in _NAMES:
        return name
    return f"{'' if match[1] is None else f'model.layers.{match[1]}.'}{_NAMES[match[2]]}.{match[3]}"
