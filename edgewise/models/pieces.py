"""Pieces of files, as they travel: compressed where that pays."""

import zlib

from edgewise.errors import ModelError

PIECE_BYTES = 2**20  # of the file
SAMPLE_BYTES = 2**15  # looked at first
WORTH = 0.9  # of the size, at most


def compressed(piece: bytes) -> tuple[bytes, bool]:
    """A piece by zlib, where a sample and then all of it get at least a tenth smaller, and whether
    it is. The codes of a packed matrix don't, which the sample tells in a fraction of the time."""
    middle = len(piece) // 2
    for part in (piece[middle : middle + SAMPLE_BYTES], piece):
        smaller = zlib.compress(part, level=1)
        if len(smaller) > WORTH * len(part):
            return piece, False
    return smaller, True


def decompressed(piece: bytes, packed: bool) -> bytes:
    """The piece of the file. Raises ModelError where it is damaged, or larger than pieces are."""
    if packed:
        stream = zlib.decompressobj()
        try:
            piece = stream.decompress(piece, PIECE_BYTES + 1)
        except zlib.error as error:
            raise ModelError(f"a piece of a layer cannot be decompressed: {error}") from None
        if len(piece) <= PIECE_BYTES and (not stream.eof or stream.unused_data):
            raise ModelError("a piece of a layer does not end where it should")
    if not 0 < len(piece) <= PIECE_BYTES:
        raise ModelError(f"a piece of a layer has {len(piece)} bytes, not 1 to {PIECE_BYTES}")
    return piece
