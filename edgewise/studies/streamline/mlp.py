"""What the paper's first version puts in a span's place."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.models.decoder import Layer
from edgewise.specs import LayerKind


class PlainMlp(Layer):
    """W2 relu(W1 x + b1) + b2, h -> 4h -> h: nothing is normalised, and x itself is not added."""

    kind = LayerKind.BLOCK

    def __init__(self, hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        generator = torch.Generator().manual_seed(seed)
        for linear in (self.widen, self.narrow):
            nn.init.normal_(linear.weight, std=0.02, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor, *others: object) -> Tensor:
        """[..., H] -> [..., H], whatever else a block gets."""
        narrowed: Tensor = self.narrow(F.relu(self.widen(states)))
        return narrowed
