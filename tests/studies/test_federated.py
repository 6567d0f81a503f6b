"""The study of federated learning, in miniature: everything is tried, nothing is learned well."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgewise
from edgewise.errors import DiskError
from edgewise.federating.exchanges import ADAPTER, SAMPLES, Ask, AskedFor, Parcel
from edgewise.federating.traffic import RoundTraffic
from edgewise.federation.learner import begin
from edgewise.models.tokenizer import load_tokenizer
from edgewise.studies.federated.city import DISTRICTS, city_of, kinds_of
from edgewise.studies.federated.faults import LIES, FaultyClients
from edgewise.studies.federated.kept import FederatedRun, code_files
from edgewise.studies.federated.page import SETTINGS, federated_page
from edgewise.studies.federated.runs import Trials, rounds_there_are
from edgewise.tuning.judging import Verdict

START = {"x": np.ones(2, dtype=np.float32)}


class Echo:
    def names(self):
        return ["a", "b"]

    def ask(self, requests):
        return {name: Parcel({ADAPTER: {"x": START["x"] + 1}}) for name in requests}

    def moved(self):
        return RoundTraffic(0, 0)


def test_districts_share_no_kind_and_miss_none():
    kinds = [kind.name for district in DISTRICTS for kind in kinds_of(district)]
    assert len(kinds) == len(set(kinds)) == 11


def test_every_round_another_client_is_lost_or_lies():
    def asked(number):
        return {x: Ask(AskedFor.TRAIN, number, Parcel({ADAPTER: START})) for x in ("a", "b")}

    lost = FaultyClients(Echo(), lost=True)
    assert [list(lost.ask(asked(number))) for number in (1, 2, 3)] == [["a"], ["b"], ["a"]]
    flipped = FaultyClients(Echo(), LIES["flipped, times 3"]).ask(asked(1))
    assert np.array_equal(flipped["b"].adapters[ADAPTER]["x"], [-2, -2])
    assert np.array_equal(flipped["a"].adapters[ADAPTER]["x"], [2, 2])


def test_what_computes_a_run_tells_kept_ones_apart():
    """All of Edgewise that clients import, but what cannot change a number."""
    program = (
        "import sys, edgewise.federation.local\n"
        "for name, module in sys.modules.items():\n"
        "    if name.startswith('edgewise.'):\n"
        "        print(module.__file__)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used, package = {Path(x) for x in done.stdout.splitlines()}, Path(edgewise.__file__).parent
    assert used - set(code_files()) == {package / "caches.py", package / "errors.py"}


class Fading(Echo):
    """From round 2 on nothing is learned, or somebody's disk is full."""

    def __init__(self, start, failure=None):
        self.start, self.failure = start, failure

    def ask(self, requests):
        if next(iter(requests.values())).round > 1 and self.failure:
            raise self.failure
        nothing = next(iter(requests.values())).round > 1
        arrays = {x: y + np.float32(math.nan if nothing else 1) for x, y in self.start.items()}
        return {name: Parcel({ADAPTER: arrays}, {SAMPLES: 1.0}) for name in requests}


def test_rounds_end_where_nothing_is_learned_and_fail_where_something_else_is_wrong():
    settings = replace(SETTINGS, model="demo", blocks=1, rounds=3, rank=2)
    start = begin(settings)
    rounds = rounds_there_are(settings, Fading(start))
    assert [x.number for x in rounds] == [1]
    assert FederatedRun("it", settings, rounds, Verdict(0.0, 0.0, 0.0)).title == "it, 1 of 3 rounds"
    with pytest.raises(DiskError):
        rounds_there_are(settings, Fading(start, DiskError("full")))


def test_the_study_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr("edgewise.studies.federated.page.SWARM_ROUNDS", 2)
    monkeypatch.setattr("edgewise.studies.federated.page.EXPERT_STEPS", 1)
    monkeypatch.setattr("edgewise.studies.federated.city.LEARNED", 4)
    monkeypatch.setattr("edgewise.studies.federated.city.HELD_OUT", 1)
    settings = replace(SETTINGS, blocks=1, rounds=2, steps=1, batch=1, rank=2)
    steps = []
    page = federated_page("demo", steps.append, settings=settings, judged=4)
    files = page.write(tmp_path)
    assert len(files) == 2 + 2 * 2 and all(path.stat().st_size > 500 for path in files)
    by_name = {section.title: section for section in page.sections}
    assert [row[0] for row in by_name["Together, alone, at one place"].rows[1:5]] == [
        f"{district} alone" for district in DISTRICTS
    ]
    lies = {row[0]: row[1:3] for row in by_name["Failures and lies"].rows}
    lost = lies["one lost in each round"]
    assert lies["one lies (flipped, times 3): without who moved far"] == lost
    trials = Trials(replace(settings, model="demo"), city_of(load_tokenizer("demo"), 4))
    refused = trials.together("", LIES["not a number"]).verdict
    assert lost == (refused.loss, refused.right)
    sizes = [row[1] for row in by_name["Bytes of a round"].rows]
    assert sizes == sorted(sizes) and sizes[0] * 10 < sizes[1] < sizes[2] / 100
    assert len(steps) == 17
