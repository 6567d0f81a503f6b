"""What each part of Edge-LLM brings on the paper's device, by the paper's own cost model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from edgewise.plots import save_lines
from edgewise.simulation.memory_levels import (
    MemoryLevels,
    Schedule,
    TrainingWork,
    best_schedule,
    dram_bytes,
    simulated_seconds,
    step_seconds,
)
from edgewise.studies.page import Figure, Section, Value
from edgewise.units import format_bytes

# LLaMA-7B: hidden states, inner width and blocks; rows and tokens of its training script.
HIDDEN, INNER, BLOCKS, ROWS, TOKENS, WINDOW = 4096, 11_008, 32, 16, 1024, 8
BLOCK_WEIGHTS = 4 * HIDDEN**2 + 3 * HIDDEN * INNER
NUMBER_BYTES = 2
KEPT_NUMBERS = 6 * HIDDEN + 3 * INNER  # of a token, in a block: ours, the paper does not say
OPERATIONS = 4e12  # a second: ours, the paper does not say
RATES = (0.5e12, 1e12, 2e12, 4e12, 8e12, 16e12)
DEVICE = MemoryLevels(1e6, 8e9, 25.6e9, 2e9, OPERATIONS)
NAIVE = Schedule(group=1, overlap=False)


@dataclass(frozen=True, slots=True)
class TrainingWay:
    """A way to train, one part more than the one before; `windows` are averaged over. Where
    `searched` the schedule is the best there is, else row by row without overlap."""

    name: str
    windows: Sequence[tuple[int, int]]
    bits: float
    dense: float
    searched: bool


ALL = ((0, BLOCKS),)
EACH = tuple((first, first + WINDOW) for first in range(0, BLOCKS, WINDOW))
PARTS = (
    TrainingWay("LoRA through all blocks, 8 bits", ALL, 8.0, 1.0, False),
    TrainingWay("+ windows of 8", EACH, 8.0, 1.0, False),
    TrainingWay("+ 4.1 bits", EACH, 4.1, 1.0, False),
    TrainingWay("+ half pruned", EACH, 4.1, 0.5, False),
    TrainingWay("+ schedule", EACH, 4.1, 0.5, True),
    TrainingWay("schedule alone", ALL, 8.0, 1.0, True),
)


def work_of(part: TrainingWay, window: tuple[int, int]) -> TrainingWork:
    """A pruned weight takes no operation, and no bits of its own."""
    return TrainingWork(
        *window, ROWS, TOKENS, BLOCK_WEIGHTS * part.dense, part.bits,
        HIDDEN * NUMBER_BYTES, KEPT_NUMBERS * NUMBER_BYTES,
    )  # fmt: skip


def schedule_of(work: TrainingWork, levels: MemoryLevels, searched: bool) -> Schedule:
    """Row by row, what does not fit into DRAM lies on the SSD; or the best."""
    if searched:
        best = best_schedule(work, levels)
        assert best is not None
        return best[0]
    shares = [(w, k) for w in (1.0, 0.75, 0.5, 0.25, 0.0) for k in (1.0, 0.75, 0.5, 0.25, 0.0)]
    naive = (replace(NAIVE, weights_in_dram=w, kept_in_dram=k) for w, k in shares)
    return next(x for x in naive if dram_bytes(work, x) <= levels.dram_bytes)


def seconds_of(part: TrainingWay, levels: MemoryLevels) -> tuple[float, float, float]:
    """A step's seconds by formula and as simulated, and the most bytes of DRAM."""
    rows = []
    for window in part.windows:
        work = work_of(part, window)
        schedule = schedule_of(work, levels, part.searched)
        rows.append((
            step_seconds(work, schedule, levels), simulated_seconds(work, schedule, levels),
            dram_bytes(work, schedule),
        ))  # fmt: skip
    count = len(rows)
    return sum(x[0] for x in rows) / count, sum(x[1] for x in rows) / count, max(x[2] for x in rows)


def parts_section() -> Section:
    """Which part brings what."""
    rows, first = list[tuple[Value, ...]](), 0.0
    for part in PARTS:
        seconds, simulated, size = seconds_of(part, DEVICE)
        first = first or seconds
        rows.append((part.name, seconds, simulated, first / seconds, format_bytes(size)))
    columns = ("way to train", "seconds a step", "simulated", "times as quick", "DRAM")
    caption = (
        f"LLaMA-7B, {ROWS} rows of {TOKENS} tokens, on 1 MB of SRAM, 8 GB of DRAM at 25.6 GB/s and "
        f"an SSD at 2 GB/s; {OPERATIONS / 1e12:g} T operations a second, which is ours. Seconds by "
        "Eq. 3; simulated: channels and processor each at one thing at a time."
    )
    return Section(
        "Which part brings what, by the paper's cost model", caption, columns, tuple(rows)
    )


def schedule_section() -> Section:
    """What the search chose."""
    rows = list[tuple[Value, ...]]()
    for part in (part for part in PARTS if part.searched):
        for window in part.windows:
            work = work_of(part, window)
            x = schedule_of(work, DEVICE, True)
            rows.append((
                part.name, f"{window[0]}-{window[1] - 1}", str(x.group),
                "yes" if x.overlap else "no", f"{x.weights_in_dram:.0%}",
                f"{x.kept_in_dram:.0%}", str(x.recomputed),
            ))  # fmt: skip
    columns = ("way to train", "blocks trained", "rows at a time", "overlap", "weights in DRAM",
               "kept in DRAM", "blocks that run again")  # fmt: skip
    caption = "Of each window, the quickest schedule that fits; the rest lies on the SSD."
    return Section("What the search chose", caption, columns, tuple(rows))


def processor_section() -> Section:
    """The same on quicker and slower processors."""
    levels = [replace(DEVICE, operations_per_second=rate) for rate in RATES]
    naive = [seconds_of(PARTS[0], each)[0] for each in levels]
    ratios = {
        part.name: [a / seconds_of(part, x)[0] for a, x in zip(naive, levels, strict=True)]
        for part in PARTS[1:]
    }
    rates = [rate / 1e12 for rate in RATES]
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (f"{rate:g}", *(values[i] for values in ratios.values())) for i, rate in enumerate(rates)
    )
    title = "Times as quick as LoRA, against the processor's speed"
    series = {name: (rates, values) for name, values in ratios.items()}
    draw = partial(
        save_lines, series, title=title, x="T operations a second", y="times as quick", log_x=True
    )
    caption = "Published: 2.92 [V], on a device whose speed was found nowhere."
    return Section(
        title, caption, ("T operations a second", *ratios), rows, Figure("edge-llm-rates", draw)
    )
