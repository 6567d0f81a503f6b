"""DILEMMA's Table 1, and figures 3, 5 and 6 (arXiv 2503.01704).

Its cells: published/dilemma.toml. What the paper says and what is reconstructed, and how to read
the page: docs/studies/dilemma.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import DilemmaInstance, solve_instance
from edgewise.planning.tables import Floats, Ints
from edgewise.plots import save_lines
from edgewise.studies.page import Figure, OnStep, Page, Section, Value, quietly
from edgewise.studies.published import Table, column_name, load_published

BITS = (4, 6, 8, 10, 12, 14, 16)
ORIGINAL_BITS = 32
TOKENS = BATCH = 128  # [V]
QUESTIONS = 64
DRAWS = 100
SWEPT_BLOCKS, SPARE = 4, 2  # of the sweeps: blocks, and servers beyond one for each
DELTA = 1e-4
GIGAHERTZ = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
MBPS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
PROPAGATION_SECONDS = 1e-3
SEED = 2503
QUALITIES = ("loss", "perplexity", "BLEU")
WAYS = ("[-1, 1]", "own range", "nearest")  # to use the same bits
TEXT = (
    "DILEMMA's integer program on the {count} decoder blocks of `{model}`, truncated to 4 to 16 "
    "bits; {outside}. **Its quality row (5) could not be read: ours "
    "squares the differences because that fits Table 1.**"
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """What the program needs to know of a model's blocks: `weights[l]` and `error[b, l]` of bits b
    (dilemma_weights.Truncation), and the width of a hidden state."""

    weights: Ints
    error: Floats
    hidden_size: int


def dilemma_page(
    model: str = "demo",
    draws: int = DRAWS,
    on_step: OnStep = quietly,
    *,
    questions: int = QUESTIONS,
) -> Page:
    """Reads the checkpoint; raises ModelError where there is none."""
    from edgewise.studies.dilemma_weights import read_truncation

    truncation, table = read_truncation(model, BITS), load_published("dilemma")["table-1"]
    blocks = Blocks(truncation.weights, truncation.error, truncation.hidden_size)
    sections = (
        ladder_section(blocks, table),
        quality_section(model, blocks, table, questions, on_step),
        delta_section(blocks, tuple(map(float, table)), draws, on_step),
        rate_section(blocks, draws, on_step),
        clock_section(blocks, draws, on_step),
    )
    outside = (
        f"{truncation.outside} of {int(truncation.weights.sum()):,} weights lie outside [-1, 1] "
        f"(the largest is {truncation.largest:.3g})"
    )
    text = TEXT.format(model=model, count=len(truncation.weights), outside=outside)
    return Page("dilemma", "DILEMMA (arXiv 2503.01704)", text, sections)


def random_instance(
    blocks: Blocks, servers: int, delta: float, rng: np.random.Generator, rate: float, clock: float
) -> DilemmaInstance:
    """Synthetic servers: rates of links uniform in [rate / 10, rate] bits per second, clocks in
    [clock / 2, clock] operations per second; storage is relaxed, as in the paper's study."""
    return DilemmaInstance(
        flops=(2 * BATCH * blocks.weights).astype(np.float64),
        clock=rng.uniform(clock / 2, clock, servers),
        bits=BITS,
        original_bits=ORIGINAL_BITS,
        tokens=TOKENS,
        outputs=np.full(len(blocks.weights), float(BATCH * blocks.hidden_size)),
        rate=rng.uniform(rate / 10, rate, (servers, servers)),
        propagation=np.full((servers, servers), PROPAGATION_SECONDS),
        weights=blocks.weights,
        storage=np.full(servers, ORIGINAL_BITS * int(blocks.weights.sum())),
        error=blocks.error,
        delta=delta,
    )


def chosen_bits(blocks: Blocks, delta: float) -> tuple[int, ...] | None:
    """The widths that the quality row allows: the program with one server for all layers, where
    nothing but bits costs anything. None if no widths satisfy it."""
    alone = random_instance(blocks, 1, delta, np.random.default_rng(SEED), 1e9, 2e9)
    try:
        return solve_instance(alone, several_layers=True).bits
    except Infeasible:
        return None


def uniform_bits(blocks: Blocks, delta: float) -> int | None:
    """The least width that satisfies the row when all layers take it."""
    fits = [b for b, errors in zip(BITS, blocks.error, strict=True) if errors.sum() <= delta]
    return min(fits, default=None)


def ladder_section(blocks: Blocks, table: Table) -> Section:
    """The bits that each delta leaves, mixed by the program and uniform."""
    rows: list[tuple[Value, ...]] = []
    for name, row in table.items():
        delta, published = float(name), row["ratio"].value
        bits, uniform = chosen_bits(blocks, delta), uniform_bits(blocks, delta)
        mixed = None if bits is None else _ratio(blocks, bits)
        same = None if uniform is None else uniform / ORIGINAL_BITS
        off = None if same is None else same / float(published) - 1
        spread = "-" if bits is None else _spread(bits)
        rows.append((name, spread, mixed, uniform, same, published, off, REMARK if off else ""))
    theirs = column_name("ratio", (row["ratio"] for row in table.values()))
    columns = ("delta", "bits of the layers", "ratio", "uniform bits", "uniform ratio (fit)",
               theirs, "difference", "remark")  # fmt: skip
    return Section("Table 1: delta against quantization ratio", LADDER, columns, tuple(rows))


REMARK = "not matched: at the published width these weights' error exceeds this delta"
LADDER = (
    "Bits left over 32 per weight. A fit, no prediction: row (5) was chosen by these ratios, which "
    "are those of uniform widths [D]; the difference is the uniform ratio's."
)


