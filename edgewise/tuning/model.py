"""A frozen model with adapters on its blocks and exits behind some of them.

Blocks through which no gradient goes run as they do in service, kernels included. A window is a
stretch of blocks [first, end): the forward pass stops behind it, at its exit, and the backward pass
ends where it begins (Edge-LLM, 2406.15758, section "adaptive layer tuning").
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgewise.adapters import AdapterConfig, LowRank, attach
from edgewise.adapters.matrices import adapted
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Head, Layer, Norm, causal_attention
from edgewise.models.exits import exit_inputs
from edgewise.models.names import MATRICES
from edgewise.models.rotary import Rotation, inverse_frequencies, rotation
from edgewise.tuning.cross_entropy import head_cross_entropy
from edgewise.tuning.frozen import Frozen


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks [first, end) that are trained together; the exit is behind the last of them."""

    first: int
    end: int


def windows_of(blocks: int, size: int) -> tuple[Window, ...]:
    """Windows of at most `size` blocks, the last one at the model's end; all of one size but the
    first. Raises ValueError."""
    if size < 1:
        raise ValueError(f"a window must have at least one block, not {size}")
    ends = range(blocks, 0, -size)
    return tuple(Window(max(end - size, 0), end) for end in ends)[::-1]


class Exit(nn.Module):
    """Hidden states behind some block -> logits by the model's own head, whose matrix is not
    trained. With z the normalised states:

        logits = W (scale z + bias + T z / sqrt(H))      scale [H] from the head's norm, T from zero

    scale and T are trained, and bring what that block leaves to where the last one leaves it
    (Belrose et al. 2023, "tuned lens"). 1 / sqrt(H) makes a step of T as large as one of the rest.
    Edge-LLM trains a copy of W instead, which is larger than eight of SmolLM2's blocks."""

    def __init__(self, norm: Norm, out: Frozen, hidden: int) -> None:
        super().__init__()
        self.norm, self.out = norm, out
        self.turn = nn.Parameter(torch.zeros(hidden, hidden))
        self.scale = nn.Parameter(norm.weight.detach().float().clone())

    def forward(self, states: Tensor) -> Tensor:
        """[..., H] -> float32 [..., vocabulary]."""
        logits: Tensor = self.out(self._moved(states))
        return logits

    def nats(self, states: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of targets [N], from states [N, H]."""
        dtype = self.norm.weight.dtype
        return head_cross_entropy(self._moved(states), targets, self.out.matrix, dtype)

    def _moved(self, states: Tensor) -> Tensor:
        """What the head's matrix is multiplied with, float32 [..., H]."""
        return exit_inputs(self.norm, states, self.scale, self._turned)

    def _turned(self, normal: Tensor) -> Tensor:
        return F.linear(normal, self.turn) / len(self.turn) ** 0.5


class FrozenBlocks(nn.Module):
    """Those among a model's `layers`, by number, which gradients go through; and its embedding, if
    that is one of them."""

    def __init__(self, config: DecoderConfig, layers: Mapping[int, Layer]) -> None:
        super().__init__()
        self.config, self.embedding = config, layers.get(0)
        self.blocks = {i - 1: block for i, block in layers.items() if isinstance(block, Block)}
        for block in self.blocks.values():
            for matrix in MATRICES[block.kind]:
                setattr(block, matrix, Frozen(getattr(block, matrix)))
        rope = config.rope
        self._frequency = None if rope is None else inverse_frequencies(rope, config.head_dim)

    @torch.no_grad()
    def entered(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> what the first block gets, float32 [B, T, H]."""
        assert self.embedding is not None
        states: Tensor = self.embedding(tokens, torch.arange(tokens.shape[1]).expand(tokens.shape))
        return states

    def through(self, states: Tensor, first: int, end: int, again: int = 0) -> Tensor:
        """States [B, T, H] through blocks [first, end), with their adapters. Of the first `again`
        nothing is kept for the backward pass but what they got: they run again then."""
        for number in range(first, end):
            states = self.in_place(self.blocks[number], number, states, number < first + again)
        return states

    def in_place(
        self, block: nn.Module, number: int, states: Tensor, again: bool = False
    ) -> Tensor:
        """States [B, T, H] through a block in the place of block `number`; `again`: as above."""
        turn, attend = self._turn(states.shape[1]), causal_attention(self.config.windows[number])
        made: Tensor = (
            checkpoint(block, states, turn, attend, use_reentrant=False)
            if again
            else block(states, turn, attend)
        )
        return made

    def _turn(self, length: int) -> Rotation | None:
        """Positions 0 to length - 1, of which all rows have the same."""
        frequency = self._frequency
        return None if frequency is None else rotation(frequency, torch.arange(length)[None])


class Tunable(FrozenBlocks):
    """`layers` of a model by number, frozen, become blocks with adapters of `adapter`, and an exit
    behind each of `windows`. They are all that the windows consist of, and the head; the embedding
    where tokens shall enter. The model is one that `check_tunable` lets pass."""

    def __init__(
        self,
        config: DecoderConfig,
        layers: Mapping[int, Layer],
        adapter: AdapterConfig,
        windows: Sequence[Window],
    ) -> None:
        super().__init__(config, layers)
        head = layers[config.num_layers - 1]
        assert isinstance(head, Head) and head.norm is not None
        self.windows = tuple(windows)
        self.added: list[dict[str, LowRank]] = [{} for _ in range(config.num_blocks)]
        for number, block in self.blocks.items():
            self.added[number] = attach(block, config, number, adapter)
        norm, out = head.norm, Frozen(head.out)
        self.exits = nn.ModuleList(Exit(norm, out, config.hidden_size) for _ in windows)
        if self.windows == (Window(0, config.num_blocks),):
            self.exits.requires_grad_(False)  # with the model's own head the adapters are whole

    def trained(self, window: Window) -> dict[str, nn.Parameter]:
        """What a window trains, by name: its blocks' adapters, and its exit."""
        parts: dict[str, nn.Module] = {"exit": self.exits[self.windows.index(window)]}
        for number in range(window.first, window.end):
            parts |= {f"{number}.{part}": low for part, low in self.added[number].items()}
        return {
            f"{name}.{own}": parameter
            for name, part in parts.items()
            for own, parameter in part.named_parameters()
            if parameter.requires_grad
        }

    def logits(self, states: Tensor, window: Window) -> Tensor:
        """By a window's exit."""
        logits: Tensor = self.exits[self.windows.index(window)](states)
        return logits

    def nats(self, states: Tensor, targets: Tensor, window: Window) -> Tensor:
        """By a window's exit, the mean cross-entropy of targets [N], from states [N, H]."""
        exit = self.exits[self.windows.index(window)]
        assert isinstance(exit, Exit)
        return exit.nats(states, targets)

    @torch.no_grad()
    def plain(self, states: Tensor, first: int, end: int) -> Tensor:
        """What the model as it is makes of states in blocks [first, end)."""
        for number in range(first, end):
            with without_adapters(self.blocks[number]):
                states = self.through(states, number, number + 1)
        return states


@contextmanager
def without_adapters(block: Block) -> Iterator[None]:
    """A block as it is in the model."""
    modules = [module for _, module in adapted(block)]
    for module in modules:
        module.is_off = True
    try:
        yield
    finally:
        for module in modules:
            module.is_off = False
