"""`edgewise simulate`, called as the command line calls it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.cli.commands import SimulateOptions
from edgewise.cli.simulate import run_simulate
from edgewise.costs import CostModel
from edgewise.errors import Infeasible, InputError
from edgewise.planning import PLANNERS, Problem
from edgewise.simulation.testbeds import LLAMA2_7B, load_testbed
from edgewise.specs import Workload

WORK = Workload(32, 16, 4, 4)


@pytest.fixture
def options(tmp_path: Path) -> SimulateOptions:
    cluster, profile = load_testbed("edgeshard", LLAMA2_7B)
    problem = Problem(CostModel(LLAMA2_7B, cluster, profile, WORK))
    path = tmp_path / "plan.json"
    path.write_text(PLANNERS["edgeshard"](problem).plan.to_json(), encoding="utf-8")
    lengths = {"prompt_tokens": WORK.prompt_tokens, "new_tokens": WORK.new_tokens}
    lanes = {"sequences": WORK.sequences, "micro_batches": WORK.micro_batches}
    return SimulateOptions(
        plan=path, testbed="edgeshard", requests=12, **lengths, **lanes, as_json=True
    )


def test_json_and_trace(options: SimulateOptions, tmp_path: Path, capsys) -> None:
    run_simulate(replace(options, trace=tmp_path / "trace.json"))
    free = json.loads(capsys.readouterr().out)
    assert free["finished"] == 12
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    run_simulate(replace(options, bubbles=True))
    barrier = json.loads(capsys.readouterr().out)
    assert barrier["tokens_per_second"] < free["tokens_per_second"]
    assert barrier["predicted_tokens_per_second"] < free["predicted_tokens_per_second"]
    run_simulate(replace(options, rate=2.0, jitter=0.2, seed=4))
    assert json.loads(capsys.readouterr().out)["makespan_seconds"] != free["makespan_seconds"]


def test_the_table_names_the_devices(options: SimulateOptions, capsys) -> None:
    run_simulate(replace(options, as_json=False))
    shown = capsys.readouterr().out
    assert "12 simulated requests" in shown
    assert "rtx3090 computes" in shown


def test_a_cluster_and_a_profile_of_ones_own(
    options: SimulateOptions, tmp_path: Path, capsys
) -> None:
    from edgewise.simulation import testbeds

    _, profile = load_testbed("edgeshard", LLAMA2_7B)
    written = tmp_path / "profile.json"
    written.write_text(profile.to_json(), encoding="utf-8")
    cluster = Path(testbeds.__file__).with_name("testbeds") / "edgeshard.toml"
    run_simulate(options)
    by_name = json.loads(capsys.readouterr().out)
    run_simulate(replace(options, testbed=None, cluster=cluster, profile=written))
    assert json.loads(capsys.readouterr().out) == by_name
    written.write_text(replace(profile, model="other").to_json(), encoding="utf-8")
    with pytest.raises(InputError, match="another model shape"):
        run_simulate(replace(options, testbed=None, cluster=cluster, profile=written))


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
def test_wrong_options_are_named(options: SimulateOptions, changes: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run_simulate(replace(options, **changes))


def test_a_plan_that_does_not_fit_is_refused(options: SimulateOptions) -> None:
    with pytest.raises(Infeasible, match="too little"):
        run_simulate(replace(options, prompt_tokens=2000, new_tokens=2000, sequences=64))
