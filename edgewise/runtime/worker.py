"""A worker: the process that runs one device's stages.

Started as `python -m edgewise.runtime.worker` with its settings as one JSON line on standard input.
It lives as long as that pipe is open: when the coordinator dies, however it dies, the worker ends.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import zmq
from torch import Tensor

from edgewise.costs import device_bytes
from edgewise.errors import DeviceError, DeviceMemoryError, EdgewiseError, NonFinite
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import Shard, load_shard, random_shard
from edgewise.plans import Stage
from edgewise.quantization.store import Store
from edgewise.runtime.machine import free_bytes, machine_name, process_bytes
from edgewise.runtime.processors import finished_at
from edgewise.runtime.sampling import Sampling, sample
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport import Inbox, Message, Outbox, wait_until
from edgewise.runtime.turns import Turns
from edgewise.specs import Workload
from edgewise.units import format_bytes

COORDINATOR = ""  # no device can be called that
IDLE_SECONDS = 60.0
PROBE_SECONDS = 30.0


class Worker:
    """Handles one message after the other; `run` is the whole life of the process."""

    def __init__(self, settings: Settings, inbox: Inbox, outbox: Outbox, turns: Turns) -> None:
        self.device, self.inbox, self.outbox = settings.device, inbox, outbox
        self.shards: dict[int, Shard] = {}
        self.route: list[str] = []
        self.epoch = -1
        self.turns = turns
        self.spent: dict[int, float] = {}  # seconds of the last step of so many tokens
        self.ended = False
        self.trial: Shard | None = None
        self.handlers: dict[str, Callable[[Message], None]] = {
            "load": self.load,
            "step": self.step,
            "drop": self.drop,
            "describe": self.describe,
            "prepare": self.prepare,
            "time": self.time,
            "probe": self.probe,
            "echo": lambda message: self.outbox.send(message.sender, "echoed", {}),
            "ping": lambda message: self.outbox.send(message.sender, "pong", {}),
        }

    def run(self) -> None:
        """Serve until told to stop, or until the coordinator is gone."""
        self.outbox.send(COORDINATOR, "ready", {})
        while not self.ended:
            message = self.inbox.receive(IDLE_SECONDS)
            if message is None:
                continue
            if message.kind in ("stop", "gone"):
                return
            try:
                self.handlers[message.kind](message)
            except Exception as error:  # the process boundary: the coordinator decides what to do
                body = {**_describe(error), "epoch": self.epoch}
                self.outbox.send(COORDINATOR, "failed", body)

    def load(self, message: Message) -> None:
        """Load this device's stages of a plan."""
        body = message.body
        self.shards.clear()
        self.trial = None
        self.epoch = body["epoch"]
        checkpoint = open_checkpoint(body["model"])
        workload = Workload(**body["workload"])
        stages = [Stage(**{**s, "schemes": tuple(s["schemes"])}) for s in body["stages"]]
        self.route = [stage.device for stage in stages]
        mine = [stage for stage in stages if stage.device == self.device.name]
        needed = device_bytes(checkpoint.spec, mine, workload) if mine else 0
        if needed > self.device.memory_bytes:
            layers = ", ".join(f"{s.start}-{s.end - 1}" for s in mine)
            raise DeviceMemoryError(
                self.device.name,
                f"has {format_bytes(self.device.memory_bytes)} for weights, cache and workspace, "
                f"but layers {layers} need {format_bytes(needed)}",
            )
        for number, stage in enumerate(stages):
            if stage.device == self.device.name:
                self.shards[number] = load_shard(
                    checkpoint,
                    stage.start,
                    stage.end,
                    stage.schemes,
                    device=self.device.processor,
                    slots=workload.sequences,
                    context=workload.context,
                    cache=workload.cache,
                    method=body["rounding"],
                    store=Store.default(),
                    on_layer=lambda layer: self._report("layer", layer=layer),
                )
        total = sum(shard.weight_bytes + shard.cache.bytes for shard in self.shards.values())
        self._report("loaded", bytes=total)

    def _report(self, kind: str, **body: int) -> None:
        """Tell the coordinator how loading goes; by the epoch it knows which plan is meant."""
        self.outbox.send(COORDINATOR, kind, {**body, "epoch": self.epoch})

    def step(self, message: Message) -> None:
        """Run one stage, and on to the next: here, on the next device, or back as tokens."""
        body, tensor = dict(message.body), message.tensor
        if body["epoch"] != self.epoch or tensor is None:
            return  # left over from a plan that is no longer loaded
        segments = [Segment(*segment) for segment in body["segments"]]
        while True:
            stage = body["stage"]
            tensor, seconds = self._compute(stage, tensor, segments, body)
            body["seconds"] = [*body["seconds"], seconds]
            if stage + 1 == len(self.route):
                break
            body["stage"] = stage + 1
            if self.route[stage + 1] != self.device.name:
                self.outbox.send(self.route[stage + 1], "step", body, tensor)
                return
        if body["sampling"] is not None:
            reply = {"sequence": segments[0].sequence, "token": int(tensor[0])}
            reply |= {key: body[key] for key in ("epoch", "seconds")}
            self.outbox.send(COORDINATOR, "token", reply)

    def _compute(
        self, stage: int, inputs: Tensor, segments: list[Segment], body: Mapping[str, Any]
    ) -> tuple[Tensor, float]:
        """One stage's arithmetic, sampling included, at this device's speed. Raises DeviceError
        where numbers are not finite."""
        began = time.monotonic()
        last = stage + 1 == len(self.route)
        sampling, slowdown = body["sampling"], self.device.slowdown
        tokens, shard = inputs.shape[0], self.shards[stage]
        rows = None if not last else [] if sampling is None else [tokens - 1]
        with self.turns.one(began + (slowdown - 1) * self.spent.get(tokens, 0.0)):
            started = time.monotonic()
            try:
                outputs = shard.forward(inputs, segments, rows)
                if last and sampling is not None:
                    token = sample(outputs[0], Sampling(**sampling), segments[-1].end)
                    outputs = torch.tensor([token])
            except NonFinite as error:
                raise DeviceError(self.device.name, f"failed: {error}") from None
            spent = self.spent[tokens] = finished_at(shard.device) - started
        wait_until(began + spent * slowdown)
        return outputs, time.monotonic() - began

    def drop(self, message: Message) -> None:
        """Forget a sequence, here and then further down the pipeline, behind its last step."""
        stage = message.body["stage"]
        while message.body["epoch"] == self.epoch:
            self.shards[stage].drop(message.body["sequence"])
            stage += 1
            if stage == len(self.route):
                return
            if self.route[stage] != self.device.name:
                self.outbox.send(self.route[stage], "drop", {**message.body, "stage": stage})
                return

    def prepare(self, message: Message) -> None:
        """Make layers of a model's shape with random weights, to be timed."""
        body = message.body
        self.trial = None
        checkpoint = open_checkpoint(body["model"])
        self.trial = random_shard(
            checkpoint.config,
            body["start"],
            body["end"],
            body["scheme"],
            device=self.device.processor,
            slots=body["slots"],
            context=body["context"],
            spec=checkpoint.spec,
        )
        self.outbox.send(COORDINATOR, "prepared", {"bytes": self.trial.weight_bytes})

    def time(self, message: Message) -> None:
        """Run the prepared layers once, as a step of the pipeline would."""
        assert self.trial is not None
        began = time.monotonic()
        seconds = self.device.slowdown * _time_once(self.trial, *message.body["shape"])
        wait_until(began + seconds)
        self.outbox.send(COORDINATOR, "timed", {"seconds": seconds})

    def describe(self, message: Message) -> None:
        """Say what this machine is, what memory it has free, and what this process takes."""
        body = {"machine": machine_name(), "free_bytes": free_bytes()}
        body |= {"process_bytes": process_bytes()}
        self.outbox.send(COORDINATOR, "described", body)

    def probe(self, message: Message) -> None:
        """Time one round trip to another device: `size` bytes there, an empty answer back."""
        target, payload = (
            message.body["target"],
            torch.zeros(message.body["size"], dtype=torch.uint8),
        )
        began = time.monotonic()
        self.outbox.send(target, "echo", {}, payload)
        while True:
            answer = self.inbox.receive(max(began + PROBE_SECONDS - time.monotonic(), 0))
            seconds = time.monotonic() - began
            if answer is None:
                raise EdgewiseError(f"no answer from '{target}' within {PROBE_SECONDS:g} s")
            if answer.kind in ("stop", "gone"):
                self.ended = True
                return
            if answer.kind == "echoed":
                self.outbox.send(COORDINATOR, "probed", {"seconds": seconds})
                return


