"""A loss budget is kept by every plan of a host: of the first devices, and of those left."""

import signal
from dataclasses import replace

import pytest

from edgewise.clusters import Cluster, Device, Network
from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import Infeasible, InputError
from edgewise.hosting import Chooser, Measured
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.by_quality import LossBudget
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.profiling import Grid
from edgewise.quality.rounding import rounding_for, unseen
from edgewise.quality.verification import verify
from edgewise.quantization.store import Store
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from tests.hosting.clusters import PATIENCE, ask, commands, get
from tests.seeds import THOROUGH

QUESTION = draw_questions(3, 1)[0]
TEXT = prompt(QUESTION.context, QUESTION.question)
SPEC, WORK = open_checkpoint("demo").spec, Workload(64, 64)
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def quality():
    """Among few schemes, which is measured sooner."""
    schemes = ("q2g16ad", "q4g32ad", "bf16")
    rounding = rounding_for("demo", schemes, None, unseen)
    sensitivity, _, _ = cached_sensitivity(Asked("demo", schemes))
    return LossBudget("demo", schemes, sensitivity, sensitivity.budget("5%"), rounding)


def cluster(megabytes):
    devices = tuple(Device(name, megabytes * 10**6) for name in NAMES)
    return Cluster(devices, (), NAMES[0], (Network(NAMES),))


def loss(plan):
    return verify("demo", plan.schemes, 0, method=plan.rounding, store=Store.default()).mean


def test_plans_keep_the_budget_on_whatever_devices_there_are(quality):
    said = []
    with start_local(cluster(7)) as workers:
        measured = Measured(workers, "demo", SPEC, Grid.around(WORK))
        chooser = Chooser(workers, measured, SPEC, WORK, quality=quality, note=said.append)
        first = chooser.anew().plan
        assert set(first.schemes) <= set(quality.schemes) and first.rounding == quality.rounding
        assert loss(first) <= quality.budget and "within the budget" in said[-1]
        assert chooser.better(first, keep=False)[0] is None
        chooser.admission(first)
        workers.remove(first.devices[-1] if first.devices[-1] != NAMES[0] else NAMES[1])
        assert chooser.keeping(first).plan.schemes == first.schemes
        second = chooser.anew().plan
        assert set(second.devices) <= set(workers.names) and loss(second) <= quality.budget


def test_what_no_plan_keeps_is_not_promised(quality):
    with start_local(cluster(3)) as workers:
        measured = Measured(workers, "demo", SPEC, Grid.around(WORK))
        strict = replace(quality, budget=1e-9)
        chooser = Chooser(workers, measured, SPEC, WORK, quality=strict)
        with pytest.raises(Infeasible):
            chooser.anew()


def test_a_loss_that_cannot_be_measured_now_is_not_promised(quality, monkeypatch):
    """There is too little memory here for a while."""

    def keep_promise(*_):
        raise InputError("no room to write text")

    monkeypatch.setattr("edgewise.opening.by_quality.keep_promise", keep_promise)
    with start_local(cluster(7)) as workers:
        measured = Measured(workers, "demo", SPEC, Grid.around(WORK))
        chooser = Chooser(workers, measured, SPEC, WORK, quality=quality)
        with pytest.raises(Infeasible, match="no room to write text"):
            chooser.anew()


@pytest.mark.skipif(not THOROUGH, reason="measures every scheme on every device: a minute")
def test_a_budget_is_kept_when_a_device_is_lost(tmp_path):
    small = ("--memory", "7 MB", "--prompt-tokens", "64", "--new-tokens", "64")
    here = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "here")
    with commands(tmp_path) as started:
        up = started.start("up", "demo", *here, *small, "--quality", "5%")
        agents = [started.join(up, "--name", name) for name in ("a", "b")]
        for name in ("a", "b"):
            up.wait_for("text", f"'{name}' joined")
        assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
        assert "within the budget" in up.wait_for("text", "Loss: ")["text"]
        url = str(up.wait_for("url")["url"]).removesuffix("/v1") + "/api/state"
        devices = get(url)["devices"]
        busy = next(i for i, name in enumerate("ab") if _holds(devices, name))
        agents[busy].process.kill()
        up.wait_for("text", f"without {'ab'[busy]}")
        assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
        assert up.end(signal.SIGINT) == 0


def _holds(devices, name):
    return any(x["name"] == name and x["layers"] for x in devices)
