"""The integer program of free placement: any layer on any device at any width (see dilemma.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.planning.highs import Program, Solution, whole_units
from edgewise.planning.tables import INFINITY, Bools, Floats, Ints

Start = tuple[list[int], list[int]]  # a known placement: the device and the width of every layer


@dataclass(frozen=True, slots=True)
class Placement:
    """The program's data: `compute[b, l, i]`, `upload[b, l, i, k]` (one b if the width does not
    matter), `ends[l, i]` seconds of the way in and out, `size[b, l]`, `room[i]`, `error[b, l]`
    within `limits`."""

    compute: Floats
    upload: Floats
    ends: Floats
    size: Ints
    room: Ints
    error: Floats
    limits: tuple[float, float]
    required: Bools
    shared: Ints
    one_layer: bool = False


def placement_seconds(data: Placement, path: Sequence[int], widths: Sequence[int]) -> float:
    """(2a) of a placement."""
    held = enumerate(zip(widths, path, strict=True))
    total = sum(float(data.compute[b, n, i]) for n, (b, i) in held)
    moves = zip(widths, path, path[1:], strict=False)
    by_width = len(data.upload) > 1
    total += sum(float(data.upload[b * by_width, n, i, k]) for n, (b, i, k) in enumerate(moves))
    return total + sum(float(data.ends[n, i]) for n, i in enumerate(path))


def solve(
    data: Placement, time_limit: float, start: Start | None
) -> tuple[Solution, list[int], list[int]]:
    program, x, z = build(data)
    _, layers, count = data.compute.shape
    first = None
    if start is not None:
        path, widths = start
        first = np.zeros(program.num_columns)
        first[x[widths, range(layers), path]] = 1.0
        by_width = np.array(widths[:-1]) * (len(data.upload) > 1)
        first[z[by_width, range(layers - 1), path[:-1], path[1:]]] = 1.0
    solved = program.solve(time_limit, first)
    if solved.status not in ("optimal", "bounded"):
        return solved, [], []
    chosen = solved.values[x].transpose(1, 0, 2).reshape(layers, -1).argmax(axis=1)
    return solved, (chosen % count).tolist(), (chosen // count).tolist()


def build(data: Placement) -> tuple[Program, Ints, Ints]:
    costs = data.compute + data.ends
    finite = costs[costs < INFINITY]
    unit = float(finite.mean()) if finite.size and finite.mean() > 0 else 1.0
    program, (_, layers, count) = Program(), data.compute.shape
    x = program.columns(costs.shape, costs / unit)
    z = program.columns(data.upload.shape, data.upload / unit, integer=False)
    size, room = whole_units(np.concatenate((data.size, data.shared[:, None]), axis=1), data.room)
    for n in range(layers):
        program.row(1, 1, (x[:, n], 1))
    for i in range(count):
        alone = alone_columns(program, data.shared, x[:, :, i])
        program.row(
            -INFINITY, room[i], (x[:, :, i], size[:, :-1]), (alone, -size[: len(alone), -1])
        )
        if data.one_layer:
            program.row(-INFINITY, 1, (x[:, :, i], 1))
        if data.required[i]:
            program.row(1, INFINITY, (x[:, :, i], 1))
    for n in range(layers - 1):
        for i in range(count):
            for b in range(len(z)):
                leaving = x[b, n, i] if len(z) > 1 else x[:, n, i]
                program.row(0, 0, (z[b, n, i], 1), (leaving, -1))
            program.row(0, 0, (z[:, n, :, i], 1), (x[:, n + 1, i], -1))
    low, high = data.limits
    if high < INFINITY:
        scale = max(abs(high), 1e-300)
        rows = np.broadcast_to(data.error[:, :, None] / scale, x.shape)
        program.row(low / scale, high / scale, (x, rows))
    return program, x, z


def alone_columns(program: Program, shared: Ints, held: Ints) -> Ints:
    """Columns that may be 1 where a device, `held[b, l]` saying what it holds, has a whole tied
    model, in the same width at both ends: its matrix is then stored once."""
    if not shared.any():
        return np.zeros(0, dtype=np.int64)
    alone = program.columns((len(shared),))
    for b, column in enumerate(alone):
        for n in (0, -1):
            program.row(0, INFINITY, (held[b, n], 1), (column, -1))
        program.row(0, INFINITY, (held, 1), (column, -held.shape[1]))
    return alone
