"""PrivateLoRA's curves made again from its formula (arXiv 2311.14030).

Their cells: published/private-lora.toml; how to read the page: docs/studies/private-lora.md.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from edgewise.plots import save_lines
from edgewise.studies.page import Comparison, Figure, Page, Section, Value, comparison_section
from edgewise.studies.private_lora.claims import claims_section, worth_section
from edgewise.studies.private_lora.formula import Llama, decode_rate, prefill_rate
from edgewise.studies.published import Table, load_published

SHAPES = {"7B": Llama("7B", 32, 4096), "13B": Llama("13B", 40, 5120), "33B": Llama("33B", 60, 6656)}
RANKS = (16, 32, 64, 128, 256, 512)
RANK = 128  # of the experiments
BATCHES = {"1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0, "16": 16.0, "large": math.inf}
LATENCIES = (0.0, 0.1, 0.5, 1.0, 5.0, 10.0)  # milliseconds, one way
MILLI = 1e-3
TEXT = (
    "The paper's body could not be read: its values are from the authors' page and code. Its "
    "throughputs are **estimates** of a formula, not measurements; what the formula leaves open "
    "was chosen by the figures, and is called a fit."
)


def private_lora_page() -> Page:
    """All sections; arithmetic only."""
    tables = load_published("private-lora")
    rests = {name: row["decode"].value for name, row in tables["rest"].items()}
    decode = {name: float(value) * MILLI for name, value in rests.items()}
    prefill = {name: float(row["prefill"].value) * MILLI for name, row in tables["rest"].items()}
    sections = (
        slope_section(tables["slopes"]),
        seconds_section(),
        *(rank_section(shape, decode[name]) for name, shape in SHAPES.items()),
        decode_section(tables["decode"], decode),
        prefill_section(prefill),
        prompt_section(tables["prefill"], prefill["7B"]),
        device_section(tables["device"]),
        traffic_section(SHAPES["7B"]),
        latency_section(decode),
        claims_section(tables["claims"], SHAPES["7B"], RANK, decode["7B"], prefill["7B"]),
        worth_section(tables["quality"]),
    )
    return Page("private-lora", "PrivateLoRA (arXiv 2311.14030)", TEXT, sections)


def slope_section(slopes: Table) -> Section:
    """What each rank more costs a token."""
    comparisons = []
    for name, row in slopes.items():
        ours = SHAPES[name].decode_seconds(1) / MILLI, SHAPES[name].prefill_seconds(1) / MILLI
        pairs = zip(("decode", "prefill"), ours, strict=True)
        comparisons += [Comparison(f"{name}, {what}", value, row[what]) for what, value in pairs]
    caption = (
        "Milliseconds of a token for each rank: 3 L 16 / 60e6 for decoding, 3 L 16 (1 / 60e6 + "
        "1 / 100e6) for prompts. Why decoding should wait for the way up alone is not said."
    )
    return comparison_section("Communication: what a rank costs", caption, comparisons)


def seconds_section() -> Section:
    """t, the communication of a token."""
    ways = {"decode": Llama.decode_seconds, "prefill": Llama.prefill_seconds}
    series = {
        f"{name}, {way}": (RANKS, [seconds(shape, rank) / MILLI for rank in RANKS])
        for way, seconds in ways.items()
        for name, shape in SHAPES.items()
    }
    caption = "t in milliseconds of a token."
    return _swept("Communication against rank", caption, series, "seconds", "milliseconds")


def rank_section(shape: Llama, rest: float) -> Section:
    """Decoding against rank, by batch."""
    series = {
        f"batch {name}": (RANKS, [decode_rate(shape, rank, batch, rest) for rank in RANKS])
        for name, batch in BATCHES.items()
    }
    caption = (
        "Tokens per second of each request. A batch reads the head once, which is our reading [I]; "
        f"all else but t takes {rest / MILLI:g} ms, a fit: the figure's line at rank 0, which for "
        "7B is that of large batches."
    )
    return _swept(f"Decoding against rank, {shape.name}", caption, series, shape.name.lower())


def prefill_section(rests: Mapping[str, float]) -> Section:
    """Prompts against rank."""
    series = {
        name: (RANKS, [prefill_rate(shape, rank, rests[name]) for rank in RANKS])
        for name, shape in SHAPES.items()
    }
    caption = "Tokens of prompts per second; all but t by the figure at rank 0 (a fit)."
    return _swept("Prompts against rank", caption, series, "prefill")


def _swept(
    title: str,
    caption: str,
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    name: str,
    y: str = "tokens per second",
) -> Section:
    columns = zip(*(values for _, values in series.values()), strict=True)
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (str(rank), *values) for rank, values in zip(RANKS, columns, strict=True)
    )
    draw = partial(save_lines, series, title=title, x="rank", y=y, log_x=True)
    figure = Figure(f"private-lora-{name}", draw)
    return Section(title, caption, ("rank", *series), rows, figure)


def decode_section(decode: Table, rests: Mapping[str, float]) -> Section:
    """The figure's points: large batches are fitted, a batch of 1 is then predicted."""
    comparisons = []
    for row, cells in decode.items():
        name, _, batch = row.partition(", ")
        size = 1.0 if batch == "batch of 1" else math.inf
        for rank, cell in cells.items():
            ours = decode_rate(SHAPES[name], int(rank), size, rests[name])
            comparisons.append(Comparison(f"{row}, rank {rank}", ours, cell))
    caption = (
        "Tokens per second. What is read off the large batches, and the seconds that a device of "
        "42.7 GB/s takes to read the head, give the batch of 1. No number was chosen for it; that "
        "a batch shares the reading was, because it gives these points [I]."
    )
    return comparison_section("Decoding: the figure's points", caption, comparisons)


