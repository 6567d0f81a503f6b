"""A shard runs a half-open range of a model's layers, with its own cache."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import PlanError
from edgewise.kernels import backend_of
from edgewise.kernels.block import NativeBlock
from edgewise.models.blank import random_layer
from edgewise.models.cache import KVCache, Segment
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import (
    Block,
    Embedding,
    Head,
    Layer,
    inverse_frequencies,
    rotation,
)
from edgewise.models.finite import check_finite
from edgewise.models.linear import Linear
from edgewise.models.loading import Loader
from edgewise.models.native import native_block
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.store import Store
from edgewise.schemes import DEFAULT, CacheType, get_scheme
from edgewise.specs import ModelSpec


class Shard:
    """Layers [start, start + len(layers)) of a model.

    `forward` takes token ids if the shard holds layer 0, hidden states otherwise, and returns
    logits if it holds the last layer, hidden states otherwise.
    """

    def __init__(
        self,
        config: DecoderConfig,
        start: int,
        layers: list[Layer],
        *,
        slots: int,
        context: int,
        cache: CacheType = CacheType.FULL,
    ) -> None:
        self.config, self.start, self.layers = config, start, layers
        self.device = next(_tensors(layers[0])).device
        blocks = [layer for layer in layers if isinstance(layer, Block)]
        self.cache = KVCache(
            (config.num_kv_heads, config.head_dim),
            [next(block.parameters()).dtype for block in blocks],
            slots,
            context,
            self.device,
            cache,
        )
        self._parts = self._divided()
        self._frequency = (
            inverse_frequencies(config.rope, config.head_dim).to(self.device)
            if config.rope
            else None
        )

    @property
    def end(self) -> int:
        return self.start + len(self.layers)

    @property
    def most_tokens(self) -> int:
        """Tokens up to which a step takes the way through the kernels, as the tokens of an answer
        do; 0 where torch runs steps of any length, or the kernels do."""
        ends = [layer for layer in self.layers if layer.kind != Block.kind]
        modules = [module for layer in ends for module in layer.children()]
        matrices = [x.native() for x in modules if isinstance(x, Linear | PackedLinear)]
        bounds = [part.most_tokens for part in self._parts]
        bounds += [matrix.most_tokens for matrix in matrices if matrix]
        least = min((bound for bound in bounds if bound > 0), default=math.inf)
        return 0 if least == math.inf else int(least)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, shared ones once."""
        sizes = {x.data_ptr(): x.nbytes for layer in self.layers for x in _tensors(layer)}
        return sum(sizes.values())

    @torch.inference_mode()
    def forward(
        self, inputs: Tensor, segments: list[Segment], rows: Sequence[int] | None = None
    ) -> Tensor:
        """Run the tokens of `segments`, which lie one after the other in `inputs`.

        inputs: token ids int64 [tokens], or hidden states float32 [tokens, H]. Returns float32
        [tokens, H], or logits [tokens, vocabulary], of the tokens `rows` only where given. Raises
        NonFinite.
        """
        states = inputs.to(self.device)
        self.cache.check(segments)
        positions = torch.cat([torch.arange(s.start, s.end) for s in segments]).to(self.device)
        turn = None if self._frequency is None else rotation(self._frequency, positions)
        first, last, backend = self.layers[0], self.layers[-1], backend_of(self.device)
        if isinstance(first, Embedding):
            states = first(states, positions)
        for part in self._parts:
            if backend is not None and len(states) <= part.most_tokens:
                lanes = [(self.cache.slot(s.sequence), s.start, s.length) for s in segments]
                states = backend.run(part.native, states, lanes, turn)
                continue
            for number, block in enumerate(part.blocks, start=part.first):
                window = self.config.windows[self._first_block + number]
                states = block(states, turn, self.cache.attention(number, segments, window))
        if isinstance(last, Head):
            states = last(states if rows is None else states[list(rows)])
        return check_finite(states, f"layers {self.start}-{self.end - 1}")

    @property
    def _first_block(self) -> int:
        """The model's number of the shard's first block."""
        return max(self.start - 1, 0)

    def _divided(self) -> list["_Part"]:
        """The blocks, in stretches that run alike."""
        parts: list[_Part] = []
        for number, block in enumerate(layer for layer in self.layers if isinstance(layer, Block)):
            window = self.config.windows[self._first_block + number]
            native = native_block(self.config, block, window, self.cache.stored(number))
            most = native.most_tokens if native else 0
            if not parts or parts[-1].most_tokens != most:
                parts.append(_Part(number, most, [], []))
            parts[-1].blocks.append(block)
            if native is not None:
                parts[-1].native.append(native)
        return parts

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self.cache.drop(sequence)


@dataclass(frozen=True)
class _Part:
    """Blocks one after the other, from the shard's `first` on, with what the kernels need to run
    up to `most_tokens` through them in one call; beyond that, torch runs them."""

    first: int
    most_tokens: float
    blocks: list[Block]
    native: list[NativeBlock]


def _tensors(layer: Layer) -> Iterator[Tensor]:
    """Weights as they are stored: parameters, and the buffers of packed matrices."""
    yield from layer.parameters()
    yield from layer.buffers()


def load_shard(
    model: str | Path | Checkpoint,
    start: int = 0,
    end: int | None = None,
    schemes: str | Sequence[str] = DEFAULT,
    *,
    device: str = "cpu",
    slots: int = 1,
    context: int | None = None,
    cache: CacheType = CacheType.FULL,
    method: str | None = None,
    store: Store | None = None,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Shard:
    """Load layers [start, end) of a model, reading only their tensors.

    `schemes` is one scheme, or one per layer; `method` rounds what they quantize, while it is read,
    and `store` keeps the result. The cache has room for `slots` sequences of `context` tokens each
    (default: the model's maximum), kept as `cache` says. Raises ModelError, PlanError,
    QuantizationError, SchemeError.
    """
    checkpoint = open_checkpoint(model) if isinstance(model, str | Path) else model
    config = checkpoint.config
    end = config.num_layers if end is None else end
    if not 0 <= start < end <= config.num_layers:
        raise PlanError(f"layers [{start}, {end}) are not within [0, {config.num_layers})")
    names = [schemes] * (end - start) if isinstance(schemes, str) else list(schemes)
    if len(names) != end - start:
        raise PlanError(f"{len(names)} schemes for {end - start} layers")
    loader = Loader(checkpoint, torch.device(device), method, store)
    layers: list[Layer] = []
    for number, scheme in zip(range(start, end), map(get_scheme, names), strict=True):
        layers.append(loader.layer(number, scheme, layers[0] if layers else None))
        on_layer(number)
    room = context or config.max_context
    return Shard(config, start, layers, slots=slots, context=room, cache=cache)


def random_shard(
    config: DecoderConfig,
    start: int,
    end: int,
    scheme: str,
    *,
    device: str,
    slots: int,
    context: int,
    cache: CacheType = CacheType.FULL,
    spec: ModelSpec | None = None,
) -> Shard:
    """Layers of a model's shape with random weights: for timing, without a checkpoint. What the
    scheme `stored` means, `spec` says."""
    on, specs = torch.device(device), (spec or config.spec("")).layers
    layers = [
        random_layer(config, number, get_scheme(scheme), on, specs[number])
        for number in range(start, end)
    ]
    shard = Shard(config, start, layers, slots=slots, context=context, cache=cache)
    shard.cache.clear()
    return shard
