"""The one place where a processor plugs in: what multiplies with matrices, and runs blocks, where
tensors of a kind of device lie.

Callers ask `backend_of` for it, hand it their tensors once, and keep what it makes of them. Where
there is none, torch does the work: on GPUs so far, and where the C++ library was not built.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from edgewise.kernels.adapter import Addition, NativeAdapter
from edgewise.kernels.block import BlockShape, NativeBlock, NormWeights, run_blocks
from edgewise.kernels.library import TYPES, available, most_tokens
from edgewise.kernels.matrix import NativeMatrix, dequantize, linear


class Backend(Protocol):
    """Matrices and blocks are a backend's own, subclasses of those of the library or they
    themselves: it is handed none but those that it made, and callers look at nothing of them but
    `shape`, `source`, `parts` and `most_tokens`."""

    def pack(
        self,
        shape: tuple[int, int],
        tensors: Mapping[str, Tensor],
        bias: Tensor | None = None,
        bits: int = 0,
        group: int = 0,
        *,
        sparse: bool = False,
    ) -> NativeMatrix | None:
        """A matrix [rows, columns]: packed in so many bits and groups, 2:4 sparse or not, `tensors`
        as of a `Packed` (quantization/packed.py), or with 0 bits one of numbers, "codes". None
        where the type is not known here."""
        ...

    def stack(self, parts: Sequence[NativeMatrix], bias: Tensor | None = None) -> NativeMatrix:
        """Matrices of the same columns below each other, as one."""
        ...

    def linear(self, matrix: NativeMatrix, inputs: Tensor) -> Tensor:
        """inputs float32 [tokens, columns] -> inputs @ W^T + bias, float32 [tokens, rows]. A
        token's numbers are bitwise the same alone and among others."""
        ...

    def whole(self, matrix: NativeMatrix, start: int, end: int) -> Tensor:
        """Rows [start, end) of a packed matrix as bf16 [end - start, columns]."""
        ...

    def block(
        self,
        shape: BlockShape,
        matrices: dict[str, NativeMatrix],
        norms: dict[str, NormWeights],
        cache: Sequence[Tensor | None],
    ) -> NativeBlock:
        """A block with its keys and values [slots, K, context, D], and their scales or None."""
        ...

    def run(
        self,
        blocks: Sequence[NativeBlock],
        states: Tensor,
        lanes: Sequence[tuple[int, int, int]],
        turn: tuple[Tensor, Tensor] | None,
        adapters: Sequence[Sequence[NativeAdapter | None]] = (),
    ) -> Tensor:
        """states float32 [tokens, H] through blocks, as `kernels.block.run_blocks`."""
        ...

    def adapter(self, added: Mapping[str, Sequence[Addition]]) -> NativeAdapter:
        """What is added to a block's matrices, by their names."""
        ...

    def most_tokens(self, dtype: torch.dtype | None) -> float:
        """What matrices of a type, None: packed, say (`NativeMatrix.most_tokens`), before there
        are any. A rule and no timing: all workers must decide alike."""
        ...


class Cpp:
    """The C++ library (src/), for tensors in this machine's memory."""

    def pack(
        self,
        shape: tuple[int, int],
        tensors: Mapping[str, Tensor],
        bias: Tensor | None = None,
        bits: int = 0,
        group: int = 0,
        *,
        sparse: bool = False,
    ) -> NativeMatrix | None:
        known = bits or tensors["codes"].dtype in TYPES
        return NativeMatrix(shape, tensors, bias, bits, group, sparse=sparse) if known else None

    stack = staticmethod(NativeMatrix.stacked)
    linear = staticmethod(linear)
    whole = staticmethod(dequantize)
    run = staticmethod(run_blocks)
    adapter = staticmethod(NativeAdapter)
    most_tokens = staticmethod(most_tokens)

    def block(
        self,
        shape: BlockShape,
        matrices: dict[str, NativeMatrix],
        norms: dict[str, NormWeights],
        cache: Sequence[Tensor | None],
    ) -> NativeBlock:
        keys, values, *scales = cache
        assert keys is not None and values is not None
        return NativeBlock(shape, matrices, norms, keys, values, *scales)


_CPP = Cpp()
# By torch's name for the kind of device. A row's function says None where it cannot be used.
BACKENDS: dict[str, Callable[[], Backend | None]] = {"cpu": lambda: _CPP if available() else None}


def backend_of(device: torch.device) -> Backend | None:
    """What works on tensors of a device; None: torch."""
    backend = BACKENDS.get(device.type)
    return None if backend is None else backend()
