"""DFTSP's study: the paper's epochs, and our scheduler on a simulated clock."""

from itertools import combinations
from random import Random

import pytest

from edgewise.batching import POLICIES, largest_set
from edgewise.batching.pace import Pace
from edgewise.runtime.engine import Request
from edgewise.runtime.limits import limits_of
from edgewise.studies.dftsp.epochs import (
    EPOCH_POLICIES,
    LENGTHS,
    METHODS,
    PADDED,
    EpochModel,
    Station,
    answered_in_time,
    draw_users,
)
from edgewise.studies.dftsp.page import MOST_CONTEXT, WORK, dftsp_page, paces
from edgewise.studies.dftsp.server import simulate_server
from edgewise.studies.dftsp.traffic import Incoming, Traffic, share_in_time
from edgewise.studies.published import load_published
from tests.studies.test_studies import check_files

STATION = Station.of(load_published("dftsp")["setting"])
LIMITS = limits_of(WORK, MOST_CONTEXT)
PACE = Pace((0.0, *(0.01 + 0.002 * b for b in range(8))), lambda tokens: 0.001 * tokens)


def test_writes_its_files(tmp_path):
    page = dftsp_page(epochs=4, seeds=(0,))
    document = check_files(page, page.write(tmp_path))
    work = document["sections"][0]["rows"]
    assert {row["tag"] for row in work} == {"[V]"}
    assert all("published" in row for row in work)
    setting = document["sections"][-1]["rows"]
    assert {row["tag"] for row in setting} == {"[R]"}
    assert all("believed" in row for row in setting)


# The paper's epochs.


def test_an_epochs_seconds_are_the_papers_arithmetic():
    """c_I and c_A, added up matrix by matrix for OPT's and BLOOM's block of width d."""
    model = EpochModel(STATION, method=METHODS[0])
    d, s, n = model.language.width, PADDED, LENGTHS[1]
    prompt = 6 * s * d**2 + 4 * s**2 * d + 2 * s * d**2 + 4 * s * d * 4 * d
    answer = (n - 1) * (6 * d**2 + 4 * (s + n / 2) * d + 2 * d**2 + 4 * d * 4 * d)
    flops = 20 * 1.33e12
    assert model.seconds(n) == pytest.approx(model.language.blocks * (prompt + answer) / flops)


def test_an_epochs_memory_is_weights_and_cache():
    model = EpochModel(STATION, method=METHODS[2])
    d, blocks = model.language.width, model.language.blocks
    user = draw_users(1.0, (9.0, 9.0), 100.0, 0)[0]
    one = model.candidate(0, user, user.at)
    weights = 2 * blocks * (4 * d**2 + 2 * d * 4 * d)
    used = 0.25 * (weights + 3 * one.memory)
    assert one.memory == 4 * blocks * d * (PADDED + user.answer)
    free = 0.25 * (model.room.memory - 3 * one.memory)
    assert used + free == pytest.approx(32e9)


@pytest.mark.parametrize("seed", range(60))
def test_an_epochs_choice_is_the_largest_that_keeps_every_deadline(seed):
    """Checked by the sum over the batch, not by the search's own arithmetic."""
    model, draw = EpochModel(STATION), Random(seed)
    users = draw_users(9, (1.0, 3.0), 10.0, seed)[:9]
    waiting = [model.candidate(i, user, user.at + draw.random()) for i, user in enumerate(users)]

    def in_time(batch):
        compute = sum(model.seconds(users[one.number].answer) for one in batch)
        return compute <= STATION.computing and all(compute <= one.slack for one in batch)

    most = max(n for n in range(10) for batch in combinations(waiting, n) if in_time(batch))
    choice = largest_set(waiting, model.room, 10**6)
    assert in_time(choice.chosen)
    assert len(choice.chosen) == most


@pytest.mark.parametrize("rate", [2, 10, 50])
@pytest.mark.parametrize("longest", [2.0, 4.0])
def test_in_epochs_nobody_answers_more_in_time_than_dftsp(rate, longest):
    users, model = draw_users(rate, (0.5, longest), 40.0, 1), EpochModel(STATION)
    counts = {name: answered_in_time(model, name, users, 20) for name in EPOCH_POLICIES}
    assert counts["dftsp"] == max(counts.values()) > 0


# Our server.


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("load", [0.5, 3.0])
def test_every_request_ends_and_none_that_was_let_in_without_a_deadline_is_refused(name, load):
    asked = Traffic(load, count=60).draw(PACE, 0)
    patient = [
        Incoming(one.at, Request(one.request.prompt, one.request.max_tokens)) for one in asked[::7]
    ]
    asked = sorted([*asked, *patient], key=lambda one: one.at)
    served = simulate_server(POLICIES[name], PACE, LIMITS, asked)
    assert [one.asked for one in served] == asked
    assert not any(one.refused for one in served if one.asked.request.deadline is None)
    assert all(one.ended >= one.asked.at for one in served)


def test_where_all_can_be_answered_all_are():
    asked = Traffic(0.1, count=30, patience=(6.0, 12.0)).draw(PACE, 0)
    assert share_in_time(simulate_server(POLICIES["dftsp"], PACE, LIMITS, asked)) == 1.0


def test_alone_a_request_takes_what_was_predicted():
    prompt, new = tuple(range(40)), 20
    (one,) = simulate_server(POLICIES["fcfs"], PACE, LIMITS, [Incoming(0.0, Request(prompt, new))])
    assert one.ended == pytest.approx(0.04 + 19 * 0.01)


@pytest.mark.parametrize("name", ["smollm2", "llama"])
@pytest.mark.parametrize("load", [1.0, 1.5, 3.0])
def test_at_saturation_dftsp_answers_more_in_time_than_every_other_policy(name, load):
    _, pace = paces()[name]
    asked = Traffic(load).draw(pace, 11)
    shares = {
        key: share_in_time(simulate_server(x, pace, LIMITS, asked)) for key, x in POLICIES.items()
    }
    others = [share for key, share in shares.items() if key != "dftsp"]
    assert shares["dftsp"] > max(others)


def test_prompts_are_unlike():
    prompts = [one.request.prompt for one in Traffic(1.0).draw(PACE, 0)]
    assert len({prompt[:2] for prompt in prompts}) == len(prompts)
