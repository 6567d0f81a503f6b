"""PrivateLoRA's split (arXiv 2311.14030): whoever runs a block adds U M D x to what its matrices
make of x, and is not given M, which is on the source. U and D are drawn wherever blocks are.

For every adapted matrix of a step D x goes to the source, that of q, k and v side by side, and as
many numbers come back, M D x. They are under way while the matrix itself is multiplied. Blocks on
the source send nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.adapters import AdapterConfig, LowRank
from edgewise.adapters.matrices import Part, adapted_parts, columns_of
from edgewise.adapters.private import PrivateAdapter, read_middles
from edgewise.clusters import Device
from edgewise.errors import DeviceError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block
from edgewise.models.linear import frozen_linear
from edgewise.models.shard import Shard
from edgewise.runtime import messages
from edgewise.runtime.adapter_messages import Residual
from edgewise.runtime.transport import Transport
from edgewise.runtime.waiting import wait_until
from edgewise.runtime.worker.inbox import Inbox

ANSWER_SECONDS = 30.0

# D x of a matrix [tokens, numbers] is sent; what is returned waits for M D x, of the same shape.
Ask = Callable[[int, str, Tensor], Callable[[], Tensor]]


class Asking(nn.Module):
    """A block's frozen matrix, and what is added to its parts with the help of whoever has M."""

    def __init__(self, base: nn.Module, number: int, matrix: str, parts: Sequence[Part],
                 columns: int, adapter: AdapterConfig, ask: Ask,
                 drawn_matrix: Callable[[Tensor], nn.Module]) -> None:  # fmt: skip
        super().__init__()
        self.base, self._number, self._matrix, self._ask = base, number, matrix, ask
        self._places = [(first, first + rows) for _, first, rows in parts]
        drawn = [LowRank(adapter, f"{number}.{name}", rows, columns) for name, _, rows in parts]
        device = next(iter([*base.parameters(), *base.buffers()])).device
        self._down = drawn_matrix(torch.cat([low.down.detach() for low in drawn])).to(device)
        self._ups = nn.ModuleList(drawn_matrix(low.up.detach()) for low in drawn).to(device)

    def native(self) -> None:
        """The kernels cannot run a block that has to ask in the middle."""
        return

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [tokens, columns] -> [tokens, rows]."""
        answer = self._ask(self._number, self._matrix, self._down(inputs.float()))
        products: Tensor = self.base(inputs)
        mixed = answer().to(inputs.device).chunk(len(self._places), dim=-1)
        for (first, end), up, low in zip(self._places, self._ups, mixed, strict=True):
            products[..., first:end] += up(low.contiguous()).to(products.dtype)
        return products


def have_ask(
    block: Block,
    number: int,
    config: DecoderConfig,
    adapter: AdapterConfig,
    ask: Ask,
    drawn_matrix: Callable[[Tensor], nn.Module] = frozen_linear,
) -> None:
    """Have a block ask for what an adapter adds to its matrices, D and U made so of what is
    drawn."""
    for matrix, parts in adapted_parts(config, adapter.matrices).items():
        what = getattr(block, matrix), number, matrix, parts, columns_of(config, matrix)
        setattr(block, matrix, Asking(*what, adapter, ask, drawn_matrix))


class PrivateSplit:
    """A worker's side of it; answers come through its `inbox`."""

    def __init__(self, device: Device, transport: Transport, inbox: Inbox) -> None:
        self._name, self._transport, self._inbox = device.name, transport, inbox
        self._slowdown = device.slowdown
        self._adapter: PrivateAdapter | None = None
        self._epoch, self._exchanges = -1, 0
        self._middles: Mapping[str, Tensor] = {}
        self._parts: Mapping[str, tuple[Part, ...]] = {}
        self._sent = self._came = 0

    def attach(self, load: messages.Load, shard: Shard) -> None:
        """Have a plan's shard add what its private adapter says, or nothing without one. On the
        source every M is read. Raises InputError."""
        if load.epoch != self._epoch:
            self._begin(load, shard)
        number = max(shard.start - 1, 0)
        for block in shard.layers:
            if isinstance(block, Block):
                self._attach(block, number, shard)
                number += 1

    def _begin(self, load: messages.Load, shard: Shard) -> None:
        self._epoch, self._adapter, self._middles = load.epoch, load.private, {}
        self._parts = self._adapter.parts(shard.config) if self._adapter else {}
        if self._adapter and self._adapter.source == self._name:
            self._middles = read_middles(self._adapter, open_checkpoint(load.model))

    def _attach(self, block: Block, number: int, shard: Shard) -> None:
        for matrix, module in list(block.named_children()):
            if isinstance(module, Asking):
                setattr(block, matrix, module.base)
        if self._adapter:
            have_ask(block, number, shard.config, self._adapter.config, self._ask)

    # Where blocks are

    def _ask(self, block: int, matrix: str, low: Tensor) -> Callable[[], Tensor]:
        """Raises DeviceTimeout where the source takes nothing, and what is returned where it
        answers nothing; DeviceError where that is not needed any more."""
        assert self._adapter is not None
        source = self._adapter.source
        if source == self._name:
            return lambda: self._mixed(block, matrix, low.cpu())
        self._exchanges += 1
        question = Residual(self._epoch, self._exchanges, block, matrix)
        self._transport.send(source, question, low)
        self._sent += low.nbytes
        return lambda: self._answer(source, question, low)

    def _answer(self, source: str, question: Residual, low: Tensor) -> Tensor:
        tensor = self._inbox.returned(source, question, low, ANSWER_SECONDS)
        self._came += tensor.nbytes
        return tensor

    def crossed(self) -> tuple[int, int]:
        """Bytes of numbers that went to the source, and came from it, since this was asked last."""
        crossed = self._sent, self._came
        self._sent = self._came = 0
        return crossed

    # Where M is

    def answer(self, sender: str, question: Residual, low: Tensor | None) -> None:
        """M D x, to whoever sent D x. Raises DeviceError for what is none of this plan's."""
        began = time.monotonic()
        if question.epoch != self._epoch or not self._middles:
            return  # left over from another plan
        parts = self._parts.get(question.matrix, ())
        known = parts and f"{question.block}.{parts[0][0]}" in self._middles
        assert self._adapter is not None
        width = len(parts) * self._adapter.rank
        fits = low is not None and low.dtype is torch.float32 and low.shape[1:] == (width,)
        if not known or not fits or low is None:
            raise DeviceError(sender, f"asked for what is not adapted: {question}")
        mixed = self._mixed(question.block, question.matrix, low)
        wait_until(began + (time.monotonic() - began) * self._slowdown)
        self._transport.send(sender, question, mixed)

    @torch.inference_mode()
    def _mixed(self, block: int, matrix: str, low: Tensor) -> Tensor:
        names = [name for name, _, _ in self._parts[matrix]]
        pieces = low.chunk(len(names), dim=-1)
        middles = [self._middles[f"{block}.{name}"] for name in names]
        return torch.cat([F.linear(x, m) for x, m in zip(pieces, middles, strict=True)], dim=-1)