def _time_once(shard: Shard, sequences: int, tokens: int, past: int) -> float:
    """Seconds of one step through a shard, sampling included where it ends in the head."""
    config, total = shard.config, sequences * tokens
    if shard.start == 0:
        inputs = torch.randint(config.vocab_size, (total,))
    else:
        inputs = torch.randn(total, config.hidden_size)
    is_head = shard.end == config.num_layers
    segments = [Segment(number, past, tokens) for number in range(sequences)]
    last = list(range(tokens - 1, total, tokens))
    began = finished_at(shard.device)
    outputs = shard.forward(inputs, segments, last if is_head else None)
    if is_head:
        for row in outputs:
            sample(row, Sampling(), past)
    return finished_at(shard.device) - began


def _describe(error: Exception) -> dict[str, Any]:
    """An exception as a message body: our own errors by class and text, others with their trace."""
    if isinstance(error, EdgewiseError):
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "message": f"{error!r}\n{traceback.format_exc()}"}


def run_worker() -> None:
    # The coordinator reads this process's standard output only to see it close; what a library
    # prints goes to standard error instead.
    os.dup(1)
    os.dup2(2, 1)
    settings = Settings.from_json(sys.stdin.buffer.readline().decode())
    torch.set_num_threads(settings.device.threads)
    torch.set_grad_enabled(False)
    context = zmq.Context()
    name = settings.device.name
    rate = settings.device.interface_bytes_per_second
    inbox = Inbox(context, settings.addresses[name], settings.links, rate)
    inbox.watch(0, COORDINATOR)
    outbox = Outbox(context, name, settings.addresses, rate)
    turns = Turns(Path(settings.turns))
    Worker(settings, inbox, outbox, turns).run()
    turns.close()
    outbox.close()
    inbox.close()


if __name__ == "__main__":
    run_worker()
