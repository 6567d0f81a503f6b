"""What the coordinator and its workers say about adapters."""

from edgewise.runtime.messages import Message
from edgewise.specs import AddedPart, Vote


class HoldAdapter(Message, frozen=True):
    """Hold what an adapter adds to a block, 0 being the model's first; with a number below zero, to
    branches there (models/branches.py). Tensor: of each part down [rank, columns] and up
    [rank, rows], one behind the other, float32 [numbers]; none where nothing is added."""

    epoch: int
    adapter: int
    block: int
    parts: tuple[AddedPart, ...]


class AdapterHeld(Message, frozen=True):
    epoch: int
    adapter: int
    block: int


class HoldExit(Message, frozen=True):
    """Hold exit `exit` of an adapter of windows. `ends`, the blocks behind all windows but the
    last, and how exits `vote` are told to every stage. Tensor, for the one with the head: scale
    [H] and below it turn, float32 [H + 1, H]."""

    epoch: int
    adapter: int
    exit: int
    ends: tuple[int, ...]
    vote: Vote


class ExitHeld(Message, frozen=True):
    epoch: int
    adapter: int
    exit: int


class ForgetAdapter(Message, frozen=True):
    """No row of an adapter comes any more."""

    adapter: int


class Residual(Message, frozen=True):
    """To the source: D x of a block's matrix that has a private adapter; the same message comes
    back with M D x. Tensor: float32 [tokens, numbers]."""

    is_traffic = True

    epoch: int
    exchange: int
    block: int
    matrix: str
