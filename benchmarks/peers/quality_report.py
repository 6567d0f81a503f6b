"""Rows of `quality.py` as tables, ratios and a picture."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

FEW = 6.6  # bits per weight up to which widths count as few
AXES = {"weights": "weights alone", "file": "whole file, as run"}
# Of the peer's rows: those measured without and with an importance matrix.
PLAIN, IMPORTANCE = "none", ("imatrix", "imatrix-first")


def ours(row: Row) -> str | None:
    """Which of our curves a row is a point of."""
    if row["side"] != "edgewise":
        return None
    return "joint" if row["name"].startswith("joint:") else row["method"]


# Our curve, types of theirs, and what our KL is to be at most, as a share of theirs.
CLAIMS = (
    ("nearest", "without", 0.6),
    ("nearest", "with", 1.0),
    ("gptq", "with", 0.7),
    ("joint", "with", 0.7),
)


def better_importance(rows: Sequence[Row]) -> list[Row]:
    """The peer's rows with, for every type, the importance matrix that served it better."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row["side"] == "llama.cpp" and row["method"] in IMPORTANCE:
            key = (row["copy"], row["axis"], row["name"])
            if key not in best or row["kl"] < best[key]["kl"]:
                best[key] = row
    return list(best.values())


def curve(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """(bits per weight, KL) of the rows that none of no more bits betters, by size."""
    curve_points: list[tuple[float, float]] = []
    for bits, kl in sorted((row["bits"], row["kl"]) for row in rows):
        if not curve_points or kl < curve_points[-1][1]:
            curve_points.append((bits, kl))
    return curve_points


def interpolated(points: Sequence[tuple[float, float]], bits: float) -> float | None:
    """KL at a size, its logarithm linear between neighbours; None outside of the curve."""
    for (low, before), (high, after) in pairwise(points):
        if low <= bits <= high:
            share = (bits - low) / (high - low)
            return math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
    if points and points[-1][0] <= bits:  # more bits than our last point needs: no worse than that
        return points[-1][1]
    return None


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Our KL at each size of the peer's, over the peer's, for every claim."""
    rows_of_ratios = []
    best = better_importance(rows)
    peers = {"without": [x for x in rows if x["side"] == "llama.cpp" and x["method"] == PLAIN
                         and x["name"] != "F32"], "with": best}  # fmt: skip
    for curve_name, importance, most in CLAIMS:
        for row in peers[importance]:
            panel = (row["copy"], row["axis"])
            points = [x for x in rows if ours(x) == curve_name and (x["copy"], x["axis"]) == panel]
            kl = interpolated(curve(points), row["bits"])
            rows_of_ratios.append({
                "copy": row["copy"], "axis": row["axis"], "ours": curve_name,
                "importance": importance, "name": row["name"], "bits": row["bits"],
                "few": row["bits"] <= FEW, "peer_kl": row["kl"], "kl": kl, "most": most,
                "ratio": None if kl is None else kl / row["kl"],
            })  # fmt: skip
    return sorted(rows_of_ratios, key=lambda x: (x["copy"], x["axis"], x["ours"], x["importance"],
                                        -x["bits"]))  # fmt: skip


def print_tables(rows: Sequence[Row], code: str) -> None:
    """One table per copy and axis, the ratios, and the largest ratio of each kind."""
    console = Console(width=140)
    for copy, axis in _panels(rows):
        table = Table(title=f"{copy}: {AXES[axis]}")
        columns = ("stored in", "rounded with", "bits", "MB", "KL", "99 %", "top-1", "perplexity")
        for name in (*columns, "quantized in"):
            table.add_column(name, justify="left" if name in columns[:2] else "right")
        chosen = [x for x in rows if (x["copy"], x["axis"]) == (copy, axis)]
        for row in sorted(chosen, key=lambda x: (-x["bits"], x["kl"])):
            older = row["side"] == "edgewise" and row["code"] != code
            table.add_row(
                row["name"] + (" (older code)" if older else ""),
                row["method"], f"{row['bits']:.3f}", f"{row['bytes'] / 1e6:.1f}",
                f"{row['kl']:.4f}", f"{row['kl_99']:.3f}", f"{row['top1']:.4f}",
                f"{row['perplexity']:.3f}", f"{row['seconds']:.1f} s",
                style="bold" if row["side"] == "edgewise" else "",
            )  # fmt: skip
        console.print(table)
    table = Table(title=f"our KL / llama.cpp's at its size (* up to {FEW} bits per weight)")
    for name in ("copy", "axis", "ours", "importance matrix", "type", "bits", "their KL", "our KL",
                 "ratio"):  # fmt: skip
        table.add_column(name)
    for x in ratios(rows):
        cells = ("-", "-") if x["kl"] is None else (f"{x['kl']:.4f}", f"{x['ratio']:.2f}")
        bits = f"{x['bits']:.3f}{'*' if x['few'] else ''}"
        table.add_row(
            x["copy"], x["axis"], x["ours"], x["importance"], x["name"], bits,
            f"{x['peer_kl']:.4f}", *cells,
        )  # fmt: skip
    console.print(table)
    for line in verdicts(ratios(rows)):
        console.print(line)


def verdicts(table: Sequence[Row]) -> Iterator[str]:
    """For every claim and panel, the range of ratios at few bits, and those beyond it."""
    few = [x for x in table if x["few"] and x["kl"] is not None]
    panels = dict.fromkeys((x["copy"], x["axis"]) for x in few)
    for (copy, axis), (curve_name, importance, most) in product(panels, CLAIMS):
        kind = (copy, axis, curve_name, importance)
        chosen = [
            x for x in few if (x["copy"], x["axis"], x["ours"], x["importance"]) == kind
        ]  # fmt: skip
        if chosen:
            values = [x["ratio"] for x in chosen]
            beyond = ", ".join(f"{x['name']} {x['ratio']:.2f}" for x in chosen if x["ratio"] > most)
            yield (
                f"{copy}, {AXES[axis]}, {curve_name} / {importance} importance matrix: "
                f"{min(values):.2f} to {max(values):.2f} at {len(values)} sizes, claim {most}"
                + (f"; beyond: {beyond}" if beyond else "")
            )


def _panels(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for copy in dict.fromkeys(x["copy"] for x in rows):
        yield from ((copy, axis) for axis in AXES)


def save_plot(rows: Sequence[Row], file: Path) -> None:
    """KL (logarithmic) against bits per weight and against bytes, a row of panels per copy."""
    import matplotlib.pyplot as plt

    panels = list(_panels(rows))
    figure, grid = plt.subplots(
        len(panels) // 2, 2, figsize=(13, 4.8 * (len(panels) // 2)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    best = better_importance(rows)
    groups: tuple[tuple[str, str, str, Callable[[Row], bool]], ...] = (
        ("Edgewise", "C0", "o-", lambda x: ours(x) == "nearest"),
        ("Edgewise, GPTQ", "C2", "s-", lambda x: ours(x) == "gptq"),
        ("Edgewise, GPTQ, joint", "C4", "D-", lambda x: ours(x) == "joint"),
        ("llama.cpp", "C1", "v--", lambda x: x["side"] == "llama.cpp" and x["method"] == PLAIN),
        ("llama.cpp, importance matrix", "C3", "^--", lambda x: x in best),
    )  # fmt: skip
    for axes, (copy, axis) in zip(grid.flat, panels, strict=True):
        for index, (label, colour, style, belongs) in enumerate(groups):
            chosen = [
                x for x in rows
                if (x["copy"], x["axis"]) == (copy, axis) and x["name"] != "F32" and belongs(x)
            ]  # fmt: skip
            _line(axes, chosen, axis, label, colour, style, below=index % 2 == 1)
        x = "bits per weight" if axis == "weights" else "weights, MB"
        axes.set(title=f"{copy}: {AXES[axis]}", xlabel=x, ylabel="KL to fp32, nats per token")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _line(
    axes: Any, rows: Sequence[Row], axis: str, label: str, colour: str, style: str, below: bool
) -> None:
    """A group's points with their names, joined where none of no more bits betters them."""
    if not rows:
        return

    def along(row: Row) -> float:
        return float(row["bits"] if axis == "weights" else row["bytes"] / 1e6)

    best = set(curve(rows))
    joined = sorted((x for x in rows if (x["bits"], x["kl"]) in best), key=along)
    axes.plot([along(x) for x in joined], [x["kl"] for x in joined], style[1:], color=colour)
    points = [(along(x), x["kl"]) for x in rows]
    axes.plot(*zip(*points, strict=True), style[0], color=colour, markersize=5, label=label)
    for row, point in zip(rows, points, strict=True):
        shift = (-4, -9) if below else (5, 4)
        axes.annotate(
            row["name"], point, shift, textcoords="offset points", size=6.5, color=colour,
            ha="right" if below else "left",
        )  # fmt: skip
