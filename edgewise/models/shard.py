"""A shard runs a half-open range of a model's layers, with its own cache."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import NonFinite, PlanError
from edgewise.kernels import backend_of
from edgewise.models.adapting import HeldAdapters
from edgewise.models.blank import random_layer
from edgewise.models.cache import KVCache, Segment
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.company import Group, in_groups, owners
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import (
    Block,
    Embedding,
    Head,
    Layer,
    inverse_frequencies,
    rotation,
)
from edgewise.models.finite import all_finite, check_finite
from edgewise.models.linear import Linear
from edgewise.models.loading import Loader
from edgewise.models.native import NativePart, native_block
from edgewise.models.wire import through
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.stacked import StackedLinear
from edgewise.quantization.store import Store
from edgewise.schemes import DEFAULT, CacheType, Wire, get_scheme
from edgewise.specs import ModelSpec


class Shard:
    """Layers [start, start + len(layers)) of a model.

    `forward` takes token ids if the shard holds layer 0, hidden states otherwise, and returns
    logits if it holds the last layer, hidden states otherwise. The inputs of the layers `rounded`
    are as they would be behind such links.
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
        tokens: int | None = None,
        rounded: Mapping[int, Wire] | None = None,
    ) -> None:
        self.config, self.start, self.layers = config, start, layers
        self._rounded = rounded or {}
        self.device = next(_tensors(layers[0])).device
        blocks = [layer for layer in layers if isinstance(layer, Block)]
        self.cache = KVCache(
            (config.num_kv_heads, config.head_dim),
            [next(block.parameters()).dtype for block in blocks],
            slots,
            context,
            self.device,
            cache,
            tokens,
        )
        self.adapters = HeldAdapters(self.device)
        self._frequency = (
            inverse_frequencies(config.rope, config.head_dim).to(self.device)
            if config.rope
            else None
        )

    @property
    def end(self) -> int:
        return self.start + len(self.layers)

    @cached_property
    def most_tokens(self) -> int:
        """Tokens up to which a step takes the way through the kernels, as the tokens of an answer
        do; 0 where torch runs steps of any length, or the kernels do."""
        modules = [module for layer in self.layers for module in layer.children()]
        kinds = Linear | PackedLinear | StackedLinear
        matrices = [x.native() for x in modules if isinstance(x, kinds)]
        least = min((matrix.most_tokens for matrix in matrices if matrix), default=math.inf)
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
        [tokens, H], or logits [tokens, vocabulary], of the tokens `rows` only where given. With the
        kernels a sequence's numbers are bitwise the same in any company; without them, torch's
        products of more rows may differ in the last bits. Raises NonFinite, with the sequences
        whose numbers are none; a call without those gives the others'.
        """
        self.cache.check(segments)
        if rows is None or not isinstance(self.layers[-1], Head):
            rows = range(len(inputs))
        groups = in_groups(segments, self.most_tokens)
        if len(groups) == 1:
            outputs = self._run(inputs, segments, rows)
        else:
            outputs = self._run_apart(inputs, groups, rows)
        try:
            return check_finite(outputs, f"layers {self.start}-{self.end - 1}")
        except NonFinite as error:
            of_rows = zip(owners(segments, rows), outputs, strict=True)
            bad = dict.fromkeys(owner for owner, row in of_rows if not all_finite(row))
            raise NonFinite(str(error), tuple(bad)) from None

    @torch.inference_mode()
    def hidden(self, inputs: Tensor, segments: list[Segment]) -> Tensor:
        """What the head of the model's last shard gets, float32 [tokens, H], for `logits`."""
        self.cache.check(segments)
        return self._run(inputs, segments, None)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [tokens, vocabulary], NaN where the hidden states are not finite."""
        return _logits(self.layers[-1], self._arriving(hidden, self.end - 1))

    def _run_apart(self, inputs: Tensor, groups: list[Group], rows: Sequence[int]) -> Tensor:
        """One group after the other; the results in the order of `rows`."""
        parts, order = [], []
        for group in groups:
            place = {token: number for number, token in enumerate(group.tokens)}
            mine = [number for number, row in enumerate(rows) if row in place]
            asked = [place[rows[number]] for number in mine]
            parts.append(self._run(inputs[group.tokens], group.segments, asked))
            order += mine
        outputs = torch.cat(parts)
        ordered = torch.empty_like(outputs)
        ordered[order] = outputs
        return ordered

    def _run(self, inputs: Tensor, segments: list[Segment], rows: Sequence[int] | None) -> Tensor:
        states = inputs.to(self.device)
        positions = torch.cat([torch.arange(s.start, s.end) for s in segments]).to(self.device)
        turn = None if self._frequency is None else rotation(self._frequency, positions)
        first, last, backend = self.layers[0], self.layers[-1], backend_of(self.device)
        if isinstance(first, Embedding):
            states = first(states, positions)
        for part in self._parts:
            states = self._arriving(states, self._first_block + part.first + 1)
            if backend is not None and len(states) <= part.most_tokens:
                lanes = [(self.cache.slot(s.sequence), s.start, s.length) for s in segments]
                added = self.adapters.native(part.numbers, segments)
                states = backend.run(part.native, states, lanes, turn, added)
                continue
            for number, block in zip(part.numbers, part.blocks, strict=True):
                window = self.config.windows[self._first_block + number]
                attend = self.cache.attention(number, segments, window)
                states = block(states, turn, attend, self.adapters.adapt(number, segments))
        if rows is None or not isinstance(last, Head):
            return states
        return _logits(last, self._arriving(states[list(rows)], self.end - 1))

    def _arriving(self, states: Tensor, layer: int) -> Tensor:
        """What a layer gets of what the one before computed."""
        return through(states, self._rounded[layer]) if layer in self._rounded else states

    @property
    def _first_block(self) -> int:
        """The model's number of the shard's first block."""
        return max(self.start - 1, 0)

    @cached_property
    def _parts(self) -> list[NativePart]:
        """The blocks as they are when first run, in stretches that run alike."""
        parts: list[NativePart] = []
        for number, block in enumerate(layer for layer in self.layers if isinstance(layer, Block)):
            window = self.config.windows[self._first_block + number]
            native = native_block(self.config, block, window, self.cache.stored(number))
            most = native.most_tokens if native else 0
            starts = self._first_block + number + 1 in self._rounded
            if not parts or parts[-1].most_tokens != most or starts:
                parts.append(NativePart(number, most, [], []))
            parts[-1].blocks.append(block)
            if native is not None:
                parts[-1].native.append(native)
        return parts

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self.cache.drop(sequence)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let a sequence begin with the first `length` tokens of another one. Raises RuntimeError
        where that has no cache, or there is no room."""
        self.cache.copy(source, target, length)


