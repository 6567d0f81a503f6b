"""A shard's blocks, one after the other, with their caches and what adapters add."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from edgewise.kernels import backend_of
from edgewise.kernels.block import NativeBlock
from edgewise.models.adapting import HeldAdapters
from edgewise.models.cache import KVCache, Segment
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, DecoderBlock
from edgewise.models.native import NativePart, native_block
from edgewise.models.rotary import Rotation, inverse_frequencies, rotation
from edgewise.models.streamed_layers import StreamedLayers
from edgewise.models.wire import through
from edgewise.schemes import Wire


def positions_of(segments: Sequence[Segment]) -> Tensor:
    """Of the tokens of segments that lie one after the other: int64 [tokens]."""
    return torch.cat([torch.arange(s.start, s.end) for s in segments])


class BlockStack:
    """`first` is the model's number of the first one. The inputs of the layers `rounded` are as
    they would be behind such links. Those that are `streamed` are there while they compute."""

    def __init__(
        self,
        config: DecoderConfig,
        first: int,
        blocks: Sequence[Block],
        cache: KVCache,
        adapters: HeldAdapters,
        device: torch.device,
        rounded: Mapping[int, Wire],
        streamed: StreamedLayers | None = None,
    ) -> None:
        self.config, self.first, self._blocks = config, first, list(blocks)
        self._streamed = streamed
        self._cache, self._adapters, self._rounded = cache, adapters, rounded
        self._frequency = (
            inverse_frequencies(config.rope, config.head_dim).to(device) if config.rope else None
        )

    @property
    def end(self) -> int:
        return self.first + len(self._blocks)

    def run(
        self, states: Tensor, segments: list[Segment], first: int | None = None,
        end: int | None = None,
    ) -> Tensor:  # fmt: skip
        """States [tokens, H] through the model's blocks [first, end), all of these by default."""
        wanted = range(self.first if first is None else first, self.end if end is None else end)
        turn = None
        if self._frequency is not None:
            turn = rotation(self._frequency, positions_of(segments).to(states.device))
        for part in self.parts:
            part = part.within(wanted.start - self.first, wanted.stop - self.first)
            if part.blocks:
                layer = self.first + part.first + 1
                with self._there(layer):
                    states = self._through(part, self.arriving(states, layer), segments, turn)
        return states

    def _through(
        self, part: NativePart, states: Tensor, segments: list[Segment], turn: Rotation | None
    ) -> Tensor:
        backend = backend_of(states.device)
        if backend is not None and len(states) <= part.most_tokens:
            lanes = [(self._cache.slot(s.sequence), s.start, s.length) for s in segments]
            added = self._adapters.native(part.numbers, segments)
            return backend.run(part.native, states, lanes, turn, added)
        for number, block in zip(part.numbers, part.blocks, strict=True):
            window = self.config.windows[self.first + number]
            attend = self._cache.attention(number, segments, window)
            states = block(states, turn, attend, self._adapters.adapt(number, segments))
        return states

    def _there(self, layer: int) -> contextlib.AbstractContextManager[None]:
        return self._streamed.there(layer) if self._streamed else contextlib.nullcontext()

    def arriving(self, states: Tensor, layer: int) -> Tensor:
        """What a layer gets of what the one before computed."""
        return through(states, self._rounded[layer]) if layer in self._rounded else states

    @cached_property
    def parts(self) -> list[NativePart]:
        """The blocks as they are when first run, in stretches that run alike."""
        parts: list[NativePart] = []
        for number, block in enumerate(self._blocks):
            native = self._native(number, block)
            most = native.most_tokens if native else 0
            layer = self.first + number + 1
            starts = layer in self._rounded or not self._stay(layer - 1, layer)
            if not parts or parts[-1].most_tokens != most or starts:
                parts.append(NativePart(number, most, [], []))
            parts[-1].blocks.append(block)
            if native is not None:
                parts[-1].native.append(native)
        return parts

    def _native(self, number: int, block: Block) -> NativeBlock | None:
        """As the kernels run it whole; of an MLP they know each matrix alone."""
        if not isinstance(block, DecoderBlock):
            return None
        window = self.config.windows[self.first + number]
        return native_block(self.config, block, window, self._cache.stored(number))

    def _stay(self, *layers: int) -> bool:
        """Whether none of these is streamed: each that is goes alone."""
        return self._streamed is None or not any(x in self._streamed.layers for x in layers)
