"""Statistics, metrics, logs and the trace of a run: each against a count of its own."""

import itertools
import json
import logging
import os
import pickle
import signal
from collections import Counter, defaultdict
from dataclasses import asdict
from statistics import median

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.runtime.batches import Batch, Row
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.metrics import metrics_text
from edgewise.runtime.coordinator.recording import Recording
from edgewise.runtime.coordinator.tally import BOUNDS, LAST_REPLANS, RATE_TOKENS, RECENT, Tally
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.events import Cancelled, Entered, PlanInUse, Returned, Submitted
from edgewise.runtime.local import start_local
from edgewise.runtime.logs import fields
from edgewise.runtime.sampling import Sampling
from edgewise.specs import Workload
from tests.runtime.conftest import cluster, plan_of

THREE = [("laptop", 2), ("jetson", 4), ("pi", 6)]
WORK = Workload(prompt_tokens=20, new_tokens=20, sequences=2, micro_batches=2)
HIDDEN = 10


def two_stages() -> Plan:
    stages = (Stage("a", 0, 2, ("fp32",) * 2), Stage("b", 2, 5, ("fp32",) * 3))
    return Plan("m", "digest", 5, stages)


def entered(at: float, step: int, *rows: Row) -> Entered:
    return Entered(at, step, Batch(rows))


def prompt_row(request: int, tokens: int, prefix: tuple[int, int] | None = None) -> Row:
    start = prefix[1] if prefix else 0
    return Row(request, start, (1,) * tokens, Sampling(), prefix)


def tally() -> Tally:
    told = Tally(HIDDEN, 0.0)
    told.listen(PlanInUse(0.0, two_stages(), "a"))
    return told


def counted(told: Tally, now: float):
    return told.stats(now, 0, 0, {})


def test_every_request_is_counted_once_by_how_it_ended():
    told = tally()
    for number in range(4):
        told.listen(Submitted(float(number), number, 100 + number))
    told.listen(Token(0, 7, None, 5.0, ()))
    told.listen(Token(0, 7, "stop", 7.0, ()))
    told.listen(Cancelled(8.0, 0))  # it is over: nothing to cancel
    told.listen(Token(1, 0, "error", 9.0, (), "no numbers"))
    told.listen(Cancelled(10.0, 2))
    stats = counted(told, 10.0)
    assert (stats.finished, stats.failed, stats.cancelled) == (1, 1, 1)
    assert (stats.prompt_tokens, stats.new_tokens) == (100, 2)
    assert (stats.first_token.count, stats.first_token.median) == (1, 5.0)
    assert (stats.per_token.count, stats.per_token.total) == (1, 2.0)


def test_medians_are_of_the_last_ones_and_buckets_of_all():
    told = tally()
    seconds = [0.5] * 10 + [0.001 * i for i in range(1, RECENT + 1)]
    at = itertools.accumulate([0.1, *seconds])
    told.listen(Submitted(0.0, 0, 1))
    for when in at:
        told.listen(Token(0, 7, None, when, ()))
    durations = counted(told, 0.0).per_token
    assert durations.count == RECENT + 10
    assert durations.total == pytest.approx(sum(seconds))
    assert durations.median == pytest.approx(median(seconds[10:]), abs=0.002)
    assert durations.p99 == pytest.approx(0.99, abs=0.002)
    assert [bound for bound, _ in durations.within] == list(BOUNDS)
    for bound, count in durations.within:
        assert abs(count - sum(x <= bound for x in seconds)) <= 1  # at a bound sums are rounded


def test_throughput_is_of_the_last_ten_seconds():
    told = tally()
    told.listen(Submitted(0.0, 0, 1))
    for i in range(1, 41):
        told.listen(Token(0, 7, None, i / 2, ()))
    assert counted(told, 20.0).tokens_per_second == pytest.approx(2.0)
    assert counted(told, 25.0).tokens_per_second == pytest.approx(1.0)
    assert counted(told, 40.0).tokens_per_second == 0.0
    for i in range(2 * RATE_TOKENS):
        told.listen(Token(0, 7, None, 50 + i / 1000, ()))
    assert counted(told, 50 + 2 * RATE_TOKENS / 1000).tokens_per_second == pytest.approx(1000, 0.01)
    early = tally()
    early.listen(Submitted(0.0, 0, 1))
    early.listen(Token(0, 7, None, 1.0, ()))
    assert counted(early, 2.0).tokens_per_second == 0.5


