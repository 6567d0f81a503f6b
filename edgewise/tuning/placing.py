"""Which device holds which windows of a model that is adapted.

Batches pass through the windows one after the other, and a device may be at the next batch while
others are at this one: the slowest device, or the slowest link, says how long a batch takes. With
p and s a device's seconds for a plain pass of one window and for a step, and n its windows:

    seconds a batch = max over devices of n (p + s), and over links used of bytes / bandwidth
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.units import format_bytes

MOST_DEVICES = 8  # that are looked at: the quickest, or those with most room


@dataclass(frozen=True, slots=True)
class WindowCost:
    """What a window costs a device: seconds of a plain pass and of a step; bytes to hold and learn
    one, bytes that are there once, that a step keeps meanwhile, and those of the embedding beyond
    what the head has of it, where the first window is."""

    plain_seconds: float
    step_seconds: float
    window_bytes: int
    head_bytes: int
    kept_bytes: int
    embedding_bytes: int

    def seconds(self, windows: int) -> float:
        return windows * (self.plain_seconds + self.step_seconds)

    def bytes(self, first: int, end: int) -> int:
        """Of windows [first, end)."""
        entered = 0 if first else self.embedding_bytes
        return entered + self.head_bytes + (end - first) * self.window_bytes + self.kept_bytes


@dataclass(frozen=True, slots=True)
class WindowPlace:
    """Windows [first, end) on a device."""

    device: str
    first: int
    end: int


_Reached = dict[int, tuple[float, tuple[WindowPlace, ...]]]  # by windows placed
_Room = Mapping[tuple[str, bool], int]  # windows that fit, by device, and whether the first is one


def place(
    costs: Mapping[str, WindowCost], cluster: Cluster, windows: int, states_bytes: int
) -> tuple[tuple[WindowPlace, ...], float]:
    """The quickest places of so many windows, and the seconds that a batch takes then; of equally
    quick ones the one with the fewest devices. `states_bytes` cross every link that is used. Exact,
    over all orders of the quickest devices; where these do not do, of those with most room. Raises
    Infeasible."""
    most = {
        (name, begins): _most(cost, cluster.device(name).memory_bytes, begins, windows)
        for name, cost in costs.items()
        for begins in (True, False)
    }
    quickest = sorted(costs, key=lambda name: costs[name].seconds(1))[:MOST_DEVICES]
    roomiest = sorted(costs, key=lambda name: -most[name, False])[:MOST_DEVICES]
    told = costs, cluster, most, windows, states_bytes
    ends = _ways(quickest, *told) or _ways(roomiest, *told)
    if not ends:
        raise Infeasible(_why(costs, cluster, roomiest, most, windows))
    seconds, _, where = min(ends, key=lambda x: (x[0], x[1], [placed.device for placed in x[2]]))
    return where, seconds


def _ways(
    names: Sequence[str],
    costs: Mapping[str, WindowCost],
    cluster: Cluster,
    most: _Room,
    windows: int,
    states_bytes: int,
) -> list[tuple[float, int, tuple[WindowPlace, ...]]]:
    """Of each set of devices and last one the quickest: seconds, how many they are, places."""
    # By devices used, and the last of them.
    best: dict[tuple[frozenset[str], str], _Reached] = {(frozenset(), ""): {0: (0.0, ())}}
    ends = list[tuple[float, int, tuple[WindowPlace, ...]]]()
    for _ in names:
        longer: dict[tuple[frozenset[str], str], _Reached] = {}
        for (used, last), reached in best.items():
            for name in names:
                if name in used or (last and cluster.link(last, name) is None):
                    continue
                over = _link_seconds(cluster, last, name, states_bytes)
                table = longer.setdefault((used | {name}, name), {})
                for first, (seconds, where) in reached.items():
                    room = most[name, first == 0]
                    for end in range(first + 1, min(first + room, windows) + 1):
                        slowest = max(seconds, over, costs[name].seconds(end - first))
                        if end not in table or slowest < table[end][0]:
                            table[end] = slowest, (*where, WindowPlace(name, first, end))
        ends += [(s, len(w), w) for x in longer.values() for n, (s, w) in x.items() if n == windows]
        best = longer
    return ends


def _most(cost: WindowCost, memory_bytes: int, begins: bool, windows: int) -> int:
    """Of so many windows, how many fit, with the first one or without."""
    first = 0 if begins else 1
    fits = (cost.bytes(first, first + n) <= memory_bytes for n in range(1, windows + 1))
    return sum(fits)


def _link_seconds(cluster: Cluster, source: str, target: str, count: int) -> float:
    link = cluster.link(source, target) if source else None
    return 0.0 if link is None else link.occupancy_seconds(count)


def _why(
    costs: Mapping[str, WindowCost],
    cluster: Cluster,
    names: Sequence[str],
    most: _Room,
    windows: int,
) -> str:
    def room(name: str) -> str:
        cost, count = costs[name], most[name, False]
        entered = cost.embedding_bytes
        more = f", {format_bytes(entered)} more for the first" if entered else ""
        memory = format_bytes(cluster.device(name).memory_bytes)
        one = format_bytes(cost.bytes(1, 2))
        return f"'{name}' has room for {count} ({one} for one{more}, of {memory})"

    each = "; ".join(map(room, names))
    every = sum(most[name, False] for name in names)
    if any(every - most[x, False] + most[x, True] >= windows for x in names if most[x, True]):
        return (
            f"the model's {windows} windows would fit, but no chain of links connects devices with "
            f"room for all: {each}: add links, or use more devices"
        )
    no = "no devices" if len(costs) <= MOST_DEVICES else f"no {MOST_DEVICES} devices of yours"
    return (
        f"the model's {windows} windows fit on {no}: {each}: use fewer bits, smaller windows or "
        "batches, or more devices"
    )