def _logits(head: Layer, states: Tensor) -> Tensor:
    """Packed matrices are multiplied with integers, which would hide numbers that are none."""
    logits: Tensor = head(states)
    if not all_finite(states):
        logits[~states.isfinite().all(-1)] = math.nan
    return logits


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
    tokens: int | None = None,
    rounded: Mapping[int, Wire] | None = None,
    method: str | None = None,
    store: Store | None = None,
    held: Iterable[Layer] = (),
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Shard:
    """Load layers [start, end) of a model, reading only their tensors.

    `schemes` is one scheme, or one per layer; `method` rounds what they quantize, while it is read,
    and `store` keeps the result. What is among the layers `held` already, of the same origin, is
    taken from there. The cache has room for `slots` sequences of up to `context` tokens (default:
    the model's maximum), `tokens` in all (default: `slots * context`), kept as `cache` says.
    `rounded`: see Shard. Raises ModelError, PlanError, QuantizationError, SchemeError.
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
    known = {layer.origin: layer for layer in held}
    layers: list[Layer] = []
    for number, scheme in zip(range(start, end), map(get_scheme, names), strict=True):
        table = layers[0] if start == 0 and layers else known.get(loader.origin(0, scheme))
        layer = known.get(loader.origin(number, scheme))
        # A tied head is made anew where the table is there: they are to share the matrix.
        if layer is None or loader.shares(number, scheme, table):
            layer = loader.layer(number, scheme, table)
        layers.append(layer)
        on_layer(number)
    room = context or config.max_context
    return Shard(
        config,
        start,
        layers,
        slots=slots,
        context=room,
        cache=cache,
        tokens=tokens,
        rounded=rounded,
    )


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
    on, specs, how = torch.device(device), (spec or config.spec("")).layers, get_scheme(scheme)
    layers = [random_layer(config, n, how, on, specs[n]) for n in range(start, end)]
    shard = Shard(config, start, layers, slots=slots, context=context, cache=cache)
    shard.cache.clear()
    return shard