def test_stages_wait_only_while_something_is_in_the_pipeline():
    told = tally()
    first, second = entered(1.0, 0, prompt_row(0, 4)), entered(2.0, 1, prompt_row(1, 3, (0, 256)))
    told.listen(first)
    told.listen(second)
    told.listen(Returned(4.0, first, (1.0, 0.5)))
    told.listen(Returned(6.0, second, (1.5, 1.5)))
    third = entered(100.0, 2, prompt_row(2, 2))
    told.listen(third)
    stats = counted(told, 101.0)
    assert [stage.busy_seconds for stage in stats.stages] == [2.5, 2.0]
    assert [stage.waiting_seconds for stage in stats.stages] == [3.5, 4.0]
    assert stats.shared_tokens == 256
    told.listen(Returned(102.0, third, ()))  # it failed
    sizes = {(link.source, link.target): link.bytes for link in counted(told, 102.0).links}
    assert sizes == {("a", "b"): 7 * HIDDEN * 4, ("b", "a"): 2 * 8}


def test_another_plan_begins_its_own_count_and_the_last_ones_are_kept():
    told = tally()
    told.listen(entered(1.0, 0, prompt_row(0, 4)))
    for number in range(2 * LAST_REPLANS):
        told.listen(PlanInUse(float(number), two_stages(), "b", f"lost {number}", 0.25))
    stats = counted(told, 40.0)
    assert stats.replans == 2 * LAST_REPLANS
    assert stats.last_replans[-1].why == f"lost {2 * LAST_REPLANS - 1}"
    assert len(stats.last_replans) == LAST_REPLANS
    assert all(x.busy_seconds == x.waiting_seconds == 0 for x in stats.stages)
    assert stats.links == ()


def test_memory_does_not_grow_with_what_is_done():
    def after(requests):
        told = tally()
        for number in range(requests):
            told.listen(Submitted(float(number), number, 5))
            batch = entered(float(number), number, prompt_row(number, 5))
            told.listen(batch)
            told.listen(Returned(number + 0.5, batch, (0.25, 0.25)))
            told.listen(Token(number, 1, None, number + 0.5, ()))
            told.listen(Token(number, 1, "length", number + 0.75, ()))
        return len(pickle.dumps(told))

    assert after(6 * RATE_TOKENS) < 1.01 * after(3 * RATE_TOKENS)


# With devices


@pytest.fixture(scope="module")
def devices():
    with start_local(cluster(latency=0.002)) as running:
        yield running


def run(engine, requests):
    """Tokens of every request, by the clock."""
    came = {engine.submit(request): [] for request in requests}
    for tokens in iter(engine.step, []):
        for token in tokens:
            came[token.request].append(token)
    return list(came.values())


def start(devices, model, stages=THREE):
    _, plan = plan_of(model, *stages)
    return Coordinator(devices, str(model), plan, WORK)


def test_a_runs_numbers_are_those_of_its_tokens(devices, checkpoint, prompt):
    model = checkpoint("llama")
    engine = start(devices, model)
    answers = run(engine, [Request(prompt, 6), Request(prompt[:5], 9), Request(prompt[:4], 3)])
    stats = engine.stats()
    assert (stats.finished, stats.failed, stats.waiting, stats.running) == (3, 0, 0, 0)
    assert (stats.prompt_tokens, stats.new_tokens) == (len(prompt) + 9, 18)
    gaps = [b.at - a.at for row in answers for a, b in itertools.pairwise(row)]
    assert stats.per_token.total == pytest.approx(sum(gaps))
    assert (stats.first_token.count, stats.per_token.count) == (3, len(gaps))
    assert [stage.device for stage in stats.stages] == ["laptop", "jetson", "pi"]
    assert all(stage.busy_seconds > 0 and stage.waiting_seconds > 0 for stage in stats.stages)
    computed, width = len(prompt) + 9 + 18 - 3, open_checkpoint(model).config.hidden_size
    sizes = {(link.source, link.target): link.bytes for link in stats.links}
    assert sizes.pop(("pi", "laptop")) == 18 * 8
    assert set(sizes) == {("laptop", "jetson"), ("jetson", "pi")}
    assert set(sizes.values()) == {computed * width * 4}
    json.dumps(asdict(stats))