def quality_section(
    model: str, blocks: Blocks, table: Table, questions: int, on_step: OnStep
) -> Section:
    """Table 1's other columns: the widths that each delta allows, by three ways to round."""
    measured = dict[tuple[int, ...], list[Value]]()
    rows: list[tuple[Value, ...]] = []
    for name, row in table.items():
        bits = chosen_bits(blocks, float(name))
        if bits is None:
            continue
        if bits not in measured:
            measured[bits] = _qualities(model, bits, questions)
            on_step(f"delta {name}")
        theirs = (row[what].value for what in QUALITIES)
        rows.append((name, _ratio(blocks, bits), *measured[bits], *theirs))
    published = (column_name(what, (row[what] for row in table.values())) for what in QUALITIES)
    ours = (f"{what}, {way}" for way in WAYS for what in QUALITIES)
    caption = (
        f"Greedy answers to {questions} of the demo's held-out questions, three ways to use the "
        "bits; the paper's are of OPT-350m on SQuAD, so only what a width costs can be compared."
    )
    return Section("Table 1: quality", caption, ("delta", "ratio", *ours, *published), tuple(rows))


def _qualities(model: str, bits: tuple[int, ...], questions: int) -> list[Value]:
    """Loss, perplexity and BLEU of blocks of these widths, in each of the ways."""
    from edgewise.quality.evaluate import measure_quality
    from edgewise.quality.examples import load_examples
    from edgewise.studies.dilemma_weights import truncate_blocks

    examples = load_examples(None, questions)
    whole, alter = ("fp32",) * (len(bits) + 2), partial(truncate_blocks, bits=bits)
    outcomes = [measure_quality(model, whole, examples, alter=alter)]
    outcomes += [measure_quality(model, schemes, examples) for schemes in _own_and_nearest(bits)]
    return [value for x in outcomes for value in (x.loss, f"{x.perplexity:.5g}", x.bleu)]


def _own_and_nearest(bits: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Schemes of all layers for "own range" and for "nearest"."""
    truncated = ("fp32", *(f"t{b}" for b in bits), "fp32")
    nearest = ("fp32", *(f"q{b}g64" if b <= 8 else f"t{b}" for b in bits), "fp32")
    return [truncated, nearest]


def _ratio(blocks: Blocks, bits: tuple[int, ...]) -> float:
    return float(blocks.weights @ np.array(bits)) / (ORIGINAL_BITS * float(blocks.weights.sum()))


def _spread(bits: tuple[int, ...]) -> str:
    return ", ".join(f"{bits.count(b)} x {b}" for b in sorted(set(bits)))


def first_blocks(blocks: Blocks) -> Blocks:
    """The first few: more cannot be solved hundreds of times."""
    weights, error = blocks.weights[:SWEPT_BLOCKS], blocks.error[:, :SWEPT_BLOCKS]
    share = float(blocks.weights.sum()) / float(weights.sum())
    return Blocks(weights, error * share, blocks.hidden_size)


def mean_objective(
    blocks: Blocks, draws: int, *, rate: float = 1e9, clock: float = 3e9, delta: float = DELTA
) -> tuple[float, float]:
    """The faithful program's value, its mean and standard deviation over random servers. The same
    seed for every point of a sweep: neighbouring points differ only in what is swept."""
    rng, few = np.random.default_rng(SEED), first_blocks(blocks)
    servers = len(few.weights) + SPARE
    values = [
        solve_instance(random_instance(few, servers, delta, rng, rate, clock)).seconds
        for _ in range(draws)
    ]
    return float(np.mean(values)), float(np.std(values))


def _sweep_section(
    title: str,
    caption: str,
    name: str,
    x: str,
    points: Sequence[float],
    objective: Callable[[float], tuple[float, float]],
    on_step: OnStep,
) -> Section:
    means: list[float] = []
    rows: list[tuple[Value, ...]] = []
    for point in points:
        mean, deviation = objective(point)
        means.append(mean)
        rows.append((f"{point:g}", mean, deviation))
        on_step(f"{x} {point:g}")
    lines = {"mean objective (2a)": (points, means)}
    draw = partial(save_lines, lines, title=title, x=x, y="seconds", log_x=True)
    columns = (x, "mean seconds", "standard deviation")
    return Section(title, caption, columns, tuple(rows), Figure(name, draw))


def delta_section(blocks: Blocks, deltas: Sequence[float], draws: int, on_step: OnStep) -> Section:
    """Figure 3."""
    caption = f"Fig. 3 [V]: the objective rises as delta falls. Ours: {draws} draws per point."
    return _sweep_section(
        "Objective against delta", caption, "dilemma-delta", "delta", deltas,
        lambda delta: mean_objective(blocks, draws, delta=delta), on_step,
    )  # fmt: skip


def rate_section(blocks: Blocks, draws: int, on_step: OnStep) -> Section:
    """Figure 5."""
    caption = (
        "Fig. 5 [V]: the objective falls as the bound of random link rates rises. Ours: R is the "
        f"upper bound; {draws} draws per point."
    )
    return _sweep_section(
        "Objective against link speed", caption, "dilemma-rate", "R, Mbps", MBPS,
        lambda mbps: mean_objective(blocks, draws, rate=mbps * 1e6), on_step,
    )  # fmt: skip


def clock_section(blocks: Blocks, draws: int, on_step: OnStep) -> Section:
    """Figure 6."""
    caption = f"Fig. 6 [V]: the objective falls as clocks rise. Ours: {draws} draws per point."
    return _sweep_section(
        "Objective against clock", caption, "dilemma-clock", "f, GHz", GIGAHERTZ,
        lambda ghz: mean_objective(blocks, draws, clock=ghz * 1e9), on_step,
    )  # fmt: skip
