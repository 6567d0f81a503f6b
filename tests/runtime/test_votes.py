"""Requests whose adapters have windows with exits that vote: the tokens that tuning's own forward
pass says, which has no cache, and those that each has alone; also when devices are lost."""

import os
import signal
from dataclasses import replace

import pytest

import edgewise
from edgewise.adapters.served import open_adapter
from edgewise.errors import InputError, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.adapters import with_room
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.schemes import Wire
from edgewise.specs import Vote, Workload
from tests.adapters.made import write_adapter
from tests.adapters.windows import judged_answer, write_windows
from tests.runtime.conftest import NAMES, cluster, plan_of
from tests.runtime.test_adapters import CUTS, alone, answers, request_of
from tests.runtime.test_exact import plan_of as plan_with
from tests.runtime.test_recovery import evenly

FAMILY = "llama-wide-heads"
WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=16, micro_batches=2)
NAMED = ("", "lora", *Vote)
MIXED = [request_of(i, NAMED[i % 5]) for i in range(16)]
ENDS = [("laptop", 2), ("jetson", 4), ("pi", 6)]


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """Windows of three sizes, each with another vote, and an ordinary adapter; and by name what
    says what is right."""
    folder, opened = tmp_path_factory.mktemp("windows"), open_checkpoint(str(checkpoint(FAMILY)))
    what = opened.config, opened.spec.digest
    lora = write_adapter(folder / "lora", opened.model, size=0.3)
    adapters, truth = {"lora": open_adapter(lora, *what)}, {}
    for window, vote in enumerate(Vote, 1):
        truth[vote] = write_windows(folder / vote, opened.model, window=window, seed=window)
        adapters[str(vote)] = open_adapter(folder / vote, *what, vote)
    return adapters, truth


@pytest.fixture
def opened(checkpoint, made):
    engines = []

    def start(stages, work=WORK, replan=None):
        model, (named, _) = checkpoint(FAMILY), made
        workers = start_local(cluster())
        engines.append(workers)
        work = with_room(work, named.values())
        held = Adapters(workers, work.adapter_bytes, named, work.exit_bytes)
        plan = plan_of(model, *stages)[1]
        return Coordinator(workers, str(model), plan, work, adapters=held, replan=replan)

    yield start
    for workers in engines:
        workers.close()


@pytest.mark.parametrize("cut", CUTS)
def test_tokens_are_those_that_were_judged_and_as_alone(opened, made, cut):
    engine, (_, truth) = opened(CUTS[cut]), made
    prompt = tuple(range(3, 14))
    for vote in Vote:
        (said,) = answers(engine, [Request(prompt, 20, adapter=vote)])
        assert said == judged_answer(truth[vote], prompt, 20, vote)
    expected = alone(engine, MIXED)
    assert answers(engine, MIXED) == expected
    plain = answers(engine, [replace(request, adapter="") for request in MIXED])
    assert sum(a != b for a, b in zip(plain, expected, strict=True)) > 8


def test_after_losses_they_go_on_with_the_same_tokens(opened):
    expected = alone(opened(ENDS), MIXED)
    engine = opened(ENDS, replan=evenly)

    def disturb(step):
        if step in (5, 12):
            device = NAMES[1] if step == 5 else NAMES[0]
            os.kill(engine.workers.process_ids[device], signal.SIGKILL)

    assert answers(engine, MIXED, disturb) == expected
    assert set(engine.plan.devices) == {"laptop", "pi"}


def test_prefixes_are_shared_with_their_branches(opened, monkeypatch):
    monkeypatch.setattr("edgewise.runtime.limits.PREFILL_CHUNK", 8)
    start = tuple(range(20, 38))
    requests = [Request((*start, last), 6, adapter=name) for last in (40, 50) for name in NAMED]
    engine = opened(CUTS["two devices"])
    said = answers(engine, requests)
    assert engine.stats().shared_tokens >= 16 * len(NAMED)
    monkeypatch.setattr("edgewise.runtime.coordinator.scheduler.shared", lambda a, b, share: 0)
    assert said == alone(opened(CUTS["two devices"]), requests)


