"""What a plan is said to do: its hops, its stages, and what a token and a prompt take by them.

Seconds and bytes come from the cost model (costs.py).
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgewise.plans import Stage
from edgewise.specs import Workload

DISK = "disk of"  # a device, in place of an interface's way


@dataclass(frozen=True, slots=True)
class Resource:
    """What does one thing at a time: a device (neither `target` nor `way`), a directed link, a
    network interface on its `way` "out of" or "into" a device, or the "disk of" one.

    The coordinator, which sits on the source, has the name "": from there tokens enter the first
    stage, and there they return, where that stage is on the source itself.
    """

    device: str
    target: str | None = None
    way: str = ""

    @property
    def computes(self) -> bool:
        return self.target is None and not self.way

    @property
    def owner(self) -> str:
        """The device on whose time line it belongs: a link belongs to its sender."""
        return self.device or self.target or ""

    def __str__(self) -> str:
        if self.way == DISK:
            return f"{self.way} {self.device}"
        if self.way:
            return f"interface {self.way} {self.device}"
        if self.target is None:
            return self.device
        return f"{self.device or 'coordinator'} -> {self.target or 'coordinator'}"


@dataclass(frozen=True, slots=True)
class Use:
    """A resource, and for how long a computation or a message occupies it; `delay_seconds` later
    what follows begins. `at_once`: it begins together with this."""

    resource: Resource
    seconds: float
    delay_seconds: float = 0.0
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Hop:
    """One message on its way: it occupies the link from `source` to `target`, then it is under way
    for the delay. Meanwhile it takes what the interfaces at both ends can do for `sending_seconds`
    and `receiving_seconds`, none where nothing is said of them. The coordinator, on the source, has
    the name "" where the other end is there, too. Within a device a hop takes no time."""

    source: str
    target: str
    occupancy_seconds: float = 0.0
    delay_seconds: float = 0.0
    sending_seconds: float = 0.0
    receiving_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.occupancy_seconds + self.delay_seconds

    @property
    def is_held_up(self) -> bool:
        """Whether an interface is why the link is no faster."""
        return 0 < self.occupancy_seconds <= max(self.sending_seconds, self.receiving_seconds)

    @property
    def uses(self) -> tuple[Use, ...]:
        """The interfaces that have a rate, and the link, which is occupied for no less."""
        interfaces = (
            (Resource(self.source, way="out of"), self.sending_seconds),
            (Resource(self.target, way="into"), self.receiving_seconds),
        )
        link = Use(Resource(self.source, self.target), self.occupancy_seconds, self.delay_seconds)
        return (*(Use(end, seconds, at_once=True) for end, seconds in interfaces if seconds), link)


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: how its input arrives and how long it computes, per token and for each chunk of
    the prompt, waiting for its disk; which reads its layers there for `read_seconds` a step. For
    `trip_seconds` of a token's it waits for the source, which has what is private."""

    stage: Stage
    decode_seconds: float
    chunk_seconds: tuple[float, ...]
    hop: Hop
    chunk_hops: tuple[Hop, ...]
    read_seconds: float = 0.0
    trip_seconds: float = 0.0

    @property
    def hop_seconds(self) -> float:
        """How long its input takes to arrive per token."""
        return self.hop.seconds

    @property
    def prefill_seconds(self) -> float:
        """How long it computes for the whole prompt."""
        return sum(self.chunk_seconds)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the cost model says a plan will do.

    `decode_seconds` is a lane's round trip per token, `prefill_seconds` the time to its first
    token, `bottleneck_seconds` how long the busiest device, link or interface is busy for a token
    of a lane, `tokens_per_second` of all sequences together without bubbles, `loss` the predicted
    loss of quality. Of the first two, `decode_error` and `prefill_error` are the relative errors to
    expect, None where they are not known.
    """

    stages: tuple[StageEstimate, ...]
    back: Hop
    decode_seconds: float
    prefill_seconds: float
    bottleneck_seconds: float
    workload: Workload
    memory_bytes: dict[str, int]
    loss: float
    decode_error: float | None = None
    prefill_error: float | None = None

    def round_seconds(self, *, bubbles: bool = False) -> float:
        """Time in which every sequence gets one token."""
        others = self.workload.micro_batches - 1
        if bubbles:
            return self.decode_seconds + others * self.bottleneck_seconds
        return max(self.decode_seconds, (others + 1) * self.bottleneck_seconds)

    @property
    def return_seconds(self) -> float:
        """How long the sampled token takes back to the source."""
        return self.back.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.workload.sequences / self.round_seconds()


def way(stages: Sequence[StageEstimate], chunk: int | None = None) -> tuple[Use, ...]:
    """What a token, or a chunk of the prompt, occupies on its way through the stages, in order."""
    uses = list[Use]()
    for part in stages:
        hop = part.hop if chunk is None else part.chunk_hops[chunk]
        seconds = part.decode_seconds if chunk is None else part.chunk_seconds[chunk]
        disk = Use(Resource(part.stage.device, way=DISK), part.read_seconds, at_once=True)
        reads = [disk] if part.read_seconds else []
        uses += [*hop.uses, *reads, Use(Resource(part.stage.device), seconds)]
    return tuple(uses)


def last_chunk_seconds(stages: Sequence[StageEstimate]) -> float:
    """When the last chunk of a prompt leaves the last stage. Links, interfaces and devices, several
    stages of one together, serve chunks first come, first served."""
    ways = [way(stages, chunk) for chunk in range(len(stages[0].chunk_hops))]
    free: dict[Resource, float] = {}
    arrivals = [(0.0, chunk, 0) for chunk in range(len(ways))]
    at = 0.0
    while arrivals:
        at, chunk, part = heapq.heappop(arrivals)
        if part == len(ways[chunk]):
            continue
        use = ways[chunk][part]
        begins = max(at, free.get(use.resource, 0.0))
        free[use.resource] = ends = begins + use.seconds
        after = begins if use.at_once else ends + use.delay_seconds
        heapq.heappush(arrivals, (after, chunk, part + 1))
    return at


def busy_seconds(stages: Sequence[StageEstimate], back: Hop) -> dict[Resource, float]:
    """How long each device, link and interface is busy for a token of a lane."""
    return total_seconds((*way(stages), *back.uses))


def total_seconds(uses: Iterable[Use]) -> dict[Resource, float]:
    """How long each resource is occupied in all."""
    total: dict[Resource, float] = {}
    for use in uses:
        total[use.resource] = total.get(use.resource, 0.0) + use.seconds
    return total
