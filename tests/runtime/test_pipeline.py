"""The three-process pipeline against the unsharded model: the same tokens, whatever the plan."""

import dataclasses
import itertools

import pytest
import torch

from edgewise.errors import DeviceMemoryError, ModelError, PlanError, PromptError
from edgewise.memory import device_bytes
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import open_engine, start_local
from edgewise.runtime.sampling import Sampling
from tests.conftest import random_model
from tests.runtime.conftest import WORKLOAD, cluster, plan_of, reference

PLANS = {
    "three stages": [("laptop", 2), ("jetson", 4), ("pi", 6)],
    "embedding and head on the source": [("laptop", 1), ("pi", 5), ("laptop", 6)],
    "one device visited twice": [("laptop", 2), ("jetson", 3), ("laptop", 4), ("jetson", 6)],
    "one stage": [("laptop", 6)],
}
HOT = Sampling(temperature=1.3, top_k=40, top_p=0.95, seed=11)


@pytest.fixture(scope="module")
def devices():
    with start_local(cluster()) as running:
        yield running


def load(devices, model, stages, workload=WORKLOAD):
    _, plan = plan_of(model, *stages)
    return Coordinator(devices, str(model), plan, workload)


def tokens_of(engine, request):
    return [token.id for token in stream(engine, request)]


@pytest.mark.parametrize("sampling", [Sampling(), HOT], ids=["greedy", "seeded"])
@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "opt-350m", "mistral-window"])
def test_the_pipeline_gives_the_tokens_of_the_whole(
    devices, checkpoint, prompt, family, stages, sampling
):
    model = checkpoint(family)
    request = Request(prompt, 20, sampling)
    assert tokens_of(load(devices, model, stages), request) == reference(model, request)


def test_greedy_tokens_equal_those_of_transformers(devices, checkpoint, prompt):
    engine = load(devices, checkpoint("llama"), PLANS["three stages"])
    expected = random_model("llama").generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=-1
    )
    assert tokens_of(engine, Request(prompt, 20)) == expected[0, len(prompt) :].tolist()


def test_a_long_prompt_travels_in_chunks(devices, checkpoint, monkeypatch):
    monkeypatch.setattr("edgewise.runtime.limits.PREFILL_CHUNK", 7)
    model, request = checkpoint("qwen2"), Request(tuple(range(1, 40)), 8)
    engine = load(devices, model, PLANS["three stages"])
    assert tokens_of(engine, request) == reference(model, request)


def test_requests_run_side_by_side_and_wait_for_room(devices, checkpoint, prompt):
    model = checkpoint("llama")
    engine = load(devices, model, PLANS["three stages"])
    requests = [
        Request(prompt[: 3 + i], 5 + 4 * i, dataclasses.replace(HOT, seed=i)) for i in range(4)
    ]
    numbers = [engine.submit(request) for request in requests]
    assert (engine.stats().running, engine.stats().waiting) == (0, 4)
    answers = {number: [] for number in numbers}
    first = engine.step()
    assert (engine.stats().running, engine.stats().waiting) == (2, 2)
    for batch in itertools.chain([first], iter(engine.step, [])):
        for token in batch:
            answers[token.request].append(token.id)
    assert list(answers.values()) == [reference(model, request) for request in requests]
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert engine.stats().new_tokens == sum(map(len, answers.values()))


def test_a_cancelled_request_sends_no_more_tokens_and_frees_its_place(devices, checkpoint, prompt):
    model = checkpoint("llama")
    engine = load(devices, model, PLANS["three stages"])
    first, second, third = (engine.submit(Request(prompt, 12)) for _ in range(3))
    engine.step()
    engine.cancel(first)
    engine.cancel(first)
    engine.cancel(999)
    seen = set()
    while batch := engine.step():
        seen.update(token.request for token in batch)
    assert seen == {second, third}
    # Slots of cancelled requests are usable again, many times over.
    for _ in range(4):
        engine.cancel(engine.submit(Request(prompt, 12)))
    request = Request(prompt, 9)
    assert tokens_of(engine, request) == reference(model, request)


def test_generation_ends_at_a_stop_token(devices, checkpoint, prompt):
    model = checkpoint("llama")
    engine = load(devices, model, PLANS["three stages"])
    free = list(stream(engine, Request(prompt, 10)))
    assert [token.finish for token in free] == [None] * 9 + ["length"]
    stop = free[4].id
    end = [token.id for token in free].index(stop)
    stopped = list(stream(engine, Request(prompt, 10, stop_ids=frozenset({stop}))))
    assert [token.id for token in stopped] == [token.id for token in free][: end + 1]
    assert stopped[-1].finish == "stop"