def prompt_section(prefill: Table, rest: float) -> Section:
    """The figure's points of prompts."""
    comparisons = [
        Comparison(f"{name}, rank {rank}", prefill_rate(SHAPES[name], int(rank), rest), cell)
        for name, row in prefill.items()
        for rank, cell in row.items()
    ]
    return comparison_section("Prompts: the figure's points", "Tokens per second.", comparisons)


def device_section(device: Table) -> Section:
    """What the device holds, computes and trains."""
    comparisons = []
    for name, row in device.items():
        shape = SHAPES[name]
        ours = {
            "MB": shape.device_bytes(RANK) / 1e6,
            "GFLOP": shape.device_flops(RANK) / 1e9,
            "trainable": shape.trainable(RANK) / 1e6,
        }
        comparisons += [Comparison(f"{name}, {what}", ours[what], row[what]) for what in row]
    caption = (
        f"At rank {RANK} and 16 bits: 32,000 d numbers of the vocabulary and 3 L {RANK}^2 of M; "
        "the latter are trained, in millions. Embedding and head are counted once, though they "
        "are two matrices in these models."
    )
    return comparison_section("What the device holds", caption, comparisons)


def traffic_section(shape: Llama) -> Section:
    """What crosses the network, by three ways to count."""
    rows: list[tuple[Value, ...]] = []
    for rank in RANKS:
        both = 2 * shape.values(rank)
        states = 2 * shape.blocks * shape.width
        adapters = shape.blocks * shape.width * 4
        shares = (1 - rank / shape.width, 1 - both / states, 1 - both / adapters)
        rows.append((str(rank), both * 16 / 1e3, *shares))
    columns = ("rank", "kbit a token, both ways", "ratio spared, as their page counts",
               "ratio spared of states", "ratio spared of adapters")  # fmt: skip
    caption = (
        f"{shape.name}, 16 bits. Their page counts one projection, r values in place of d. All "
        "three beside a hidden state down and up at every layer; and beside an ordinary adapter's "
        'activations, d down once and 3 d up. Their ">95 %" holds at rank 128 in the first and '
        "the last way."
    )
    return Section("What crosses the network", caption, columns, tuple(rows))


def latency_section(rests: Mapping[str, float]) -> Section:
    """What the estimate leaves out: every layer waits for the device's answer."""
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (f"{ms:g}", *(decode_rate(SHAPES[x], RANK, 1.0, rests[x], ms * MILLI) for x in SHAPES))
        for ms in LATENCIES
    )
    caption = (
        f"Tokens per second, rank {RANK}, a batch of 1, where the network has a latency: a token "
        "goes to the device and back at every layer. Our addition: the paper's estimate has none."
    )
    return Section("What a latency does", caption, ("ms one way", *SHAPES), rows)
