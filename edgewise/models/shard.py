"""A shard runs a half-open range of a model's layers, with its own cache."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import NonFinite, PlanError
from edgewise.models.adapting import HeldAdapters
from edgewise.models.blank import random_layer
from edgewise.models.blocks import BlockStack, positions_of
from edgewise.models.branches import branch_of, courses_of, run_courses, said_of
from edgewise.models.cache import KVCache, Segment
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.company import Group, in_groups, owners
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, DecoderBlock, Embedding, Head, Layer
from edgewise.models.finite import all_finite, check_finite, nan_where_infinite
from edgewise.models.linear import Linear
from edgewise.models.loading import Loader
from edgewise.models.streamed_layers import StreamedLayers
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.stacked import StackedLinear
from edgewise.quantization.store import Store
from edgewise.schemes import DEFAULT, CacheType, Wire, get_scheme
from edgewise.specs import ModelSpec


class Shard:
    """Layers [start, start + len(layers)) of a model.

    `forward` takes token ids if the shard holds layer 0, hidden states otherwise, and returns
    logits if it holds the last layer, hidden states otherwise. The inputs of the layers `rounded`
    are as they would be behind such links. Of those `streamed` it holds the weights while they
    compute, until it is closed.
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
        streamed: StreamedLayers | None = None,
    ) -> None:
        self.config, self.start, self.layers = config, start, layers
        self.streamed = streamed
        self.device = next(_tensors(layers[0])).device
        blocks = [layer for layer in layers if isinstance(layer, Block)]
        self.cache = KVCache(
            (config.num_kv_heads, config.head_dim),
            [
                next(block.parameters()).dtype if isinstance(block, DecoderBlock) else None
                for block in blocks
            ],
            slots,
            context,
            self.device,
            cache,
            tokens,
        )
        self.adapters = HeldAdapters(self.device)
        what = config, max(start - 1, 0), blocks, self.cache, self.adapters, self.device
        self.blocks = BlockStack(*what, rounded or {}, streamed)

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
        """Bytes of all weights in memory, shared ones once."""
        streamed, tensors = self.streamed, [x for layer in self.layers for x in _tensors(layer)]
        held = [x for x in tensors if streamed is None or not streamed.holds(x)]
        buffers = streamed.stream.bytes if streamed else 0
        return buffers + sum({x.data_ptr(): x.nbytes for x in held}.values())

    @torch.inference_mode()
    def forward(
        self, inputs: Tensor, segments: list[Segment], rows: Sequence[int] | None = None
    ) -> Tensor:
        """Run the tokens of `segments`, which lie one after the other in `inputs`.

        inputs: token ids int64 [tokens], or hidden states float32 [tokens, H]. Returns float32
        [tokens, H], or logits [tokens, vocabulary], of the tokens `rows` only, ascending, where
        given. With adapters of windows, segments have more rows of hidden states than tokens
        (branches.py), and log-probabilities for logits. With the kernels a sequence's numbers are
        bitwise the same in any company; without them, torch's products of more rows may differ in
        the last bits. Raises NonFinite, with the sequences whose numbers are none; a call without
        those gives the others'.
        """
        self.cache.check(segments)
        if rows is None:
            rows = range(sum(segment.length for segment in segments))
        if any(segment.adapter in self.adapters.exits for segment in segments):
            parts = self._run_courses(inputs, segments, rows)
            of_rows = [s.sequence for s, part in zip(segments, parts, strict=True) for _ in part]
            return self._checked(torch.cat(parts), of_rows)
        if not isinstance(self.layers[-1], Head):
            rows = range(len(inputs))
        groups = in_groups(segments, self.most_tokens)
        if len(groups) == 1:
            return self._checked(self._run(inputs, segments, rows), owners(segments, rows))
        return self._checked(self._run_apart(inputs, groups, rows), owners(segments, rows))

    def _checked(self, outputs: Tensor, of_rows: Sequence[int]) -> Tensor:
        """The outputs themselves, whose rows are of these sequences. Raises NonFinite."""
        try:
            return check_finite(outputs, f"layers {self.start}-{self.end - 1}")
        except NonFinite as error:
            owned = zip(of_rows, outputs, strict=True)
            bad = dict.fromkeys(owner for owner, row in owned if not all_finite(row))
            raise NonFinite(str(error), tuple(bad)) from None

    @torch.inference_mode()
    def hidden(self, inputs: Tensor, segments: list[Segment]) -> Tensor:
        """What the head of the model's last shard gets, float32 [tokens, H], for `logits`."""
        self.cache.check(segments)
        return self._run(inputs, segments, None)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [tokens, vocabulary], NaN where the hidden states are not finite."""
        hidden = self.blocks.arriving(hidden, self.end - 1)
        return nan_where_infinite(self.layers[-1](hidden), hidden)

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

    def _run_courses(
        self, inputs: Tensor, segments: list[Segment], rows: Sequence[int]
    ) -> list[Tensor]:
        """With adapters of windows: the outputs of each segment."""
        courses, head = courses_of(segments, rows, self.adapters.ends), self.layers[-1]
        states, first = self.entered(inputs, segments), self.blocks.first
        parts = states.split([sum(course.rows_before(first)) for course in courses])
        for course, part in zip(courses, parts, strict=True):
            course.take(part, first)
        run_courses(courses, first, self.blocks.end, self._blocks_apart)
        if not isinstance(head, Head):
            return [torch.cat(course.rows()) for course in courses]
        at_once = self.most_tokens or len(rows) * len(self.layers) + 1
        return said_of(courses, head, self.adapters.exits, self.logits, at_once)

    def _blocks_apart(
        self, states: Tensor, segments: list[Segment], first: int, end: int
    ) -> Tensor:
        """States [tokens, H] through blocks [first, end), each segment as it would go alone."""
        after = torch.empty_like(states)
        for group in in_groups(segments, self.most_tokens):
            ran = self.blocks.run(states[group.tokens], group.segments, first, end)
            after[group.tokens] = ran
        return after

    def _run(self, inputs: Tensor, segments: list[Segment], rows: Sequence[int] | None) -> Tensor:
        states = self.blocks.run(self.entered(inputs, segments), segments)
        if rows is None or not isinstance(self.layers[-1], Head):
            return states
        return self.logits(states[list(rows)])

    def entered(self, inputs: Tensor, segments: list[Segment]) -> Tensor:
        """What the first block gets, float32 [tokens, H]."""
        states, first = inputs.to(self.device), self.layers[0]
        if isinstance(first, Embedding):
            states = first(states, positions_of(segments).to(self.device))
        return states

    def rows_in(self, segments: Sequence[Segment], rows: Sequence[int]) -> list[int]:
        """How many rows each of `segments` has in the inputs of a call for the tokens `rows`."""
        courses = courses_of(segments, rows, self.adapters.ends)
        return [sum(course.rows_before(self.blocks.first)) for course in courses]

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self.cache.drop(sequence)
        self.cache.drop(branch_of(sequence))

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let a sequence begin with the first `length` tokens of another one. Raises RuntimeError
        where that has no cache, or there is no room."""
        self.cache.copy(source, target, length)
        if self.cache.has(branch_of(source)):
            self.cache.copy(branch_of(source), branch_of(target), length)

    def close(self) -> None:
        """End the thread that reads streamed layers."""
        if self.streamed is not None:
            self.streamed.stream.close()


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
    streamed: StreamedLayers | None = None,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Shard:
    """Load layers [start, end) of a model, reading only their tensors.

    `schemes` is one scheme, or one per layer; `method` rounds what they quantize, while it is read,
    and `store` keeps the result. What is `streamed`, or among the layers `held` already, of the
    same origin, is taken from there. The cache has room for `slots` sequences of up to `context`
    tokens (default: the model's maximum), `tokens` in all (default: `slots * context`), kept as
    `cache` says. `rounded`: see Shard. Raises ModelError, PlanError, QuantizationError,
    SchemeError.
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
        if streamed is not None and number in streamed.layers:
            layers.append(streamed.layers[number])
            continue
        layer = known.get(loader.origin(number, scheme))
        # A tied head is made anew where the table is there: they are to share the matrix.
        if layer is None or loader.shares(number, scheme, table):
            layer = loader.layer(number, scheme, table)
        layers.append(layer)
        on_layer(number)
    return Shard(
        config, start, layers, slots=slots, context=context or config.max_context, cache=cache,
        tokens=tokens, rounded=rounded, streamed=streamed,
    )  # fmt: skip


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
