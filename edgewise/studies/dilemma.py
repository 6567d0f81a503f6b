"""DILEMMA's Table 1, and figures 3, 5 and 6 (arXiv 2503.01704).

What the paper says and what is reconstructed: section 2 of the notes on planning papers.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from edgewise.errors import Infeasible
from edgewise.planning.dilemma import DilemmaInstance, solve_instance
from edgewise.planning.tables import Floats, Ints
from edgewise.plots import save_lines
from edgewise.studies.page import Figure, OnStep, Page, Section, Value, quietly

BITS = (4, 6, 8, 10, 12, 14, 16)
ORIGINAL_BITS = 32
TOKENS = BATCH = 128
RATIOS = {  # Table 1 [V]: delta and the share of bits left
    1e-7: 0.375,
    1e-6: 0.3125,
    1e-5: 0.25,
    1e-4: 0.25,
    1e-3: 0.1875,
    1e-2: 0.125,
    1e-1: 0.125,
    1.0: 0.125,
}
QUALITY = {  # Table 1 [V]: loss, perplexity, BLEU
    1e-7: (0.0591, 1.0609, 0.2949),
    1e-6: (0.0591, 1.0609, 0.2945),
    1e-5: (0.0591, 1.0609, 0.2942),
    1e-4: (0.0591, 1.0609, 0.2942),
    1e-3: (0.0591, 1.0609, 0.3050),
    1e-2: (0.0605, 1.0623, 0.2939),
    1e-1: (0.0605, 1.0623, 0.2939),
    1.0: (0.0605, 1.0623, 0.2939),
}
QUESTIONS = 64
DRAWS = 100
LAYERS, SPARE = 4, 2  # of the sweeps: blocks, and servers beyond one for each
DELTA = 1e-4
GIGAHERTZ = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
MBPS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
PROPAGATION_SECONDS = 1e-3
SEED = 2503


@dataclass(frozen=True, slots=True)
class Layers:
    """What the program needs to know of a model's blocks: e[b, l], W_l, the width of a state."""

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

    found = read_truncation(model, BITS)
    layers = Layers(found.weights, found.error, found.hidden_size)
    sections = (
        ladder_section(layers),
        quality_section(model, layers, questions, on_step),
        delta_section(layers, draws, on_step),
        rate_section(layers, draws, on_step),
        clock_section(layers, draws, on_step),
    )
    outside = f"{found.outside} of {int(found.weights.sum()):,} (largest {found.largest:.3g})"
    text = TEXT.format(model=model, blocks=len(found.weights), outside=outside)
    return Page("dilemma", "DILEMMA (arXiv 2503.01704)", text, sections)


TEXT = (
    "Weights: the matrices of the {blocks} decoder blocks of `{model}` (the paper: OPT-350m [V]). "
    "Quantizer: truncation [V], here the sign and b - 1 fractional bits, for weights mostly in "
    "[-1, 1] [V]; {outside} lie outside and keep their integer part (our choice). "
    "Widths 4 to 16 in steps of 2 (minimum 4, step 2 [V]; the maximum is ours), b0 = 32 [D].\n\n"
    "**Quality row (5), our choice:** the error of a layer is the sum of its squared weight "
    "differences over the number of all weights, so the row bounds the model's mean squared "
    "difference by delta. The equation itself could not be read; section 2.3 of the notes shows "
    "that no error linear in the step gives Table 1's ladder, while a squared one does [D]."
)


def instance(
    layers: Layers, servers: int, delta: float, rng: np.random.Generator, rate: float, clock: float
) -> DilemmaInstance:
    """Synthetic servers: rates of links uniform in [rate / 10, rate] bits per second, clocks in
    [clock / 2, clock] operations per second; storage is relaxed, as in the paper's study."""
    return DilemmaInstance(
        flops=(2 * BATCH * layers.weights).astype(np.float64),
        clock=rng.uniform(clock / 2, clock, servers),
        bits=BITS,
        original_bits=ORIGINAL_BITS,
        tokens=TOKENS,
        outputs=np.full(len(layers.weights), float(BATCH * layers.hidden_size)),
        rate=rng.uniform(rate / 10, rate, (servers, servers)),
        propagation=np.full((servers, servers), PROPAGATION_SECONDS),
        weights=layers.weights,
        storage=np.full(servers, ORIGINAL_BITS * int(layers.weights.sum())),
        error=layers.error,
        delta=delta,
    )


