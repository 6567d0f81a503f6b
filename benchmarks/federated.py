"""Claim: four devices adapt SmolLM2 over Flower while in every round the process of another one is
killed as it learns: no round is lost, and the answers are within two points of an undisturbed run.

`python benchmarks/federated.py [kills|lies|leader] [--alone] [--model MODEL]`, of which "kills" is
the claim. lies: in every round a device sends what it learned the wrong way round, three times as
far; left out. leader: devices lead, and the second round's leader is killed before
it delivers. --alone: no undisturbed run before it. Needs the extra "federated".
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from claims import finish

from edgewise.adapters.files import fill, read_adapter
from edgewise.cli.devices import describe_machine
from edgewise.federating.algorithms import Algorithm
from edgewise.federation.flower.processes import FlowerDevice, SuperLink, start_run, super_link
from edgewise.federation.model import load_shared
from edgewise.federation.settings import FederatedSettings
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.studies.federated.city import DISTRICTS, city_of, kinds_of, records
from edgewise.studies.federated.page import JUDGED, SETTINGS
from edgewise.tuning.judging import Verdict

WITHIN, WORSE = 900.0, 0.02  # seconds of a run; share of answers
ROUNDS, DEADLINE = 4, 90.0
LIAR = DISTRICTS[0]
LIE = """
import sys

if any("flwr-clientapp" in x for x in sys.orig_argv):
    from edgewise.federating.exchanges import ADAPTER, AskedFor, Parcel
    from edgewise.federation.learner import Learner
    from edgewise.studies.federated.faults import sign_flipped

    honest = Learner.answer

    def answer(self, ask):
        parcel = honest(self, ask)
        if ask.wanted is not AskedFor.TRAIN:
            return parcel
        start = ask.parcel.adapters[ADAPTER]
        return Parcel({ADAPTER: sign_flipped(parcel.adapters[ADAPTER], start)}, parcel.numbers)

    Learner.answer = answer
"""


def clients_of(link: SuperLink, name: str) -> list[psutil.Process]:
    """The processes that answer for a device now."""
    try:
        children = psutil.Process(link.nodes[name].pid).children(recursive=True)
        return [x for x in children if any("flwr-clientapp" in part for part in x.cmdline())]
    except psutil.Error:
        return []


class Killer:
    """Looks on, and kills: `kills` a device's process once a round, or `leader` in round 2."""

    def __init__(self, link: SuperLink, what: str) -> None:
        self.link, self.what, self.seen = link, what, dict[str, set[int]]()
        self.killed = list[str]()
        self.round, self.since = 0, 0.0  # in which round, and since when
        self.first = ""  # who led the first one

    def look(self) -> None:
        for name in self.link.nodes:
            self.seen.setdefault(name, set()).update(x.pid for x in clients_of(self.link, name))
        if self.what == "kills" and len(self.killed) < self.round <= ROUNDS:
            self._kill(DISTRICTS[self.round % len(DISTRICTS)])
        if self.what == "leader" and self.round == 2 and not self.killed:
            # each has greeted and learned twice; who is asked once more leads (and one led before)
            for name, seen in self.seen.items():
                if len(seen) >= 4 and name != self.first:
                    self._kill(name, whole=True)

    def _kill(self, name: str, whole: bool = False) -> None:
        running = [x for x in clients_of(self.link, name) if x.create_time() > self.since]
        if not running or time.time() - running[0].create_time() < (0.5 if whole else 8.0):
            return  # it has not begun to learn
        for process in running:
            process.kill()
        if whole:
            os.killpg(self.link.nodes[name].pid, signal.SIGKILL)
        self.killed.append(name)
        print(f"round {self.round}: killed {name}", flush=True)

    def heard(self, event: dict[str, Any]) -> None:
        if event["event"] in ("begin", "round"):
            self.round, self.since = event.get("number", 0) + 1, time.time()
            self.first = self.first or event.get("leader") or ""


def events_of(folder: Path, settings: FederatedSettings, what: str) -> Iterator[dict[str, Any]]:
    log = folder / "events.jsonl"
    log.touch()
    lies = folder / "lies"
    lies.mkdir()
    (lies / "sitecustomize.py").write_text(LIE)
    path = os.pathsep.join([str(lies), os.environ.get("PYTHONPATH", "")])
    devices = []
    for number, name in enumerate(DISTRICTS):
        data = folder / f"{name}.jsonl"
        lines = records(kinds_of(name), 10 + number, 60, "train")
        data.write_text("".join(
            json.dumps({"prompt": x.turns[0]["content"], "answer": x.answer}) + "\n" for x in lines
        ))  # fmt: skip
        lying = {"PYTHONPATH": path} if what == "lies" and name == LIAR else {}
        devices.append(FlowerDevice(name, data, 1, lying))
    config = {
        **settings.to_config(), "events": str(log), "out": str(folder / "out"),
        "least": len(devices), "deadline": DEADLINE,
    }  # fmt: skip
    end = time.monotonic() + WITHIN
    with super_link(folder, devices) as link, log.open() as events:
        start_run(link, config)
        killer = Killer(link, what)
        while time.monotonic() < end:
            killer.look()
            line = events.readline()
            if not line.endswith("\n"):
                time.sleep(0.1)
                continue
            event = json.loads(line)
            killer.heard(event)
            yield event
            if event["event"] in ("done", "failed"):
                return


def verdict_of(settings: FederatedSettings, folder: Path | None) -> Verdict:
    """By questions of all districts."""
    model, checkpoint = load_shared(settings), open_checkpoint(settings.model)
    if folder:
        _, tensors = read_adapter(folder, checkpoint.config, checkpoint.spec.digest)
        fill(model.tunable.added, tensors)
    return model.judge(city_of(load_tokenizer(settings.model), JUDGED).union)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("kills", "lies", "leader"), default="kills")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--model", default=SETTINGS.model)
    given = parser.parse_args()
    what = given.what
    torch.set_num_threads(1)
    settings = replace(SETTINGS, model=given.model, held_out=0.2, rounds=ROUNDS)
    if what == "lies":
        settings = replace(settings, algorithm=Algorithm.NEAR)
    settings = replace(settings, leaders=what == "leader")
    verdicts, told = dict[str, Verdict](), dict[str, list[dict[str, Any]]]()
    for name in (what,) if given.alone else ("undisturbed", what):
        chosen = settings if name == what else replace(settings, algorithm=Algorithm.EXACT)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            told[name] = []
            for event in events_of(Path(folder), chosen, name):
                told[name].append(event)
                print(f"{time.monotonic() - began:.0f} s {json.dumps(event)}", flush=True)
            if event["event"] == "done":
                verdicts[name] = verdict_of(chosen, Path(folder, "out"))
                print(f"{name}: {verdicts[name]}", flush=True)
    failed = [f"{name} did not end" for name in told if name not in verdicts]
    if len(verdicts) == 2:
        lost = verdicts["undisturbed"].right - verdicts[what].right
        failed += [f"{lost:.1%} fewer answers are right"] if lost > WORSE else []
    finish("federated", {
        "machine": describe_machine()["processor"], "load": os.getloadavg()[0],
        "settings": settings.to_config(), "events": told,
        "verdicts": {name: (x.loss, x.right) for name, x in verdicts.items()},
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
