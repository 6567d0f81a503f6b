"""A plan at work, as discrete events: requests wait for a lane, lanes travel the stages.

- The workload of the cost model gives the lanes: `micro_batches` of them, with room for `batch`
  requests each. A free lane takes the requests that wait, in order of arrival; they prefill
  together and leave as they finish; the lane is free again when all have.
- A device computes one lane's step at a time, a directed link sends one message at a time, and so
  does an interface that has a rate, each way; all first come, first served. Computing and sending
  overlap; latency delays a message and keeps no link from sending others.
- Prompts travel in the cost model's chunks, one behind the other; a token returns with the last.
- Without bubbles, a lane starts its next token as soon as its last one is back at the source. With
  bubbles (an iteration barrier), all lanes finish token t before any starts token t + 1, and
  requests enter at the barrier.
- After another plan was chosen everything stops, devices load, and unfinished requests prefill
  again (`faults.Recovery`).

Seconds come from the cost model, for the lane's own work (`routes.LaneWork`). One lane on quiet
links therefore takes exactly what `CostModel.estimate` says.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edgewise.costs import CostModel
from edgewise.errors import ClusterError, PlanError
from edgewise.estimates import Resource
from edgewise.plans import Plan
from edgewise.simulation.events import Clock, Job, Server
from edgewise.simulation.faults import Fault, Jitter, Leave, Recovery, Replan, World
from edgewise.simulation.routes import LaneWork, Part, StepTimes, route, step_times
from edgewise.simulation.trace import Arrival, Outcome, RequestOutcome, Slice


def simulate_plan(
    costs: CostModel,
    plan: Plan,
    requests: Sequence[Arrival],
    *,
    bubbles: bool = False,
    jitter: Jitter | None = None,
    faults: Sequence[Fault] = (),
    replan: Replan | None = None,
    recovery: Recovery | None = None,
) -> Outcome:
    """Run `requests` through `plan`. The same arguments always give the same outcome.

    `replan` is asked after every fault, `recovery.notice_seconds` later; without it the plan stays,
    and where it uses a device that left, requests remain unfinished. Memory is not checked
    (`CostModel.check_memory`). Raises PlanError where the plan does not belong to the model and
    cluster or a request is longer than the model's context, ClusterError for impossible faults,
    and whatever `replan` raises.
    """
    longest = max((r.prompt_tokens + r.new_tokens for r in requests), default=0)
    if not requests:
        raise PlanError("there is nothing to simulate: no requests")
    if longest > costs.model.max_context:
        raise PlanError(
            f"a request of {longest} tokens does not fit the model's context of "
            f"{costs.model.max_context}"
        )
    world = World.before(tuple(faults), costs.cluster, costs.profile)
    pipeline = _Pipeline(costs, world, bubbles, jitter or Jitter(), replan, recovery or Recovery())
    pipeline.use(plan)
    return pipeline.run(requests, faults)


@dataclass
class _Progress:
    """One request and the clock at each of its tokens so far."""

    request: Arrival
    token_seconds: list[float] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.token_seconds) == self.request.new_tokens


@dataclass
class _Lane:
    """A micro-batch. `token` counts its steps since it was last filled."""

    number: int
    members: list[_Progress] = field(default_factory=list)
    work: LaneWork = field(init=False)
    prefilled: bool = False
    moving: bool = False
    token: int = 0

    def restart(self) -> None:
        """Prefill everything that the members have so far."""
        prompt = max(m.request.prompt_tokens + len(m.token_seconds) for m in self.members)
        new = max(m.request.new_tokens - len(m.token_seconds) for m in self.members)
        self.work = LaneWork(len(self.members), prompt, new)
        self.prefilled, self.moving = False, False


@dataclass
class _Pipeline:
    costs: CostModel
    world: World
    bubbles: bool
    jitter: Jitter
    replan: Replan | None
    recovery: Recovery
    clock: Clock = field(default_factory=Clock)
    waiting: deque[_Progress] = field(default_factory=deque)
    lanes: list[_Lane] = field(init=False)
    unfinished: int = 0
    slices: list[Slice] = field(default_factory=list)
    plans: list[tuple[float, Plan]] = field(default_factory=list)
    parts: tuple[Part, ...] = ()
    returning: int = 0  # the part with which the way back begins
    servers: dict[Resource, Server] = field(default_factory=dict)
    factors: dict[Resource, Iterator[float]] = field(default_factory=dict)
    times: dict[LaneWork, StepTimes] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    loading: int = 0

    def __post_init__(self) -> None:
        self.lanes = [_Lane(number) for number in range(self.costs.workload.micro_batches)]

    @property
    def plan(self) -> Plan:
        return self.plans[-1][1]

    def run(self, requests: Sequence[Arrival], faults: Sequence[Fault]) -> Outcome:
        progresses = [_Progress(request) for request in requests]
        self.unfinished = len(progresses)
        for progress in sorted(progresses, key=lambda p: p.request.arrival_seconds):
            self.clock.at(progress.request.arrival_seconds, partial(self._arrive, progress))
        for fault in faults:
            self.clock.at(fault.at_seconds, partial(self._suffer, fault))
        self.clock.run()
        outcomes = tuple(RequestOutcome(p.request, tuple(p.token_seconds)) for p in progresses)
        return Outcome(outcomes, tuple(self.slices), tuple(self.plans))

    def use(self, plan: Plan) -> None:
        """Check a plan against who is there, and open its devices, links and interfaces."""
        plan.check(self.costs.model, self.world.present())
        self.parts = route(self.costs, plan)
        self.returning = 1 + max(i for i, x in enumerate(self.parts) if x.resource.computes)
        self.plans.append((self.clock.now, plan))
        self.times.clear()
        if not sum(self._seconds(LaneWork(1, 1, 1)).delays) < float("inf"):
            raise ClusterError("the plan sends between devices that nothing connects")
        for part in self.parts:
            resource = part.resource
            if resource not in self.factors:
                link = not resource.computes
                self.factors[resource] = self.jitter.factors(str(resource), link=link)
        self.servers = {
            part.resource: Server(self.clock, self.factors[part.resource]) for part in self.parts
        }

    def _seconds(self, work: LaneWork) -> StepTimes:
        if work not in self.times:
            self.times[work] = step_times(self.costs, self.plan, work)
        return self.times[work]

    # -- lanes

    def _arrive(self, progress: _Progress) -> None:
        self.waiting.append(progress)
        # Later in this instant, so that requests which arrive together can share a lane.
        self.clock.at(self.clock.now, self._dispatch)

    def _dispatch(self) -> None:
        """Fill free lanes and start every lane that may start."""
        if self.loading or (self.bubbles and any(lane.moving for lane in self.lanes)):
            return
        for lane in self.lanes:
            if not lane.members and self.waiting:
                room = min(self.costs.workload.batch, len(self.waiting))
                lane.members = [self.waiting.popleft() for _ in range(room)]
                lane.token = 0
                lane.restart()
            if lane.members and not lane.moving:
                lane.moving = True
                self._enter(lane)

    def _enter(self, lane: _Lane) -> None:
        """Send a lane's token, or all chunks of its prompts, into the pipeline."""
        if lane.prefilled:
            self._advance(lane, None, 0)
            return
        for chunk in range(len(self._seconds(lane.work).chunks)):
            self._advance(lane, chunk, 0)

    def _advance(self, lane: _Lane, chunk: int | None, at: int) -> None:
        """Hand a lane's token, or a chunk of its prompts, to part `at` of the route."""
        last = len(self._seconds(lane.work).chunks) - 1
        if at == self.returning and chunk is not None and chunk < last:
            return  # only the last chunk brings a token
        if at == len(self.parts):
            self._token(lane)
            return
        part = self.parts[at]

        def seconds() -> float:
            times = self._seconds(lane.work)
            return (times.decode if chunk is None else times.chunks[chunk])[at]

        record = partial(self._record, part, "decode" if chunk is None else "prefill", lane)
        if part.at_once:
            job = Job(seconds, record, began=partial(self._advance, lane, chunk, at + 1))
        else:
            job = Job(seconds, record, partial(self._leave, lane, chunk, at, len(self.plans)))
        self.servers[part.resource].add(job)

    def _leave(self, lane: _Lane, chunk: int | None, at: int, plans: int) -> None:
        """On to the next part, after the delay; nothing arrives that left under an earlier plan."""

        def arrive() -> None:
            if plans == len(self.plans):
                self._advance(lane, chunk, at + 1)

        delay = self._seconds(lane.work).delays[at]
        if delay:
            self.clock.at(self.clock.now + delay, arrive)
        else:
            arrive()

    def _record(self, part: Part, phase: str, lane: _Lane | None, start: float, end: float) -> None:
        if end > start:
            number, token = (lane.number, lane.token) if lane is not None else (-1, 0)
            piece = Slice(part.resource, part.name, phase, number, token, start, end)
            self.slices.append(piece)

    def _token(self, lane: _Lane) -> None:
        """A token of every member is back at the source."""
        for member in lane.members:
            member.token_seconds.append(self.clock.now)
        lane.members, before = [m for m in lane.members if not m.finished], len(lane.members)
        self.unfinished -= before - len(lane.members)
        lane.work = replace(lane.work, sequences=len(lane.members))
        lane.prefilled, lane.moving, lane.token = True, False, lane.token + 1
        self._dispatch()

    # -- faults

    def _suffer(self, fault: Fault) -> None:
        if not self.unfinished:
            return
        self.world = self.world.after(fault)
        self.times.clear()
        changed = self.world.cluster(), self.world.profile()
        self.costs = replace(self.costs, cluster=changed[0], profile=changed[1])
        if isinstance(fault, Leave):
            self.lost |= {fault.device}
            for resource, server in self.servers.items():
                if fault.device in (resource.device, resource.target):
                    server.stop()
        if self.replan is not None:
            self.clock.at(self.clock.now + self.recovery.notice_seconds, self._go_over)

    def _go_over(self) -> None:
        """Ask for a plan; where it differs, or a device lost what it held, load and start again."""
        if self.replan is None or not self.unfinished:
            return
        old = self.plan
        new = self.replan(self.world.present(), self.world.profile())
        if new == old and not self.lost & {*old.devices}:
            return
        for server in self.servers.values():
            server.stop()
        loads = self.recovery.load_seconds(self.costs.model, old, new, self.lost)
        self.use(new)
        self.lost = frozenset()
        for lane in self.lanes:
            if lane.members:
                lane.restart()
        self.loading = sum(seconds > 0 for seconds in loads.values())
        for device, seconds in loads.items():
            if seconds:
                part = next(p for p in self.parts if p.resource == Resource(device))
                loaded = partial(self._record, part, "load", None)
                job = Job(partial(float, seconds), loaded, self._loaded)
                self.servers[part.resource].add(job)
        self._dispatch()

    def _loaded(self) -> None:
        self.loading -= 1
        self._dispatch()