def chosen_bits(layers: Layers, delta: float) -> tuple[int, ...] | None:
    """The widths that the quality row allows: the program with one server for all layers, where
    nothing but bits costs anything. None if no widths satisfy it."""
    asked = instance(layers, 1, delta, np.random.default_rng(SEED), 1e9, 2e9)
    try:
        return solve_instance(asked, several_layers=True).bits
    except Infeasible:
        return None


def uniform_bits(layers: Layers, delta: float) -> int | None:
    """The least width that satisfies the row when all layers take it."""
    fits = [b for b, errors in zip(BITS, layers.error, strict=True) if errors.sum() <= delta]
    return min(fits, default=None)


def ladder_section(layers: Layers) -> Section:
    rows: list[tuple[Value, ...]] = []
    for delta, published in RATIOS.items():
        bits, uniform = chosen_bits(layers, delta), uniform_bits(layers, delta)
        mixed = None if bits is None else _ratio(layers, bits)
        same = None if uniform is None else uniform / ORIGINAL_BITS
        off = None if same is None else same / published - 1
        spread = "-" if bits is None else _spread(bits)
        remark = REMARK if off else ""
        rows.append((f"{delta:g}", spread, mixed, uniform, same, published, "[V]", off, remark))
    columns = ("delta", "bits of the layers", "ratio", "uniform bits", "uniform ratio",
               "published ratio", "tag", "difference", "remark")  # fmt: skip
    return Section("Table 1: delta against quantization ratio", LADDER, columns, tuple(rows))


REMARK = "not matched: at the published width these weights' error exceeds this delta"
LADDER = (
    "The ratio is the bits left over 32 per weight. The published ratios are all those of uniform "
    "widths [D], so the difference is that of the uniform ratio; the program itself may mix "
    "widths and then needs fewer bits for the same delta. Storage is relaxed and every cost rises "
    "with the width, so the row alone decides: the program is solved with one server for all "
    "layers."
)


def quality_section(model: str, layers: Layers, questions: int, on_step: OnStep) -> Section:
    """Table 1's other columns: the widths that each delta allows, by three ways to round."""
    from edgewise.quality.evaluate import measure_quality
    from edgewise.quality.examples import load_examples
    from edgewise.studies.dilemma_weights import truncate_blocks

    examples, done = load_examples(None, questions), dict[tuple[int, ...], list[Value]]()
    rows: list[tuple[Value, ...]] = []
    for delta, published in QUALITY.items():
        bits = chosen_bits(layers, delta)
        if bits is None:
            continue
        if bits not in done:
            done[bits] = []
            whole = ("fp32",) * (len(bits) + 2)
            alter = partial(truncate_blocks, bits=bits)
            as_published = measure_quality(model, whole, examples, alter=alter)
            for found in (
                as_published,
                *(measure_quality(model, x, examples) for x in _own_and_nearest(bits)),
            ):
                done[bits] += [found.loss, f"{found.perplexity:.5g}", found.bleu]
            on_step(f"delta {delta:g}")
        rows.append((f"{delta:g}", _ratio(layers, bits), *done[bits], *published))
    ways = ("[-1, 1]", "own range", "nearest")
    columns = ("delta", "ratio", *(f"{what}, {way}" for way in ways for what in QUALITIES),
               *(f"published {what} [V]" for what in QUALITIES))  # fmt: skip
    text = QUALITY_TEXT.format(questions=questions)
    return Section("Table 1: quality", text, columns, tuple(rows))


QUALITIES = ("loss", "perplexity", "BLEU")
QUALITY_TEXT = (
    "Of greedy answers to {questions} of the demo's held-out questions (the paper: SQuAD and "
    "OPT-350m [V], so absolute values cannot be compared; only what a width costs can). The "
    "blocks take the widths that the program above chose, embedding and head stay at fp32. Three "
    "ways to use the same bits: **[-1, 1]**, the paper's truncation, weights beyond keeping their "
    "integer part as in the table above (whose bits are not counted); **own range**, truncation "
    "with each matrix's largest magnitude in the place of 1; **nearest**, rounding with a scale "
    "for every 64 weights (q4g64, q6g64, q8g64; own range where there are more than 8 bits)."
)


