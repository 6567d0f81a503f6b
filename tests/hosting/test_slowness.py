"""A device that slows down is noticed, is done without, and is tried again later."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgewise.clusters import Cluster, Device, Network
from edgewise.hosting import Chooser, Host, Measured, Overview, slowness
from edgewise.hosting.slowness import AGAIN_SECONDS, LEAST_STEPS, SECONDS, SLOW, Watch
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.profiling import Grid
from edgewise.runtime.batches import Batch, Row
from edgewise.runtime.engine import Request
from edgewise.runtime.events import Entered, PlanInUse, Returned
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Sampling
from edgewise.specs import Workload
from tests.runtime.conftest import reference

SCHEMES = ("fp32",)
PLAN = Plan("m", "d", 3, tuple(Stage(x, i, i + 1, SCHEMES) for i, x in enumerate("aba")))


def came(watch, since, seconds, ratio, tokens=1, step=0.1):
    """Steps in which device `b` takes so many times as long as it should, and `a` as long."""
    row = Row(0, 5, (1,) * tokens, Sampling())
    for number in range(round(seconds / step)):
        at = since + number * step
        entered = Entered(at, number, Batch((row,), ()))
        watch.listen(Returned(at, entered, (0.1, 0.2 * ratio, 0.3)))
    return since + seconds


@pytest.fixture
def watch():
    asked = []

    def expected(plan, sequences):
        asked.append(sequences)
        return [0.1, 0.2, 0.3]

    made = Watch(expected)
    made.listen(PlanInUse(0.0, PLAN, "a"))
    return made


def test_what_was_slow_throughout_is_slow(watch):
    now = came(watch, 0.0, SECONDS, 3.0)
    assert watch.find(now) == "b" and watch.factors == {"b": pytest.approx(3.0)}
    watch.forget()
    assert watch.find(now) is None


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(SECONDS, 0.95 * SLOW)], id="not slow enough"),
        pytest.param([(0.6 * SECONDS, 1.0), (0.4 * SECONDS, 9.0)], id="not for long enough"),
        pytest.param([(0.4 * SECONDS, 9.0), (0.6 * SECONDS, 1.0)], id="not any more"),
        pytest.param([(0.4 * SECONDS, 9.0)], id="nothing came since"),
        pytest.param([], id="nothing at all"),
    ],
)
def test_what_was_slow_for_a_while_is_not(watch, steps):
    now = 0.0
    for seconds, ratio in steps:
        now = came(watch, now, seconds, ratio)
    assert watch.find(SECONDS) is None and not watch.factors


def test_prompts_and_few_steps_say_nothing(watch):
    assert watch.find(came(watch, 0.0, SECONDS, 9.0, tokens=2)) is None
    assert watch.find(came(watch, 0.0, SECONDS, 9.0, step=SECONDS / LEAST_STEPS)) is None


def test_another_plan_begins_anew(watch):
    now = came(watch, 0.0, SECONDS, 3.0)
    watch.listen(PlanInUse(now, PLAN, "a"))
    assert watch.find(now) is None


def test_many_steps_are_all_looked_at(watch):
    now = came(watch, 0.0, SECONDS, 3.0, step=0.001)
    assert watch.find(now) == "b"


def test_a_slow_device_is_tried_again_later_each_time(watch):
    now = came(watch, 0.0, SECONDS, 3.0)
    for pause in (AGAIN_SECONDS, 2 * AGAIN_SECONDS, 4 * AGAIN_SECONDS):
        assert watch.find(now) == "b" and watch.factors
        watch.forget()
        assert watch.find(now + 0.9 * pause) is None and watch.factors
        now += 1.1 * pause
        assert watch.find(now) == "b" and not watch.factors
        now = came(watch, now, SECONDS, 3.0)


def test_slower_still_counts_on_top(watch):
    now = came(watch, 0.0, SECONDS, 3.0)
    watch.find(now)
    watch.forget()
    now = came(watch, now, SECONDS, 2.0)
    assert watch.find(now) == "b" and watch.factors == {"b": pytest.approx(6.0)}


def test_a_profile_slowed_down_says_so_of_one_device():
    timings = tuple(LayerTiming(x, "block", "fp32", 1, 1, c, 0.5) for x in "ab" for c in (1, 9))
    readings = tuple(DeviceReading(x, 0.1) for x in "ab")
    profile = Profile("m", timings, readings, ())
    slow = profile.slowed({"b": 4.0})
    assert [x.seconds for x in slow.layers] == [0.5, 0.5, 2.0, 2.0]
    assert [x.step_seconds for x in slow.devices] == [0.1, 0.4]
    assert profile.slowed({}) is profile


DISTURB = """
import contextlib, os, random, signal, sys, time
with contextlib.suppress(OSError):  # to be in time; not everybody may
    os.nice(-19)
while True:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
    time.sleep(0.005 * random.random())
    os.kill(int(sys.argv[1]), signal.SIGCONT)
    time.sleep(0.0005 * random.random())
"""


@contextlib.contextmanager
def stopped_most_of_the_time(pid):
    """A process that computes a small part of the time: several times in each of its steps."""
    disturbing = subprocess.Popen([sys.executable, "-c", DISTURB, str(pid)])
    try:
        yield
    finally:
        disturbing.kill()
        disturbing.wait()
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timing
def test_a_device_that_slows_down_is_left_and_comes_back(monkeypatch):
    """Requests go on token for token; times are shorter here than they are in earnest."""
    for name, seconds in (("SECONDS", 3.0), ("AGAIN_SECONDS", 6.0)):
        monkeypatch.setattr(slowness, name, seconds)
    spec, work, request = open_checkpoint("demo").spec, Workload(8, 40), Request((5, 6, 7), 40)
    devices = Device("first", 10**9, slowdown=2.5), Device("quick", 10**9)
    network = Network(("first", "quick"))
    said, answers, done = [], [], threading.Event()

    def until(*parts):
        """Until something with each part was said, one after the other."""
        deadline = time.monotonic() + 40
        rest = iter(parts)
        at, part = 0, next(rest)
        while part is not None and time.monotonic() < deadline:
            if at == len(said):
                time.sleep(0.02)
                continue
            part = next(rest, None) if part in said[at] else part
            at += 1
        assert part is None, said

    with start_local(Cluster(devices, (), "first", (network,))) as workers:
        measured = Measured(workers, "demo", spec, Grid.around(work))
        chooser = Chooser(workers, measured, spec, work, "fp32")
        overview = Overview("demo", spec, on_event=lambda x: said.append(x.text))
        host = Host("demo", workers, None, measured, chooser, work, overview)

        def ask():
            tokens = []

            def on_token(token):
                tokens.append(token.id)
                if token.finish is not None:
                    answers.append(tokens)
                    if not done.is_set():
                        ask()

            host.ask(request, on_token)

        def disturb():
            try:
                ask()
                until("plan: ")
                noticed = "plan: ", "'quick' takes", "plan: "
                with stopped_most_of_the_time(workers.process_ids["quick"]):
                    until(*noticed)
                until(*noticed, "'quick' was slow", "plan: ")
            finally:
                done.set()
                host.stop(drain=True)

        with ThreadPoolExecutor(1) as pool:
            disturbed = pool.submit(disturb)
            host.run()
            disturbed.result()
    right = reference("demo", request)
    assert answers and all(answer == right for answer in answers)
    plans = [text for text in said if text.startswith("plan: ")]
    assert [" quick " in text for text in plans[:3]] == [True, False, True], said
