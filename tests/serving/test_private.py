"""Private adapters served: M stays here, blocks are on machines that join. Answers are those of the
model that `peft` has merged them into, also while devices come and go."""

import concurrent.futures
import shutil
import signal
import subprocess

import peft
import pytest
import torch
import transformers

import edgewise
from edgewise.adapters import Kind
from edgewise.demo import MODEL_FOLDER
from tests.adapters.made import write_adapter
from tests.hosting.clusters import EDGEWISE, PATIENCE, commands, get
from tests.hosting.test_up import HERE, is_ready, state_of
from tests.serving.test_served import TEXTS

# peft asks transformers by a name that will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SIZES = ("--scheme", "fp32", "--prompt-tokens", "64", "--new-tokens", "32", "--sequences", "8")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder, and what the merged model says."""
    folder = tmp_path_factory.mktemp("private")
    options = {"kind": Kind.PRIVATE, "rank": 4, "size": 1.0, "matrices": ("q", "k", "v")}
    write_adapter(folder / "adapter", "demo", **options)
    shutil.copytree(MODEL_FOLDER, folder / "merged")
    base = transformers.AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    with edgewise.load(folder / "merged", scheme="fp32", prompt_tokens=64) as model:
        truth = [model.generate(text, max_tokens=16, raw=True) for text in TEXTS]
    return folder / "adapter", truth


@pytest.fixture
def started(tmp_path):
    with commands(tmp_path) as all_started:
        yield all_started


def answer(up, text, patience=0.0):
    body = {"prompt": text, "temperature": 0, "max_tokens": 16}
    url = str(up.wait_for("url")["url"])
    return get(f"{url}/completions", body, patience=patience)["choices"][0]["text"]


def answers(up):
    """Of many who ask at the same time, and come back where there is no plan."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda text: answer(up, text, PATIENCE), TEXTS * 3))


def places(up):
    return {device["name"]: device["layers"] for device in state_of(up)["devices"]}


def test_machines_that_join_hold_the_blocks(started, adapter):
    folder, truth = adapter
    up = started.start("up", "demo", *HERE, *SIZES, "--private", str(folder))
    up.wait_for("text", "private adapters need another one for the blocks")
    assert not is_ready(up)
    first = started.join(up, "--name", "first")
    assert answer(up, TEXTS[0], PATIENCE) == truth[0]
    assert places(up) == {"here": [[0, 1], [13, 14]], "first": [[1, 13]]}
    assert answers(up) == truth * 3
    started.join(up, "--name", "second")
    up.wait_for("text", "'second' joined")
    assert answers(up) == truth * 3
    asked = concurrent.futures.ThreadPoolExecutor(1).submit(answers, up)
    first.process.kill()  # the machine is gone, whatever it was at
    assert asked.result(120) == truth * 3
    up.wait_for("text", "without first")
    assert places(up) | {"first": []} == {
        "here": [[0, 1], [13, 14]], "first": [], "second": [[1, 13]]
    }  # fmt: skip
    assert answers(up) == truth * 3
    assert up.end(signal.SIGINT) == 0


def test_what_cannot_be_private_is_said_before_anything_starts(tmp_path, adapter):
    lora = write_adapter(tmp_path / "lora", "demo")
    for options, says in (
        (("--private", lora), "would have to leave the source"),
        (("--private", adapter[0], "--quality", "1%"), "leave the quality out"),
    ):
        command = [*EDGEWISE, "serve", "demo", "--http", "127.0.0.1:0", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode and says in " ".join(done.stderr.split())
