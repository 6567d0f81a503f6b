"""Pieces of files, as they travel: compressed where that pays.

Over a link of B bytes a second a piece of S bytes, of which r S are left, which takes S / C seconds
to compress and decompress, comes sooner where

    (1 - r) S / B  >  S / C        (ours; the one of arXiv 2403.01384 was not read)

zstd at level 1 codes bytes by how often they come (Huffman), and hardly looks for repetitions:
weights have none. Of bf16 weights 0.69 are left, of packed ones 0.94 to 1: see
docs/studies/compressibility.md.
"""

import sys

import numpy as np

from edgewise.errors import ModelError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 2**20  # of the file
SAMPLE_BYTES = 2**15  # looked at first
LEVEL = 1
WINDOW: dict[int, int] = {
    zstd.DecompressionParameter.window_log_max: PIECE_BYTES.bit_length()
}  # of memory
CODING = 1e8  # C: a third of what one core of the machine in dev/LOG.md does; others are slower


def compressed(piece: bytes, bytes_per_second: float) -> tuple[bytes, bool]:
    """A piece, compressed where that pays over such a link, which a sample tells in a fraction of
    the time; and whether it is. Every other byte moves behind the rest: the upper bytes of bf16
    numbers, their exponents, are alike."""
    middle = len(piece) // 2
    for part in (piece[middle : middle + SAMPLE_BYTES], piece):
        smaller = zstd.compress(_apart(part), LEVEL)
        if (len(part) - len(smaller)) / bytes_per_second <= len(part) / CODING:
            return piece, False
    return smaller, True


def decompressed(piece: bytes, packed: bool) -> bytes:
    """The piece of the file. Raises ModelError where it is damaged, or larger than pieces are."""
    if packed:
        stream = zstd.ZstdDecompressor(options=WINDOW)
        try:
            piece = stream.decompress(piece, PIECE_BYTES + 1)
        except zstd.ZstdError as error:
            raise ModelError(f"a piece of a layer cannot be decompressed: {error}") from None
        if len(piece) <= PIECE_BYTES and (not stream.eof or stream.unused_data):
            raise ModelError("a piece of a layer does not end where it should")
    if not 0 < len(piece) <= PIECE_BYTES:
        raise ModelError(f"a piece of a layer has {len(piece)} bytes, not 1 to {PIECE_BYTES}")
    return _together(piece) if packed else piece


def _apart(piece: bytes) -> bytes:
    numbers = np.frombuffer(piece, np.uint8)
    return np.concatenate((numbers[::2], numbers[1::2])).tobytes()


def _together(piece: bytes) -> bytes:
    numbers, half = np.frombuffer(piece, np.uint8), -(-len(piece) // 2)
    whole = np.empty_like(numbers)
    whole[::2], whole[1::2] = numbers[:half], numbers[half:]
    return whole.tobytes()
