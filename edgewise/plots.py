"""Pictures of plans: drawn by matplotlib, saved as PNG or SVG by the file's ending."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewise.errors import InputError
from edgewise.estimates import Estimate

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
MOST_TICKS, LONGEST_TICK = 12, 6
ENDINGS = (".png", ".svg", ".pdf")


def save_gantt(estimate: Estimate, path: Path) -> None:
    """One token's way round the pipeline: a bar per stage, a line per hop."""
    import matplotlib.pyplot as plt

    check_ending(path)
    devices = list(dict.fromkeys(part.stage.device for part in estimate.stages))
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.6 * len(devices)), layout="constrained")
    at, before = 0.0, None
    for part in estimate.stages:
        row = devices.index(part.stage.device)
        if before is not None:
            axes.plot([at, at + part.hop_seconds * 1e3], [before, row], color="0.4", linewidth=1.5)
        at += part.hop_seconds * 1e3
        width = part.decode_seconds * 1e3
        axes.barh(row, width, left=at, height=0.55, color=f"C{row % 10}")
        layers = f"{part.stage.start}-{part.stage.end - 1}"
        axes.text(
            at + width / 2, row, f"{layers}\n{width:.2f} ms", ha="center", va="center", size=8
        )
        at, before = at + width, row
    end = at + estimate.return_seconds * 1e3
    axes.plot([at, end], [before or 0, 0], color="0.4", linewidth=1.5, linestyle=":")
    axes.set_yticks(range(len(devices)), devices)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds from one token to the next (bars: layers; lines: links)")
    axes.set_title(f"{estimate.decode_seconds * 1e3:.2f} ms per token (predicted)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_lines(
    series: Series, path: Path, *, title: str, x: str, y: str, log_x: bool = False
) -> None:
    """Lines with markers, one per name: sweeps and frontiers."""
    import matplotlib.pyplot as plt

    check_ending(path)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (name, (xs, ys)) in enumerate(series.items()):
        axes.plot(xs, ys, marker="os^Dvx+"[number % 7], markersize=4, label=name)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({x for xs, _ in series.values() for x in xs})
        if len(ticks) <= MOST_TICKS and all(len(f"{tick:g}") <= LONGEST_TICK for tick in ticks):
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(series), 3), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    path: Path,
    *,
    title: str,
    y: str,
) -> None:
    """A cluster of bars per group, one per name; None leaves a bar out."""
    import matplotlib.pyplot as plt

    check_ending(path)
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        left = [i + (number + 0.5) * width - 0.4 for i in range(len(groups))]
        bars = axes.bar(left, [value or 0.0 for value in values], width * 0.92, label=name)
        labels = ["none" if value is None else f"{value:.3g}" for value in values]
        axes.bar_label(bars, labels, fontsize=7, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(title=title, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=len(series), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def check_ending(path: Path) -> None:
    """Raise InputError where matplotlib could not write such a file."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"cannot draw {path.name}: end it in {', '.join(ENDINGS)}")


@dataclass(frozen=True, slots=True)
class FrontierLine:
    """Plans of one kind, as (loss, milliseconds, gigabytes, label)."""

    name: str
    points: Sequence[tuple[float, float, float, str]]
    joined: bool


def save_frontier(lines: Sequence[FrontierLine], path: Path, *, title: str, y: str) -> None:
    """What quality costs in time and in memory: two panels over the loss, which may be zero."""
    import matplotlib.pyplot as plt

    check_ending(path)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharex=True)
    losses = [point[0] for line in lines for point in line.points if point[0] > 0]
    for axes, column, label in zip(panels, (1, 2), (y, "weights and cache, GB"), strict=True):
        for number, line in enumerate(lines):
            xs = [point[0] for point in line.points]
            ys = [point[column] for point in line.points]
            style = "-" if line.joined else ""
            axes.plot(xs, ys, style, marker="os^Dvx+"[number % 7], markersize=5, label=line.name)
            for x, height, text in zip(xs, ys, (p[3] for p in line.points), strict=True):
                axes.annotate(text, (x, height), (4, 4), textcoords="offset points", size=7)
        if losses:
            axes.set_xscale("symlog", linthresh=min(losses), linscale=0.3)
        axes.set(xlabel="predicted loss of quality", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save_scatter(
    xs: Sequence[float], ys: Sequence[float], path: Path, *, title: str, x: str, y: str
) -> None:
    """Points on logarithmic axes, and the line where both are equal."""
    import matplotlib.pyplot as plt

    check_ending(path)
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    ends = [min(*xs, *ys), max(*xs, *ys)]
    axes.plot(ends, ends, color="0.6", linewidth=1, label="equal")
    axes.scatter(xs, ys, s=12)
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
