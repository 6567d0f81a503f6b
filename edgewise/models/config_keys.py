"""Keys of a `config.json`, checked before anything is made of them."""

from collections.abc import Mapping
from typing import Any

MOST_BLOCKS = 2**16
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "ffn_dim", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
    "word_embed_proj_dim", "sliding_window", "max_window_layers",
)  # fmt: skip


def architectures(hf: Mapping[str, Any]) -> list[str]:
    """Raises ValueError where they are no names."""
    names = hf.get("architectures") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"key 'architectures' is {names!r:.80}, not a list of names")
    return names


def check_sizes(hf: Mapping[str, Any]) -> None:
    """Raise ValueError where a size that is stated is none."""
    for key in _SIZES:
        size, most = hf.get(key), MOST_BLOCKS if key == "num_hidden_layers" else 2**31
        if size is not None and (type(size) is not int or not 0 <= size <= most):
            raise ValueError(f"key '{key}' is {size!r:.80}, not a whole number up to {most}")


def block_windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """How many keys each block sees; None: all of them. Raises ValueError."""
    blocks, window = hf["num_hidden_layers"], hf.get("sliding_window")
    if window is None or not hf.get("use_sliding_window", True):
        return (None,) * blocks
    if types := hf.get("layer_types"):
        if len(types) != blocks:
            raise ValueError(f"key 'layer_types' has {len(types)} entries for {blocks} blocks")
        return tuple(window if kind == "sliding_attention" else None for kind in types)
    first = hf.get("max_window_layers", 0)
    return tuple(window if i >= first else None for i in range(blocks))
