"""Weights of llama.cpp (GGUF), dequantised: the families llama (Llama, SmolLM2), qwen2 and qwen3. Extra `gguf`."""

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.models import families, hf
from cptlaw.models.config import Config
from cptlaw.models.transformer import Params

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
# config.json's fields, by GGUF's names after the architecture.
_FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}


def load(
    path: str | os.PathLike[str], layout: "Layout", *, progress: bool = False, **fields: Any
) -> tuple[Config, Params]:
    """The model in a GGUF file: (Config, float32 params placed by the layout), as `hf.load`.

    Raises WeightsError when the file is not readable, or listing every tensor that is missing, unused (such as the
    `rope_freqs.weight` of Llama 3.1, whose rescaling GGUF does not name) or of another shape.
    """
    source = _Gguf(Path(path))
    cfg = dataclasses.replace(source.cfg, **fields)
    return cfg, hf.assemble(source, source.family, cfg, hf.abstract_params(cfg, layout), progress=progress)


class _Gguf:
    """A GGUF file's tensors under Hugging Face's names, with the rows of queries and keys in its order."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError as error:
            raise hf.WeightsError("GGUF needs the package gguf: pip install 'cptlaw[gguf]'") from error
        self.path = path
        self._dequantize = gguf.dequantize
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as error:
            raise hf.WeightsError(f"{path}: not a readable GGUF file ({error})") from error
        self._tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
        self.shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in self._tensors.items()}
        self.family = str(reader.fields["general.architecture"].contents())
        if self.family not in ("llama", "qwen2", "qwen3"):
            raise hf.WeightsError(f"{path}: architecture {self.family!r} is not supported, only llama, qwen2, qwen3")
        given = {name.removeprefix(f"{self.family}."): field.contents() for name, field in reader.fields.items()}
        described = {theirs: given[name] for theirs, name in _FIELDS.items() if name in given}
        described |= {
            "model_type": self.family,
            "vocab_size": self.shapes["model.embed_tokens.weight"][0],
            "tie_word_embeddings": "lm_head.weight" not in self.shapes,
        }
        if given.get("rope.scaling.type", "none") != "none":
            described["rope_scaling"] = {"type": given["rope.scaling.type"], "factor": given.get("rope.scaling.factor")}
        self.cfg = families.of_json(described)

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
