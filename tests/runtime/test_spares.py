"""A process that waits to become a worker: it is the next one, and no trouble otherwise."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from edgewise.runtime.coordinator.replanning import keep_spare
from edgewise.runtime.engine import Request
from edgewise.runtime.local import open_engine
from tests.runtime.conftest import NAMES, cluster, plan_of, reference
from tests.runtime.places import SECONDS, Place, is_running, until, worker_pids
from tests.runtime.test_recovery import WORK, evenly, run


@pytest.fixture
def place():
    place = Place("local")
    yield place
    place.close()
    assert not worker_pids()


@pytest.fixture
def spare(place):
    place.launcher.prepare()
    place.launcher.prepare()  # one is enough
    (pid,) = until(worker_pids)  # once it is its own process
    return pid


def test_it_is_the_next_worker(place, spare):
    assert place.launcher.process_ids == {}
    place.start("a")
    assert place.launcher.process_ids == {"a": spare}
    assert worker_pids() == {spare}
    assert place.workers.round_trip("a") < SECONDS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_died_is_no_news(place, spare, how):
    os.kill(spare, how)
    assert until(lambda: not is_running(spare))
    place.start("a")
    assert place.workers.round_trip("a") < SECONDS
    assert place.next_ended(0.1) is None
    assert spare not in worker_pids()


@pytest.mark.parametrize("moment", ["it imports", "it waits", "it hangs"])
def test_closing_ends_it(place, spare, moment):
    if moment != "it imports":
        place.start("a")  # which takes as long
        place.launcher.prepare()
    if moment == "it hangs":
        for pid in worker_pids():
            os.kill(pid, signal.SIGSTOP)
    place.launcher.close()
    place.launcher.close()
    assert not worker_pids()
    assert place.next_ended(0.1) is None


HOLD = """
import sys
from edgewise.runtime.launchers.local import LocalLauncher
launcher = LocalLauncher(print)
launcher.prepare()
print(launcher._spare.popen.pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_whoever_wanted_it():
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        pid = int(holder.stdout.readline())
        holder.kill()
    assert until(lambda: not is_running(pid))


@pytest.mark.parametrize("kept", [False, True])
def test_the_source_starts_again_in_it(checkpoint, prompt, kept):
    """Where an engine keeps one; and then there is another."""
    model, requests = checkpoint("llama"), [Request(prompt, 20)]
    spec, plan = plan_of(model, *zip(NAMES, (2, 4, 6), strict=True))
    engine = open_engine(str(model), plan, cluster(), WORK, spec=spec, replan=evenly)
    workers = engine.workers
    try:
        if kept:
            keep_spare(engine)
            assert until(lambda: worker_pids() - set(workers.process_ids.values()))
        spares = worker_pids() - set(workers.process_ids.values())
        assert len(spares) == kept

        def disturb(step):
            if step == 3:
                os.kill(workers.process_ids[NAMES[0]], signal.SIGKILL)

        assert run(engine, requests, disturb) == [reference(model, x) for x in requests]
        assert (workers.process_ids[NAMES[0]] in spares) == kept
        assert until(lambda: len(worker_pids()) == len(NAMES) + kept)
    finally:
        engine.close()
    assert not worker_pids()


def test_an_agent_has_one_while_it_has_no_worker():
    place = Place("agent")
    try:
        (spare,) = worker_pids()
        place.start("a")
        assert worker_pids() == {spare}
        place.workers.remove("a")
        assert until(lambda: worker_pids() - {spare} and not is_running(spare))
        (another,) = worker_pids()
    finally:
        place.close()
    assert until(lambda: not psutil.pid_exists(another))
