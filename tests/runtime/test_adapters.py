"""Requests with adapters beside others: the tokens that each has alone, which are those of the
model with the adapter; also when devices are lost, and when adapters come and go."""

import os
import signal
from dataclasses import replace
from itertools import chain

import peft
import pytest
import torch
import transformers

from edgewise.adapters.served import open_adapter
from edgewise.errors import DeviceLost, InputError, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.additions import packed_additions, unpacked_additions
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.events import Entered
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Sampling
from edgewise.specs import Workload
from tests.adapters.made import random_adapter, write_adapter
from tests.runtime.conftest import NAMES, cluster, plan_of
from tests.runtime.test_exact import plan_of as plan_with
from tests.runtime.test_recovery import evenly

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

FAMILY, COUNT, ROOM = "llama-wide-heads", 4, 10**6
WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=16, micro_batches=2, adapter_bytes=ROOM)
CUTS = {
    "one device": [("laptop", 6)],
    "two devices": [("laptop", 3), ("jetson", 6)],
    "blocks apart from the ends": [("laptop", 1), ("pi", 3), ("jetson", 5), ("laptop", 6)],
}


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    made, model = tmp_path_factory.mktemp("adapters"), checkpoint(FAMILY)
    kinds = ("lora", "private", "lora", "lora")
    return {
        f"a{i}": write_adapter(made / f"a{i}", model, kind=kind, rank=3 + 2 * i, seed=i, size=0.3)
        for i, kind in enumerate(kinds)
    }


@pytest.fixture(scope="module")
def adapters(checkpoint, folders):
    opened = open_checkpoint(str(checkpoint(FAMILY)))
    config, digest = opened.config, opened.spec.digest
    return {name: open_adapter(folder, config, digest) for name, folder in folders.items()}


@pytest.fixture
def opened(checkpoint, adapters):
    engines = []

    def start(stages, named=None, room=ROOM, replan=None):
        model = checkpoint(FAMILY)
        workers = start_local(cluster())
        engines.append(workers)
        held = Adapters(workers, room, adapters if named is None else named)
        plan = plan_of(model, *stages)[1]
        return Coordinator(workers, str(model), plan, WORK, adapters=held, replan=replan)

    yield start
    for workers in engines:
        workers.close()


def request_of(number, adapter, tokens=12):
    prompt = tuple(3 + (7 * number + 5 * i) % 90 for i in range(4 + number % 9))
    sampling = Sampling() if number % 3 else Sampling(temperature=1.2, seed=number)
    return Request(prompt, tokens, sampling, adapter=adapter)


MIXED = [request_of(i, ("", "a0", "a1", "a2", "a3")[i % 5]) for i in range(16)]


def answers(engine, requests, disturb=lambda step: None):
    """All submitted at once."""
    said = {engine.submit(request): [] for request in requests}
    for step in range(1000):
        disturb(step)
        if not (tokens := engine.step()):
            return list(said.values())
        for token in tokens:
            assert token.finish != "error", token.error
            said[token.request].append(token.id)
    raise AssertionError("no end")


def alone(engine, requests):
    return list(chain.from_iterable(answers(engine, [request]) for request in requests))


@torch.no_grad()
def test_tokens_are_those_of_peft(opened, checkpoint, folders):
    engine = opened(CUTS["two devices"])
    for name, folder in folders.items():
        base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(FAMILY))
        plain = base.generate(
            torch.tensor([range(3, 14)]), max_new_tokens=20, do_sample=False, eos_token_id=-1
        )
        model = peft.PeftModel.from_pretrained(base, folder).eval()
        expected = model.generate(
            input_ids=torch.tensor([range(3, 14)]),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=-1,
        )
        (ours,) = answers(engine, [Request(tuple(range(3, 14)), 20, adapter=name)])
        assert ours == expected[0, 11:].tolist() != plain[0, 11:].tolist()


@pytest.mark.parametrize("cut", CUTS)
def test_in_one_batch_each_has_the_tokens_that_it_has_alone(opened, cut):
    engine = opened(CUTS[cut])
    expected = alone(engine, MIXED)
    assert answers(engine, MIXED) == expected
    plain = [request_of(i, "") for i in range(16)]
    assert sum(a != b for a, b in zip(answers(engine, plain), expected, strict=True)) > 6


def test_prefixes_are_of_one_adapter(opened, monkeypatch):
    """Where the same long prompt comes with other adapters, its cache is not theirs."""
    monkeypatch.setattr("edgewise.runtime.limits.PREFILL_CHUNK", 8)
    start = tuple(range(20, 38))
    requests = [
        Request((*start, last), 6, adapter=name) for last in (40, 50) for name in ("", "a0", "a1")
    ]
    engine, copied = opened(CUTS["two devices"]), []
    engine.listen(
        lambda event: copied.extend(
            row for row in (event.batch.rows if isinstance(event, Entered) else ()) if row.prefix
        )
    )
    said = answers(engine, requests)
    by_number = {row.request: row for row in copied}
    assert len(by_number) == 3  # the second of each adapter's
    monkeypatch.setattr("edgewise.runtime.coordinator.scheduler.shared", lambda a, b, share: 0)
    assert said == alone(opened(CUTS["two devices"]), requests)
    assert len({tuple(x) for x in said[:3]}) == 3


