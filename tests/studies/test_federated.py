"""The study of federated learning, in miniature: everything is tried, nothing is learned well."""

from dataclasses import replace

import numpy as np

from edgewise.federating.exchanges import ADAPTER, Ask, AskedFor, Parcel
from edgewise.federating.traffic import RoundTraffic
from edgewise.models.tokenizer import load_tokenizer
from edgewise.studies.federated.city import DISTRICTS, city_of, kinds_of
from edgewise.studies.federated.faults import LIES, FaultyClients
from edgewise.studies.federated.page import SETTINGS, federated_page
from edgewise.studies.federated.runs import Trials

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
