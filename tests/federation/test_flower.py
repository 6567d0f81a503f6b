"""Flower's own processes, with TLS between them: a SuperLink, SuperNodes, and what they start."""

import json
import time

import psutil
import pytest

pytest.importorskip("flwr", reason="the extra 'federated' is not installed")

from edgewise.demo.questions import draw_questions, prompt
from edgewise.federating.algorithms import Algorithm
from edgewise.federation.flower.processes import FlowerDevice, start_run, super_link
from edgewise.federation.settings import FederatedSettings

NAMES = ("a", "b", "c")
WITHIN = 400.0  # seconds that a run may take on a loaded machine
LIAR = """
import sys

if any("flwr-clientapp" in x for x in sys.orig_argv):
    import numpy as np

    from edgewise.federating.exchanges import AskedFor
    from edgewise.federation import learner

    honest = learner.Learner.answer

    def answer(self, request):
        parcel = honest(self, request)
        if request.wanted is AskedFor.TRAIN:
            for arrays in parcel.adapters.values():
                for array in arrays.values():
                    array *= FACTOR
        return parcel

    learner.Learner.answer = answer
"""


@pytest.fixture
def data(tmp_path):
    files = {}
    for number, name in enumerate(NAMES):
        files[name] = tmp_path / f"{name}.txt"
        texts = [f"{prompt(x.context, x.question)} {x.answer}" for x in draw_questions(number, 12)]
        files[name].write_text("\n".join(texts))
    return files


@pytest.fixture
def run(tmp_path, data):
    """Start a run of the built-in model; an iterator of its events, and what runs."""

    def begin(algorithm=Algorithm.EXACT, environment=None, **options):
        usual = {"rank": 4, "blocks": 3, "rounds": 2, "steps": 2, "batch": 2, "longest": 64}
        settings = FederatedSettings("demo", algorithm=algorithm, **usual, **options)
        log = tmp_path / "events.jsonl"
        log.touch()
        config = {
            **settings.to_config(), "events": str(log), "out": str(tmp_path / "out"),
            "least": len(NAMES), "deadline": 120.0,
        }  # fmt: skip
        devices = [FlowerDevice(x, data[x], 1, (environment or {}).get(x, {})) for x in NAMES]
        return Followed(tmp_path, devices, config, log)

    return begin


class Followed:
    def __init__(self, folder, devices, config, log):
        self.folder, self.devices, self.config, self.log = folder, devices, config, log

    def __iter__(self):
        end = time.monotonic() + WITHIN
        with super_link(self.folder, self.devices) as self.link, self.log.open() as events:
            start_run(self.link, self.config)
            while time.monotonic() < end:
                line = events.readline()
                if line.endswith("\n"):
                    event = json.loads(line)
                    yield event
                    if event["event"] in ("done", "failed"):
                        return
                else:
                    time.sleep(0.1)
            pytest.fail((self.folder / "superlink.log").read_text()[-3000:])


def rounds_in(events):
    assert [x for x in events if x["event"] == "failed"] == []
    return [x for x in events if x["event"] == "round"]


def test_devices_learn_together_over_tls_and_everything_ends(run, tmp_path):
    before = {x.pid for x in psutil.process_iter()}
    followed = run()
    rounds = rounds_in(list(followed))
    assert [x["number"] for x in rounds] == [1, 2]
    assert all(x["answered"] == list(NAMES) for x in rounds)
    assert rounds[1]["loss"] < rounds[0]["loss"]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert "insecure" not in (tmp_path / "superlink.log").read_text().lower()
    left = [x for x in psutil.process_iter(["pid", "cmdline"]) if x.pid not in before]
    ours = [x.info["cmdline"] for x in left if "flwr" in " ".join(x.info["cmdline"] or [])]
    assert ours == []
