"""A worker that holds windows of a model, and has them learn.

What the model as it is makes of a batch passes through all windows, from device to device; none of
that depends on what they have learned. So nothing ever comes back along the way, and a device can
be at the next batch while others are at this one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewise.models.blank import random_layer
from edgewise.models.shape import ModelShape
from edgewise.runtime.messages import COORDINATOR
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Transport
from edgewise.runtime.worker.pacing import Pacer
from edgewise.runtime.worker.worker import Worker, run_worker
from edgewise.schemes import get_scheme
from edgewise.tuning import messages
from edgewise.tuning.judging import judge_window
from edgewise.tuning.kept import bytes_of, kept_by
from edgewise.tuning.lessons import batch_of
from edgewise.tuning.loading import layers_of
from edgewise.tuning.model import Exit, Tunable
from edgewise.tuning.private_blocks import PrivateBlocks
from edgewise.tuning.private_source import PrivateTunable
from edgewise.tuning.training import Learning

_Hold = messages.Hold | messages.HoldMiddles | messages.HoldBlocks


class TuningWorker(Worker):
    def __init__(self, settings: Settings, transport: Transport) -> None:
        super().__init__(settings, transport)
        self._pace = Pacer(settings, self.inbox.waited)
        self._blocks = PrivateBlocks(transport, self.inbox)
        self._learning: Learning | None = None
        self._next = ""
        self._given = dict[str, Tensor]()
        self.handlers |= {
            messages.Rehearse: lambda _, message, __: self._report(self._rehearse(message)),
            messages.Hold: lambda _, message, __: self._begin(message, self._hold),
            messages.HoldMiddles: lambda _, message, __: self._begin(message, self._hold_middles),
            messages.HoldBlocks: lambda _, message, __: self._begin(message, self._blocks.hold),
            messages.Through: lambda _, message, states: self._through(message, states),
            messages.Back: lambda _, message, gradient: self._back(message, gradient),
            messages.Learn: lambda _, message, states: self._learn(message, states),
            messages.Give: lambda *_: self._give(),
            messages.Given: lambda _, message, tensor: self._take(message, tensor),
            messages.GaveAll: lambda *_: self._take_all(),
        }

    def _rehearse(self, message: messages.Rehearse) -> messages.Rehearsed:
        self._learning = None
        window, batch = message.window, batch_of(message.lessons)
        model = _drawn(message)
        learning = Learning(model, message.recipe, (window,))
        states = torch.randn(*batch.tokens.shape, model.config.hidden_size)
        seconds, exit = dict[bool, float](), model.exits[0]
        assert isinstance(exit, Exit)
        for learns in (False, True, False, True):  # the second of each counts
            with self._pace.paced(int(learns)) as taken:
                if learns:
                    learning.step(0, 0, batch, states)
                else:
                    model.plain(states, window.first, window.end)
            (seconds[learns],) = taken
        return messages.Rehearsed(
            seconds[False],
            seconds[True],
            sum(bytes_of(block) for block in model.blocks.values()),
            bytes_of(exit.out),
            4 * sum(parameter.nbytes for parameter in model.trained(window).values()),
            kept_by(model, window, batch, states),
        )

    def _hold(self, message: messages.Hold) -> None:
        mine = tuple(message.windows[index] for index in message.mine)
        model = Tunable(*message.weights.load(), message.recipe.adapter, mine)
        self._learning = Learning(model, message.recipe, message.windows)
        self._next, self._given = message.next, {}

    def _hold_middles(self, message: messages.HoldMiddles) -> None:
        model = PrivateTunable(message, self.transport, self.inbox)
        self._learning = Learning(model, message.recipe, model.windows)
        self._given = {}

    def _begin(self, message: _Hold, hold: Callable[[Any], None]) -> None:
        """Hold what a message says, once the files that this device was told of are here."""
        self.holding.epoch = message.epoch
        self._learning = None  # before others are loaded beside it
        self._blocks.let_go()

        def held() -> None:
            hold(message)
            self._report(messages.Held(message.epoch))

        self.holding.fetching.begin(message.weights.files, held)

    def _through(self, message: messages.Through, states: Tensor | None) -> None:
        if states is not None:
            with self._pace.paced(states.shape[0] * states.shape[1]):
                self._blocks.forward(message, states)

    def _back(self, message: messages.Back, gradient: Tensor | None) -> None:
        with self._pace.paced(0):
            self._blocks.backward(message, gradient)

    def _learn(self, message: messages.Learn, states: Tensor | None) -> None:
        """Through all windows here, and on, as long as others wait for what comes out."""
        learning, batch = self._learning, batch_of(message.lessons)
        if learning is None or message.epoch != self.holding.epoch:
            return  # left over from other places
        if states is None:
            states = learning.model.entered(batch.tokens)
        for index, window in learning.windows.items():
            with self._pace.paced(states.shape[0] * states.shape[1]):
                if index in message.windows:
                    self._report(self._said(learning, message, index, states))
                if index == message.windows[-1]:
                    return
                states = learning.model.plain(states, window.first, window.end)
        self.transport.send(self._next, message, states)

    def _said(
        self, learning: Learning, message: messages.Learn, index: int, states: Tensor
    ) -> messages.Learned | messages.Judged:
        batch = batch_of(message.lessons)
        if message.judged:
            said = judge_window(learning.model, learning.windows[index], batch, states)
            return messages.Judged(message.epoch, message.step, index, said)
        number = message.step + message.windows.index(index)
        before = self._crossed()
        step = learning.step(number, index, batch, states)
        crossed = self._crossed() - before
        return messages.Learned(message.epoch, number, index, step.loss, step.tokens, crossed)

    def _crossed(self) -> int:
        model = self._learning.model if self._learning else None
        return model.elsewhere.crossed_bytes if isinstance(model, PrivateTunable) else 0

    def _give(self) -> None:
        assert self._learning is not None
        for name, tensor in self._learning.tensors().items():
            self.transport.send(COORDINATOR, messages.Given(name), tensor)
        self._report(messages.GaveAll())

    def _take(self, message: messages.Given, tensor: Tensor | None) -> None:
        assert tensor is not None
        self._given[message.name] = tensor

    def _take_all(self) -> None:
        assert self._learning is not None
        self._learning.take(self._given)
        self._given = {}
        self._report(messages.GaveAll())


def _drawn(message: messages.Rehearse) -> Tunable:
    """A window with weights by lot, which take as long as any."""
    shape, scheme = ModelShape.from_json(message.shape), get_scheme(message.scheme)
    specs, cpu, windows = shape.spec.layers, torch.device("cpu"), (message.window,)
    layers = {
        number: random_layer(shape.config, number, scheme, cpu, specs[number])
        for number in layers_of(windows, len(specs))
    }
    return Tunable(shape.config, layers, message.recipe.adapter, windows)


if __name__ == "__main__":
    run_worker(TuningWorker)
