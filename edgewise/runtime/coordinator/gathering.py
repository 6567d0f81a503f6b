"""Waiting for machines that are to join, as many as were asked for."""

import time
from collections.abc import Callable

from edgewise.errors import ClusterError, DeviceError
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.messages import Joined

LOOK_SECONDS = 1.0


def wait_for_machines(
    workers: Workers,
    agents: AgentLauncher,
    count: int,
    seconds: float,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Let so many machines in, and tell what happens. Those that are lost meanwhile count no more.
    Raises ClusterError where too few have joined in time, and what the source's worker fails by."""
    deadline = time.monotonic() + seconds
    while len(workers.names) - 1 < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ClusterError(_too_few(workers, agents, count, seconds))
        try:
            if not workers.arrivals:
                workers.receive(min(left, LOOK_SECONDS))
                continue
            _let_in(workers, agents, workers.arrivals.popleft(), say)
        except DeviceError as lost:
            _go_on_without(workers, lost, say)


def _let_in(
    workers: Workers, agents: AgentLauncher, joined: Joined, say: Callable[[str], None]
) -> None:
    name = joined.device.name
    if name in workers.names:  # it was quicker back than its loss was noticed
        workers.remove(name)
    workers.admit(joined, agents)
    say(f"'{name}' joined")


def _go_on_without(workers: Workers, lost: DeviceError, say: Callable[[str], None]) -> None:
    if lost.device == workers.cluster.source or lost.device not in workers.names:
        raise lost
    say(str(lost))
    try:
        workers.remove(lost.device)
    except DeviceError as another:
        _go_on_without(workers, another, say)


def _too_few(workers: Workers, agents: AgentLauncher, count: int, seconds: float) -> str:
    names = ", ".join(f"'{x}'" for x in workers.names if x != workers.cluster.source)
    refused = ", ".join(f"{why} ({times})" for why, times in agents.refused.items())
    return (
        f"{len(workers.names) - 1} of {count} machines joined within {seconds:g} s"
        + (f", {names}" if names else "")
        + (f"; turned away: {refused}" if refused else "")
        + ": run the line that was printed on more of them, wait longer with --wait, or ask for "
        "fewer with --join"
    )