def test_tokens_say_what_each_stage_spent(devices, checkpoint, prompt):
    engine = load(devices, checkpoint("llama"), PLANS["embedding and head on the source"])
    tokens = list(stream(engine, Request(prompt, 6)))
    assert all(len(token.stage_seconds) == 3 for token in tokens)
    assert all(seconds > 0 for token in tokens for seconds in token.stage_seconds)
    assert all(a.at < b.at for a, b in itertools.pairwise(tokens))
    gaps = [b.at - a.at for a, b in itertools.pairwise(tokens)]
    spent = [sum(token.stage_seconds) for token in tokens[1:]]
    assert all(s < g for s, g in zip(spent, gaps, strict=True))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), 5), "the prompt is empty"),
        (Request((1, 97), 5), "the prompt has token ids outside 0 to 96"),
        (Request((-1,), 5), "the prompt has token ids outside 0 to 96"),
        (Request((1, 2), 0), "max tokens must be at least 1, not 0"),
        (
            Request((1,) * 70, 1),
            "the prompt has 70 tokens, but 'M' has a context of 64, answer included; "
            "shorten it by at least 7",
        ),
        (
            Request((1,) * 60, 11),
            "prompt and answer need 60 + 11 tokens, but 'M' has a context of 64; ask for at most 4",
        ),
    ],
)
def test_requests_that_cannot_run_are_refused(devices, checkpoint, request_, message):
    model = checkpoint("llama")
    engine = load(devices, model, PLANS["three stages"])
    with pytest.raises(PromptError) as error:
        engine.submit(request_)
    assert str(error.value) == message.replace("'M'", f"'{model}'")


def test_a_plan_that_begins_away_from_the_source_waits_for_the_links_both_ways(checkpoint, prompt):
    with start_local(cluster(latency=0.04)) as far:
        engine = load(far, checkpoint("llama"), [("pi", 6)])
        times = [token.at for token in stream(engine, Request(prompt, 6))]
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.08


def test_loading_over_the_memory_cap_is_refused_with_the_numbers(checkpoint):
    model = checkpoint("llama")
    spec, plan = plan_of(model, *PLANS["three stages"])
    needed = max(device_bytes(spec, [stage], WORKLOAD) for stage in plan.stages)
    small = cluster(memory=needed - 1)
    with pytest.raises(DeviceMemoryError, match=r"has [\d.]+ kB for .*, but layers .* need"):
        open_engine(str(model), plan, small, WORKLOAD, spec=spec)
    open_engine(str(model), plan, cluster(memory=needed), WORKLOAD, spec=spec).close()


def test_a_plan_for_another_model_or_over_a_missing_link_is_refused(checkpoint):
    model = checkpoint("llama")
    spec, plan = plan_of(model, *PLANS["three stages"])
    other = plan_of(checkpoint("qwen3"), *PLANS["three stages"])[0]
    with pytest.raises(PlanError, match="this plan is for model"):
        open_engine(str(model), plan, cluster(), WORKLOAD, spec=other)
    whole = cluster()
    cut = dataclasses.replace(
        whole,
        links=tuple(link for link in whole.links if (link.source, link.target) != ("jetson", "pi")),
    )
    with pytest.raises(PlanError) as error:
        open_engine(str(model), plan, cut, WORKLOAD, spec=spec)
    message = "the plan sends from 'jetson' to 'pi', but the cluster has no such link"
    assert str(error.value) == message


def test_closing_twice_is_fine_and_leaves_no_process(checkpoint):
    import psutil

    model = checkpoint("llama")
    spec, plan = plan_of(model, *PLANS["three stages"])
    engine = open_engine(str(model), plan, cluster(), WORKLOAD, spec=spec)
    pids = list(engine.workers.process_ids.values())
    assert all(psutil.pid_exists(pid) for pid in pids)
    engine.close()
    engine.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_plan_whose_embedding_lies_elsewhere_is_refused(checkpoint):
    model = checkpoint("llama")
    spec, plan = plan_of(model, ("pi", 2), ("laptop", 6))
    with pytest.raises(PlanError, match="prompts would leave the source 'laptop'"):
        open_engine(str(model), plan, cluster(), WORKLOAD, spec=spec)


def test_a_failed_plan_does_not_spoil_the_next(devices, checkpoint, prompt, tmp_path):
    model = checkpoint("llama")
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(ModelError):  # raised by all three workers, at their own pace
        load(devices, tmp_path, PLANS["three stages"])
    for _ in range(3):
        request = Request(prompt, 5)
        assert tokens_of(load(devices, model, PLANS["one stage"]), request) == reference(
            model, request
        )


def test_slots_are_not_used_up_by_steps_that_fail(devices, checkpoint, monkeypatch):
    """Each fails at the first stage, behind the requests whose caches the others were to drop."""
    model = checkpoint("llama")
    engine = load(devices, model, [("laptop", 2), ("jetson", 6)])
    for seed in range(8):
        request = Request((seed + 1, 2, 3), 2)
        with monkeypatch.context() as unknown:
            if seed in (3, 4):
                unknown.setattr(engine.adapters, "number", lambda name: 99)
            engine.submit(request)
        tokens = [token for tokens in iter(engine.step, []) for token in tokens]
        if seed in (3, 4):
            assert [token.finish for token in tokens] == ["error"]
        else:
            assert [token.id for token in tokens] == reference(model, request), tokens
