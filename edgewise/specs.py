"""What a model is made of, and what is asked of it. Frozen, torch-free nouns.

A model is a chain of layers: 0 = embedding, 1..L = decoder blocks, L+1 = final norm + head. Ranges
of layers are half-open everywhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from edgewise.schemes import CACHE_SCALE_BYTES, DEFAULT, CacheType, Family, Scheme, get_scheme

ACTIVATION_BYTES = 4  # hidden states travel between layers as float32
TOKEN_BYTES = 8  # a sampled token id travels as int64


class LayerKind(StrEnum):
    EMBEDDING = "embedding"
    BLOCK = "block"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. `matrices` are (rows, columns) that a scheme stores; `other_weights` counts the
    norms, biases and position tables, which stay in the scheme's compute type.

    What the scheme `stored` means here: of every matrix the parts, one below the other, as (rows,
    scheme); empty where all are floating point of the type `compute`, in which the rest is, too."""

    kind: LayerKind
    matrices: tuple[tuple[int, int], ...]
    other_weights: int
    stored: tuple[tuple[tuple[int, str], ...], ...] = ()
    compute: str = DEFAULT

    def weight_bytes(self, scheme: Scheme) -> int:
        """Bytes that the layer's weights take in memory."""
        matrices = sum(self.matrix_bytes(scheme, i) for i in range(len(self.matrices)))
        return matrices + self.other_weights * self.compute_bytes(scheme)

    def concrete(self, scheme: Scheme) -> Scheme:
        """What a scheme means for this layer: a recipe its part; `stored`, where that is floating
        point, the type."""
        if scheme.family is Family.RECIPE:
            return get_scheme(scheme.blocks if self.kind is LayerKind.BLOCK else scheme.ends)
        if scheme.family is Family.STORED and not self.stored:
            return get_scheme(self.compute)
        return scheme

    def matrix_bytes(self, scheme: Scheme, number: int) -> int:
        """Bytes of one of the matrices."""
        scheme, (rows, columns) = self.concrete(scheme), self.matrices[number]
        if scheme.family is not Family.STORED:
            return scheme.matrix_bytes(rows, columns)
        parts = self.stored[number]
        return sum(get_scheme(name).matrix_bytes(rows, columns) for rows, name in parts)

    def compute_bytes(self, scheme: Scheme) -> int:
        """Bytes of a number of the type that the layer computes in."""
        scheme = self.concrete(scheme)
        stored = scheme.family is Family.STORED
        return (get_scheme(self.compute) if stored else scheme).compute_bytes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's shape. `kv_width` is the number of cached values per token and block, keys and
    values of `kv_heads` heads. In a `tied` model embedding and head share their matrix where one
    stage holds both. `computation` identifies the rest of what layers do: windows, positions."""

    name: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    vocab_size: int
    max_context: int
    kv_width: int
    tied: bool
    kv_heads: int = 1
    computation: str = ""

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
        block = next(layer for layer in self.layers if layer.kind is LayerKind.BLOCK)
        return self.kv_width * block.compute_bytes(scheme)

    def shared_bytes(self, schemes: Sequence[str]) -> int:
        """Bytes that a device which holds all layers in these schemes saves: a table that is the
        head's matrix as well, in the same scheme, is there once."""
        if not self.tied or schemes[0] != schemes[-1]:
            return 0
        return self.layers[0].matrix_bytes(get_scheme(schemes[0]), 0)

    def weight_bytes(self, schemes: Sequence[str]) -> int:
        """Bytes of the whole model on one device, one scheme for each layer."""
        pairs = zip(self.layers, map(get_scheme, schemes), strict=True)
        return sum(layer.weight_bytes(scheme) for layer, scheme in pairs) - self.shared_bytes(
            schemes
        )

    @property
    def digest(self) -> str:
        """Identifies what seconds and bytes depend on, not the name or the weights: plans and
        profiles belong to it."""
        cache = (self.kv_width, self.kv_heads, self.computation)
        shape = repr((self.layers, self.hidden_size, self.max_context, *cache, self.tied))
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


class Objective(StrEnum):
    """What a plan should make small: one lane's time per token, or the time in which every
    sequence gets one token."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
