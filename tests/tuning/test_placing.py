"""Windows on devices, against all ways to place them."""

import dataclasses
import itertools
import math
import random

import pytest

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.errors import Infeasible
from edgewise.tuning.placing import WindowCost, WindowPlace, place


def random_case(seed):
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(rng.randint(1, 4))]
    devices = tuple(Device(x, rng.randint(60, 400)) for x in names)
    links = tuple(
        Link(a, b, rng.choice([5.0, 50.0, math.inf]))
        for a, b in itertools.permutations(names, 2)
        if rng.random() < 0.4
    )
    costs = {
        x: WindowCost(rng.uniform(0.1, 1), rng.uniform(0.5, 3), rng.randint(20, 60), 10, 5, 40)
        for x in names
    }
    return costs, Cluster(devices, links, names[0]), rng.randint(1, 5)


def every_way(costs, cluster, windows):
    """Orders of devices, and how many windows each holds."""
    for count in range(1, len(costs) + 1):
        for order in itertools.permutations(costs, count):
            for cuts in itertools.combinations(range(1, windows), count - 1):
                edges = [0, *cuts, windows]
                yield [WindowPlace(x, *edges[i : i + 2]) for i, x in enumerate(order)]


def seconds_of(places, costs, cluster, states_bytes):
    """math.inf where it does not fit, or a link is missing."""
    slowest = 0.0
    for placed in places:
        count = placed.end - placed.first
        once = 15 + (40 if placed.first == 0 else 0)
        needed = once + count * costs[placed.device].window_bytes
        if needed > cluster.device(placed.device).memory_bytes:
            return math.inf
        slowest = max(slowest, costs[placed.device].seconds(count))
    for a, b in itertools.pairwise(places):
        link = cluster.link(a.device, b.device)
        slowest = max(slowest, math.inf if link is None else states_bytes / link.bytes_per_second)
    return slowest


@pytest.mark.parametrize("seed", range(200))
def test_no_way_is_quicker(seed):
    costs, cluster, windows = random_case(seed)
    best = min(
        (seconds_of(x, costs, cluster, 10) for x in every_way(costs, cluster, windows)),
        default=math.inf,
    )
    if best == math.inf:
        network = Network(tuple(costs))  # with which only memory counts
        linked = dataclasses.replace(cluster, links=(), networks=(network,))
        ways = every_way(costs, linked, windows)
        fits = any(seconds_of(x, costs, linked, 10) < math.inf for x in ways)
        says = "windows would fit, but no chain of links" if fits else "windows fit on no devices"
        with pytest.raises(Infeasible, match=f"{windows} {says}"):
            place(costs, cluster, windows, 10)
        return
    places, seconds = place(costs, cluster, windows, 10)
    assert seconds == pytest.approx(best)
    assert seconds_of(places, costs, cluster, 10) == pytest.approx(best)


def test_a_device_that_gains_nothing_is_left_out():
    costs = {"a": WindowCost(0.1, 1.0, 1, 1, 1, 0), "b": WindowCost(9.0, 9.0, 1, 1, 1, 0)}
    cluster = Cluster(tuple(Device(x, 100) for x in "ab"), (), "a", (Network(("a", "b")),))
    places, _ = place(costs, cluster, 4, 10)
    assert places == (WindowPlace("a", 0, 4),)


def test_where_the_quickest_of_many_have_no_room_others_are_used():
    """A dozen devices, of which the quicker ones hold nothing."""
    names = [f"d{i}" for i in range(12)]
    costs = {x: WindowCost(1.0, 1.0 + i, 50, 1, 1, 0) for i, x in enumerate(names)}
    devices = tuple(Device(x, 100 if i >= 10 else 10) for i, x in enumerate(names))
    cluster = Cluster(devices, (), "d0", (Network(tuple(names)),))
    places, _ = place(costs, cluster, 2, 10)
    assert {placed.device for placed in places} == {"d10", "d11"}
    with pytest.raises(Infeasible, match="3 windows fit on no 8 devices of yours"):
        place(costs, cluster, 3, 10)


def test_where_only_a_link_is_missing_memory_is_not_blamed():
    costs = {x: WindowCost(1.0, 1.0, 20, 1, 1, 0) for x in "ab"}
    cluster = Cluster(tuple(Device(x, 50) for x in "ab"), (), "a")
    with pytest.raises(Infeasible, match="4 windows would fit, but no chain of links"):
        place(costs, cluster, 4, 10)
    with pytest.raises(Infeasible, match="5 windows fit on no devices"):
        place(costs, cluster, 5, 10)