def test_cancelled_requests_are_counted(devices, checkpoint, prompt):
    engine = start(devices, checkpoint("llama"))
    first, _ = engine.submit(Request(prompt, 9)), engine.submit(Request(prompt, 9))
    engine.step()
    engine.cancel(first)
    engine.cancel(first)
    while engine.step():
        pass
    stats = engine.stats()
    assert (stats.cancelled, stats.finished) == (1, 1)


def test_steps_of_cancelled_requests_are_waited_for(devices, checkpoint, prompt):
    """Else their place in the pipeline would be taken for ever."""
    engine = start(devices, checkpoint("llama"))
    numbers = [engine.submit(Request(prompt, 9)) for _ in range(2)]
    while not engine.stats().new_tokens:
        engine.step()
    for number in numbers:
        engine.cancel(number)
    in_flight = len(engine._in_flight)
    assert in_flight and not engine.idle
    assert engine.step() == []
    assert engine.idle and not engine._in_flight and not engine._scheduler.in_flight


def test_a_drain_gives_the_tokens_in_flight(devices, checkpoint, prompt):
    engine = start(devices, checkpoint("llama"))
    for _ in range(2):
        engine.submit(Request(prompt, 9))
    engine.enter()
    given = [token.request for token in engine.drain()]
    assert given and not engine._in_flight and not engine.idle
    rest = [token.request for tokens in iter(engine.step, []) for token in tokens]
    assert sorted(Counter(given + rest).values()) == [9, 9]


def test_metrics_say_what_the_statistics_say(devices, checkpoint, prompt):
    engine = start(devices, checkpoint("llama"))
    run(engine, [Request(prompt, 6), Request(prompt[:5], 9)])
    stats = engine.stats()
    samples, kinds = {}, {}
    for family in text_string_to_metric_families(metrics_text(stats)):
        assert family.documentation and family.name.startswith("edgewise_")
        kinds[family.name] = family.type
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(name, **labels):
        return samples[f"edgewise_{name}", frozenset(labels.items())]

    assert kinds["edgewise_time_to_first_token_seconds"] == "histogram"
    assert kinds["edgewise_requests_running"] == "gauge"
    assert kinds["edgewise_generation_tokens"] == "counter"
    assert value("generation_tokens_total") == 15
    assert value("prompt_tokens_total") == len(prompt) + 5
    assert value("requests_total", outcome="finished") == 2
    assert value("time_to_first_token_seconds_count") == 2
    assert value("time_per_output_token_seconds_sum") == pytest.approx(stats.per_token.total)
    assert value("time_per_output_token_seconds_bucket", le="+Inf") == 13
    assert (
        value("time_per_output_token_seconds_bucket", le="0.025")
        == dict(stats.per_token.within)[0.025]
    )
    busy = value("stage_busy_seconds_total", stage="1", device="jetson", layers="2-3")
    assert busy == pytest.approx(stats.stages[1].busy_seconds)
    assert value("link_bytes_total", source="pi", target="laptop") == 15 * 8
    assert value("memory_bytes", device="pi") == stats.memory_bytes["pi"]


def test_a_lost_device_is_in_numbers_logs_and_trace(checkpoint, prompt, caplog):
    model = checkpoint("llama")
    _, plan = plan_of(model, *THREE)

    def on_two(cluster: Cluster, plan: Plan) -> Plan:
        _, left = plan_of(model, ("laptop", 3), ("pi", 6))
        return left

    caplog.set_level(logging.DEBUG, logger="edgewise")
    with start_local(cluster()) as workers:
        engine = Coordinator(workers, str(model), plan, WORK, replan=on_two)
        recording = Recording()
        engine.listen(recording.listen)
        engine.submit(Request(prompt, 12))
        engine.step()
        os.kill(workers.process_ids["jetson"], signal.SIGKILL)
        while engine.step():
            pass
    stats = engine.stats()
    (replanned,) = stats.last_replans
    assert stats.replans == 1 and replanned.seconds > 0
    assert replanned.why.startswith("device 'jetson' was killed by SIGKILL")
    assert [stage.device for stage in stats.stages] == ["laptop", "pi"]
    lines = [record.getMessage() for record in caplog.records]
    (lost,) = (line for line in lines if line.startswith("device_lost "))
    assert lost.startswith("device_lost device=jetson why=\"device 'jetson' was killed")
    assert any(line.startswith("plan_in_use why=\"device 'jetson'") for line in lines)
    assert any(line.startswith("finished request=1 tokens=12 ") for line in lines)
    (another,) = (span for span in recording.spans if span.process == "coordinator")
    assert another.args["why"] == replanned.why
    after = {s.process for s in recording.spans if s.start_seconds > another.end_seconds}
    assert after == {"laptop", "pi"}


