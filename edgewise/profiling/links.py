"""What every link carries, and how long a message is under way."""

import time
from collections.abc import Collection
from statistics import median

from edgewise.clusters import Link
from edgewise.profiling.bench import TIME_SECONDS, Progress
from edgewise.runtime import messages
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.worker.trial import REST_SECONDS, cool_caches

COLD = messages.Echo(cold=True)
FASTEST = 1e-12  # seconds per byte: below this a slope is noise
LINK_BYTES, MOST_LINK_BYTES = 2**15, 2**21  # on the way there; more where that passes at once
LINK_PART_SECONDS = 0.02  # a message that takes so long says how fast a link is
LINK_REPEATS = 10
LEAST_LINK_REPEATS = 3
LINK_SECONDS = 0.6  # for probes of one link and size, beyond the first few: slow links vary less


def measure_links(
    workers: Workers,
    known: Collection[tuple[str, str]] = (),
    on_progress: Progress = lambda what: None,
) -> tuple[Link, ...]:
    """Every link that has a way back, and the way from the coordinator into the source's worker;
    but for those `known`, by their ends."""
    cluster = workers.cluster
    links = list[Link]()
    if (cluster.source, cluster.source) not in known:
        on_progress(f"link into {cluster.source}")
        within = median(_enter(workers) for _ in range(LINK_REPEATS))
        links.append(Link(cluster.source, cluster.source, 1 / FASTEST, within / 2))
    for link in cluster.all_links():
        if cluster.link(link.target, link.source) is None or (link.source, link.target) in known:
            continue
        on_progress(f"link {link.source} -> {link.target}")
        size, (empty, more) = LINK_BYTES, _probes(workers, link, LINK_BYTES)
        while more < LINK_PART_SECONDS and size < MOST_LINK_BYTES:
            size *= 8
            empty, more = _probes(workers, link, size)
        # Without synchronised clocks a round trip cannot be split, so each direction gets half of
        # it; the bandwidth, from the larger message, is the link's own.
        rate = 1 / max(more / size, FASTEST)
        links.append(Link(link.source, link.target, rate, empty / 2))
    return tuple(links)


def _enter(workers: Workers) -> float:
    workers.call(source := workers.cluster.source, COLD, messages.Echoed, TIME_SECONDS)
    time.sleep(REST_SECONDS)
    cool_caches()
    return workers.round_trip(source)


def _probes(workers: Workers, link: Link, size: int) -> tuple[float, float]:
    """Seconds of an empty round trip over a link, and how many more with so many bytes on the way
    there: by turns, so that what else the machine does weighs on both."""
    empty, more = list[float](), list[float]()
    end = time.monotonic() + LINK_SECONDS
    while len(more) < LEAST_LINK_REPEATS or (len(more) < LINK_REPEATS and time.monotonic() < end):
        empty.append(_probe(workers, link, 0))
        more.append(_probe(workers, link, size) - empty[-1])
    return median(empty), median(more)


def _probe(workers: Workers, link: Link, size: int) -> float:
    probe = messages.Probe(link.target, size)
    return workers.call(link.source, probe, messages.Probed, TIME_SECONDS).seconds
