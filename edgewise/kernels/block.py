"""Blocks, as the library runs them: some tokens through several of them in one call."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_void_p, pointer
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from edgewise.kernels.adapter import NativeAdapter
from edgewise.kernels.library import (
    TYPES,
    BlockStruct,
    CacheStruct,
    LaneStruct,
    NormStruct,
    StepStruct,
    checked,
    library,
)
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
        self.most_tokens = min(matrix.most_tokens for matrix in matrices.values())
        self.struct = BlockStruct(
            *[matrices[name].struct for name in MATRICES],
            *[self._norm(norms.get(name)) for name in NORMS],
            CacheStruct(*map(address, cache), keys.shape[2], TYPES[keys.dtype], keys.shape[0]),
            *(shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.ffn),
            *(shape.gated, shape.activation, shape.window),
        )

    def _norm(self, norm: NormWeights | None) -> NormStruct:
        if norm is None:
            return NormStruct(None, None, 0.0, 0)
        kept = [None if x is None else x.detach().float() for x in (norm.weight, norm.bias)]
        self._kept.append(kept)
        return NormStruct(*map(address, kept), norm.eps, norm.centred)


def run_blocks(
    blocks: Sequence[NativeBlock],
    states: Tensor,
    lanes: Sequence[tuple[int, int, int]],
    turn: tuple[Tensor, Tensor] | None,
    adapters: Sequence[Sequence[NativeAdapter | None]] = (),
) -> Tensor:
    """states float32 [tokens, H] through `blocks` -> [tokens, H]. Lanes are (slot, start, length),
    their tokens one after the other; `turn` is cos and sin, float32 [tokens, D]; `adapters` has of
    each block what is added to each lane, or is empty where nothing is."""
    lib = library()
    assert lib is not None
    states = states.contiguous().clone()
    cos, sin = (None, None) if turn is None else (x.contiguous() for x in turn)
    step = StepStruct(
        *(states.data_ptr(), address(cos), address(sin)),
        (LaneStruct * len(lanes))(*[LaneStruct(*lane) for lane in lanes]),
        _table([x.address if x else None for row in adapters for x in row]),
        *(len(states), len(lanes), torch.get_num_threads()),
    )
    structs = (POINTER(BlockStruct) * len(blocks))(*[pointer(block.struct) for block in blocks])
    first = ctypes.cast(structs, POINTER(POINTER(BlockStruct)))
    checked(lib.edgewise_blocks(first, len(blocks), byref(step)))
    return states


def _table(addresses: Sequence[int | None]) -> ctypes.Array[c_void_p] | None:
    return (c_void_p * len(addresses))(*addresses) if any(addresses) else None
