"""What a model is made of, and what is asked of it. Frozen, torch-free nouns.

A model is a chain of layers: 0 = embedding, 1..L = decoder blocks, L+1 = final norm + head. Ranges
of layers are half-open everywhere.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from edgewise.schemes import CACHE_SCALE_BYTES, CacheType, Scheme

ACTIVATION_BYTES = 4  # hidden states travel between layers as float32
TOKEN_BYTES = 8  # a sampled token id travels as int64


class LayerKind(StrEnum):
    EMBEDDING = "embedding"
    BLOCK = "block"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. `matrices` are (rows, columns) that a scheme stores; `other_weights` counts the
    norms, biases and position tables, which stay in the scheme's compute type."""

    kind: LayerKind
    matrices: tuple[tuple[int, int], ...]
    other_weights: int

    def weight_bytes(self, scheme: Scheme) -> int:
        """Bytes that the layer's weights take in memory."""
        stored = sum(scheme.matrix_bytes(rows, columns) for rows, columns in self.matrices)
        return stored + self.other_weights * scheme.compute_bytes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's shape. `kv_width` is the number of cached values per token and block, keys and
    values of `kv_heads` heads. In a `tied` model embedding and head share their matrix where one
    stage holds both."""

    name: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    vocab_size: int
    max_context: int
    kv_width: int
    tied: bool
    kv_heads: int = 1

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_blocks(self) -> int:
        return sum(layer.kind is LayerKind.BLOCK for layer in self.layers)

    def cached_bytes(self, scheme: Scheme, cache: CacheType) -> int:
        """Bytes of one token's keys and values in a block of that scheme."""
        if cache is CacheType.INT8:
            return self.kv_width + 2 * self.kv_heads * CACHE_SCALE_BYTES
        return self.kv_width * scheme.compute_bytes

    @property
    def digest(self) -> str:
        """Identifies the shape, not the name or the weights: plans and profiles belong to it."""
        shape = repr((self.layers, self.hidden_size, self.max_context, self.kv_width, self.tied))
        return hashlib.sha256(shape.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Workload:
    """What a plan must serve: `sequences` at a time, each `prompt_tokens` in, `new_tokens` out.

    They travel the pipeline in `micro_batches` groups of equal size, one behind the other. `cache`
    says how their keys and values are kept.
    """

    prompt_tokens: int = 128
    new_tokens: int = 64
    sequences: int = 1
    micro_batches: int = 1
    cache: CacheType = CacheType.FULL

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "sequences", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        object.__setattr__(self, "cache", CacheType(self.cache))
        if self.micro_batches > self.sequences:
            raise ValueError(
                f"{self.sequences} sequences do not fill {self.micro_batches} micro-batches"
            )

    @property
    def batch(self) -> int:
        """Sequences that travel together: those of the largest micro-batch."""
        return -(-self.sequences // self.micro_batches)

    @property
    def context(self) -> int:
        """Tokens a sequence holds at its end: what the cache must have room for."""
        return self.prompt_tokens + self.new_tokens
