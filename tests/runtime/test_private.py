"""Private adapters whose M stays on the source, against `peft`'s merged model: real processes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import peft
import pytest
import torch
import transformers

import edgewise
from edgewise.adapters import Kind
from edgewise.adapters.private import private_adapter
from edgewise.demo import MODEL_FOLDER
from edgewise.errors import DeviceError, Infeasible, InputError, PlanError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime import messages
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.local import open_engine, start_local
from edgewise.specs import Workload
from tests.adapters.made import write_adapter
from tests.runtime.conftest import NAMES, cluster, plan_of, reference
from tests.runtime.test_recovery import requests_of, run

# peft asks transformers by a name that will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

LAPTOP, JETSON, PI = NAMES
WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=4, micro_batches=2)
QKV, RANK = ("q", "k", "v"), 4
SPLIT = ((LAPTOP, 1), (JETSON, 5), (LAPTOP, 6))
WITH_ANOTHER = ((LAPTOP, 1), (JETSON, 3), (PI, 5), (LAPTOP, 6))
PARTLY = ((LAPTOP, 2), (JETSON, 4), (LAPTOP, 6))  # blocks on the source, too


def nothing(step):
    pass


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A checkpoint, a folder with private adapters that change what it says, and a checkpoint with
    which `peft` has merged them."""

    def make(family="llama", matrices=QKV, kind=Kind.PRIVATE):
        opened = open_checkpoint(str(checkpoint(family)))
        folder = tmp_path_factory.mktemp("private")
        options = {"kind": kind, "rank": RANK, "seed": 5, "size": 1.0, "matrices": matrices}
        write_adapter(folder / "adapter", opened.model, **options)
        base = transformers.AutoModelForCausalLM.from_pretrained(opened.model)
        merged = peft.PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
        merged.save_pretrained(folder / "merged")
        return opened, folder / "adapter", str(folder / "merged")

    return make


@pytest.fixture
def opened(made):
    engines = []

    def start(ends=SPLIT, replan=None, latency=0.0, **options):
        checkpoint, folder, merged = made(**options)
        spec, plan = plan_of(checkpoint.model, *ends)
        adapter = private_adapter(folder, checkpoint, LAPTOP)
        engine = open_engine(checkpoint.model, plan, cluster(latency), WORK, spec=spec,
                             private=adapter, replan=replan)  # fmt: skip
        engines.append(engine)
        return engine, merged

    yield start
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("family", ["llama", "llama-biases", "qwen3-wide-heads", "opt"])
@pytest.mark.parametrize("ends", [SPLIT, WITH_ANOTHER, PARTLY], ids=["one", "two", "partly"])
def test_answers_are_those_of_the_merged_model(opened, family, ends):
    engine, merged = opened(ends, family=family)
    requests = requests_of(random.Random(f"{family} {len(ends)}"))
    answers = run(engine, requests, nothing)
    assert answers == [reference(merged, request) for request in requests]
    plain = [reference(engine.plan.model, request) for request in requests]
    assert answers != plain


def test_all_matrices_and_a_slow_link(opened):
    engine, merged = opened(matrices=(*QKV, "o", "gate", "up", "down"), latency=0.001)
    requests = requests_of(random.Random(3))
    assert run(engine, requests, nothing) == [reference(merged, x) for x in requests]


def test_what_crosses_is_counted(opened):
    """Of every token, 3 r numbers a block each way, and hidden states behind embedding and
    blocks."""
    engine, _ = opened()
    requests = requests_of(random.Random(4))
    run(engine, requests, nothing)
    links = {(link.source, link.target): link.bytes for link in engine.stats().links}
    residuals, state = 4 * 3 * RANK * 4, 32 * 4
    assert links.keys() == {(LAPTOP, JETSON), (JETSON, LAPTOP)}
    assert links[LAPTOP, JETSON] == links[JETSON, LAPTOP]
    tokens, left = divmod(links[LAPTOP, JETSON], residuals + state)
    assert left == 0
    # The last token of an answer enters nothing.
    entered = sum(len(x.prompt) + x.max_tokens - 1 for x in requests)
    warming_up = 2
    assert entered - engine.stats().shared_tokens <= tokens <= entered + warming_up


def test_m_is_told_to_the_source_alone(made):
    checkpoint, folder, _ = made()
    _, plan = plan_of(checkpoint.model, *SPLIT)
    told = []
    with start_local(cluster()) as workers:
        send = workers.send

        def listening(device, message, tensor=None):
            told.append((device, message))
            send(device, message, tensor)

        workers.send = listening
        private = private_adapter(folder, checkpoint, LAPTOP)
        Coordinator(workers, checkpoint.model, plan, WORK, private=private)
    loads = {device: x.private for device, x in told if isinstance(x, messages.Load)}
    assert loads.pop(LAPTOP).folder == str(folder)
    assert {x.folder for x in loads.values()} == {""}
    assert {(x.source, x.rank, x.matrices, x.seed) for x in loads.values()} == {
        (LAPTOP, RANK, QKV, 5)
    }


