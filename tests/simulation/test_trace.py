"""The Chrome trace: valid, and nothing that does one thing at a time does two."""

import json
from collections import defaultdict
from itertools import pairwise

from edgewise.simulation import Jitter, Leave, Outcome, Recovery, poisson, simulate_plan
from tests.simulation.chains import chain, spread


def busy_outcome() -> Outcome:
    costs, plan = chain(
        [0.5, 0.4, 0.3], [0.1, 0.2], busy=[0.1, 0.1, 0.1], back=0.1, lanes=3, size=2, revisit=True
    )
    fallback = spread(costs.model, ["d0"] * 4)
    return simulate_plan(
        costs,
        plan,
        poisson(20, 0.5, 4, 8),
        jitter=Jitter(0.3, 0.3),
        faults=[Leave("d2", 20.0)],
        replan=lambda cluster, profile: fallback,
        recovery=Recovery(1.0, 300.0),
    )


def test_nothing_does_two_things_at_a_time() -> None:
    by_resource = defaultdict(list)
    for piece in busy_outcome().slices:
        assert piece.end_seconds > piece.start_seconds
        by_resource[piece.resource].append((piece.start_seconds, piece.end_seconds))
    assert len(by_resource) > 5
    for slices in by_resource.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(slices)))


def test_the_chrome_trace_is_what_a_browser_opens() -> None:
    outcome = busy_outcome()
    document = json.loads(outcome.chrome_trace())
    events = document["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"
    }
    assert set(names.values()) == {"d0", "d1", "d2"}
    done = [e for e in events if e["ph"] == "X"]
    assert len(done) == len(outcome.slices)
    assert {"load", "prefill lane 0", "decode lane 2"} <= {e["name"] for e in done}
    computing = defaultdict(list)
    for event in done:
        assert {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"} <= set(event)
        assert (event["pid"], event["tid"]) in threads
        if event["cat"] == "compute":
            computing[names[event["pid"]]].append((event["ts"], event["ts"] + event["dur"]))
    assert {(names[pid], name) for (pid, _), name in threads.items()} >= {
        ("d0", "layers 0-1"),
        ("d0", "layers 4-5"),
        ("d0", "d0 -> d1"),
    }
    for slices in computing.values():
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(sorted(slices)))


def test_the_summary_is_json() -> None:
    outcome = busy_outcome()
    summary = json.loads(json.dumps(outcome.summary()))
    assert summary["requests"] == summary["finished"] == 20
    assert summary["tokens_per_second"] * summary["makespan_seconds"] == 160
    assert 0 < summary["utilisation"]["d0"] <= 1
    assert len(summary["plans"]) == 2
