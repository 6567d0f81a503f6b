"""docs/images/planners.png: what every planner chooses, and what that takes.

edgewise plan MODEL --cluster FILE --compare --json | python scripts/draw_planners.py PICTURE
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from edgewise.schemes import get_scheme

STORED = "as in the file"
COLOURS = {
    "2 bits": "#d1495b",
    "3 bits": "#e8a13a",
    "4 bits": "#5b9bd5",
    "5 bits": "#3f7cac",
    "6 bits": "#2f6690",
    "8 bits": "#16425b",
    STORED: "#9aa0a6",
}


def draw_layers(axes: Axes, row: int, stages: list[dict[str, Any]], drawn: set[str]) -> None:
    """A cell for each layer, in the colour of its bits, and a line behind each device's."""
    for stage in stages:
        for layer, scheme in enumerate(stage["schemes"], stage["start"]):
            kind = STORED if scheme == "stored" else f"{get_scheme(scheme).bits} bits"
            drawn.add(kind)
            axes.barh(row, 1, left=layer, height=0.5, color=COLOURS[kind], edgecolor="white")
        middle = (stage["start"] + stage["end"]) / 2
        axes.text(middle, row - 0.31, stage["device"], ha="center", va="bottom", size=8)
        axes.plot([stage["end"]] * 2, [row - 0.4, row + 0.3], color="black", linewidth=1.5)


def main(path: Path) -> None:
    plans = json.load(sys.stdin)["plans"]
    size = 10, 0.8 + 0.55 * len(plans)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=size, width_ratios=(3, 1), sharey=True, layout="constrained"
    )
    drawn = set[str]()
    for row, plan in enumerate(plans):
        if not plan["feasible"]:
            left.text(0.3, row, "no plan fits", va="center", size=8, style="italic", color="0.4")
            continue
        draw_layers(left, row, plan["stages"], drawn)
        milliseconds = 1e3 * plan["predicted_seconds_per_token"]
        right.barh(row, milliseconds, height=0.5, color="0.45")
        right.text(milliseconds, row, f" {milliseconds:.1f}", va="center", size=8)
    left.set_yticks(range(len(plans)), [plan["planner"] for plan in plans])
    left.set_ylim(len(plans) - 0.5, -0.6)
    left.set_xlabel("layer (0: embedding; the last: head)")
    right.set_xlabel("ms per token, predicted")
    right.margins(x=0.2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(left=False)
    names = [name for name in COLOURS if name in drawn]
    keys = [Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in names]
    figure.legend(keys, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
