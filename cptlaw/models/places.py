"""Where each parameter lies in the checkpoints of a family of open weights.

A layout reads like einops: "(k g c) d -> d k g c" says that the tensor's rows are kv heads, query heads of each and
channels, its columns the model width, and that the parameter has these axes in the other order.
"""

from typing import NamedTuple


class Place(NamedTuple):
    """Where a parameter lies: tensor name ({} is the layer), its layout, and its part of the tensor.

    The part is a place along the layout's axis n; or, where `stacked` has the letters of the rows of each of the
    matrices that lie one below the other in the tensor, one of these.
    """

    name: str
    layout: str
    part: int = 0
    stacked: tuple[str, ...] = ()


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
_OLMO2 = _LLAMA | {
    # The name that Llama gives to the norm before the feed-forward layer is here that of the one after attention.
    "layers/attention_post_norm": Place("model.layers.{}.post_attention_layernorm.weight", "d -> d"),
    "layers/mlp_post_norm": Place("model.layers.{}.post_feedforward_layernorm.weight", "d -> d"),
    "layers/attention/q_norm": Place("model.layers.{}.self_attn.q_norm.weight", "(k g c) -> k g c"),
    "layers/attention/k_norm": Place("model.layers.{}.self_attn.k_norm.weight", "(k c) -> k c"),
}
_GEMMA = _LLAMA | {
    "layers/attention_post_norm": Place("model.layers.{}.post_attention_layernorm.weight", "d -> d"),
    "layers/mlp_norm": Place("model.layers.{}.pre_feedforward_layernorm.weight", "d -> d"),
    "layers/mlp_post_norm": Place("model.layers.{}.post_feedforward_layernorm.weight", "d -> d"),
}
_QKV, _GATE_UP = ("kgc", "kc", "kc"), ("f", "f")
_PHI3 = _LLAMA | {
    "layers/attention/q": Place("model.layers.{}.self_attn.qkv_proj.weight", "(k g c) d -> d k g c", 0, _QKV),
    "layers/attention/k": Place("model.layers.{}.self_attn.qkv_proj.weight", "(k c) d -> d k c", 1, _QKV),
    "layers/attention/v": Place("model.layers.{}.self_attn.qkv_proj.weight", "(k c) d -> d k c", 2, _QKV),
    "layers/mlp/gate": Place("model.layers.{}.mlp.gate_up_proj.weight", "f d -> d f", 0, _GATE_UP),
    "layers/mlp/up": Place("model.layers.{}.mlp.gate_up_proj.weight", "f d -> d f", 1, _GATE_UP),
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
PLACES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), _LLAMA),
    "olmo2": _OLMO2,
    "phi3": _PHI3,
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA),
    "gpt_neox": _NEOX,
}
# Tensors of a checkpoint that hold nothing to learn (masks and tables that old versions saved).
IGNORED = r"rotary_emb\.inv_freq$|\.attention\.(bias|masked_bias)$"
