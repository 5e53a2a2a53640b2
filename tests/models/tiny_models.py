"""A tiny model of every family, as a Hugging Face config.json; its weights; a packed row. NumPy alone.

    python tests/models/tiny_models.py

writes golden_logits.json beside this file: the logits of `transformers`, for which it needs torch and transformers
(the extra `parity`) but not JAX. Do that when a family is added or its tiny config changes, and for no other reason:
if the test of golden logits fails after a change of ours, the change is wrong.
"""

import json
import math
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden_logits.json"
# Two documents; longer than the sliding window.
LENGTHS = (9, 7)
TOKENS = np.random.default_rng(0).integers(0, 32, sum(LENGTHS))

_SIZE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10_000.0,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
_NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10_000,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # So short that the tiny heads' frequencies meet all three bands.
    "original_max_position_embeddings": 16,
}
# The blend runs from the first pair of channels to the third.
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 1, "beta_slow": 0.4}
_GEMMA = {name: value for name, value in _SIZE.items() if name not in ("hidden_act", "rope_theta")} | {
    **{"tie_word_embeddings": True, "head_dim": 8, "query_pre_attn_scalar": 6, "sliding_window": 4},
    "hidden_activation": "gelu_pytorch_tanh",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": _SIZE | {"model_type": "llama", "num_key_value_heads": 4},
    "llama_linear": _SIZE | {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": _SIZE | {"model_type": "llama", "head_dim": 8, "rope_theta": 50.0, "rope_scaling": _LLAMA3},
    "llama_biased": _SIZE | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "smollm2": _SIZE | {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "mistral": _SIZE | {"model_type": "mistral", "sliding_window": 4, "head_dim": 4},
    "qwen2": _SIZE | {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": _SIZE | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
    "qwen2_mixed": _SIZE
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3_yarn": _SIZE | {"model_type": "qwen3", "head_dim": 8, "rope_theta": 50.0, "rope_scaling": _YARN},
    # Its fourth layer has no rotary positions; of six, two are left after a whole turn.
    "smollm3": _SIZE
    | {"model_type": "smollm3", "num_hidden_layers": 6, "tie_word_embeddings": True, "pad_token_id": 0},
    "olmo2": _SIZE | {"model_type": "olmo2"},
    # The padding id of its config class is beyond the tiny vocabulary.
    "phi3": _SIZE | {"model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 4, "pad_token_id": 0},
    # The caps are low enough to bend the tiny model's logits.
    "gemma2": _GEMMA
    | {"model_type": "gemma2", "num_hidden_layers": 3, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": _GEMMA
    | {"model_type": "gemma3_text", "num_hidden_layers": 5, "sliding_window_pattern": 3, "rope_theta": 1e4}
    | {"rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "pythia": _NEOX | {"use_parallel_residual": True},
    "neox_sequential": _NEOX | {"use_parallel_residual": False},
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that depends on its name and shape alone; large enough that every piece shows in the logits."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if "norm" in name and name.endswith("weight"):
        return (1 + 0.3 * noise).astype(np.float32)
    return (noise * (1.5 / math.sqrt(shape[1]) if len(shape) > 1 else 0.3)).astype(np.float32)


def write_pretrained(config: dict[str, Any], folder: Path) -> None:
    """The tiny model as `transformers` saves it, with the weights above (which go by their names on disk)."""
    import transformers
    from safetensors.numpy import load_file, save_file

    (folder / "config.json").write_text(json.dumps(config))
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(
        folder
    )
    file = folder / "model.safetensors"
    save_file({name: weight(name, x.shape) for name, x in load_file(file).items()}, file, metadata={"format": "pt"})


def documents_logits(folder: Path) -> np.ndarray:
    """The logits (T, V) of `transformers` for the row's documents, each alone."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        rows = [model(torch.from_numpy(part)[None]).logits[0] for part in np.split(TOKENS, np.cumsum(LENGTHS)[:-1])]
    return torch.cat(rows).numpy()


def golden_logits(config: dict[str, Any]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        write_pretrained(config, Path(folder))
        return documents_logits(Path(folder))


if __name__ == "__main__":
    golden = {name: golden_logits(config) for name, config in FAMILIES.items()}
    lines = [f'"{name}": {json.dumps(x.astype(float).round(5).tolist())}' for name, x in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