def _own_and_nearest(bits: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Schemes of all layers for "own range" and for "nearest"."""
    truncated = ("fp32", *(f"t{b}" for b in bits), "fp32")
    nearest = ("fp32", *(f"q{b}g64" if b <= 8 else f"t{b}" for b in bits), "fp32")
    return [truncated, nearest]


def _ratio(layers: Layers, bits: tuple[int, ...]) -> float:
    return float(layers.weights @ np.array(bits)) / (ORIGINAL_BITS * float(layers.weights.sum()))


def _spread(bits: tuple[int, ...]) -> str:
    return ", ".join(f"{bits.count(b)} x {b}" for b in sorted(set(bits)))


def swept(layers: Layers) -> Layers:
    """The first few blocks: more cannot be solved hundreds of times."""
    weights, error = layers.weights[:LAYERS], layers.error[:, :LAYERS]
    share = float(layers.weights.sum()) / float(weights.sum())
    return Layers(weights, error * share, layers.hidden_size)


def mean_objective(
    layers: Layers, draws: int, *, rate: float = 1e9, clock: float = 3e9, delta: float = DELTA
) -> tuple[float, float]:
    """The faithful program's value, its mean and standard deviation over random servers. The same
    seed for every point of a sweep: neighbouring points differ only in what is swept."""
    rng, few = np.random.default_rng(SEED), swept(layers)
    servers = len(few.weights) + SPARE
    values = [
        solve_instance(instance(few, servers, delta, rng, rate, clock)).seconds
        for _ in range(draws)
    ]
    return float(np.mean(values)), float(np.std(values))


ASSUMED = (
    f"Assumptions, none of them in the paper's text: the first {LAYERS} blocks on "
    f"{LAYERS + SPARE} servers (one layer or none each [V]); link rates uniform in [R / 10, R], "
    "clocks in [f / 2, f], one operation per cycle, 2 operations per weight and sequence, "
    f"{PROPAGATION_SECONDS * 1e3:g} ms of propagation, storage relaxed; {TOKENS} tokens of "
    f"{BATCH} sequences [V]; R = 1 Gbps, f = 3 GHz and delta = {DELTA:g} where not swept. "
    "The values are the faithful program's (2a), each layer's activations sent at its own width. "
    "The figure's numbers are not in the paper's text: only its shape can be compared."
)


def _sweep(
    title: str, text: str, name: str, x: str, points: list[tuple[float, float, float]]
) -> Section:
    xs, means = [p[0] for p in points], [p[1] for p in points]
    draw = partial(
        save_lines, {"mean objective (2a)": (xs, means)}, title=title, x=x, y="seconds", log_x=True
    )
    rows = tuple((f"{at:g}", mean, deviation) for at, mean, deviation in points)
    columns = (x, "mean seconds", "standard deviation")
    return Section(title, text, columns, rows, Figure(name, draw))


def delta_section(layers: Layers, draws: int, on_step: OnStep) -> Section:
    points = []
    for delta in RATIOS:
        points.append((delta, *mean_objective(layers, draws, delta=delta)))
        on_step(f"delta {delta:g}")
    text = f"Fig. 3 [V]: the objective rises as delta falls; {draws} draws per point. {ASSUMED}"
    return _sweep("Objective against delta", text, "dilemma-delta", "delta", points)


def rate_section(layers: Layers, draws: int, on_step: OnStep) -> Section:
    points = []
    for mbps in MBPS:
        points.append((float(mbps), *mean_objective(layers, draws, rate=mbps * 1e6)))
        on_step(f"{mbps} Mbps")
    text = (
        "Fig. 5 [V]: rates are drawn from a range whose bound goes from 1 Mbps to 10 Gbps, and "
        f"the objective falls; here R is the upper bound, {draws} draws per point. "
        "Assumptions: see the sweep of delta."
    )
    return _sweep("Objective against link speed", text, "dilemma-rate", "R, Mbps", points)


def clock_section(layers: Layers, draws: int, on_step: OnStep) -> Section:
    points = []
    for ghz in GIGAHERTZ:
        points.append((ghz, *mean_objective(layers, draws, clock=ghz * 1e9)))
        on_step(f"{ghz:g} GHz")
    text = (
        f"Fig. 6 [V]: the objective falls as the clock rises; f is swept, {draws} draws per "
        "point. Assumptions: see the sweep of delta."
    )
    return _sweep("Objective against clock", text, "dilemma-clock", "f, GHz", points)
