"""What GGUF files call the tensors that Hugging Face's checkpoints have, for decoders of Llama's
kind (llama.cpp's convert_hf_to_gguf.py)."""

import re

_FIXED = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_FILE = re.compile(r"blk\.(\d+)\.(.+)")
_IN_MODEL = {there: here for here, there in _BLOCK.items()}
_OUTSIDE = {there: here for here, there in _FIXED.items()}

TABLE, HEAD, ROPE_DIVISORS = "token_embd.weight", "output.weight", "rope_freqs.weight"


def gguf_name(tensor: str) -> str:
    """The name in GGUF files of a Hugging Face tensor such as "model.norm.weight"."""
    module, _, suffix = tensor.rpartition(".")
    if match := _IN_BLOCK.fullmatch(module):
        return f"blk.{match[1]}.{_BLOCK[match[2]]}.{suffix}"
    return f"{_FIXED[module]}.{suffix}"


def hf_name(tensor: str) -> str | None:
    """The Hugging Face name of a GGUF file's tensor; None where it is no part of a layer."""
    module, _, suffix = tensor.rpartition(".")
    if match := _IN_FILE.fullmatch(module):
        inner = _IN_MODEL.get(match[2])
        return inner and f"model.layers.{match[1]}.{inner}.{suffix}"
    outer = _OUTSIDE.get(module)
    return outer and f"{outer}.{suffix}"
