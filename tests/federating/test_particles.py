"""FedPSO and Model Swarms: their formulas by hand, and that the best never gets worse."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.federating.fed_pso import fed_pso_start, fed_pso_step
from edgewise.federating.model_swarms import (
    ModelSwarms,
    crossovers,
    swarm_judged,
    swarm_of,
    swarm_step,
)
from edgewise.federating.particles import Particle, improving, particle_of
from edgewise.federating.updates import Arrays
from tests.federating.updates import drawn_arrays, same


def point(*numbers: float) -> dict[str, np.ndarray]:
    return {"x": np.array(numbers)}


def near(target: np.ndarray) -> Callable[[Arrays], float]:
    """A utility whose only peak, 0, is at `target`."""
    return lambda arrays: -float(((arrays["x"] - target) ** 2).sum())


def search(experts, utility, generator, rounds):
    """The swarm as it begins and after each round."""
    swarm = swarm_of(experts, [utility(x) for x in experts], generator)
    yield swarm
    for _ in range(rounds):
        swarm = swarm_step(swarm, generator)
        swarm = swarm_judged(swarm, [utility(x.position) for x in swarm.particles])
        yield swarm


def test_a_particle_remembers_the_best_place_not_the_last() -> None:
    particle = particle_of(point(1.0), point(0.0)).judged(5.0)
    assert (particle.best_utility, particle.stale) == (5.0, 0)
    moved = particle.at(point(2.0)).judged(3.0)
    assert (moved.best["x"][0], moved.best_utility, moved.stale) == (1.0, 5.0, 1)
    assert moved.judged(math.nan).judged(5.0).stale == 3
    assert moved.judged(6.0).best["x"][0] == 2.0


def test_nothing_that_is_given_in_changes_a_particle_later() -> None:
    """What is wrong with FedPSO's published code: one model object plays every role."""
    arrays = point(1.0, 2.0)
    particle = particle_of(arrays, arrays).judged(1.0)
    trained = point(7.0, 7.0)
    moved = particle.at(trained)
    arrays["x"][:] = trained["x"][:] = 99.0
    assert particle.best["x"].tolist() == [1.0, 2.0]
    assert moved.position["x"].tolist() == [7.0, 7.0]
    assert moved.best["x"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        particle.best["x"] += 1.0


def test_a_fed_pso_step_by_hand() -> None:
    particle = Particle(point(1.0, 0.0), point(10.0, -10.0), best=point(2.0, 0.0))
    own, common = np.random.default_rng(3).random(2)
    moved = fed_pso_step(particle, point(1.0, 5.0), np.random.default_rng(3))
    speed = [0.3 * 10 + 0.7 * own * (2 - 1), 0.3 * -10 + 1.4 * common * (5 - 0)]
    assert moved.velocity["x"] == pytest.approx(speed)
    assert moved.position["x"] == pytest.approx([1 + speed[0], speed[1]])
    assert particle.position["x"].tolist() == [1.0, 0.0]


def test_a_fed_pso_particle_starts_slowly_and_as_its_generator_says() -> None:
    arrays = drawn_arrays(np.random.default_rng(0))
    one, again, other = (fed_pso_start(arrays, np.random.default_rng(x)) for x in (1, 1, 2))
    assert same(one.velocity, again.velocity)
    assert not same(one.velocity, other.velocity)
    assert all(np.abs(x).max() <= 0.1 and x.dtype == np.float32 for x in one.velocity.values())
    assert same(one.position, arrays)


def test_only_who_improves_is_asked_for_its_arrays() -> None:
    assert improving({"b": 0.7, "a": 0.7, "c": 0.1}, 0.5) == "a"
    assert improving({"a": 0.5, "b": math.nan}, 0.5) is None
    assert improving({}, -math.inf) is None


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_common_best_of_fed_pso_never_falls(seed: int) -> None:
    """The rounds of `fed_pso`'s description; training is a step up the slope, with noise."""
    generator = np.random.default_rng(seed)
    target, best, best_utility = generator.standard_normal(3), point(0.0, 0.0, 0.0), -math.inf
    utility = near(target)
    clients = {str(i): fed_pso_start(best, generator) for i in range(4)}
    history = []
    for _ in range(15):
        for name, particle in clients.items():
            moved = fed_pso_step(particle, best, generator)
            slope = 0.1 * (target - moved.position["x"]) + 0.05 * generator.standard_normal(3)
            trained = {"x": moved.position["x"] + slope}
            clients[name] = moved.at(trained).judged(utility(trained))
        utilities = {x: utility(y.position) for x, y in clients.items()}
        if winner := improving(utilities, best_utility):
            best, best_utility = clients[winner].position, utilities[winner]
        history.append(best_utility)
        assert best_utility == max(x.best_utility for x in clients.values())
        assert utility(best) == best_utility
    assert history == sorted(history)
    assert history[-1] > utility(point(0.0, 0.0, 0.0))


def test_a_model_swarm_step_by_hand() -> None:
    experts = [point(0.0), point(4.0)]
    swarm = swarm_of(experts, [1.0, 2.0], np.random.default_rng(0))
    assert [x.velocity["x"][0] for x in swarm.particles] == [4.0, -4.0]
    assert (swarm.best["x"][0], swarm.worst["x"][0]) == (4.0, 0.0)
    draws = np.random.default_rng(5).random((2, 4)) * (0.4, 0.3, 0.3, 0.3)
    moved = swarm_step(swarm, np.random.default_rng(5))
    for particle, before, (v, p, g, w) in zip(moved.particles, swarm.particles, draws, strict=True):
        x = before.position["x"][0]
        pulls = v * before.velocity["x"][0] + p * 0.0 + g * (4.0 - x) + w * (x - 0.0)
        speed = pulls / (v + p + g + w)
        assert particle.velocity["x"][0] == pytest.approx(speed)
        assert particle.position["x"][0] == pytest.approx(x + speed)
    assert moved.step == 0.95


def test_a_particle_that_does_not_improve_goes_back_to_its_best() -> None:
    chosen = ModelSwarms(inertia=1.0, to_own=0.0, to_best=0.0, from_worst=0.0, restart_after=2)
    generator = np.random.default_rng(0)
    swarm = swarm_of([point(0.0), point(1.0)], [1.0, 0.0], generator, chosen)
    for _ in range(2):
        swarm = swarm_judged(swarm_step(swarm, generator, chosen), [0.0, -1.0])
    assert swarm.particles[0].position["x"][0] == pytest.approx(1.95)  # 0 + 1 + 0.95
    swarm = swarm_step(swarm, generator, chosen)
    assert swarm.particles[0].position["x"][0] == 0.0
    assert swarm.particles[0].stale == 0


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
@settings(max_examples=30)
def test_the_best_of_a_model_swarm_never_falls_and_is_what_was_measured(
    seed: int, size: int
) -> None:
    generator = np.random.default_rng(seed)
    experts = [point(*generator.standard_normal(4)) for _ in range(size)]
    measured: list[float] = []

    def utility(arrays: Arrays) -> float:
        measured.append(near(np.ones(4))(arrays))
        return measured[-1]

    previous = -math.inf
    for swarm in search(experts, utility, generator, rounds=25):
        assert swarm.best_utility == max(measured) >= previous
        assert swarm.worst_utility == min(measured)
        assert near(np.ones(4))(swarm.best) == swarm.best_utility
        previous = swarm.best_utility


def test_a_model_swarm_gets_nearer_than_its_experts() -> None:
    """The peak lies among ten experts: over 20 seeds never further than the best of them, and at
    the median within half its distance squared. (Of a best one that is near by luck, no better one
    may turn up before patience ends.)"""
    gains = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        experts = [point(*(np.ones(4) + 2 * generator.standard_normal(4))) for _ in range(10)]
        swarms = list(search(experts, near(np.ones(4)), generator, rounds=50))
        gains.append(swarms[-1].best_utility / swarms[0].best_utility)
    assert max(gains) <= 1.0
    assert np.median(gains) < 0.5


def test_a_utility_that_is_no_number_is_neither_best_nor_worst() -> None:
    swarm = swarm_of([point(0.0), point(1.0)], [math.nan, 0.3], np.random.default_rng(0))
    assert (swarm.best["x"][0], swarm.worst["x"][0]) == (1.0, 1.0)


def test_one_expert_is_no_swarm() -> None:
    with pytest.raises(ValueError, match="at least two"):
        swarm_of([point(0.0)], [1.0], np.random.default_rng(0))


def test_crossovers_lie_on_the_line_through_two_experts() -> None:
    experts = [point(0.0, 0.0), point(1.0, 2.0)]
    mixed = crossovers(experts, 50, np.random.default_rng(0))
    assert all(x["x"][1] == pytest.approx(2 * x["x"][0]) for x in mixed)
    assert min(x["x"][0] for x in mixed) < 0.0
    assert max(x["x"][0] for x in mixed) > 1.0
