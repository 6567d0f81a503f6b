"""A model that is adapted by whoever has its records, with the blocks on other devices, which are
sent no M and no token (PrivateLoRA, arXiv 2311.14030; private_blocks.py).

The source enters a batch, answers what the blocks ask of every M on the way, and has the head: what
it computes itself is the loss, and M's part in both directions.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor, nn

from edgewise.adapters.matrices import adapted_parts
from edgewise.errors import DeviceError
from edgewise.runtime.messages import Message
from edgewise.runtime.transport import Envelope, Transport
from edgewise.runtime.worker.inbox import Inbox
from edgewise.tuning import messages
from edgewise.tuning.model import Tunable, Window

ANSWER_SECONDS = 600.0  # between two messages: a device that hangs is noticed by its silence


class BlocksElsewhere:
    """The blocks, as the source sees them; `middles` are every M, by "BLOCK.PART"."""

    def __init__(
        self,
        told: messages.HoldMiddles,
        parts: Mapping[str, tuple[str, ...]],
        middles: Mapping[str, Tensor],
        transport: Transport,
        inbox: Inbox,
    ) -> None:
        self._told, self._parts, self._middles = told, parts, middles
        self._transport, self._inbox = transport, inbox
        self._batch = messages.Through(told.epoch, 0, False)
        self._low: dict[str, Tensor] = {}  # D x of this batch, by "BLOCK.PART"
        self._gradients: dict[str, Tensor] = {}  # of every M
        self.crossed_bytes = 0  # of numbers that were sent, and came

    def forward(self, states: Tensor, learns: bool) -> Tensor:
        """What blocks make of states [B, T, H]. Raises DeviceError, DeviceTimeout."""
        self._batch = replace(self._batch, number=self._batch.number + 1, learns=learns)
        self._low, self._gradients = {}, {}
        self._send(self._told.first, self._batch, states)
        made = self._answered_until(self._batch)
        if made is None or made.shape != states.shape or made.dtype != states.dtype:
            raise DeviceError(self._told.last, "returned something else than states of this batch")
        return made

    def backward(self, gradient: Tensor) -> list[Tensor]:
        """Gradients of every M, from that of what `forward` gave. Raises DeviceError,
        DeviceTimeout."""
        back = messages.Back(self._batch.epoch, self._batch.number)
        self._send(self._told.last, back, gradient)
        self._answered_until(back)
        if missing := self._middles.keys() - self._gradients.keys():
            raise DeviceError(self._told.first, f"asked nothing about {min(missing)}'s gradient")
        return [self._gradients[name] for name in self._middles]

    def _answered_until(self, end: Message) -> Tensor | None:
        """Answer questions about this batch until a message comes; its tensor."""
        while True:
            envelope = self._inbox.wait_for(self._told.last, self._is_ours, ANSWER_SECONDS)
            tensor = envelope.tensor
            self.crossed_bytes += 0 if tensor is None else tensor.nbytes
            if envelope.message == end:
                return tensor
            if isinstance(envelope.message, messages.Mix):
                self._mix(envelope.sender, envelope.message, tensor)

    def _is_ours(self, envelope: Envelope) -> bool:
        message = envelope.message
        if not isinstance(message, messages.Mix | messages.Through | messages.Back):
            return False
        return (message.epoch, message.number) == (self._batch.epoch, self._batch.number)

    def _mix(self, sender: str, question: messages.Mix, numbers: Tensor | None) -> None:
        names = [f"{question.block}.{part}" for part in self._parts.get(question.matrix, ())]
        if numbers is None or not names or not self._fits(question, names, numbers):
            raise DeviceError(sender, f"asked for what is not adapted: {question}")
        pieces = dict(zip(names, numbers.chunk(len(names), dim=-1), strict=True))
        answer = [self._back(x, y) if question.back else self._on(x, y) for x, y in pieces.items()]
        self._send(sender, question, torch.cat(answer, dim=-1))

    def _fits(self, question: messages.Mix, names: list[str], numbers: Tensor) -> bool:
        if question.back and not all(name in self._low for name in names):
            return False
        if not all(name in self._middles for name in names) or numbers.dtype != torch.float32:
            return False
        return numbers.shape[-1] == sum(len(self._middles[name]) for name in names)

    def _on(self, name: str, low: Tensor) -> Tensor:
        """M D x."""
        if self._batch.learns:
            self._low[name] = low
        return F.linear(low, self._middles[name].detach())

    def _back(self, name: str, gradient: Tensor) -> Tensor:
        """M^T g; and dL/dM = sum over tokens of g (D x)^T."""
        low = self._low.pop(name)
        self._gradients[name] = gradient.flatten(0, -2).T @ low.flatten(0, -2)
        return gradient @ self._middles[name].detach()

    def _send(self, device: str, message: Message, tensor: Tensor) -> None:
        self.crossed_bytes += tensor.nbytes
        self._transport.send(device, message, tensor)


class _Elsewhere(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, elsewhere: BlocksElsewhere, learns: bool, states: Tensor, *middles: Tensor
    ) -> Tensor:
        ctx.elsewhere = elsewhere
        return elsewhere.forward(states, learns)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *ctx.elsewhere.backward(gradients[0].contiguous())


class PrivateTunable(Tunable):
    """A model whose embedding, head and every M are here, and whose blocks are elsewhere."""

    def __init__(self, told: messages.HoldMiddles, transport: Transport, inbox: Inbox) -> None:
        """Raises ModelError, QuantizationError."""
        (config, layers), adapter = told.weights.load(), told.recipe.adapter
        super().__init__(config, layers, adapter, (Window(0, config.num_blocks),))
        parts = {
            matrix: tuple(name for name, _, _ in each)
            for matrix, each in adapted_parts(config, adapter.matrices).items()
        }
        self.middles = {
            f"{number}.{name}": nn.Parameter(torch.zeros(adapter.rank, adapter.rank))
            for number in range(config.num_blocks)
            for names in parts.values()
            for name in names
        }
        self.elsewhere = BlocksElsewhere(told, parts, self.middles, transport, inbox)

    def trained(self, window: Window) -> dict[str, nn.Parameter]:
        """Every M, by name."""
        return {f"{name}.middle": middle for name, middle in self.middles.items()}

    def through(self, states: Tensor, first: int, end: int, again: int = 0) -> Tensor:
        """States [B, T, H] through all blocks. Raises DeviceError, DeviceTimeout."""
        learns, middles = torch.is_grad_enabled(), self.middles.values()
        made: Tensor = _Elsewhere.apply(self.elsewhere, learns, states, *middles)
        return made
