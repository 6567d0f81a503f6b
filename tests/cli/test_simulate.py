"""`edgewise simulate`, called as the command line calls it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.cli.simulate import SimulateOptions, run_simulate
from edgewise.costs import CostModel
from edgewise.errors import Infeasible, InputError
from edgewise.planning import PLANNERS, Problem
from edgewise.simulation.testbeds import LLAMA2_7B, load_testbed
from edgewise.specs import Workload

WORK = Workload(32, 16, 4, 4)
OPTIONS = SimulateOptions(
    testbed="edgeshard",
    cluster=None,
    profile=None,
    requests=12,
    rate=None,
    workload=WORK,
    bubbles=False,
    jitter=0.0,
    seed=0,
    trace=None,
    as_json=True,
)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    cluster, profile = load_testbed("edgeshard", LLAMA2_7B)
    problem = Problem(CostModel(LLAMA2_7B, cluster, profile, WORK))
    path = tmp_path / "plan.json"
    path.write_text(PLANNERS["edgeshard"](problem).plan.to_json(), encoding="utf-8")
    return path


def test_json_and_trace(plan_file: Path, tmp_path: Path, capsys) -> None:
    run_simulate(plan_file, replace(OPTIONS, trace=tmp_path / "trace.json"))
    free = json.loads(capsys.readouterr().out)
    assert free["finished"] == 12
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    run_simulate(plan_file, replace(OPTIONS, bubbles=True))
    barrier = json.loads(capsys.readouterr().out)
    assert barrier["tokens_per_second"] < free["tokens_per_second"]
    assert barrier["predicted_tokens_per_second"] < free["predicted_tokens_per_second"]
    run_simulate(plan_file, replace(OPTIONS, rate=2.0, jitter=0.2, seed=4))
    assert json.loads(capsys.readouterr().out)["makespan_seconds"] != free["makespan_seconds"]


def test_the_table_names_the_devices(plan_file: Path, capsys) -> None:
    run_simulate(plan_file, replace(OPTIONS, as_json=False))
    shown = capsys.readouterr().out
    assert "12 simulated requests" in shown
    assert "rtx3090 computes" in shown


def test_a_cluster_and_a_profile_of_ones_own(plan_file: Path, tmp_path: Path, capsys) -> None:
    from edgewise.simulation import testbeds

    _, profile = load_testbed("edgeshard", LLAMA2_7B)
    written = tmp_path / "profile.json"
    written.write_text(profile.to_json(), encoding="utf-8")
    cluster = Path(testbeds.__file__).with_name("testbeds") / "edgeshard.toml"
    run_simulate(plan_file, OPTIONS)
    by_name = json.loads(capsys.readouterr().out)
    run_simulate(plan_file, replace(OPTIONS, testbed=None, cluster=cluster, profile=written))
    assert json.loads(capsys.readouterr().out) == by_name
    written.write_text(replace(profile, model="other").to_json(), encoding="utf-8")
    with pytest.raises(InputError, match="another model shape"):
        run_simulate(plan_file, replace(OPTIONS, testbed=None, cluster=cluster, profile=written))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"testbed": None}, "either --testbed or"),
        ({"cluster": Path("c.toml")}, "either --testbed or"),
        ({"profile": Path("p.json")}, "leave --profile out"),
        ({"testbed": None, "cluster": Path("c.toml")}, "--cluster needs --profile"),
        ({"testbed": "home"}, "other devices"),
    ],
)
def test_wrong_options_are_named(plan_file: Path, changes: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run_simulate(plan_file, replace(OPTIONS, **changes))


def test_a_plan_that_does_not_fit_is_refused(plan_file: Path) -> None:
    with pytest.raises(Infeasible, match="too little"):
        run_simulate(plan_file, replace(OPTIONS, workload=Workload(2000, 2000, 64, 4)))
