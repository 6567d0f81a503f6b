"""The key/value cache of one shard, for many sequences of different lengths.

A sequence holds a slot from its first token until it is dropped. A slot has addresses for `context`
tokens, the longest sequence; memory is taken for those that are there (models/pages.py), so that a
few long sequences and many short ones can share a budget smaller than `slots * context`. Who hands
tokens out keeps to that budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgewise.models.decoder import Attend, causal_mask
from edgewise.models.pages import Pages
from edgewise.schemes import CacheType


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` new tokens of one sequence, at positions [start, start + length), computed with an
    adapter, or as the model is: 0 (models/adapting.py)."""

    sequence: int
    start: int
    length: int
    adapter: int = 0

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Stored:
    """Keys and values of one block, [2, slots, K, context, D]; where they are codes of 8 bits,
    `scale` [2, slots, K, context], else None."""

    codes: Tensor
    scale: Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        yield self.codes
        if self.scale is not None:
            yield self.scale

    def write(self, slot: int, start: int, k: Tensor, v: Tensor) -> None:
        """Keep keys and values, each [tokens, K, D], from position `start` on."""
        for kind, vectors in enumerate((k.transpose(0, 1), v.transpose(0, 1))):
            place = (kind, slot, slice(None), slice(start, start + len(k)))
            if self.scale is None:
                self.codes[place] = vectors
            else:
                self.codes[place], self.scale[place] = in_eight_bits(vectors)

    def read(self, slot: int, end: int, dtype: torch.dtype) -> Tensor:
        """Those of positions before `end`, [2, K, end, D]."""
        codes = self.codes[:, slot, :, :end]
        if self.scale is None:
            return codes
        return from_eight_bits(codes, self.scale[:, slot, :, :end]).to(dtype)


def in_eight_bits(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """vectors [..., D] as int8 codes [..., D], symmetric, and a scale [...] of each vector."""
    scale = vectors.float().abs().amax(-1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return (vectors.float() * inverse.unsqueeze(-1)).round().to(torch.int8), scale


def from_eight_bits(codes: Tensor, scale: Tensor) -> Tensor:
    """The float32 numbers that the codes stand for."""
    return codes.float() * scale.unsqueeze(-1)


def through_eight_bits(attend: Attend) -> Attend:
    """Attention to keys and values as an 8-bit cache would give them back."""

    def rounded(vectors: Tensor) -> Tensor:
        return from_eight_bits(*in_eight_bits(vectors)).to(vectors.dtype)

    return lambda q, k, v: attend(q, rounded(k), rounded(v))


class KVCache:
    """Keys and values of `len(dtypes)` blocks, each in its type, or all of them in 8 bits; of those
    without a type none. Of all `slots * context` tokens at most `tokens` are there at a time."""

    def __init__(
        self,
        heads: tuple[int, int],
        dtypes: Sequence[torch.dtype | None],
        slots: int,
        context: int,
        device: torch.device,
        kind: CacheType = CacheType.FULL,
        tokens: int | None = None,
    ) -> None:
        num_kv, head_dim = heads
        self.context = context
        self.tokens = slots * context if tokens is None else tokens
        self._places = slots * context
        self._free = list(range(slots))
        self._slots: dict[int, int] = {}
        self._pages = Pages(device)
        shape = (2, slots, num_kv, context, head_dim)
        eight, empty = kind is CacheType.INT8, self._pages.empty
        self._blocks = {
            number: Stored(
                empty(shape, torch.int8 if eight else dtype),
                empty(shape[:-1], torch.float32) if eight else None,
            )
            for number, dtype in enumerate(dtypes)
            if dtype is not None
        }

    @property
    def bytes(self) -> int:
        """What `tokens` tokens take. Whole pages of memory are taken: the last one of each
        sequence's keys, and values, of each head is on average half empty."""
        return sum(block.nbytes for block in self._blocks.values()) // self._places * self.tokens

    def clear(self) -> None:
        """Make all keys and values zero: for timing, where tokens are looked at that never came."""
        for block in self._blocks.values():
            for tensor in block.tensors():
                tensor.zero_()

    def slot(self, sequence: int) -> int:
        """The slot of a sequence, taken now if it has none. Raises RuntimeError when all are."""
        if sequence not in self._slots:
            if not self._free:
                raise RuntimeError(f"all {len(self._slots)} cache slots are taken")
            self._slots[sequence] = self._free.pop()
        return self._slots[sequence]

    def has(self, sequence: int) -> bool:
        """Whether something is kept of a sequence."""
        return sequence in self._slots

    def drop(self, sequence: int) -> None:
        """Give a sequence's slot and its memory back. Unknown sequences are ignored."""
        slot = self._slots.pop(sequence, None)
        if slot is None:
            return
        self._free.append(slot)
        for block in self._blocks.values():
            for tensor in block.tensors():
                for vectors in tensor[:, slot]:
                    self._pages.give_back(vectors)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a sequence begin with the first `length` tokens that are kept of another one. Raises
        RuntimeError where none are, or where so many cannot be."""
        if not self._blocks:
            return  # no block with attention: nothing is kept of anybody
        if source not in self._slots:
            raise RuntimeError(f"nothing is cached of sequence {source}")
        self._check_room(length)
        held, new = self._slots[source], self.slot(target)
        for block in self._blocks.values():
            for tensor in block.tensors():
                tensor[:, new, :, :length] = tensor[:, held, :, :length]

    def stored(self, block: int) -> Stored:
        return self._blocks[block]

    def check(self, segments: list[Segment]) -> None:
        """Raises RuntimeError where a segment is longer than the cache, or two are of one sequence:
        segments do not wait for each other's keys."""
        if len({segment.sequence for segment in segments}) < len(segments):
            raise RuntimeError("two segments of one sequence in a step")
        self._check_room(max((segment.end for segment in segments), default=0))

    def _check_room(self, end: int) -> None:
        if end > self.context:
            raise RuntimeError(f"position {end} is beyond {self.context} cached tokens")

    def attention(self, block: int, segments: list[Segment], window: int | None) -> Attend:
        """Attention of flat tokens q, k, v [tokens, heads, D] that lie segment after segment:
        stores k and v, and lets each token see its sequence up to itself."""
        self.check(segments)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            parts, first = [], 0
            for segment in segments:
                rows = slice(first, first + segment.length)
                stored, slot = self._blocks[block], self.slot(segment.sequence)
                stored.write(slot, segment.start, k[rows], v[rows])
                seen = stored.read(slot, segment.end, q.dtype)
                parts.append(_attend(q[rows], seen, window))
                first = rows.stop
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return attend


def _attend(q: Tensor, stored: Tensor, window: int | None) -> Tensor:
    """q [T, N, D] are the last T positions of keys and values `stored` [2, K, context, D]."""
    length, num_heads, head_dim = q.shape
    _, num_kv, context, _ = stored.shape
    if length == 1:
        # One query sees every key left, so the heads that share a key become rows: no copies.
        if window is not None:
            stored = stored[:, :, -window:]
        q = q.view(1, num_kv, num_heads // num_kv, head_dim)
        return F.scaled_dot_product_attention(q, stored[:1], stored[1:]).view(
            1, num_heads, head_dim
        )
    mask = None
    if context > length or (window is not None and window < context):
        mask = causal_mask(length, context, window).to(q.device)
    attended = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0),
        stored[:1],
        stored[1:],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=num_heads != num_kv,
    )
    return attended.squeeze(0).transpose(0, 1)
