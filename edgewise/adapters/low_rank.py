"""What is added to a frozen matrix W [rows, columns]:

    lora      y = W x + (alpha / r) U D x     U [rows, r], D [r, columns] trained (Hu et al. 2021)
    private   y = W x + U M D x               M [r, r] trained from zero; U and D are frozen,
                                              drawn from a seed (PrivateLoRA, 2311.14030)

In PEFT's words D is lora_A and U is lora_B; in PrivateLoRA's, D^T is A and U^T is B. The mean of
several M is exactly the mean of the products U M D (Fed-SB, 2502.15436), which the means of U and D
are not of U D.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


class Kind(StrEnum):
    LORA = "lora"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Which matrices of every block get an adapter, of which kind and rank. `alpha` scales LoRA's
    by alpha / rank; from `seed` is drawn what a private one does not train, and where a LoRA one
    begins. Raises ValueError."""

    kind: Kind = Kind.LORA
    rank: int = 8
    alpha: float = 16.0
    matrices: tuple[str, ...] = MATRICES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"an adapter's rank must be at least 1, not {self.rank}")
        if not math.isfinite(self.alpha):
            raise ValueError(f"an adapter's alpha must be a finite number, not {self.alpha}")
        if unknown := sorted(set(self.matrices) - set(MATRICES)):
            raise ValueError(f"unknown matrices {unknown}; known: {', '.join(MATRICES)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.kind is Kind.LORA else 1.0


class LowRank(nn.Module):
    """The addition to one matrix; zero as it begins. `name` says whose it is ("3.q"): with the
    seed, it fixes what is drawn."""

    def __init__(self, config: AdapterConfig, name: str, rows: int, columns: int) -> None:
        super().__init__()
        self.config, rank = config, config.rank
        self.down = nn.Parameter(_drawn(config.seed, f"{name}.down", (rank, columns)))
        if config.kind is Kind.LORA:
            self.up = nn.Parameter(torch.zeros(rows, rank))
            self.register_parameter("middle", None)
            return
        self.middle: nn.Parameter | None = nn.Parameter(torch.zeros(rank, rank))
        self.up = nn.Parameter(_drawn(config.seed, f"{name}.up", (rows, rank)))
        self.down.requires_grad_(False)
        self.up.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [..., columns] -> what is added [..., rows], of the same type."""
        low = F.linear(inputs, self.down.to(inputs.dtype))
        if self.middle is not None:
            low = F.linear(low, self.middle.to(inputs.dtype))
        return F.linear(low, self.up.to(inputs.dtype)) * self.config.scale

    def whole(self) -> Tensor:
        """The addition as a matrix, float32 [rows, columns]."""
        low = self.down if self.middle is None else self.middle @ self.down
        product: Tensor = self.up @ low * self.config.scale
        return product.detach()


def _drawn(seed: int, name: str, shape: tuple[int, int]) -> Tensor:
    """Normal numbers of variance 1 / columns, the same wherever they are drawn."""
    digest = sha256(f"{seed}|{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator) / shape[1] ** 0.5


class Adapted(nn.Module):
    """A frozen matrix, and what is added to its `parts`: (name, first row, rows), unless it
    `is_off`."""

    is_off = False

    def __init__(self, base: nn.Module, parts: Sequence[tuple[str, int, int]],
                 added: Mapping[str, LowRank]) -> None:  # fmt: skip
        super().__init__()
        self.base, self.parts = base, tuple(parts)
        self.added = nn.ModuleDict(dict(added))

    def forward(self, inputs: Tensor) -> Tensor:
        products: Tensor = self.base(inputs)
        if self.is_off:
            return products
        if len(self.parts) == 1 and self.parts[0][0] in self.added:
            return products + self.added[self.parts[0][0]](inputs)
        pieces = []
        for name, first, rows in self.parts:
            piece = products[..., first : first + rows]
            pieces.append(piece + self.added[name](inputs) if name in self.added else piece)
        return torch.cat(pieces, dim=-1)
