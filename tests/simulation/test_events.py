"""The clock and the servers."""

from itertools import cycle, repeat

import pytest

from edgewise.simulation.events import Clock, Job, Server


def test_events_happen_in_order_and_ties_as_scheduled() -> None:
    clock, seen = Clock(), []
    for name, at in (("b", 2.0), ("a", 1.0), ("c", 2.0)):
        clock.at(at, lambda name=name: seen.append((clock.now, name)))
    clock.run()
    assert seen == [(1.0, "a"), (2.0, "b"), (2.0, "c")]
    for past in (1.0, float("nan")):
        with pytest.raises(ValueError, match="cannot schedule"):
            clock.at(past, lambda: None)


def test_a_server_takes_one_job_at_a_time_and_asks_for_seconds_when_it_starts() -> None:
    clock, seen = Clock(), []
    server = Server(clock, cycle((1.0, 2.0)))
    asked = []

    def seconds() -> float:
        asked.append(clock.now)
        return 3.0

    for _ in range(2):
        server.add(Job(seconds, lambda *when: seen.append(when), lambda: seen.append("done")))
    clock.run()
    assert asked == [0.0, 3.0]
    assert seen == [(0.0, 3.0), "done", (3.0, 9.0), "done"]


def test_a_stopped_server_cuts_its_job_short_once() -> None:
    clock, seen = Clock(), []
    server = Server(clock, repeat(1.0))
    for _ in range(2):
        server.add(Job(lambda: 5.0, lambda *when: seen.append(when), lambda: seen.append("done")))
    clock.at(2.0, server.stop)
    clock.at(3.0, server.stop)
    clock.run()
    assert seen == [(0.0, 2.0)]
