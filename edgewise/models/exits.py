"""Exits: hidden states behind some block -> logits by the model's own head, whose matrix is not
trained (tuning/model.py). Several of them vote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.models.decoder import Head, Norm
from edgewise.models.finite import nan_where_infinite
from edgewise.models.linear import frozen_linear
from edgewise.models.votes import VOTES
from edgewise.specs import Vote


def exit_inputs(
    norm: Norm, states: Tensor, scale: Tensor, turn: Callable[[Tensor], Tensor]
) -> Tensor:
    """What the head's matrix is multiplied with, float32 [..., H]: scale z + bias + turn(z) of the
    states z as the head's norm normalises them."""
    if isinstance(norm, nn.LayerNorm):
        normal = F.layer_norm(states, norm.normalized_shape, eps=norm.eps)
        return scale * normal + norm.bias.float() + turn(normal)
    normal = F.rms_norm(states, norm.normalized_shape, eps=norm.eps)
    return scale * normal + turn(normal)


@dataclass(frozen=True, slots=True, eq=False)
class ExitMatrices:
    """What an exit has learned: scale [H], and turn [H, H], the 1 / sqrt(H) in it; float32."""

    scale: Tensor
    turn: Tensor

    @property
    def nbytes(self) -> int:
        return self.scale.nbytes + self.turn.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Exits:
    """Behind windows of blocks, the last one behind all of them. `ends` are those of the windows
    before it, by the model's number of the block behind each."""

    ends: tuple[int, ...]
    vote: Vote
    matrices: tuple[ExitMatrices, ...]

    @property
    def nbytes(self) -> int:
        return sum(exit.nbytes for exit in self.matrices)


class HeldExits:
    """A shard's: their matrices are where the head is."""

    def __init__(self, ends: tuple[int, ...], vote: Vote) -> None:
        self.ends, self._vote = ends, vote
        self._scales: dict[int, Tensor] = {}
        self._turns: dict[int, nn.Module] = {}

    def hold(self, number: int, exit: ExitMatrices, device: torch.device) -> None:
        self._scales[number] = exit.scale.to(device)
        self._turns[number] = frozen_linear(exit.turn.to(device))

    def voted(self, head: Head, outcomes: Sequence[Tensor], at_once: int) -> Tensor:
        """What came out of windows, float32 [rows, H] of each -> log-probabilities that all exits
        agree on, float32 [rows, vocabulary]. The head multiplies `at_once` rows at a time."""
        assert head.norm is not None
        inputs = torch.cat([
            exit_inputs(head.norm, states, self._scales[number], self._turns[number])
            for number, states in enumerate(outcomes)
        ])  # fmt: skip
        products = [nan_where_infinite(head.out(rows), rows) for rows in inputs.split(at_once)]
        logits = torch.cat(products).view(len(outcomes), len(outcomes[0]), products[0].shape[-1])
        return VOTES[self._vote](logits)
