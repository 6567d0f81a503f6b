"""What a simulation shows: times of every request, and every slice of work, also for a browser."""

from dataclasses import dataclass
from statistics import fmean

from edgewise.estimates import Resource
from edgewise.plans import Plan
from edgewise.traces import TraceSpan, chrome_trace


@dataclass(frozen=True, slots=True)
class Arrival:
    """What arrives at the source, and when. It always gets exactly `new_tokens` tokens."""

    arrival_seconds: float
    prompt_tokens: int
    new_tokens: int

    def __post_init__(self) -> None:
        if not 0 <= self.arrival_seconds < float("inf"):
            raise ValueError(f"a request cannot arrive at {self.arrival_seconds} s")
        if min(self.prompt_tokens, self.new_tokens) < 1:
            raise ValueError("a request has at least one prompt token and one new token")


@dataclass(frozen=True, slots=True)
class Slice:
    """One resource at work. `phase` is "prefill", "decode" or "load" (weights, after a new plan;
    it belongs to no lane: -1). `token` counts a lane's tokens from 0."""

    resource: Resource
    name: str
    phase: str
    lane: int
    token: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """When each token of a request was back at the source, on the simulation's clock. Fewer than it
    asked for where the pipeline broke down."""

    request: Arrival
    token_seconds: tuple[float, ...]

    @property
    def finished(self) -> bool:
        return len(self.token_seconds) == self.request.new_tokens

    @property
    def finish_seconds(self) -> float:
        """The clock when its last token was back; infinite where that never happened."""
        return self.token_seconds[-1] if self.finished else float("inf")

    @property
    def first_token_seconds(self) -> float:
        """Time to first token, from its arrival; waiting for a lane counts."""
        first = self.token_seconds[0] if self.token_seconds else float("inf")
        return first - self.request.arrival_seconds

    @property
    def latency_seconds(self) -> float:
        """From its arrival to its last token."""
        return self.finish_seconds - self.request.arrival_seconds


@dataclass(frozen=True)
class Outcome:
    """`plans` are the plans in use and the clock when each was chosen; `requests` come in the order
    in which they were given."""

    requests: tuple[RequestOutcome, ...]
    slices: tuple[Slice, ...]
    plans: tuple[tuple[float, Plan], ...]

    @property
    def finished(self) -> bool:
        return all(outcome.finished for outcome in self.requests)

    @property
    def makespan_seconds(self) -> float:
        """From the first arrival to the last token of all."""
        first = min(outcome.request.arrival_seconds for outcome in self.requests)
        last = max((outcome.token_seconds[-1:] or (first,))[0] for outcome in self.requests)
        return last - first

    @property
    def tokens_per_second(self) -> float:
        """Of all requests together, over the makespan."""
        tokens = sum(len(outcome.token_seconds) for outcome in self.requests)
        return tokens / self.makespan_seconds if self.makespan_seconds else 0.0

    def busy_seconds(self) -> dict[Resource, float]:
        """How long each device, link and interface that did anything computed or sent."""
        busy: dict[Resource, float] = {}
        for piece in self.slices:
            if piece.phase != "load":
                seconds = piece.end_seconds - piece.start_seconds
                busy[piece.resource] = busy.get(piece.resource, 0.0) + seconds
        return busy

    def utilisation(self) -> dict[str, float]:
        """Share of the makespan that each device of the plans computed."""
        names = dict.fromkeys(name for _, plan in self.plans for name in plan.devices)
        busy, span = self.busy_seconds(), self.makespan_seconds
        return {name: busy.get(Resource(name), 0.0) / span if span else 0.0 for name in names}

    def summary(self) -> dict[str, object]:
        """For programs; a mean is None where some request never finished."""
        done = self.finished
        return {
            "requests": len(self.requests),
            "finished": sum(outcome.finished for outcome in self.requests),
            "makespan_seconds": self.makespan_seconds,
            "tokens_per_second": self.tokens_per_second,
            "mean_first_token_seconds": fmean(r.first_token_seconds for r in self.requests)
            if done
            else None,
            "mean_latency_seconds": fmean(r.latency_seconds for r in self.requests)
            if done
            else None,
            "utilisation": self.utilisation(),
            "plans": [{"seconds": at, "plan": str(plan)} for at, plan in self.plans],
        }

    def chrome_trace(self) -> str:
        """JSON that chrome://tracing and ui.perfetto.dev open: one process per device, in it one
        thread per stage, per link that it sends on and per way of its interface."""
        return chrome_trace(map(_span, self.slices))


def _span(piece: Slice) -> TraceSpan:
    return TraceSpan(
        process=piece.resource.owner,
        thread=piece.name,
        name=f"{piece.phase} lane {piece.lane}" if piece.lane >= 0 else piece.phase,
        category="compute" if piece.resource.computes else "link",
        start_seconds=piece.start_seconds,
        end_seconds=piece.end_seconds,
        args={"lane": piece.lane, "token": piece.token},
    )