def test_log_lines_are_read_back_field_by_field():
    line = fields("event", a=1, b=0.25, c="two words", d='"=', e="", f="line\nbreak", g="plain")
    assert line == 'event a=1 b=0.250 c="two words" d="\\"=" e="" f="line\\nbreak" g=plain'


# The trace


def recorded(devices, model, stages, requests):
    engine = start(devices, model, stages)
    recording, returned = Recording(), []

    def listen(event):
        if isinstance(event, Returned):
            returned.append(event)

    engine.listen(recording.listen)
    engine.listen(listen)
    run(engine, requests)
    return recording, returned


def test_spans_are_where_they_can_have_been(devices, checkpoint, prompt):
    """As long as their stage says, behind each other on it, behind the stage before, and between
    the batch's sending and its return."""
    requests = [Request(prompt, 6), Request(prompt[:5], 9), Request(prompt[:4], 3)]
    recording, returned = recorded(devices, checkpoint("llama"), THREE, requests)
    by_stage, by_step = defaultdict(list), defaultdict(list)
    for span in recording.spans:
        if span.category == "compute":
            by_stage[span.process].append(span)
            by_step[span.args["step"]].append(span)
    assert list(by_stage) == ["laptop", "jetson", "pi"]
    for spans in by_stage.values():
        assert all(a.end_seconds <= b.start_seconds + 1e-9 for a, b in itertools.pairwise(spans))
    assert len(by_step) == len(returned) >= 9
    began = returned[0].entered.at - by_step[returned[0].entered.step][0].start_seconds
    for event in returned:
        spans = by_step[event.entered.step]
        assert [x.end_seconds - x.start_seconds for x in spans] == pytest.approx(event.seconds)
        times = [event.entered.at - began]
        times += [x for span in spans for x in (span.start_seconds, span.end_seconds)]
        times += [event.at - began]
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(times))


def test_requests_wait_are_read_and_are_answered(devices, checkpoint, prompt):
    requests = [Request(prompt, 6), Request(prompt[:5], 9), Request(prompt[:4], 3)]
    recording, _ = recorded(devices, checkpoint("llama"), THREE, requests)
    rows = defaultdict(list)
    for span in recording.spans:
        if span.process == "requests":
            rows[span.thread].append(span)
    assert set(rows) == {"request 1", "request 2", "request 3"}
    for spans in rows.values():
        assert [span.name for span in spans] == ["waiting", "prompt", "answer"]
        assert all(a.end_seconds == b.start_seconds for a, b in itertools.pairwise(spans))
    assert [rows[f"request {n}"][0].args["tokens"] for n in (1, 2, 3)] == [6, 9, 3]
    waited = [x.end_seconds - x.start_seconds for x in (spans[0] for spans in rows.values())]
    assert max(waited) > 10 * min(waited)  # two have room at a time
    events = json.loads(recording.chrome_trace())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    drawn = [event for event in events if event["ph"] == "X"]
    assert len(drawn) == len(recording.spans)
    assert all(event["dur"] >= 0 for event in drawn)


def test_clocks_of_other_machines_are_not_needed():
    """Two batches through two stages, placed by hand."""
    recording = Recording()
    recording.listen(PlanInUse(100.0, two_stages(), "a"))
    first, second = entered(101.0, 0, prompt_row(0, 4)), entered(101.5, 1, prompt_row(1, 1))
    recording.listen(first)
    recording.listen(second)
    recording.listen(Returned(105.0, first, (1.0, 2.0)))
    recording.listen(Returned(107.0, second, (0.25, 1.0)))
    drawn = [(x.process, x.name, x.start_seconds, x.end_seconds) for x in recording.spans]
    assert drawn == [
        ("a", "prefill", 1.0, 2.0),
        ("b", "prefill", 2.0, 4.0),
        ("a", "decode", 2.0, 2.25),
        ("b", "decode", 4.0, 5.0),
    ]
