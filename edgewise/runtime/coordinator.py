"""The coordinator: puts requests into lanes and sends each lane round the pipeline.

A lane is one request for now. Its prompt enters stage 0 in chunks, one behind the other; its
sampled token comes straight back here from the last stage and enters again at once, without waiting
for other lanes. So several requests keep several stages busy without a barrier between them.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, pairwise

import torch

from edgewise.clusters import Cluster
from edgewise.costs import PREFILL_CHUNK
from edgewise.errors import DeviceTimeout, PlanError, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan
from edgewise.runtime.engine import Request, Stats, Token, stream
from edgewise.runtime.local import LocalDevices
from edgewise.specs import ModelSpec, Workload

LOAD_SECONDS = 600.0  # per layer: some layers come from a hub first
STEP_SECONDS = 60.0
TOKENS_PER_STEP = 32  # of a prompt, that may take as long as one token of an answer


@dataclass(slots=True)
class _Lane:
    request: Request
    length: int  # tokens that have entered the pipeline
    sampled: int = 0
    entered: int = 0  # tokens that entered since the last one was sampled


class Coordinator:
    """The engine over worker processes: loads a plan into them and runs requests through it."""

    def __init__(
        self,
        devices: LocalDevices,
        model: str,
        plan: Plan,
        workload: Workload,
        *,
        step_seconds: float = STEP_SECONDS,
        on_layer: Callable[[int], None] = lambda layer: None,
    ) -> None:
        """Raises PlanError, ModelError and DeviceError."""
        self.devices, self.plan, self.workload = devices, plan, workload
        self._step_seconds = step_seconds
        config = open_checkpoint(model).config
        self._max_context, self._vocab_size = config.max_context, config.vocab_size
        self._waiting: deque[tuple[int, Request]] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._numbers = count()
        self._tokens = 0
        self._epoch = devices.epoch = devices.epoch + 1
        self._memory = self._load(model, on_layer)
        self._warm_up()

    def _load(self, model: str, on_layer: Callable[[int], None]) -> dict[str, int]:
        stages = [asdict(stage) for stage in self.plan.stages]
        body = {
            "model": model,
            "stages": stages,
            "rounding": self.plan.rounding,
            "workload": asdict(self.workload),
            "epoch": self._epoch,
        }
        # Devices that the plan leaves out hear of it too: they let go of what they held before.
        names = [device.name for device in self.devices.cluster.devices]
        for name in names:
            layers = [f"{s.start}-{s.end - 1}" for s in self.plan.stages if s.device == name]
            self.devices.roles[name] = f"while it held layers {', '.join(layers) or 'none'}"
            self.devices.send(name, "load", body)
        memory: dict[str, int] = {}
        while missing := [name for name in names if name not in memory]:
            message = self.devices.receive(LOAD_SECONDS)
            if message is None:
                raise DeviceTimeout(missing[0], f"loaded nothing for {LOAD_SECONDS:g} s")
            if message.body.get("epoch") != self._epoch:
                continue
            if message.kind == "layer":
                on_layer(message.body["layer"])
            elif message.kind == "loaded":
                memory[message.sender] = message.body["bytes"]
        return {name: memory[name] for name in self.plan.devices}

    def _warm_up(self) -> None:
        """Send a first token round, so that no user waits for what is set up on first use."""
        if self.workload.context > 2:
            for _ in stream(self, Request((0,), max_tokens=2)):
                pass
            self._tokens = 0

    def submit(self, request: Request) -> int:
        """Queue a request and return its number. Raises PromptError."""
        context = min(self.workload.context, self._max_context)
        check_request(request, context, self._vocab_size, self.plan.model)
        number = next(self._numbers)
        self._waiting.append((number, request))
        self._admit()
        return number

    def step(self) -> list[Token]:
        """Wait for the next token. Raises DeviceLost and DeviceTimeout."""
        if not self._lanes:
            return []
        # A prompt may rightly take longer than a token: a slow device needs seconds for each of it.
        entered = max(lane.entered for lane in self._lanes.values())
        allowed = self._step_seconds * max(entered / TOKENS_PER_STEP, 1)
        deadline = time.monotonic() + allowed
        while True:
            message = self.devices.receive(max(deadline - time.monotonic(), 0))
            if message is None:
                raise self._timeout(allowed)
            if message.kind == "token" and message.body["epoch"] == self._epoch:
                body = message.body
                if body["sequence"] in self._lanes:
                    return [self._advance(body["sequence"], body["token"], body["seconds"])]

    def _advance(self, sequence: int, token: int, seconds: Sequence[float]) -> Token:
        lane, at = self._lanes[sequence], time.monotonic()
        lane.sampled += 1
        lane.entered = 0
        self._tokens += 1
        finish = None
        if token in lane.request.stop_ids:
            finish = "stop"
        elif lane.sampled == lane.request.max_tokens:
            finish = "length"
        if finish is None:
            self._enter(sequence, (token,), sample=True)
        else:
            self._finish(sequence)
        return Token(sequence, token, finish, at, tuple(seconds))

    def _admit(self) -> None:
        """Start waiting requests while the caches have room."""
        while self._waiting and len(self._lanes) < self.workload.sequences:
            number, request = self._waiting.popleft()
            self._lanes[number] = _Lane(request, length=0)
            for at in range(0, len(request.prompt), PREFILL_CHUNK):
                chunk = request.prompt[at : at + PREFILL_CHUNK]
                self._enter(number, chunk, sample=at + len(chunk) == len(request.prompt))

    def _enter(self, sequence: int, tokens: tuple[int, ...], *, sample: bool) -> None:
        """Send tokens into stage 0; with `sample`, a token comes back."""
        lane = self._lanes[sequence]
        sampling = asdict(lane.request.sampling) if sample else None
        body = {
            "stage": 0,
            "epoch": self._epoch,
            "segments": [(sequence, lane.length, len(tokens))],
            "sampling": sampling,
            "seconds": [],
        }
        self.devices.send(self.plan.stages[0].device, "step", body, torch.tensor(tokens))
        lane.length += len(tokens)
        lane.entered += len(tokens)

    def _finish(self, sequence: int) -> None:
        # The news follows the sequence's last step down the pipeline, so it cannot overtake it.
        del self._lanes[sequence]
        first = self.plan.stages[0].device
        body = {"stage": 0, "epoch": self._epoch, "sequence": sequence}
        self.devices.send(first, "drop", body)
        self._admit()

    def cancel(self, request: int) -> None:
        """Forget a request; unknown ones are ignored."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != request)
        if request in self._lanes:
            self._finish(request)

    def stats(self) -> Stats:
        return Stats(len(self._waiting), len(self._lanes), self._tokens, dict(self._memory))

    def close(self) -> None:
        self.devices.close()

    def _timeout(self, seconds: float) -> DeviceTimeout:
        silent = self.devices.unresponsive()
        if silent:
            return DeviceTimeout(silent[0], f"did not answer within {seconds:g} s")
        last = self.plan.stages[-1].device
        return DeviceTimeout(last, f"sent no token within {seconds:g} s, though alive")


