"""What a model is made of, and what is asked of it. Frozen, torch-free nouns.

A model is a chain of layers: 0 = embedding, 1..L = decoder blocks, L+1 = final norm + head. Ranges
of layers are half-open everywhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edgewise.schemes import CACHE_SCALE_BYTES, DEFAULT, CacheType, Family, Scheme, Wire, get_scheme

ACTIVATION_BYTES = 4  # hidden states between layers are float32
TOKEN_BYTES = 8  # a sampled token id travels as int64


class LayerKind(StrEnum):
    """`MLP`: what took the place of decoder blocks, without attention and cache."""

    EMBEDDING = "embedding"
    BLOCK = "block"
    MLP = "mlp"
    HEAD = "head"

    @property
    def is_block(self) -> bool:
        """Whether it is one of layers 1..L."""
        return self in (LayerKind.BLOCK, LayerKind.MLP)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. `matrices` are (rows, columns) that a scheme stores; `other_weights` counts the
    norms, biases and position tables, which stay in the scheme's compute type.

    What the scheme `stored` means here: of every matrix the parts, one below the other, as (rows,
    scheme); empty where all are floating point of the type `compute`, in which the rest is, too.

    `kv_width` is the number of values cached per token: keys and values of `kv_heads` heads. Of
    them a block sees its last `window` tokens, None: all. Layers that are equal take equal bytes
    and seconds."""

    kind: LayerKind
    matrices: tuple[tuple[int, int], ...]
    other_weights: int
    stored: tuple[tuple[tuple[int, str], ...], ...] = ()
    compute: str = DEFAULT
    kv_width: int = 0
    kv_heads: int = 0
    window: int | None = None

    def weight_bytes(self, scheme: Scheme) -> int:
        """Bytes that the layer's weights take in memory."""
        matrices = sum(self.matrix_bytes(scheme, i) for i in range(len(self.matrices)))
        return matrices + self.other_weights * self.compute_bytes(scheme)

    def read_bytes(self, scheme: Scheme, tokens: int) -> float:
        """Bytes of weights that a step of so many tokens reads at most: of an embedding the rows
        that are looked up, else all."""
        held = self.weight_bytes(scheme)
        if self.kind is LayerKind.EMBEDDING:
            return held * min(tokens / self.matrices[0][0], 1.0)
        return held

    def cached_bytes(self, scheme: Scheme, cache: CacheType) -> int:
        """Bytes of one token's keys and values."""
        if cache is CacheType.INT8:
            return self.kv_width + 2 * self.kv_heads * CACHE_SCALE_BYTES
        return self.kv_width * self.compute_bytes(scheme)

    def concrete(self, scheme: Scheme) -> Scheme:
        """What a scheme means for this layer: a recipe its part; `stored`, where that is floating
        point, the type."""
        if scheme.family is Family.RECIPE:
            return get_scheme(scheme.blocks if self.kind.is_block else scheme.ends)
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
    """A model's shape. In a `tied` model embedding and head share their matrix where one stage
    holds both. `computation` identifies what layers do beyond their own fields: norms, positions.

    `classes[i]` names the shape class of layer i. Equal layers are of one class, measured once: its
    kind, "block", where all of that kind are alike, else "block 1", "block 2" and so on."""

    name: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    vocab_size: int
    max_context: int
    tied: bool
    computation: str = ""
    classes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _classes(self.layers))

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_blocks(self) -> int:
        return sum(layer.kind.is_block for layer in self.layers)

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
        sizes = (self.hidden_size, self.vocab_size, self.max_context)
        shape = repr((self.layers, *sizes, self.tied, self.computation))
        return hashlib.sha256(shape.encode()).hexdigest()[:16]


