"""Schedules over memory levels: by hand, by bounds, and against other schedules."""

import random
from dataclasses import replace

import pytest

from edgewise.simulation.memory_levels import (
    MemoryLevels,
    Schedule,
    TrainingWork,
    best_schedule,
    dram_bytes,
    simulated_seconds,
    step_seconds,
    units_of,
)

# 2 blocks, of which the second is trained, 2 rows of 5 tokens; 8 bits a weight.
WORK = TrainingWork(1, 2, 2, 5, 100.0, 8.0, 4.0, 6.0)
LEVELS = MemoryLevels(50.0, 1e9, 10.0, 2.0, 1000.0)


def test_a_step_by_hand():
    """Row by row: 5 tokens have states of 20 bytes, which fit in SRAM: weights come once. Per row
    the first block forward, the second forward, which writes 30 bytes to keep, and back."""
    forward, keeps, back = list(units_of(WORK, Schedule(1, False), LEVELS))[:3]
    assert (forward.to_sram, forward.from_sram, forward.operations) == (120.0, 20.0, 1000.0)
    assert (keeps.to_sram, keeps.from_sram) == (120.0, 50.0)
    assert (back.to_sram, back.from_sram) == (150.0, 20.0)
    one_by_one = (12 + 2 + 1) + (12 + 5 + 1) + (15 + 2 + 1)
    assert step_seconds(WORK, Schedule(1, False), LEVELS) == pytest.approx(2 * one_by_one)
    assert step_seconds(WORK, Schedule(1, True), LEVELS) == pytest.approx(2 * (12 + 12 + 15))
    larger = replace(LEVELS, sram_bytes=80.0)  # half of it holds two rows: weights come once
    both = step_seconds(WORK, Schedule(2, True), larger)
    assert both == pytest.approx((100 + 40 + 100 + 40 + 100 + 40 + 60) / 10)


def test_the_ssd_is_the_slowest_where_weights_lie_there():
    """100 bytes of weights at 2 a second, three times a row."""
    assert step_seconds(WORK, Schedule(1, True, 0.0), LEVELS) == pytest.approx(2 * 3 * 50)
    kept_too = step_seconds(WORK, Schedule(1, True, 0.0, 0.0), LEVELS)
    assert kept_too == pytest.approx(2 * (50 + 50 + 65))  # 30 kept bytes come back


def test_blocks_that_run_again_keep_their_input_alone():
    plain, again = Schedule(1, False), Schedule(1, False, recomputed=1)
    assert len(list(units_of(WORK, again, LEVELS))) == len(list(units_of(WORK, plain, LEVELS))) + 2
    assert sum(x.from_sram for x in units_of(WORK, again, LEVELS)) == 2 * 4 * 20
    deep = TrainingWork(0, 8, 2, 5, 100.0, 8.0, 4.0, 60.0)
    sizes = [dram_bytes(deep, Schedule(2, True, recomputed=n)) for n in (0, 4, 8)]
    assert sizes == [800 + 10 * x for x in (8 * 60 + 8, 4 * 60 + 4 * 4 + 60 + 8, 8 * 4 + 60 + 8)]


def random_work(rng):
    first = rng.randint(0, 4)
    return TrainingWork(
        first, first + rng.randint(1, 4), rng.choice([1, 2, 4, 6]), rng.randint(1, 50),
        rng.uniform(10, 1000), rng.choice([3.0, 4.0, 8.0]), rng.uniform(1, 10), rng.uniform(1, 60),
    )  # fmt: skip


def random_levels(rng):
    return MemoryLevels(
        rng.uniform(20, 2000), 10 ** rng.uniform(2.5, 5), rng.uniform(5, 50), rng.uniform(0.5, 5),
        10 ** rng.uniform(1, 5),
    )  # fmt: skip


def random_schedule(rng, work):
    share = [1.0, 0.75, 0.5, 0.25, 0.0]
    return Schedule(
        rng.choice([n for n in range(1, work.rows + 1) if work.rows % n == 0]),
        rng.random() < 0.5, rng.choice(share), rng.choice(share), rng.choice([0, 1]),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_simulation_lies_between_what_cannot_be_beaten_and_the_sum(seed):
    """Whoever is busiest is busy that long; without overlap, all one after the other."""
    rng = random.Random(seed)
    work, levels = random_work(rng), random_levels(rng)
    schedule = random_schedule(rng, work)
    parts = [unit.parts(levels) for unit in units_of(work, schedule, levels)]
    simulated = simulated_seconds(work, schedule, levels)
    busiest, total = max(map(sum, zip(*parts, strict=True))), sum(map(sum, parts))
    assert busiest * (1 - 1e-9) <= simulated <= total * (1 + 1e-9)
    if not schedule.overlap:
        assert simulated == pytest.approx(total)
        assert step_seconds(work, schedule, levels) == pytest.approx(total)


@pytest.mark.parametrize("seed", range(100))
def test_no_schedule_that_fits_is_quicker(seed):
    rng = random.Random(seed)
    work, levels = random_work(rng), random_levels(rng)
    best = best_schedule(work, levels)
    for _ in range(100):
        other = random_schedule(rng, work)
        if dram_bytes(work, other) <= levels.dram_bytes:
            assert best is not None
            assert best[1] <= step_seconds(work, other, levels) * (1 + 1e-6)
    if best is not None:
        assert dram_bytes(work, best[0]) <= levels.dram_bytes
        assert best[1] == step_seconds(work, best[0], levels)
