"""Which tokens may follow, as bits that travel from where the grammar is to the last stage."""

import zlib

import numpy as np
import torch
from torch import Tensor


def deflated(bits: bytes) -> bytes:
    """Bits, one for each token of the vocabulary, as they travel: grammars allow few tokens, or
    nearly all."""
    return zlib.compress(bits, 1)


def inflated(allowed: bytes, size: int) -> Tensor:
    """bool [size]; tokens beyond the bits are not allowed. Raises zlib.error."""
    data = zlib.decompressobj().decompress(allowed, -(-size // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=size, bitorder="little")
    return torch.from_numpy(bits.view(bool))