def check_request(request: Request, context: int, vocab_size: int, model: str) -> None:
    """Raise PromptError where a request is empty, longer than `context`, or not of tokens."""
    if not request.prompt:
        raise PromptError("the prompt is empty")
    if not 0 <= min(request.prompt) <= max(request.prompt) < vocab_size:
        raise PromptError(f"the prompt has token ids outside 0 to {vocab_size - 1}")
    if request.max_tokens < 1:
        raise PromptError(f"max tokens must be at least 1, not {request.max_tokens}")
    if (size := len(request.prompt)) >= context:
        raise PromptError(
            f"the prompt has {size} tokens, but '{model}' has a context of {context}, answer "
            f"included; shorten it by at least {size + 1 - context}"
        )
    if size + request.max_tokens > context:
        raise PromptError(
            f"prompt and answer need {size} + {request.max_tokens} tokens, but '{model}' has a "
            f"context of {context}; ask for at most {context - size}"
        )


def check_route(plan: Plan, cluster: Cluster) -> None:
    """Raise PlanError where prompts would leave the source, or where two neighbouring stages lie on
    devices that nothing connects."""
    if (first := plan.stages[0].device) != cluster.source:
        raise PlanError(
            f"this plan puts the embedding on '{first}': prompts would leave the source "
            f"'{cluster.source}' as they are, not as activations"
        )
    ends = [cluster.source, *[stage.device for stage in plan.stages], cluster.source]
    for a, b in pairwise(ends):
        if cluster.link(a, b) is None:
            raise PlanError(f"the plan sends from '{a}' to '{b}', but the cluster has no such link")


def open_engine(
    model: str,
    plan: Plan,
    cluster: Cluster,
    workload: Workload,
    *,
    spec: ModelSpec,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Coordinator:
    """Check a plan, start the processes and load it: the embedded default engine."""
    plan.check(spec, cluster)
    check_route(plan, cluster)
    devices = LocalDevices(cluster)
    try:
        return Coordinator(devices, model, plan, workload, on_layer=on_layer)
    except BaseException:
        devices.close()
        raise
