"""A frozen model with adapters on its blocks and exits behind some of them.

Blocks through which no gradient goes run as they do in service, kernels included. A window is a
stretch of blocks [first, end): the forward pass stops behind it, at its exit, and the backward pass
ends where it begins (Edge-LLM, 2406.15758, section "adaptive layer tuning").
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.adapters import AdapterConfig, LowRank, attach
from edgewise.adapters.matrices import adapted, parts_of
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import (
    Block,
    Head,
    Layer,
    Norm,
    Rotation,
    causal_attention,
    inverse_frequencies,
    rotation,
)
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
        norm = self.norm
        if isinstance(norm, nn.LayerNorm):
            normal = F.layer_norm(states, norm.normalized_shape, eps=norm.eps)
            moved = self.scale * normal + norm.bias.float()
        else:
            normal = F.rms_norm(states, norm.normalized_shape, eps=norm.eps)
            moved = self.scale * normal
        logits: Tensor = self.out(moved + F.linear(normal, self.turn) / len(self.turn) ** 0.5)
        return logits


class Tunable(nn.Module):
    """`layers` of a whole model, frozen, become blocks with adapters of `adapter`, and an exit
    behind each of `windows`. Raises ValueError for models whose head is not a norm and a matrix."""

    def __init__(
        self,
        config: DecoderConfig,
        layers: Sequence[Layer],
        adapter: AdapterConfig,
        windows: Sequence[Window],
    ) -> None:
        super().__init__()
        embedding, *blocks, head = layers
        if not isinstance(head, Head) or head.norm is None or head.project is not None:
            raise ValueError("only models whose head is a norm and a matrix can be tuned so far")
        self.config, self.windows = config, tuple(windows)
        self.embedding = embedding
        self.blocks = [block for block in blocks if isinstance(block, Block)]
        self.added: list[dict[str, LowRank]] = []
        for number, block in enumerate(self.blocks):
            for matrix in parts_of(config):
                setattr(block, matrix, Frozen(getattr(block, matrix)))
            self.added.append(attach(block, config, number, adapter))
        norm, out = head.norm, Frozen(head.out)
        self.exits = nn.ModuleList(Exit(norm, out, config.hidden_size) for _ in windows)
        rope = config.rope
        self._frequency = None if rope is None else inverse_frequencies(rope, config.head_dim)

    def trained(self, window: Window) -> list[nn.Parameter]:
        """What a window trains: its blocks' adapters, and its exit."""
        parts: list[nn.Module] = [self.exits[self.windows.index(window)]]
        for added in self.added[window.first : window.end]:
            parts += added.values()
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def states(self, tokens: Tensor, window: Window) -> Tensor:
        """tokens [B, T] -> what comes out of a window's last block, float32 [B, T, H]. Gradients go
        no further back than its first; to blocks before it nothing is added."""
        with torch.no_grad():
            states, turn = self.entered(tokens)
            states = self.through(states, turn, 0, window.first, plain=True)
        return self.through(states, turn, window.first, window.end)

    def logits(self, states: Tensor, window: Window) -> Tensor:
        """By a window's exit."""
        logits: Tensor = self.exits[self.windows.index(window)](states)
        return logits

    def entered(self, tokens: Tensor) -> tuple[Tensor, Rotation | None]:
        """tokens [B, T] -> what the first block gets."""
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        turn = None if self._frequency is None else rotation(self._frequency, positions[:1])
        states: Tensor = self.embedding(tokens, positions)
        return states, turn

    def through(
        self, states: Tensor, turn: Rotation | None, first: int, end: int, *, plain: bool = False
    ) -> Tensor:
        """States through blocks [first, end), `plain`: without adapters."""
        for number in range(first, end):
            block, attend = self.blocks[number], causal_attention(self.config.windows[number])
            with without_adapters(block) if plain else nullcontext():
                states = block(states, turn, attend)
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