def test_after_a_loss_they_go_on_with_the_same_tokens(opened):
    expected = alone(opened([("laptop", 2), ("jetson", 4), ("pi", 6)], replan=evenly), MIXED)
    engine = opened([("laptop", 2), ("jetson", 4), ("pi", 6)], replan=evenly)
    lost = []

    def disturb(step):
        if step in (5, 12):
            device = NAMES[1] if step == 5 else NAMES[0]
            lost.append(device)
            os.kill(engine.workers.process_ids[device], signal.SIGKILL)

    assert answers(engine, MIXED, disturb) == expected
    assert lost == ["jetson", "laptop"] and set(engine.plan.devices) == {"laptop", "pi"}


def test_one_that_is_removed_is_there_for_those_that_it_was_asked_for(opened, adapters):
    engine = opened(CUTS["two devices"], {"a": adapters["a0"]})
    request = request_of(1, "a", 20)
    (expected,) = alone(engine, [request])
    number, said = engine.submit(request), []
    while len(said) < 5:
        said += [token.id for token in engine.step()]
    engine.adapters.remove("a")
    with pytest.raises(PromptError, match="there is no adapter 'a'"):
        engine.submit(request)
    swapped = engine.adapters.hold(adapters["a1"])
    engine.adapters.send(swapped)
    engine.adapters.call("a", swapped)
    other, others = engine.submit(request), []
    while tokens := engine.step():
        said += [token.id for token in tokens if token.request == number]
        others += [token.id for token in tokens if token.request == other]
    assert said == expected != others
    assert alone(engine, [request]) == [others]
    assert list(engine.adapters._held) == [swapped]  # and the first one's memory is given back


def test_a_device_that_is_lost_while_one_comes_is_gone_on_without(opened, adapters):
    """The plan without it brings the adapter along, and those that it knew."""
    three = [("laptop", 2), ("jetson", 4), ("pi", 6)]
    engine = opened(three, {"a0": adapters["a0"]}, replan=evenly)
    expected = alone(opened(CUTS["one device"]), [request_of(1, "a0"), request_of(2, "a1")])
    number = engine.adapters.hold(adapters["a1"])
    os.kill(engine.workers.process_ids["jetson"], signal.SIGKILL)
    with pytest.raises(DeviceLost) as lost:
        engine.adapters.send(number)
    engine.go_on_without(lost.value)
    engine.adapters.call("a1", number)
    assert "jetson" not in engine.plan.devices
    assert alone(engine, [request_of(1, "a0"), request_of(2, "a1")]) == expected


@pytest.mark.parametrize("scheme, devices", [("q4g32ad", 2), ("fp32", 1)])
def test_a_real_models_requests_have_the_tokens_that_they_have_alone(real_model, scheme, devices):
    spec, config = open_checkpoint(real_model).spec, open_checkpoint(real_model).config
    ends = [("laptop", 15), ("jetson", 32)] if devices == 2 else [("laptop", 32)]
    made = [random_adapter(config, 8, seed) for seed in range(COUNT)]
    named = {f"a{seed}": adapter for seed, adapter in enumerate(made)}
    room = sum(adapter.block_bytes for adapter in made)
    work = Workload(64, 8, 16, devices, adapter_bytes=room)
    plan = plan_with(spec, ends, [scheme] * 32)
    requests = [
        Request(tuple(range(100 + i, 108 + 3 * i)), 6, adapter=("", *named)[i % 5])
        for i in range(16)
    ]
    with start_local(cluster()) as workers:
        held = Adapters(workers, room, named)
        engine = Coordinator(workers, str(real_model), plan, work, adapters=held)
        expected = alone(engine, requests)
        assert answers(engine, requests) == expected
        plain = alone(engine, [replace(request, adapter="") for request in requests])
    assert sum(a != b for a, b in zip(plain, expected, strict=True)) >= 8


def test_room_is_kept_to_and_counted(opened, adapters):
    one = adapters["a0"].block_bytes
    with pytest.raises(InputError, match=r"does not fit: adapters have .* more --adapter-room"):
        opened(CUTS["one device"], adapters, room=one)
    engine = opened(CUTS["one device"], {"a": adapters["a0"]}, room=int(1.5 * one))
    with pytest.raises(InputError, match="does not fit"):
        engine.adapters.hold(adapters["a0"])
    engine.adapters.remove("a")
    assert engine.adapters.hold(adapters["a0"]) == 2
    with pytest.raises(InputError, match="there is no adapter 'a'"):
        engine.adapters.remove("a")


def test_what_travels_is_what_arrives(adapters):
    for added in adapters["a2"].blocks:
        parts, numbers = packed_additions(added)
        again = unpacked_additions(parts, numbers)
        assert {name: len(x) for name, x in again.items()} == {k: len(x) for k, x in added.items()}
        for name, parts_of_matrix in added.items():
            for a, b in zip(parts_of_matrix, again[name], strict=True):
                assert a.first == b.first
                assert torch.equal(a.down, b.down) and torch.equal(a.up, b.up)
        with pytest.raises(ValueError, match="not as many"):
            unpacked_additions(parts, numbers[1:])
    assert unpacked_additions(*packed_additions({})) == {}
