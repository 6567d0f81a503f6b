"""A step of training on a device whose memory is small, fast and near, or large, slow and far:
SRAM, DRAM and an SSD (Edge-LLM, arXiv 2406.15758, section "hardware scheduling", Fig. 4).

A step is a grid of units, one block for one group of rows, forward and, in the window, backward.
The schedule says in which order they come, what is kept where, and whether moving and computing
overlap. The paper's Eq. 3, for each unit:

    T = max(read to SRAM, write to DRAM, read to DRAM, write to SSD, compute)      overlapping
    T = their sum                                                                  one by one

A block's weights are larger than SRAM: its matrices come in pieces, and either a piece of the
weights waits in SRAM for all tokens of the unit, or a piece of the tokens for all weights. With W
the weights' bytes, S the tokens' states and F the share of SRAM that a piece may take:

    read to SRAM = min(W + S ceil(W / F), S + W ceil(S / F))
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class MemoryLevels:
    """Bytes of SRAM and DRAM; bytes per second between them, and between DRAM and the SSD, each
    way; operations per second."""

    sram_bytes: float
    dram_bytes: float
    dram_bandwidth: float
    ssd_bandwidth: float
    operations_per_second: float


@dataclass(frozen=True, slots=True)
class TrainingWork:
    """A step of a window [first, end) of blocks: `rows` of `tokens` each. A block has
    `block_weights` numbers that are not zero, of `weight_bits` each; a token's states have
    `state_bytes` between blocks, and `kept_bytes` of it are kept in each block for the backward
    pass."""

    first: int
    end: int
    rows: int
    tokens: int
    block_weights: float
    weight_bits: float
    state_bytes: float
    kept_bytes: float

    @property
    def block_bytes(self) -> float:
        return self.block_weights * self.weight_bits / 8


@dataclass(frozen=True, slots=True)
class Schedule:
    """`group` rows go through all blocks, forward and back, before the next ones: 1 is row by row,
    all of them column by column. Of the weights and of what is kept, shares lie in DRAM, the rest
    on the SSD. The first `recomputed` blocks of the window keep their input alone, and run forward
    again before they run backward."""

    group: int
    overlap: bool
    weights_in_dram: float = 1.0
    kept_in_dram: float = 1.0
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One block for one group of rows: bytes that move, and operations."""

    to_sram: float
    from_sram: float
    from_ssd: float
    to_ssd: float
    operations: float

    def parts(self, levels: MemoryLevels) -> tuple[float, float, float, float, float]:
        """Seconds that each channel and the processor are at it."""
        return (
            self.to_sram / levels.dram_bandwidth,
            self.from_sram / levels.dram_bandwidth,
            self.from_ssd / levels.ssd_bandwidth,
            self.to_ssd / levels.ssd_bandwidth,
            self.operations / levels.operations_per_second,
        )


def units_of(work: TrainingWork, schedule: Schedule, levels: MemoryLevels) -> Iterator[Unit]:
    """A step's units in the order of a schedule."""
    groups, rest = divmod(work.rows, schedule.group)
    for rows in [schedule.group] * groups + ([rest] if rest else []):
        again = range(work.first, work.first + schedule.recomputed)
        for block in range(work.end):
            keeps = block >= work.first and block not in again
            yield _unit(work, schedule, levels, rows, writes=keeps)
        for block in reversed(range(work.first, work.end)):
            if block in again:
                yield _unit(work, schedule, levels, rows)
            yield _unit(work, schedule, levels, rows, reads=block not in again)


def _unit(
    work: TrainingWork,
    schedule: Schedule,
    levels: MemoryLevels,
    rows: int,
    *,
    writes: bool = False,
    reads: bool = False,
) -> Unit:
    """Forward, and what it `writes` for later is kept; or backward, which `reads` it: gradients of
    states take as many operations as the states did, as the weights are not trained."""
    tokens = rows * work.tokens
    states, weights = tokens * work.state_bytes, work.block_bytes
    piece = levels.sram_bytes / (2 if schedule.overlap else 1)  # of two: one comes, one is used
    by_weights = weights + states * math.ceil(weights / piece)
    by_states = states + weights * math.ceil(states / piece)
    kept = tokens * work.kept_bytes
    return Unit(
        min(by_weights, by_states) + kept * reads,
        states + kept * writes,
        weights * (1 - schedule.weights_in_dram) + kept * reads * (1 - schedule.kept_in_dram),
        kept * writes * (1 - schedule.kept_in_dram),
        2 * work.block_weights * tokens,
    )


def dram_bytes(work: TrainingWork, schedule: Schedule) -> float:
    """The most that lies in DRAM at a time: weights, what a group's backward pass needs, and states
    on their way."""
    tokens = min(schedule.group, work.rows) * work.tokens
    kept = (work.end - work.first - schedule.recomputed) * work.kept_bytes * schedule.kept_in_dram
    inputs = schedule.recomputed * work.state_bytes
    one = work.kept_bytes if schedule.recomputed else 0.0  # of the block that runs again
    weights = work.end * work.block_bytes * schedule.weights_in_dram
    return weights + tokens * (kept + inputs + one + 2 * work.state_bytes)


def step_seconds(work: TrainingWork, schedule: Schedule, levels: MemoryLevels) -> float:
    """By the paper's Eq. 3, unit by unit."""
    combine = max if schedule.overlap else sum
    return sum(combine(unit.parts(levels)) for unit in units_of(work, schedule, levels))


def simulated_seconds(work: TrainingWork, schedule: Schedule, levels: MemoryLevels) -> float:
    """As channels and processor would do it, each one thing after the other, what a unit needs one
    unit ahead: from the SSD, to SRAM, compute, back to DRAM, to the SSD."""
    order = (2, 0, 4, 1, 3)  # of Unit.parts
    free = [0.0] * len(order)  # when each has done its part of the unit before
    begun = [0.0] * len(order)  # when each began its part of the unit before
    for unit in units_of(work, schedule, levels):
        parts = unit.parts(levels)
        ready, before = 0.0, list(begun)
        for stage, which in enumerate(order):
            # The room for what comes is free once the stage behind has taken the unit before.
            room = before[stage + 1] if stage + 1 < len(order) else 0.0
            alone = 0.0 if schedule.overlap else max(free)
            begun[stage] = max(ready, free[stage], room, alone)
            ready = free[stage] = begun[stage] + parts[which]
    return max(free)


def best_schedule(work: TrainingWork, levels: MemoryLevels) -> tuple[Schedule, float] | None:
    """The quickest of all schedules that fit, and its seconds; None where none fits. Shares by
    quarters, groups by divisors of the rows: all are looked at."""
    quarters = (1.0, 0.75, 0.5, 0.25, 0.0)
    groups = [n for n in range(1, work.rows + 1) if work.rows % n == 0]
    again = {0, *(work.end - work.first >> n for n in range(6))}
    best: tuple[Schedule, float] | None = None
    for values in product(groups, (True, False), quarters, quarters, sorted(again)):
        schedule = Schedule(*values)
        if dram_bytes(work, schedule) > levels.dram_bytes:
            continue
        seconds = step_seconds(work, schedule, levels)
        if best is None or seconds < best[1] * (1 - 1e-9):
            best = schedule, seconds
    return best
