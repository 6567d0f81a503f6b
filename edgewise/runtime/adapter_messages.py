"""What the coordinator and its workers say about adapters."""

import msgspec

from edgewise.runtime.messages import Message


class AddedPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is added to rows [first, first + rows) of a matrix of a block."""

    matrix: str
    first: int
    rows: int
    columns: int
    rank: int


class HoldAdapter(Message, frozen=True):
    """Hold what an adapter adds to a block, 0 being the model's first. Tensor: of each part down
    [rank, columns] and up [rank, rows], one behind the other, float32 [numbers]; none where nothing
    is added."""

    epoch: int
    adapter: int
    block: int
    parts: tuple[AddedPart, ...]


class AdapterHeld(Message, frozen=True):
    epoch: int
    adapter: int
    block: int


class ForgetAdapter(Message, frozen=True):
    """No row of an adapter comes any more."""

    adapter: int
