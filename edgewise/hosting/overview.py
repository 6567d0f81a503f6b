"""What a host shows of itself: what happened, and how things are."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from edgewise.clusters import Cluster, Device, Link
from edgewise.hosting.state import (
    Event,
    State,
    device_states,
    link_states,
    reasons,
    stage_states,
)
from edgewise.planning import PlanResult
from edgewise.plans import Plan
from edgewise.runtime.stats import Stats
from edgewise.specs import ModelSpec

EVENTS = 50  # that are remembered

_logger = logging.getLogger(__name__)


class Overview:
    """Of one model's host, which tells it; it remembers events, and devices that are gone."""

    def __init__(
        self,
        model: str,
        spec: ModelSpec,
        join: str = "",
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """`join`: what to run on another machine to lend it."""
        self._model, self._spec, self._join, self._on_event = model, spec, join, on_event
        self._began = time.monotonic()
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._devices = dict[str, Device]()  # that there ever were
        self._chosen: PlanResult | None = None

    def say(self, text: str) -> None:
        """Something happened."""
        _logger.info("%s", text)
        self._events.append(Event(time.monotonic() - self._began, text))
        self._on_event(self._events[-1])

    def chose(self, chosen: PlanResult, why: str) -> None:
        """A plan was chosen, and is about to be used."""
        self._chosen = chosen
        stages = ", ".join(f"{s.device} {s.start}-{s.end - 1}" for s in chosen.plan.stages)
        schemes = ", ".join(dict.fromkeys(chosen.plan.schemes))
        self.say(f"plan: {stages} in {schemes}: {why}")

    def state(
        self,
        status: str,
        cluster: Cluster,
        links: Iterable[Link],
        plan: Plan | None,
        stats: Stats | None,
        waiting: int,
    ) -> State:
        """How things are. `waiting`: requests that the engine was not told of."""
        self._devices.update({device.name: device for device in cluster.devices})
        there = {device.name for device in cluster.devices}
        gone = [device for name, device in self._devices.items() if name not in there]
        chosen = self._chosen if self._chosen and self._chosen.plan == plan else None
        return State(
            model=self._model,
            status=status,
            ready=status == "serving",
            uptime_seconds=time.monotonic() - self._began,
            devices=device_states(cluster, gone, plan, stats),
            links=link_states(links, stats),
            stages=stage_states(self._spec, plan, stats),
            schemes=tuple(dict.fromkeys(plan.schemes)) if plan else (),
            predicted_seconds=chosen.estimate.decode_seconds if chosen else None,
            explanation=reasons(chosen) if chosen else (),
            waiting=waiting + (stats.waiting if stats else 0),
            running=stats.running if stats else 0,
            tokens=stats.new_tokens if stats else 0,
            tokens_per_second=stats.tokens_per_second if stats else 0.0,
            first_token_seconds=stats.first_token.median if stats else None,
            token_seconds=stats.per_token.median if stats else None,
            requests=stats.last_finished if stats else (),
            events=tuple(self._events),
            join=self._join,
        )
