"""Memory that is taken when it is used: tensors whose pages the operating system hands out on first
touch, and takes back when told."""

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

# Without a promise of memory for all of it at once. Python names the flag from 3.13 on.
_UNPROMISED = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Pages:
    """Tensors on one device, and the mappings under them. On other processors than the CPU, and
    under Windows, tensors are torch's own, and stay whole."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._maps: dict[int, mmap.mmap] = {}  # by address
        self._lazy = device.type == "cpu" and hasattr(mmap.mmap, "madvise")

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor that nothing was written to. Raises OSError where the system promises memory in
        advance only, and has too little."""
        size = math.prod(shape) * dtype.itemsize
        if not self._lazy or not size:
            return torch.empty(shape, dtype=dtype, device=self._device)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | _UNPROMISED)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page of 2 MB reaches over many sequences
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        numbers = torch.frombuffer(memory, dtype=dtype).view(shape)
        self._maps[numbers.data_ptr()] = memory
        return numbers

    def give_back(self, part: Tensor) -> None:
        """Forget the numbers of a contiguous part of such a tensor, on pages that hold nothing
        else. Reading them gives anything until they are written again."""
        base = part.untyped_storage().data_ptr()
        if (memory := self._maps.get(base)) is None:
            return
        first = part.data_ptr() - base
        start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (first + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length > 0:
            memory.madvise(mmap.MADV_DONTNEED, start, length)