def _classes(layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    unlike = list(dict.fromkeys(layers))
    names = {}
    for kind in LayerKind:
        alike = [layer for layer in unlike if layer.kind is kind]
        for number, layer in enumerate(alike, start=1):
            names[layer] = kind.value if len(alike) == 1 else f"{kind.value} {number}"
    return tuple(names[layer] for layer in layers)


@dataclass(frozen=True, slots=True)
class PrivateParts:
    """What blocks add with the help of the source, which has every M (PrivateLoRA, arXiv
    2311.14030). `matrices` names the parts of each matrix that something is added to: of every
    token `rank` numbers for each part go to the source, those of a matrix together, and as many
    come back."""

    rank: int
    matrices: tuple[tuple[str, ...], ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """That a token of a block sends, and gets, at a time."""
        return tuple(self.rank * len(parts) for parts in self.matrices)


@dataclass(frozen=True, slots=True)
class AddedPart:
    """What is added to rows [first, first + rows) of a matrix of a block."""

    matrix: str
    first: int
    rows: int
    columns: int
    rank: int


@dataclass(frozen=True, slots=True)
class ExtraWork:
    """What layers compute beyond the model. Exits of windows agree on each token where the head is,
    in place of the head alone; `ends` are those of windows but the last, None without any. Where
    there are several, blocks have a branch beside each sequence, with what is `added`. Blocks ask
    for what is `private`."""

    ends: tuple[int, ...] | None = None
    added: tuple[AddedPart, ...] = ()
    private: PrivateParts | None = None

    @property
    def exits(self) -> int:
        return 0 if self.ends is None else len(self.ends) + 1

    @property
    def branches(self) -> bool:
        return self.exits > 1

    def timed(self, name: str, kind: LayerKind) -> str:
        """What seconds of a class of layers with this are known by."""
        if kind is LayerKind.HEAD and self.exits:
            return f"{name}, {self.exits} exits"
        if kind is LayerKind.BLOCK and self.branches:
            ranks = sum(part.rank for part in self.added)
            name = f"{name}, {self.exits} windows of ranks {ranks}"
        if kind is LayerKind.BLOCK and self.private is not None:
            parts = " ".join(part for parts in self.private.matrices for part in parts)
            name = f"{name}, private {parts} of rank {self.private.rank}"
        return name


NO_EXTRA = ExtraWork()


@dataclass(frozen=True, slots=True)
class Workload:
    """What a plan must serve: `sequences` at a time, each `prompt_tokens` in, `new_tokens` out.

    They travel the pipeline in `micro_batches` groups of equal size, one behind the other. `cache`
    says how their keys and values are kept, `wire` what their hidden states cross links in. Every
    block has `adapter_bytes` of room for what adapters add to it, and the head `exit_bytes` for
    exits of windows: with these a sequence has a branch beside it, and twice the cache. `extra` is
    what layers compute for adapters, as if every request named the one that takes most.
    """

    prompt_tokens: int = 128
    new_tokens: int = 64
    sequences: int = 1
    micro_batches: int = 1
    cache: CacheType = CacheType.FULL
    wire: Wire = Wire.FP32
    adapter_bytes: int = 0
    exit_bytes: int = 0
    extra: ExtraWork = NO_EXTRA

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "sequences", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        object.__setattr__(self, "cache", CacheType(self.cache))
        object.__setattr__(self, "wire", Wire(self.wire))
        if self.micro_batches > self.sequences:
            raise ValueError(
                f"{self.sequences} sequences do not fill {self.micro_batches} micro-batches"
            )

    def rounded_up(self, max_context: int) -> "Workload":
        """With lengths of the next powers of two, where they are within the model's context:
        prompts of about one length are to be served by what was found out once."""
        prompt, new = (1 << (x - 1).bit_length() for x in (self.prompt_tokens, self.new_tokens))
        if prompt + new > max_context:
            return self
        return replace(self, prompt_tokens=prompt, new_tokens=new)

    @property
    def batch(self) -> int:
        """Sequences that travel together: those of the largest micro-batch."""
        return -(-self.sequences // self.micro_batches)

    @property
    def context(self) -> int:
        """Tokens a sequence holds at its end: what the cache must have room for."""
        return self.prompt_tokens + self.new_tokens

    @property
    def streams(self) -> int:
        """What runs through blocks for a sequence, itself and maybe a branch."""
        return 2 if self.exit_bytes else 1

    def added_bytes(self, kind: LayerKind) -> int:
        """Room in a layer for what adapters have there."""
        return {LayerKind.BLOCK: self.adapter_bytes, LayerKind.HEAD: self.exit_bytes}.get(kind, 0)


class Vote(StrEnum):
    """How exits of windows agree on the next token. `confidence`: of every token, what the exit
    says that is surest of it (Edge-LLM, 2406.15758). `average`: the mean of what they say. `last`:
    the last one alone."""

    CONFIDENCE = "confidence"
    AVERAGE = "average"
    LAST = "last"


class Objective(StrEnum):
    """What a plan should make small: one lane's time per token, or the time in which every
    sequence gets one token."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
