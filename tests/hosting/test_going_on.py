"""What a host makes of what goes wrong, in one thread: engine, devices and plans are scripted."""

import contextlib
from collections import deque
from types import SimpleNamespace

import pytest

from edgewise.errors import DeviceError, DeviceLost, DeviceMemoryError, Infeasible
from edgewise.hosting import Host
from edgewise.hosting import host as module
from edgewise.hosting.pending import Pending
from edgewise.hosting.requests import Requests
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.events import Lost, PlanInUse

REQUEST = Request((1, 2), 3)
ALONE = SimpleNamespace(devices=("here",), schemes=("fp32",))
BOTH = SimpleNamespace(devices=("here", "there"), schemes=("fp32",))


def result(plan):
    return SimpleNamespace(plan=plan)


class Engine:
    """Runs what it is told; with nothing to do, its host ends. It is `idle` all the time."""

    idle = True

    def __init__(self, scene, plan, replan):
        self.scene, self.plan, self.replan = scene, plan, replan
        self.workers = scene.workers
        self.listeners, self.submitted, self.lost = [], [], []
        scene.engine = self

    def listen(self, listener):
        self.listeners.append(listener)
        self.in_use(self.plan)

    def in_use(self, plan):
        self.plan = plan
        for listener in self.listeners:
            listener(PlanInUse(0.0, plan, "here"))

    def apply(self, plan, why):
        self.in_use(plan)

    def submit(self, request, since):
        self.submitted.append(request)
        return len(self.submitted) - 1

    def go_on_without(self, lost):
        self.lost.append(lost)
        for listener in self.listeners:
            listener(Lost(0.0, lost.device, str(lost)))
        self.in_use(ALONE)

    def wait(self, seconds):
        self.scene.wait(seconds)

    def drain(self):
        return ()

    def enter(self):
        pass

    def stats(self):
        return None


class Scene:
    """A host on a device `here`, and what is said; `there` joins at once."""

    def __init__(self, monkeypatch):
        self.said, self.without_plan, self.wait = [], None, lambda seconds: self.end()
        joined = SimpleNamespace(device=SimpleNamespace(name="there"))
        self.workers = SimpleNamespace(
            names=("here",), cluster=SimpleNamespace(source="here"), arrivals=deque([joined]),
            wake=lambda: None, prepare=lambda: None, receive=lambda seconds: self.end(),
            admit=lambda joined, launcher: None, meanwhile=lambda take: contextlib.nullcontext(),
        )  # fmt: skip
        self.chooser = SimpleNamespace(
            anew=lambda: result(ALONE), like=lambda plan: result(ALONE), admission=None,
            better=lambda plan, keep: (None, "well"), schemes=lambda plan: plan.schemes,
            stage_seconds=None,
        )  # fmt: skip
        self.measured = SimpleNamespace(
            forget=lambda name: None, links=(), measure_layers=lambda names, schemes: None
        )
        overview = SimpleNamespace(
            say=self.said.append,
            chose=lambda chosen, why: self.said.append(f"plan: {why}"),
            state=lambda status, *rest: SimpleNamespace(status=status),
        )
        monkeypatch.setattr(
            module,
            "Coordinator",
            lambda workers, model, plan, work, private, replan, admission, adapters: Engine(
                self, plan, replan
            ),
        )
        made = self.workers, None, self.measured, self.chooser, None, overview
        self.host = Host("demo", *made)

    def end(self):
        """Nothing is left to do."""
        self.without_plan = self.host.without_plan
        self.host.stop(drain=False)


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


