"""What more load does to others.

That adding a request never lets another finish earlier is *false* in general: lanes return to the
first stage, so another request changes who meets whom in a queue, or who shares a lane (the last
two tests show it). It holds

- for one lane with room for one request, whatever the plan, with or without the barrier;
- for requests of one token each (which pass every queue once, in order of arrival), without the
  barrier, on a plan that visits each device once.

And always: nobody finishes earlier than alone.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.simulation import Arrival, simulate_plan
from tests.simulation.chains import chain

EXACT = 1e-9
seconds = st.integers(0, 5).map(float)
UP_TO_SIX = st.integers(1, 6)
ANY_PLAN = st.booleans()


def requests(new=UP_TO_SIX):
    return st.builds(Arrival, st.integers(0, 30).map(float), st.integers(2, 9), new)


@st.composite
def cases(draw, lanes, new=UP_TO_SIX, revisit=ANY_PLAN):
    stages = draw(st.lists(seconds, min_size=2, max_size=3))
    hops = draw(st.lists(seconds, min_size=len(stages) - 1, max_size=len(stages) - 1))
    made = chain(
        stages,
        hops,
        back=draw(seconds),
        lanes=draw(lanes),
        per_prompt_token=0.25,
        revisit=draw(revisit),
    )
    return made, draw(st.lists(requests(new), min_size=1, max_size=6)), draw(requests(new))


def finishes(made, arriving, **options) -> list[float]:
    outcome = simulate_plan(*made, arriving, **options)
    return [request.finish_seconds for request in outcome.requests]


def assert_nobody_gains(made, arriving, extra, **options) -> None:
    before = finishes(made, arriving, **options)
    after = finishes(made, [*arriving, extra], **options)
    assert all(a >= b - EXACT for a, b in zip(after, before, strict=False))


@settings(max_examples=80, deadline=None)
@given(cases(st.integers(1, 4)), st.booleans())
def test_nobody_finishes_earlier_than_alone(case, bubbles: bool) -> None:
    made, arriving, extra = case
    loaded = finishes(made, [*arriving, extra], bubbles=bubbles)
    alone = [finishes(made, [request])[0] for request in (*arriving, extra)]
    assert all(a >= b - EXACT for a, b in zip(loaded, alone, strict=True))


@settings(max_examples=80, deadline=None)
@given(cases(st.just(1)), st.booleans())
def test_one_lane_more_load_never_lets_anyone_finish_earlier(case, bubbles: bool) -> None:
    assert_nobody_gains(*case, bubbles=bubbles)


@settings(max_examples=80, deadline=None)
@given(cases(st.integers(1, 4), new=st.just(1), revisit=st.just(False)))
def test_single_tokens_more_load_never_lets_anyone_finish_earlier(case) -> None:
    assert_nobody_gains(*case)


@settings(max_examples=80, deadline=None)
@given(cases(st.integers(1, 4)), st.booleans())
def test_work_is_conserved(case, bubbles: bool) -> None:
    """Another request adds its own work to every device and link, and none is ever busy for longer
    than the makespan."""
    made, arriving, extra = case
    before = simulate_plan(*made, arriving, bubbles=bubbles).busy_seconds()
    outcome = simulate_plan(*made, [*arriving, extra], bubbles=bubbles)
    added = simulate_plan(*made, [extra]).busy_seconds()
    for resource, busy in outcome.busy_seconds().items():
        expected = before.get(resource, 0.0) + added.get(resource, 0.0)
        assert busy == pytest.approx(expected, abs=EXACT)
        assert busy <= outcome.makespan_seconds + EXACT


def test_more_load_can_let_someone_finish_earlier_by_sharing_a_lane() -> None:
    made = chain([0.5, 0.5], [0.0], size=2)
    two = [Arrival(1.0, 4, 3), Arrival(1.5, 4, 3)]
    assert finishes(made, two) == pytest.approx([4.0, 7.0])
    assert finishes(made, [*two, Arrival(0.0, 4, 3)])[1] == pytest.approx(6.0)


def test_more_load_can_let_someone_finish_earlier_by_keeping_another_out() -> None:
    """The second request used to slip in between the first one's tokens; now it finds no lane."""
    made = chain([1.0, 1.0], [0.0], lanes=2)
    two = [Arrival(0.0, 4, 2), Arrival(1.5, 4, 2)]
    assert finishes(made, two) == pytest.approx([4.5, 5.5])
    assert finishes(made, [*two, Arrival(0.0, 4, 2)])[0] == pytest.approx(4.0)
