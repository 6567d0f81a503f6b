"""Deadlines on a running engine, held against the clock."""

import time

import pytest

from edgewise.batching import POLICIES
from edgewise.batching.pace import Pace
from edgewise.clusters import Cluster
from edgewise.demo import MODEL_FOLDER
from edgewise.errors import Unattainable
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from tests.runtime.conftest import plan_of, reference

WORK = Workload(32, 96, sequences=2)
MODEL = str(MODEL_FOLDER)
PROMPT = tuple(range(5, 17))


@pytest.fixture(scope="module")
def workers():
    with start_local(Cluster.of_this_machine(10**9, 2)) as started:
        yield started


def engine(workers, policy="dftsp", pace=None):
    spec = open_checkpoint(MODEL).spec
    _, plan = plan_of(MODEL, ("local", spec.num_layers))
    pace = pace or Pace((0.0, 0.001, 0.001), lambda tokens: 0.001, quality=1.0)
    return Coordinator(
        workers, MODEL, plan, WORK, admission=lambda plan: Admission(POLICIES[policy], pace)
    )


def ends(running):
    """Tokens and the last word of every request, once all are through."""
    tokens, last = {}, {}
    for given in iter(running.step, []):
        for token in given:
            if token.finish != "error":
                tokens.setdefault(token.request, []).append(token.id)
            if token.finish is not None:
                last[token.request] = token
    return tokens, last


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_are_the_models_whatever_the_policy(workers, policy):
    running = engine(workers, policy)
    asked = [Request(PROMPT[at:], 6 + at, deadline=60.0) for at in range(5)]
    numbers = [running.submit(request) for request in asked]
    tokens, last = ends(running)
    assert [tokens[number] for number in numbers] == [reference(MODEL, x) for x in asked]
    assert {token.finish for token in last.values()} == {"length"}


def test_what_the_plan_cannot_do_is_refused_at_once(workers):
    running = engine(workers, pace=Pace((0.0, 0.5, 0.5), lambda tokens: 0.25, quality=0.9))
    with pytest.raises(Unattainable, match=r"deadline of 2000 ms .* 2250 ms \(predicted\)"):
        running.submit(Request(PROMPT, 5, deadline=2.0))
    with pytest.raises(Unattainable, match=r"a quality of 0\.95"):
        running.submit(Request(PROMPT, 5, min_quality=0.95))
    assert running.idle


@pytest.mark.timing
def test_who_waits_in_vain_is_told_when_it_is_too_late_and_the_others_go_on(workers):
    """One runs for 96 tokens; the other is to be done in 30 ms."""
    running = engine(workers, "no-batch")
    long = running.submit(Request(PROMPT, 96))
    running.step()
    began = time.monotonic()
    late = running.submit(Request(PROMPT[::-1], 5, deadline=0.03))
    tokens, last = ends(running)
    assert last[late].finish == "error"
    assert "the deadline of 30 ms cannot be met" in last[late].error
    assert 0.02 < last[late].at - began < last[long].at - began
    assert last[long].finish == "length"
    assert late not in tokens
    assert running.stats().failed == 1


def test_time_before_it_was_submitted_counts(workers):
    running = engine(workers)
    number = running.submit(Request(PROMPT, 5, deadline=1.0), time.monotonic() - 1.0)
    _, last = ends(running)
    assert last[number].finish == "error"
    assert running.idle
