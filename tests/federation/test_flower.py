"""Flower's own processes, with TLS between them: a SuperLink, SuperNodes, and what they start."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from edgewise.adapters.files import read_adapter
from edgewise.demo.questions import draw_questions, prompt
from edgewise.federating.algorithms import Algorithm
from edgewise.federation.flower.processes import (
    FlowerDevice,
    start_run,
    super_link,
)
from edgewise.federation.learner import begin
from edgewise.federation.local import LocalClients, local_clients
from edgewise.federation.settings import FederatedSettings, rounds_of
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.lessons import lessons_of, split
from edgewise.tuning.records import read_records

NAMES = ("a", "b", "c")
WITHIN = 500.0  # seconds that a run may take on a loaded machine
OPTIONS = {"rank": 4, "blocks": 3, "rounds": 2, "steps": 2, "batch": 2, "longest": 64}
LIAR = """
import sys

if any("flwr-clientapp" in x for x in sys.orig_argv):
    from edgewise.federation.learner import Learner

    honest = Learner.answer

    def answer(self, ask):
        parcel = honest(self, ask)
        for arrays in parcel.adapters.values():
            for array in arrays.values():
                array *= float("nan")
        return parcel

    Learner.answer = answer
"""


@pytest.fixture
def data(tmp_path):
    files = {}
    for number, name in enumerate(NAMES):
        files[name] = tmp_path / f"{name}.txt"
        texts = [f"{prompt(x.context, x.question)} {x.answer}" for x in draw_questions(number, 12)]
        files[name].write_text("\n".join(texts))
    return files


def left_over(folder):
    """Processes that still know of a run's folder; those that are ending get some time."""
    end = time.monotonic() + 30
    while True:
        lines = [" ".join(x.info["cmdline"] or []) for x in psutil.process_iter(["cmdline"])]
        found = [line for line in lines if "flwr" in line + "flower" and str(folder) in line]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.5)


def test_the_command_learns_over_tls_what_one_process_learns_and_ends_all(data, tmp_path):
    command = [
        sys.executable, "-m", "edgewise", "federate", "demo", "--json", "--rank", "4",
        "--blocks", "3", "--rounds", "2", "--steps", "2", "--batch", "2", "--longest", "64",
        "--out", str(tmp_path / "out"), "--keep", str(tmp_path / "run"),
        *(x for name, file in data.items() for x in ("--data-on", f"{name}={file}")),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "run" / "superlink.log").read_text()
    said = json.loads(done.stdout)
    assert [x["answered"] for x in said["rounds"]] == [list(NAMES)] * 2
    assert all(0 < x["up_bytes"] < 20_000 for x in said["rounds"])
    log = (tmp_path / "run" / "superlink.log").read_text()
    assert "https://" in log and "insecure" not in log
    assert left_over(tmp_path) == []
    # Every number is what clients in one process come to: Flower carries, it does not compute.
    settings = FederatedSettings(
        "demo", alpha=8.0, rate=1e-2, **OPTIONS  # as the command has them by default
    )  # fmt: skip
    tokenizer = load_tokenizer("demo")
    lessons = {
        name: split(lessons_of(read_records(file), tokenizer, 64), settings.held_out, 0)
        for name, file in data.items()
    }
    clients = LocalClients(local_clients(settings, lessons))
    last = list(rounds_of(settings, clients, begin(settings)))[-1]
    checkpoint = open_checkpoint("demo")
    _, tensors = read_adapter(tmp_path / "out", checkpoint.config, checkpoint.spec.digest)
    for name, array in last.arrays.items():
        assert abs(tensors[name].numpy() - array).max() < 1e-5
    assert last.loss == pytest.approx(said["rounds"][-1]["loss"], rel=1e-4)


def test_a_device_that_ends_before_it_joins_is_not_waited_for(data, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "said = sys.orig_argv\n"
        "if said[1].endswith('flower-supernode') and any(\"'b'\" in x for x in said):\n"
        "    print('no room', flush=True)\n"
        "    os._exit(1)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable, "-m", "edgewise", "federate", "demo", "--json",
        "--out", str(tmp_path / "out"), "--deadline", str(2 * WITHIN),
        *(x for name, file in data.items() for x in ("--data-on", f"{name}={file}")),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        timeout=WITHIN, check=False,
    )  # fmt: skip
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DeviceLost" and "'b' ended: no room" in error["message"]


def events_of(folder, devices, settings, on_event=lambda link, event: None):
    """A run's events, each shown to `on_event` with what runs."""
    log, end, heard = folder / "events.jsonl", time.monotonic() + WITHIN, []
    log.touch()
    config = {
        **settings.to_config(), "events": str(log), "out": str(folder / "out"),
        "least": len(devices), "deadline": 120.0,
    }  # fmt: skip
    with super_link(folder, devices) as link, log.open() as events:
        start_run(link, config)
        while time.monotonic() < end:
            line = events.readline()
            if line.endswith("\n"):
                heard.append(json.loads(line))
                on_event(link, heard[-1])
                if heard[-1]["event"] in ("done", "failed"):
                    return heard
            else:
                time.sleep(0.1)
    pytest.fail((folder / "superlink.log").read_text()[-3000:])


def test_a_lost_device_and_one_that_lies_do_not_stop_the_others(data, tmp_path):
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / "sitecustomize.py").write_text(LIAR)
    path = os.pathsep.join([str(lies), os.environ.get("PYTHONPATH", "")])
    devices = [
        FlowerDevice(name, data[name], 1, {"PYTHONPATH": path} if name == "c" else {})
        for name in NAMES
    ]

    def on_event(link, event):
        if event["event"] == "round" and event["number"] == 1:
            os.killpg(link.nodes["b"].pid, signal.SIGKILL)

    settings = FederatedSettings("demo", algorithm=Algorithm.MEDIAN, rate=1e-2, **OPTIONS)
    heard = events_of(tmp_path, devices, settings, on_event)
    assert heard[-1]["event"] == "done", heard
    first, second = (x for x in heard if x["event"] == "round")
    assert first["answered"] == list(NAMES) and second["answered"] == ["a", "c"]
    assert second["silent"] == ["b"]
    for x in (first, second):
        assert len(x["refused"]) == 1 and "'c' is refused" in x["refused"][0]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert left_over(tmp_path) == []
