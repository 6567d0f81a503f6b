"""Blocks, as the library runs them: some tokens through several of them in one call."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, pointer
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from edgewise.kernels.library import TYPES, Block, Cache, Lane, Norm, Step, checked, library
from edgewise.kernels.matrix import NativeMatrix, address

MATRICES = ("qkv", "out", "up", "down")
NORMS = ("attention_norm", "mlp_norm", "q_norm", "k_norm")
VECTOR = 16  # numbers of a head handled at once


class Activation(IntEnum):
    SILU, RELU, GELU = range(3)


@dataclass(frozen=True)
class NormWeights:
    """weight, bias [size]; `centred` for LayerNorm, else RMSNorm."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool


@dataclass(frozen=True)
class BlockShape:
    """`window` 0: none."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool
    activation: Activation
    window: int


class NativeBlock:
    """A block's struct, and what it points to, kept alive.

    keys, values [slots, K, context, D] of one type of `TYPES`; scales float32 [slots, K, context]
    where that is int8. Norms that the block has not are left out.
    """

    def __init__(
        self,
        shape: BlockShape,
        matrices: dict[str, NativeMatrix],
        norms: dict[str, NormWeights],
        keys: Tensor,
        values: Tensor,
        key_scale: Tensor | None = None,
        value_scale: Tensor | None = None,
    ) -> None:
        cache = (keys, values, key_scale, value_scale)
        self._kept: list[object] = [matrices, cache]
        self.most_tokens = min(x.most_tokens for x in matrices.values())
        self.struct = Block(
            *[matrices[name].struct for name in MATRICES],
            *[self._norm(norms.get(name)) for name in NORMS],
            Cache(*map(address, cache), keys.shape[2], TYPES[keys.dtype], keys.shape[0]),
            *(shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.ffn),
            *(shape.gated, shape.activation, shape.window),
        )

    def _norm(self, norm: NormWeights | None) -> Norm:
        if norm is None:
            return Norm(None, None, 0.0, 0)
        kept = [None if x is None else x.detach().float() for x in (norm.weight, norm.bias)]
        self._kept.append(kept)
        return Norm(*map(address, kept), norm.eps, norm.centred)


def run_blocks(
    blocks: Sequence[NativeBlock],
    x: Tensor,
    lanes: Sequence[tuple[int, int, int]],
    turn: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """x float32 [tokens, H] through `blocks` -> [tokens, H]. Lanes are (slot, start, length), their
    tokens one after the other; `turn` is cos and sin, float32 [tokens, D]."""
    lib = library()
    assert lib is not None
    x = x.contiguous().clone()
    cos, sin = (None, None) if turn is None else (y.contiguous() for y in turn)
    step = Step(
        *(x.data_ptr(), address(cos), address(sin)),
        (Lane * len(lanes))(*[Lane(*lane) for lane in lanes]),
        *(len(x), len(lanes), torch.get_num_threads()),
    )
    structs = (POINTER(Block) * len(blocks))(*[pointer(block.struct) for block in blocks])
    first = ctypes.cast(structs, POINTER(POINTER(Block)))
    checked(lib.edgewise_blocks(first, len(blocks), byref(step)))
    return x
