"""2:4 sparse codes: of every four neighbours in a row two are kept, and which of the four they are.

The kept codes of a matrix [R, C] are a matrix [R, C / 2], their places in [0, 4) another one, and
both are packed as any codes are (pack.py), in `bits` and in 2. A tile is 16 rows of 64 columns:
first the vectors of its codes, then those of their places. So a chunk's 64 bytes are 16 rows of 8
columns, and a kernel picks for every row the activations that it multiplies.
"""

import torch
from torch import Tensor

from edgewise.quantization.pack import pack, unpack
from edgewise.schemes import INDEX_BITS

AMONG, KEPT = 4, 2
# Of four neighbours, as bits of which the first is the lowest: the two to keep, rising.
_PLACES = [[x for x in range(AMONG) if which >> x & 1] for which in range(1 << AMONG)]
_FILLED = [sorted((x + [y for y in range(AMONG) if y not in x])[:KEPT]) for x in _PLACES]


def pack_sparse(codes: Tensor, bits: int) -> Tensor:
    """codes in [0, 2**bits) [R, C] with R a multiple of 16 and C of 64, of every four neighbours at
    most two not that of zero -> uint8 [R / 16, C / 64, bits + 2, 64]. Raises ValueError."""
    four = codes.view(len(codes), -1, AMONG)
    taken = four != zero_code(bits)
    if int(taken.sum(-1).max()) > KEPT:
        raise ValueError("more than two of four neighbours are not zero")
    digits = torch.tensor([1 << x for x in range(AMONG)], dtype=torch.uint8, device=codes.device)
    which = (taken * digits).sum(-1)
    places = torch.tensor(_FILLED, device=codes.device)[which]
    kept = four.gather(-1, places)
    parts = ((kept, bits), (places, INDEX_BITS))
    return torch.cat([pack(x.flatten(1), width) for x, width in parts], dim=2)


def unpack_sparse(packed: Tensor, bits: int) -> Tensor:
    """uint8 [R / 16, C / 64, bits + 2, 64] -> codes [R, C], uint8."""
    kept, places = unpack(packed[:, :, :bits], bits), unpack(packed[:, :, bits:], INDEX_BITS)
    return with_zeros(kept, places, bits)


def with_zeros(kept: Tensor, places: Tensor, bits: int) -> Tensor:
    """All codes [R, C] from the kept ones [R, C / 2] and their places, uint8."""
    kept, places = (x.view(len(x), -1, KEPT, 1) for x in (kept, places))
    here = places == torch.arange(AMONG, dtype=torch.uint8, device=places.device)
    codes = torch.where(here, kept ^ zero_code(bits), 0)
    return ((codes[:, :, 0] ^ codes[:, :, 1]) ^ zero_code(bits)).flatten(1)


def separate(places: Tensor) -> None:
    """Changes packed places uint8 [..., 2, 64], whatever they are, so that no two are the same."""
    first, second = places[..., ::2], places[..., 1::2]
    apart = second | (~(second | second >> 1) & 0b01010101)  # of each two bits at least one
    second.copy_(first ^ apart)


def zero_code(bits: int) -> int:
    return 1 << (bits - 1)