def ends_on_the_source(workers, plan):
    """The same without who is lost; on the source if nobody else is left."""
    others = [name for name in workers.names if name != LAPTOP] or [LAPTOP]
    ends = [round(1 + 4 * (i + 1) / len(others)) for i in range(len(others))]
    places = [(LAPTOP, 1), *zip(others, ends, strict=True), (LAPTOP, 6)]
    _, again = plan_of(plan.model, *places)
    return again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.parametrize("victim", NAMES)
def test_answers_go_on_without_a_device(opened, victim, how):
    engine, merged = opened(WITH_ANOTHER, ends_on_the_source)
    rng = random.Random(f"{victim} {how}")
    requests, at = requests_of(rng), rng.randint(1, 12)

    def disturb(step):
        if step == at:
            os.kill(engine.workers.process_ids[victim], how)

    answers = run(engine, requests, disturb)
    assert answers == [reference(merged, request) for request in requests]


def test_a_source_that_does_not_come_back_ends_it(opened):
    engine, _ = opened()
    engine.submit(requests_of(random.Random(6))[0])
    engine.step()
    os.kill(engine.workers.process_ids[LAPTOP], signal.SIGKILL)
    with pytest.raises(DeviceError, match=LAPTOP):
        for _ in range(100):
            engine.step()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Private adapters for the demo model, and the model with which `peft` has merged them."""
    opened, folder = open_checkpoint("demo"), tmp_path_factory.mktemp("demo")
    options = {"kind": Kind.PRIVATE, "rank": RANK, "size": 1.0, "matrices": QKV}
    write_adapter(folder / "adapter", opened.model, **options)
    shutil.copytree(MODEL_FOLDER, folder / "merged")
    base = transformers.AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    (folder / "cluster.toml").write_text(
        f'source = "{LAPTOP}"\n'
        + "".join(f'[[device]]\nname = "{name}"\nmemory = "1 GB"\n' for name in NAMES)
        + f'[[network]]\ndevices = {list(NAMES)}\nbandwidth = "100 Mbps"\n'
    )
    return folder


QUESTION = "Where is the library?"


def test_load_and_run_take_private_adapters(demo):
    """Blocks go to the devices that are not the source."""
    small = {"prompt_tokens": 32, "new_tokens": 32, "scheme": "fp32"}
    asked = {"max_tokens": 24, "raw": True}
    with edgewise.load(demo / "merged", **small) as merged:
        truth = merged.generate(QUESTION, **asked)
    with edgewise.load("demo", **small) as plain:
        assert plain.generate(QUESTION, **asked) != truth
    where = {"cluster": demo / "cluster.toml", "private": demo / "adapter"}
    with edgewise.load("demo", **where, **small) as split:
        assert [x.device for x in split.plan.stages] == [LAPTOP, JETSON, PI, LAPTOP]
        assert split.generate(QUESTION, **asked) == truth
    options = ["--cluster", where["cluster"], "--private", where["private"], "--scheme", "fp32"]
    ran = subprocess.run(
        [sys.executable, "-m", "edgewise", "run", "demo", QUESTION, "--raw", "--max-tokens", "24",
         "--json", *map(str, options)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout)["answer"] == truth


def test_what_is_lost_is_planned_around(demo):
    """Others take the blocks; the source never does."""
    small = {"prompt_tokens": 32, "new_tokens": 32, "scheme": "fp32"}
    asked = {"max_tokens": 24, "raw": True}
    with edgewise.load(demo / "merged", **small) as merged:
        truth = merged.generate(QUESTION, **asked)
    where = {"cluster": demo / "cluster.toml", "private": demo / "adapter"}
    with edgewise.load("demo", **where, **small) as split:
        pieces, answer = split.stream(QUESTION, **asked), ""
        for number, piece in enumerate(pieces):
            answer += piece
            if number == 2:
                os.kill(split.engine.workers.process_ids[JETSON], signal.SIGKILL)
        assert answer == truth
        assert [x.device for x in split.plan.stages] == [LAPTOP, PI, LAPTOP]
        os.kill(split.engine.workers.process_ids[PI], signal.SIGKILL)
        with pytest.raises(Infeasible, match="'laptop' is the only device"):
            split.generate(QUESTION, **asked)


def test_what_private_adapters_cannot_do_is_said_before_anything_starts(demo):
    where = {"cluster": demo / "cluster.toml", "private": demo / "adapter"}
    _, plan = plan_of("demo", (LAPTOP, 1), (JETSON, open_checkpoint("demo").config.num_layers))
    for arguments, error, text in (
        ({**where, "plan": plan}, PlanError, "the head on 'jetson'"),
        ({**where, "quality": "1%"}, InputError, "leave the quality out"),
        ({"private": demo / "adapter"}, Infeasible, "need another one for the blocks"),
        ({**where, "private": demo / "merged"}, InputError, "adapter_config.json"),
    ):
        with pytest.raises(error, match=text):
            edgewise.load("demo", **arguments)


def test_adapters_whose_matrices_would_leave_are_refused(made):
    checkpoint, folder, _ = made(kind=Kind.LORA)
    with pytest.raises(InputError, match="would have to leave the source"):
        private_adapter(folder, checkpoint, LAPTOP)
