"""Blocks of a model that is adapted by whoever has every M (PrivateLoRA, arXiv 2311.14030).

Forward, D x of every adapted matrix goes to the source, and M D x comes back. Backward, the
gradient of M D x goes there, and with it that of D x comes back:

    y = W x + U m      m = M D x      dL/dm = U^T dL/dy      dL/d(D x) = M^T dL/dm

The source takes dL/dM = dL/dm (D x)^T from the two that it saw. Neither an M nor a token is sent
here; whoever looks can work both out (docs/security.md).
"""

from collections.abc import Callable
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgewise.errors import DeviceError
from edgewise.models.linear import frozen_linear
from edgewise.runtime.transport import Transport
from edgewise.runtime.worker.inbox import Inbox
from edgewise.runtime.worker.private import have_ask
from edgewise.tuning import messages
from edgewise.tuning.frozen import Frozen
from edgewise.tuning.model import FrozenBlocks

ANSWER_SECONDS = 60.0
NOTHING = torch.empty(0)


class PrivateBlocks:
    """A worker's side where blocks are. What autograd keeps of a batch that learns stays until its
    gradients have come, or another batch has."""

    def __init__(self, transport: Transport, inbox: Inbox) -> None:
        self._transport, self._inbox = transport, inbox
        self._held: messages.HoldBlocks | None = None
        self._blocks: FrozenBlocks | None = None
        self._batch = messages.Through(-1, -1, False)
        self._inputs = self._outputs = NOTHING

    def let_go(self) -> None:
        """What comes from now on is left over, until others are held."""
        self._held = self._blocks = None
        self._inputs = self._outputs = NOTHING

    def hold(self, message: messages.HoldBlocks) -> None:
        """Raises ModelError, QuantizationError."""
        config, layers = message.weights.load()
        blocks = FrozenBlocks(config, layers)
        for number, block in blocks.blocks.items():
            have_ask(block, number, config, message.adapter, self._mixed, _drawn)
        self._held, self._blocks = message, blocks

    def forward(self, message: messages.Through, states: Tensor | None) -> None:
        """Raises DeviceError, DeviceTimeout."""
        held, blocks = self._held, self._blocks
        if held is None or blocks is None or states is None or message.epoch != held.epoch:
            return  # left over from other places
        self._batch, self._inputs = message, states.detach().requires_grad_(message.learns)
        with torch.set_grad_enabled(message.learns):
            self._outputs = blocks.through(self._inputs, held.first, held.end)
        self._transport.send(held.next, message, self._outputs.detach())

    def backward(self, message: messages.Back, gradient: Tensor | None) -> None:
        """Raises DeviceError, DeviceTimeout."""
        held, (epoch, number) = self._held, (self._batch.epoch, self._batch.number)
        if held is None or (message.epoch, message.number) != (epoch, number):
            return
        if gradient is None or gradient.shape != self._outputs.shape:
            raise DeviceError(held.next, "sent gradients of something else than these blocks made")
        self._outputs.backward(gradient)
        last = None if held.previous == held.source else self._inputs.grad
        self._transport.send(held.previous, message, last)
        self._inputs = self._outputs = NOTHING

    def ask(self, question: messages.Mix, numbers: Tensor) -> None:
        """Send numbers to the source, which has every M."""
        assert self._held is not None
        self._transport.send(self._held.source, question, numbers)

    def answer(self, question: messages.Mix, numbers: Tensor) -> Tensor:
        """What the source makes of them. Raises DeviceTimeout and DeviceError."""
        assert self._held is not None
        return self._inbox.returned(self._held.source, question, numbers, ANSWER_SECONDS)

    def _mixed(self, block: int, matrix: str, low: Tensor) -> Callable[[], Tensor]:
        batch = self._batch
        question = messages.Mix(batch.epoch, batch.number, block, matrix, batch.learns)
        self.ask(question, low.detach())
        return lambda: _Mixed.apply(low, question, self)


class _Mixed(torch.autograd.Function):
    """M D x: D x has been sent."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, question: messages.Mix, blocks: PrivateBlocks) -> Tensor:
        ctx.question, ctx.blocks = question, blocks
        return blocks.answer(question, low)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        question, gradient = replace(ctx.question, back=True), gradients[0].contiguous()
        ctx.blocks.ask(question, gradient)
        return ctx.blocks.answer(question, gradient), None, None


def _drawn(weight: Tensor) -> nn.Module:
    return Frozen(frozen_linear(weight))