@pytest.mark.parametrize("wire", [Wire.BF16, Wire.INT8])
def test_what_crosses_links_is_rounded_row_by_row(opened, wire):
    engine = opened(ENDS, replace(WORK, wire=wire))
    assert answers(engine, MIXED) == alone(engine, MIXED)


def test_what_does_not_go_is_said(opened, made, checkpoint):
    engine, (named, _) = opened(CUTS["one device"]), made
    with pytest.raises(PromptError, match="not scored with adapter 'average'"):
        engine.submit(Request((3, 4), 2, top=0, score_prompt=True, adapter="average"))
    with pytest.raises(InputError, match="start with --vote"):
        Adapters(engine.workers, 10**9, named)


def test_scored_prompts_run_beside_votes(opened):
    engine, scored = opened(CUTS["two devices"]), Request((3, 9, 4, 8), 4, top=1, score_prompt=True)
    requests = [MIXED[2], scored, MIXED[3], replace(scored, adapter="lora"), MIXED[4]]
    assert answers(engine, requests) == alone(engine, requests)


@pytest.mark.parametrize("scheme", ["fp32", "q4g32ad"])
def test_a_real_models_votes(real_model, tmp_path, scheme):
    """In fp32 the tokens that were judged; packed in the kernels, those that each has alone."""
    opened, named, truth = open_checkpoint(real_model), {}, {}
    for vote in Vote:
        truth[vote] = write_windows(
            tmp_path / vote, real_model, window=6, rank=8, seed=len(vote), size=0.02, scheme=scheme
        )
        what = opened.config, opened.spec.digest, vote
        named[str(vote)] = open_adapter(tmp_path / vote, *what)
    work = with_room(Workload(64, 8, 8, 2), named.values())
    plan = plan_with(opened.spec, [("laptop", 15), ("jetson", 32)], [scheme] * 32)
    requests = [
        Request(tuple(range(100 + i, 108 + 3 * i)), 6, adapter=("", *named)[i % 4])
        for i in range(8)
    ]
    with start_local(cluster()) as workers:
        held = Adapters(workers, work.adapter_bytes, named, work.exit_bytes)
        engine = Coordinator(workers, str(real_model), plan, work, adapters=held)
        expected = alone(engine, requests)
        assert answers(engine, requests) == expected
        plain = alone(engine, [replace(request, adapter="") for request in requests])
    assert sum(a != b for a, b in zip(plain, expected, strict=True)) >= 4
    if scheme == "fp32":
        for request, said in zip(requests[1:4], expected[1:4], strict=True):
            vote = request.adapter
            assert said == judged_answer(truth[vote], request.prompt, 6, vote)


def test_python_takes_a_vote(tmp_path):
    tunable = write_windows(tmp_path / "windows", "demo", size=0.05)
    prompt, options = "When does the museum close?", {"max_tokens": 12, "raw": True}
    said = set()
    for vote in Vote:
        adapters = {"w": tmp_path / "windows"}
        with edgewise.load("demo", scheme="fp32", adapters=adapters, vote=vote) as model:
            text = model.generate(prompt, adapter="w", **options)
            ids = model._tokenizer.encode(prompt)
            judged = judged_answer(tunable, ids, 12, vote)
            assert text == model._tokenizer.decode(judged)
            said.add(text)
    assert len(said) > 1


def test_what_crosses_links_is_counted(opened):
    """Of each of seven tokens its own state, and that of its branch where one is under way; of the
    five that something follows, what came out of windows."""
    engine = opened([("laptop", 2), ("jetson", 6)])  # before block 1
    for name, states in (("", 7), ("confidence", 7 + 5), ("average", 7 + 7), ("last", 7)):
        before = {(x.source, x.target): x.bytes for x in engine.stats().links}
        answers(engine, [Request((5, 9, 4), 5, adapter=name)])
        after = {(x.source, x.target): x.bytes for x in engine.stats().links}
        there = "laptop", "jetson"
        assert after[there] - before.get(there, 0) == states * 32 * 4
