"""What a plan is said to do: its hops, its stages, and what a token and a prompt take by them.

Seconds and bytes come from the cost model (costs.py).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.plans import Stage
from edgewise.specs import Workload


@dataclass(frozen=True, slots=True)
class Hop:
    """One message on its way: it occupies the link from `source` to `target`, then it is under way
    for the delay. The coordinator, on the source, has the name "" where the other end is there,
    too. Within a device a hop takes no time."""

    source: str
    target: str
    occupancy_seconds: float = 0.0
    delay_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.occupancy_seconds + self.delay_seconds


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage: how its input arrives and how long it computes, per token and for each chunk of
    the prompt."""

    stage: Stage
    decode_seconds: float
    chunk_seconds: tuple[float, ...]
    hop: Hop
    chunk_hops: tuple[Hop, ...]

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
    token, `bottleneck_seconds` how long the busiest device or link is busy for a token of a lane,
    `tokens_per_second` of all sequences together without bubbles, `loss` the predicted loss of
    quality. Of the first two, `decode_error` and `prefill_error` are the relative errors to expect,
    None where they are not known.
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


def last_chunk_seconds(stages: Sequence[StageEstimate]) -> float:
    """When the last chunk of a prompt leaves the last stage. Links and devices, several stages of
    one together, serve chunks first come, first served."""
    server: tuple[str, str] | str
    free: dict[tuple[str, str] | str, float] = {}
    arrivals = [(0.0, chunk, 0) for chunk in range(len(stages[0].chunk_hops))]
    at = 0.0
    while arrivals:
        at, chunk, part = heapq.heappop(arrivals)
        if part == 2 * len(stages):
            continue
        stage = stages[part // 2]
        if part % 2:
            server, seconds, delay = stage.stage.device, stage.chunk_seconds[chunk], 0.0
        else:
            hop = stage.chunk_hops[chunk]
            server = hop.source, hop.target
            seconds, delay = hop.occupancy_seconds, hop.delay_seconds
        free[server] = max(at, free.get(server, 0.0)) + seconds
        heapq.heappush(arrivals, (free[server] + delay, chunk, part + 1))
    return at


def busy_seconds(stages: Sequence[StageEstimate], back: Hop) -> dict[tuple[str, str] | str, float]:
    """How long each device, and each link by its ends, is busy for a token of a lane."""
    busy: dict[tuple[str, str] | str, float] = {}
    for part in stages:
        name = part.stage.device
        busy[name] = busy.get(name, 0.0) + part.decode_seconds
    for hop in (*(part.hop for part in stages), back):
        link = hop.source, hop.target
        busy[link] = busy.get(link, 0.0) + hop.occupancy_seconds
    return busy
