"""Requests with needs in front of the scheduler: who enters, who is refused, and when."""

import pytest

from edgewise.batching import POLICIES
from edgewise.batching.pace import Pace
from edgewise.errors import PromptError, Unattainable
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.coordinator.scheduler import EPOCH_SECONDS, Scheduler
from edgewise.runtime.engine import Request
from edgewise.runtime.limits import Limits

LIMITS = Limits(sequences=3, lanes=1, cache_tokens=240, context=100, chunk=8, share=8, page=4)
PACE = Pace((0.0, 0.1, 0.15, 0.2), lambda tokens: 0.01 * tokens, quality=0.98)


def request(prompt, new, deadline=None, quality=None, seed=0):
    tokens = tuple(range(seed, seed + prompt))
    return Request(tokens, new, deadline=deadline, min_quality=quality)


def scheduler(policy="dftsp", pace=PACE, limits=LIMITS):
    return Scheduler(limits, Admission(POLICIES[policy], pace))


def ran(one, now=0.0):
    """Requests in the order in which they began, and how many ran at most, once all are through."""
    order, most = {}, 0
    while (batch := one.next(now)) is not None:
        most = max(most, one.running)
        for row in batch.rows:
            order.setdefault(row.request, len(order))
            if row.sampling is not None:
                one.sampled(row.request, 0)
        one.returned(batch)
    return list(order), most


def test_a_deadline_that_nobody_could_keep_is_refused_at_once():
    """10 tokens in, 11 out: 0.1 s and ten rounds of 0.1 s."""
    one = scheduler()
    with pytest.raises(Unattainable, match=r"deadline of 1090 ms .* 10 tokens in and up to 11 out"):
        one.submit(0, request(10, 11, deadline=1.09))
    with pytest.raises(Unattainable, match=r"would take 1100 ms \(predicted\)"):
        one.submit(1, request(10, 11, deadline=1.09))
    one.submit(2, request(10, 11, deadline=1.11))
    assert one.waiting == 1
    assert issubclass(Unattainable, PromptError)


def test_who_has_waited_in_vain_ends_at_once_and_no_other_does():
    one = scheduler("no-batch")
    one.submit(0, request(10, 50))
    one.submit(1, request(10, 11, deadline=2.0, seed=20))
    one.submit(2, request(10, 11, seed=40))
    assert one.next(0.0) is not None
    assert one.hopeless(0.89) == {}
    (error,) = one.hopeless(0.91).values()
    assert "after 910 ms of waiting" in str(error)
    assert "would take 1100 ms" in str(error)
    assert (one.waiting, one.running) == (1, 1)


def test_without_measurements_only_what_is_past_is_late():
    one = Scheduler(LIMITS)
    one.submit(0, request(10, 50, deadline=0.001))
    assert list(one.hopeless(0.0009)) == []
    assert list(one.hopeless(0.002)) == [0]


@pytest.mark.parametrize(
    ("wanted", "kept", "said"),
    [
        (0.99, 0.98, "a quality of 0.99 was asked for; this plan's is predicted to be 0.98"),
        (0.5, None, "a quality of 0.5 was asked for; this plan's was not measured"),
        (0.98, 0.98, ""),
        (None, None, ""),
        (None, 0.1, ""),
    ],
)
def test_a_quality_that_the_plan_does_not_keep_is_refused(wanted, kept, said):
    one = scheduler(pace=Pace(PACE.round_seconds, PACE.prompt_seconds, kept))
    if said:
        with pytest.raises(Unattainable, match=said):
            one.submit(0, request(4, 4, quality=wanted))
    else:
        one.submit(0, request(4, 4, quality=wanted))


def test_after_a_restart_on_a_lesser_plan_who_waits_for_quality_ends():
    one = scheduler("no-batch")
    one.submit(0, request(4, 40))
    one.submit(1, request(4, 4, quality=0.97, seed=9))
    one.next(0.0)
    lesser = Admission(POLICIES["no-batch"], Pace(PACE.round_seconds, PACE.prompt_seconds, 0.9))
    assert one.restart(LIMITS, lesser) == {}
    assert list(one.hopeless(0.0)) == [1]


@pytest.mark.parametrize("needs", [{"deadline": 0.0}, {"deadline": -1.0}, {"min_quality": 1.1}])
def test_needs_that_mean_nothing_are_refused(needs):
    with pytest.raises(PromptError):
        Request((1,), 1, **needs)


@pytest.mark.parametrize(("policy", "most"), [("fcfs", 3), ("static-batch", 3), ("no-batch", 1)])
def test_in_order_as_many_at_a_time_as_the_policy_says(policy, most):
    one = scheduler(policy)
    for number in range(7):
        one.submit(number, request(6, 3 + number % 3, seed=9 * number))
    order, ran_together = ran(one)
    assert order == list(range(7))
    assert ran_together == most


def test_a_static_batch_lets_nobody_in_until_all_are_through():
    """Requests of 1, 9 and 9 tokens: the first is gone for long when the fourth enters."""
    one = scheduler("static-batch")
    for number, new in enumerate((1, 9, 9, 2)):
        one.submit(number, request(4, new, seed=9 * number))
    finished, at_entry = [], None
    while (batch := one.next()) is not None:
        if at_entry is None and any(row.request == 3 for row in batch.rows):
            at_entry = list(finished)
        for row in batch.rows:
            if row.sampling is not None and one.sampled(row.request, 0):
                finished.append(row.request)
        one.returned(batch)
    assert at_entry == [0, 1, 2]


def test_dftsp_leaves_out_who_would_make_others_late():
    """0 runs and has just time enough; 1 would keep it too long, 2 would not."""
    one = scheduler()
    one.submit(0, request(10, 11, deadline=1.2))
    assert one.next(0.0).rows[0].request == 0
    one.submit(1, request(30, 5, seed=20))
    one.submit(2, request(2, 2, deadline=9.0, seed=60))
    one.next(0.0)
    assert (one.running, one.waiting) == (2, 1)


def test_who_runs_and_is_late_keeps_nobody_out():
    one = scheduler()
    one.submit(0, request(10, 11, deadline=1.2))
    one.next(0.0)
    one.submit(1, request(30, 5, seed=20), 5.0)
    one.next(5.0)
    assert one.running == 2


def test_the_policy_is_asked_again_after_an_epoch_though_nobody_came_or_went():
    asked = []

    def policy(waiting, room):
        asked.append([one.number for one in waiting])
        return [] if room.running else [waiting[0].number]

    one = Scheduler(LIMITS, Admission(policy, PACE))
    one.submit(0, request(9, 9))
    one.submit(1, request(9, 9, seed=30))
    for now in (0.0, 0.01, EPOCH_SECONDS - 0.001, EPOCH_SECONDS, EPOCH_SECONDS + 0.01):
        if (batch := one.next(now)) is not None:
            one.returned(batch)
    assert asked == [[0, 1], [1]]
    one.submit(2, request(9, 9, seed=60), EPOCH_SECONDS + 0.02)
    one.next(EPOCH_SECONDS + 0.02)
    assert asked[2:] == [[1, 2]]


def test_who_has_tokens_is_not_ended_after_a_restart():
    one = scheduler()
    one.submit(0, request(4, 6, deadline=1.0))
    batch = one.next(0.0)
    one.sampled(0, 0)
    one.returned(batch)
    one.restart(LIMITS)
    assert one.hopeless(7.0) == {}
    assert one.next(7.0).rows[0].request == 0
