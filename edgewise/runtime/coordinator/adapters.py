"""The coordinator's adapters: which there are, by name and number, and that workers hold them.

Every adapter has a number of its own, never used again: requests under way keep the one that their
name meant when they came, whatever the name means now. Each device gets what an adapter adds to the
blocks that it holds, block by block, from here: a hundredth of the model's bytes.
"""

from collections.abc import Callable, Mapping
from itertools import count

import torch

from edgewise.adapters.served import Adapter
from edgewise.errors import InputError, PromptError
from edgewise.models.adapting import BlockAdapter
from edgewise.models.branches import branch_adapter
from edgewise.models.exits import Exits
from edgewise.plans import Plan, Stage
from edgewise.runtime.adapter_messages import (
    AdapterHeld,
    ExitHeld,
    ForgetAdapter,
    HoldAdapter,
    HoldExit,
)
from edgewise.runtime.additions import packed_additions
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.messages import Message
from edgewise.units import format_bytes

SEND_SECONDS = 60.0  # a block's


class Adapters:
    """`names` may be read by any thread."""

    def __init__(
        self,
        workers: Workers,
        room_bytes: int = 0,
        named: Mapping[str, Adapter] | None = None,
        exit_bytes: int = 0,
    ) -> None:
        """`named` are there from the first plan on. Every block has room for `room_bytes` of them,
        the head for `exit_bytes` (Workload). Raises InputError where that does not do."""
        self._workers, self._room_bytes, self._exit_bytes = workers, room_bytes, exit_bytes
        self._held: dict[int, Adapter] = {}
        self._leaving = set[int]()  # without a name, as soon as no row needs them
        self._numbers = count(1)
        self._plan: Plan | None = None
        self.used: Callable[[], set[int]] = set  # those that rows need, or will
        self.names: Mapping[str, int] = {}
        for name, adapter in (named or {}).items():
            self.call(name, self.hold(adapter))

    def number(self, name: str) -> int:
        """Of what a request calls so; "": 0. Raises PromptError."""
        if name and name not in self.names:
            raise PromptError(f"there is no adapter '{name}'")
        return self.names[name] if name else 0

    def votes(self, name: str) -> bool:
        """Whether an adapter's exits vote."""
        return bool(name) and self._held[self.number(name)].exits is not None

    def ends(self, number: int) -> tuple[int, ...]:
        """Of the windows of one that is held, but the last."""
        adapter = self._held.get(number)
        return () if adapter is None or adapter.exits is None else adapter.exits.ends

    def hold(self, adapter: Adapter) -> int:
        """Its number; nothing is sent before `send`, or the next plan. Raises InputError where
        there is no room for it, and DeviceLost."""
        self.release()
        taken = sum(x.block_bytes for x in self._held.values())
        if taken + adapter.block_bytes > self._room_bytes:
            raise InputError(
                f"an adapter of {format_bytes(adapter.block_bytes)} a block does not fit: adapters "
                f"have {format_bytes(self._room_bytes)}, of which {format_bytes(taken)} are taken; "
                "remove one, or start with more --adapter-room"
            )
        if sum(x.exit_bytes for x in self._held.values()) + adapter.exit_bytes > self._exit_bytes:
            raise InputError(
                f"an adapter of windows, whose exits of {format_bytes(adapter.exit_bytes)} do not "
                f"fit: there is room for {format_bytes(self._exit_bytes)}; start with --vote"
            )
        number = next(self._numbers)
        self._held[number] = adapter
        return number

    def call(self, name: str, number: int) -> None:
        """Requests that come from now on mean this one by a name."""
        if name in self.names:
            self.drop(self.names[name])
        self.names = {**self.names, name: number}

    def remove(self, name: str) -> None:
        """Nobody means it any more by its name. Raises InputError where nobody did."""
        if name not in self.names:
            raise InputError(f"there is no adapter '{name}'")
        self.drop(self.names[name])
        self.names = {known: number for known, number in self.names.items() if known != name}

    def drop(self, number: int) -> None:
        """It has no name any more, or never had one."""
        self._leaving.add(number)

    def release(self) -> None:
        """Let go of those that have no name and are not used. Raises DeviceLost."""
        for number in self._leaving - self.used() if self._leaving else ():
            self._leaving.discard(number)
            del self._held[number]
            for device in self._plan.devices if self._plan is not None else ():
                self._workers.send(device, ForgetAdapter(number))

    def load(self, plan: Plan) -> None:
        """A plan was loaded: its workers hold no adapters yet. Raises DeviceLost, DeviceTimeout."""
        self._plan = plan
        for number in self._held:
            self.send(number)

    def send(self, number: int) -> None:
        """Have every device hold its part of an adapter. Raises DeviceLost, DeviceTimeout."""
        assert self._plan is not None
        adapter, numbers = self._held[number], (number, branch_adapter(number))
        for stage in self._plan.stages:
            for each, blocks in zip(numbers, (adapter.blocks, adapter.branch), strict=True):
                for block, added in enumerate(blocks):
                    if stage.start <= block + 1 < stage.end:
                        self._send_block(stage.device, each, block, added)
            if adapter.exits is not None:
                self._send_exits(stage, number, adapter.exits)

    def _send_block(self, device: str, number: int, block: int, added: BlockAdapter) -> None:
        """And wait for it, so that little waits on links."""
        epoch, (parts, numbers) = self._workers.epoch, packed_additions(added)
        self._workers.send(device, HoldAdapter(epoch, number, block, parts), numbers)
        self._await(device, AdapterHeld(epoch, number, block))

    def _send_exits(self, stage: Stage, number: int, exits: Exits) -> None:
        assert self._plan is not None
        epoch, has_head = self._workers.epoch, stage.end == self._plan.num_layers
        for exit, own in enumerate(exits.matrices):
            hold = HoldExit(epoch, number, exit, exits.ends, exits.vote)
            tensor = torch.cat([own.scale[None], own.turn]) if has_head else None
            self._workers.send(stage.device, hold, tensor)
            self._await(stage.device, ExitHeld(epoch, number, exit))

    def _await(self, device: str, said: Message) -> None:
        while self._workers.collect(type(said), [device], SEND_SECONDS)[device] != said:
            pass  # of an earlier plan
