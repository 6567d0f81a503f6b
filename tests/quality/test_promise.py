"""The loop that keeps a budget, with planners and models made up to be awkward."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.errors import Infeasible
from edgewise.quality.plan_loss import Loss, student_t
from edgewise.quality.promise import FIRST, ROUNDS, WRONG, keep

LADDER = [2.0**-i for i in range(12)]  # predicted losses that plans can have


def planner(least=0.0, asked=None):
    """The plan of most loss within the budget, as one that saves bytes would."""

    def plan(budget):
        if asked is not None:
            asked.append(budget)
        usable = [loss for loss in LADDER if least <= loss <= budget]
        if not usable:
            raise Infeasible(f"nothing within {budget:.3g}", shortage_bytes=7)
        loss = max(usable)
        return SimpleNamespace(
            plan=SimpleNamespace(schemes=(str(loss),), rounded={}),
            estimate=SimpleNamespace(loss=loss),
        )

    return plan


def truth(factor):
    return lambda plan, attempt: Loss(float(plan.schemes[0]) * factor)


def test_a_plan_that_holds_is_taken_at_once():
    asked = []
    kept = keep(0.34, planner(asked=asked), truth(1.0))
    assert asked == [0.34 * FIRST]
    assert [(attempt.predicted, attempt.measured) for attempt in kept.rounds] == [(0.25, 0.25)]


def test_a_plan_that_loses_more_is_made_again_within_less():
    kept = keep(0.34, planner(), truth(3.0))
    assert kept.rounds[0].measured == 0.75
    assert kept.rounds[-1].measured <= 0.34
    assert kept.result.estimate.loss == kept.rounds[-1].predicted
    budgets = [attempt.budget for attempt in kept.rounds]
    assert budgets == sorted(budgets, reverse=True)


def test_plans_between_the_steps_are_not_missed():
    """In proportion the budget falls below all plans; one between them holds."""
    kept = keep(0.3, planner(least=0.1), truth(2.4))
    assert kept.result.estimate.loss == 0.125
    assert kept.rounds[-1].measured == pytest.approx(0.3)


def test_what_cannot_be_kept_says_by_how_much():
    with pytest.raises(Infeasible) as caught:
        keep(0.3, planner(least=0.2), truth(2.0))
    text = str(caught.value)
    assert text.startswith(
        "the quality budget of 0.3 cannot be kept: the best plan loses 0.5 when measured, 0.5 at "
        "most, 0.2 too much (0.25 predicted)"
    )
    assert "Try --quality 0.5 (nats per token), within which it is, or give more memory" in text
    assert caught.value.shortage_bytes == 7


@pytest.mark.parametrize("factor", [1.05, 1.3, 1.4, 2.0, 3.3])
@pytest.mark.parametrize("least", [0.1, 0.2, 0.3, 0.7])
def test_what_it_says_to_try_is_kept(factor, least):
    smallest = min(loss for loss in LADDER if loss >= least)
    with pytest.raises(Infeasible) as caught:
        keep(smallest * 1.02, planner(least=least), truth(factor))
    advice = re.search(r"--quality (\S+) ", str(caught.value))
    assert advice is not None
    assert keep(float(advice[1]), planner(least=least), truth(factor)).rounds


def test_no_plan_at_all_is_the_planners_own_reason():
    with pytest.raises(Infeasible, match=r"^nothing within 1e-09$"):
        keep(1e-9, planner(), truth(1.0))


def test_each_choice_of_schemes_is_measured_once():
    measured = []

    def loss(plan, attempt):
        assert attempt == len(measured)
        measured.append(plan.schemes)
        return Loss(1.0)

    with pytest.raises(Infeasible):
        keep(0.3, planner(), loss)
    assert len(measured) == len(set(measured)) <= ROUNDS


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.floats(1e-3, 1.0),
    st.lists(st.floats(0.2, 8.0), min_size=12, max_size=12),
    st.floats(0.0, 0.3),
)
def test_whatever_plans_lose_a_kept_budget_holds(budget, factors, error):
    by_plan = dict(zip(map(str, LADDER), factors, strict=True))

    measured = []

    def loss(plan, attempt):
        mean = float(plan.schemes[0]) * by_plan[plan.schemes[0]]
        measured.append(Loss(mean, error * mean, 9))
        return measured[-1]

    try:
        kept = keep(budget, planner(), loss)
    except Infeasible:
        return
    assert kept.rounds[-1].upper <= budget
    assert kept.rounds[-1].upper == measured[-1].upper(WRONG / 2 ** len(measured))
    assert len(kept.rounds) <= ROUNDS


def test_intervals_are_students():
    """Against a table (NIST), and the normal distribution."""
    for level, freedom, expected in (
        (0.05, 1, 6.314),
        (0.025, 5, 2.571),
        (0.01, 31, 2.453),
        (0.005, 63, 2.656),
        (0.025, 10_000, 1.960),
    ):
        assert student_t(level, freedom) == pytest.approx(expected, abs=2e-3)
    assert Loss.of(torch.tensor([1.0, 2.0, 3.0])).upper(0.05) == pytest.approx(
        2 + 2.920 / 3**0.5, 1e-3
    )
    assert Loss.of(torch.tensor([1.0])).upper(0.05) == float("inf")


def test_a_plan_is_kept_wrongly_as_rarely_as_promised():
    """Plans that all lose more than allowed, measured on few sequences each."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(200):

        def loss(plan, attempt):
            return Loss.of(torch.tensor(random.normal(0.32, 0.1, 8)))

        try:
            keep(0.3, planner(), loss)
            wrong += 1
        except Infeasible:
            pass
    assert wrong / 200 <= WRONG
