"""A GGUF file's metadata as the `config.json` that Hugging Face would write for the same model."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgewise.errors import ModelError
from edgewise.models.gguf.header import Header, Value
from edgewise.models.gguf.names import HEAD, ROPE_DIVISORS, TABLE

# llama.cpp calls Mistral's models "llama" too.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Whose query and key rows llama.cpp's conversion puts in the order of its own rotary positions.
PERMUTED = frozenset({"llama", "mistral"})
SCALINGS = ("none", "linear")


def architecture(header: Header, where: str) -> str:
    """The model's architecture, as GGUF names it. Raises ModelError where it is not supported."""
    name = header.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"{where}: GGUF architecture {name!r} is not supported; supported: {known}"
        )
    return str(name)


def hf_config(header: Header, divisors: Sequence[float] | None, where: str) -> dict[str, Any]:
    """What DecoderConfig.from_dict takes. `divisors` [D/2] are the file's rotary factors, if it has
    any. Raises ModelError."""
    name = architecture(header, where)
    keys = _Keys(header.metadata, name, where)
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    rotated = keys.size("rope.dimension_count", 0)
    guess = rotated or hidden // max(heads, 1)
    head_dim = keys.size("attention.key_length", guess)
    if keys.size("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{where}: keys and values of different sizes are not supported")
    table = header.tensors.get(TABLE)
    if table is None:
        raise ModelError(f"{where}: tensor '{TABLE}' is missing from the file")
    blocks = keys.size("block_count")
    if blocks > len(header.tensors):  # what is made for every block must cost the file something
        raise ModelError(f"{where}: {blocks} blocks, but only {len(header.tensors)} tensors")
    window = keys.size("attention.sliding_window", 0) or None
    bias = "blk.0.attn_q.bias" in header.tensors
    model_class = _class(name, window)
    return {
        "architectures": [model_class],
        "model_type": model_class.removesuffix("ForCausalLM").lower(),
        "vocab_size": table.shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length"),
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.size("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(keys, divisors),
        "partial_rotary_factor": (rotated or head_dim) / max(head_dim, 1),
        "tie_word_embeddings": HEAD not in header.tensors,
        "attention_bias": bias,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        # A file that states a window means it for every block.
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": 0,
    }


def _class(name: str, window: int | None) -> str:
    # Of the two that share a name in GGUF only Mistral's models have windows.
    return "MistralForCausalLM" if name == "llama" and window else ARCHITECTURES[name]


def _rope(keys: "_Keys", divisors: Sequence[float] | None) -> dict[str, Any]:
    theta = keys.number("rope.freq_base", 10000.0)
    kind = keys.text("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if kind not in SCALINGS:
        raise ModelError(
            f"{keys.where}: rope scaling '{kind}' is not supported; supported: "
            f"{', '.join(SCALINGS)} and tensor '{ROPE_DIVISORS}'"
        )
    if divisors is not None:
        return {"rope_type": "divisors", "rope_theta": theta, "divisors": list(divisors)}
    linear = kind == "linear" or "rope.scale_linear" in keys
    if linear and factor != 1.0:
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    return {"rope_type": "default", "rope_theta": theta}


class _Keys:
    """The metadata of one architecture, each key checked for its type."""

    def __init__(self, metadata: Mapping[str, Value], name: str, where: str) -> None:
        self._metadata, self._name, self.where = metadata, name, where

    def __contains__(self, key: str) -> bool:
        return f"{self._name}.{key}" in self._metadata

    def _get(self, key: str, default: Value | None) -> Value:
        value = self._metadata.get(f"{self._name}.{key}", default)
        if value is None:
            raise ModelError(f"{self.where}: key '{self._name}.{key}' is missing from the file")
        if isinstance(value, list):
            # One number per block; only models whose blocks are alike are supported.
            if not value or any(number != value[0] for number in value):
                raise ModelError(
                    f"{self.where}: key '{self._name}.{key}' differs between blocks, which is not "
                    "supported"
                )
            return value[0]
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._wrong(key, value, "a size")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def _wrong(self, key: str, value: Value, expected: str) -> ModelError:
        return ModelError(f"{self.where}: key '{self._name}.{key}' is {value!r}, not {expected}")