def fails(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_where_a_better_plan_meets_a_loss_nothing_runs_and_that_is_said(scene):
    """The engine plans anew while it loads the better plan, and there is none."""

    def better(plan, keep):
        scene.engine.apply = lambda plan, why: scene.engine.replan(scene.workers, plan)
        scene.chooser.like = fails(Infeasible("too small"))
        return result(BOTH), "quicker"

    scene.chooser.better = better
    scene.host.run()
    assert scene.without_plan == "waiting for devices: too small"


def test_a_device_that_fails_while_the_first_plan_is_measured_is_left_out(scene):
    """Whatever failed there, others are answered; on the source nobody could be."""
    removed = []

    def anew():
        if not removed:
            raise DeviceError("there", "failed: no such instruction")
        return result(ALONE)

    scene.workers.arrivals.clear()
    scene.workers.remove = removed.append
    scene.chooser.anew = anew
    scene.host.run()
    assert removed == ["there"]
    assert scene.said[0] == "device 'there' failed: no such instruction"
    assert scene.without_plan == ""
    scene.chooser.anew = fails(DeviceError("here", "failed"))
    scene.host._engine = None
    with pytest.raises(DeviceError, match="'here'"):
        scene.host.run()


def test_where_a_better_plan_does_not_fit_the_one_before_runs(scene):
    applied = []

    def better(plan, keep):
        scene.engine.apply = apply
        return result(BOTH), "quicker"

    def apply(plan, why):
        applied.append(plan)
        if plan is BOTH:
            raise DeviceMemoryError("there", "is full")

    scene.chooser.better = better
    scene.host.run()
    assert applied == [BOTH, ALONE] and scene.without_plan == ""


def test_one_that_joins_and_cannot_be_timed_is_let_go(scene):
    error = DeviceError("there", "failed: no memory")
    scene.measured.measure_layers = fails(error)
    scene.host.run()
    assert scene.engine.lost == [error] and str(error) in scene.said


def test_what_another_device_fails_at_is_not_hidden(scene):
    scene.measured.measure_layers = fails(DeviceError("here", "failed: no memory"))
    with pytest.raises(DeviceError, match="here"):
        scene.host.run()


def test_a_plan_in_use_ends_every_stall(scene):
    """A device is lost while nothing runs, and the engine has a plan for those left."""

    def receive(seconds):
        scene.workers.receive = lambda seconds: scene.end()
        raise DeviceLost("there", "left")

    scene.chooser.better = lambda plan, keep: (result(BOTH), "quicker")
    scene.workers.receive = receive
    scene.workers.admit = lambda *_: setattr(scene.engine, "apply", fails(Infeasible("too small")))
    scene.host.run()
    assert any("too small" in text for text in scene.said)
    assert len(scene.engine.lost) == 1 and scene.without_plan == ""


def test_who_asks_while_a_plan_is_made_enters_at_once(scene):
    """The message that should wake the host was taken by what looked for a plan."""
    waited = []

    def better(plan, keep):
        scene.host.ask(REQUEST, lambda token: None)
        scene.engine.wait = lambda seconds: (
            waited.append(len(scene.engine.submitted)),
            scene.end(),
        )
        return None, "well"

    scene.chooser.better = better
    scene.host.run()
    assert waited == [1] and scene.engine.submitted == [REQUEST]


def test_tokens_that_came_are_handed_over_before_the_next_step_fails(scene):
    tokens, token = [], Token(0, 7, "length", 0.0, ())

    def admit(joined, launcher):
        scene.host.ask(REQUEST, tokens.append)
        scene.engine.take = lambda came: [token]
        scene.engine.enter = fails(lost)
        try:
            scene.take(None)
        finally:
            scene.engine.enter = lambda: None

    @contextlib.contextmanager
    def meanwhile(take):
        scene.take = take
        yield

    lost = DeviceLost("other", "left")
    scene.workers.admit, scene.workers.meanwhile = admit, meanwhile
    scene.host.run()
    assert tokens == [token] and scene.engine.lost == [lost]


@pytest.mark.parametrize("error", [None, DeviceError("here", "failed: no memory")])
def test_at_the_end_who_waits_is_told_and_so_is_who_comes_later(scene, error):
    """One that the engine has, one that the host has not looked at, one that asks afterwards."""
    tokens = []

    def wait(seconds):
        scene.host.ask(REQUEST, tokens.append)
        scene.end()
        if error is not None:
            raise error

    scene.workers.arrivals.clear()
    scene.chooser.anew = lambda: scene.host.ask(REQUEST, tokens.append) and result(ALONE)
    scene.wait = wait
    with contextlib.nullcontext() if error is None else pytest.raises(DeviceError):
        scene.host.run()
    scene.host.ask(REQUEST, tokens.append)
    why = "this server has ended" + (f": {error}" if error else "")
    assert [(token.finish, token.error) for token in tokens] == [("error", why)] * 3


def test_one_that_nobody_has_looked_at_is_open():
    requests = Requests(lambda: None)
    requests.ask(REQUEST, print, 60.0)
    assert requests.open


@pytest.mark.parametrize(
    ("missing_since", "deadline", "until"),
    [(900.0, None, 960.0), (-5.0, None, 160.0), (900.0, 70.0, 170.0), (900.0, 2000.0, 960.0)],
)
def test_devices_are_waited_for_since_they_are_missing(missing_since, deadline, until):
    """A deadline counts from when the request came."""
    asked = Pending(Request((1,), 2, deadline=deadline), print, since=100.0, seconds=60.0)
    assert asked.until(missing_since) == until


def test_an_old_stream_outlives_a_short_stall(monkeypatch):
    now, tokens, engine = [0.0], [], SimpleNamespace(submit=lambda *_: 0, cancel=lambda _: None)
    monkeypatch.setattr("edgewise.hosting.requests.time.monotonic", lambda: now[0])
    requests = Requests(lambda: None)
    requests.ask(REQUEST, tokens.append, 60.0)
    for at, stalled in ((1, ""), (900, "gone"), (950, "gone"), (955, ""), (1000, "gone")):
        now[0] = at
        requests.take(engine, stalled)
    assert requests.open and not tokens
    now[0] = 1061
    requests.take(engine, "gone")
    assert not requests.open and tokens[0].error == "no answer in time: gone"
