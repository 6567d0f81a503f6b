"""`edgewise quantize`, `sensitivity`, `evaluate`, and budgets that `plan` keeps."""

import json
import re
from dataclasses import replace

import pytest

from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.default_scheme import candidates
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.plans import Plan
from edgewise.quality.calibration import sequences
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.verification import text_of
from edgewise.schemes import CANDIDATES
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Roofline, make_profile

FEW = ("--sequences", 2, "--length", 16)
SCHEMES = ("q2g64", "q4g64", "bf16")
SPEC = open_checkpoint("demo").spec


@pytest.fixture
def answer(command):
    """The JSON document of a command that succeeds."""

    def call(*arguments):
        result = command(*arguments, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    return call


def test_sensitivity_is_measured_once(answer, tmp_path):
    path = tmp_path / "s.json"
    asked = ("sensitivity", "demo", "--schemes", "q2g64,bf16", *FEW)
    first = answer(*asked, "--out", path)
    again = answer(*asked)
    assert (first["cached"], again["cached"]) == (False, True)
    assert first["sensitivity"] == again["sensitivity"] == json.loads(path.read_text())
    losses = Sensitivity.load(path).losses
    assert all(a > b for a, b in zip(losses["q2g64"], losses["bf16"], strict=True))


def test_quantize_makes_layers_once(answer):
    asked = ("quantize", "demo", "--schemes", "q2g64", *FEW)
    first, again = answer(*asked), answer(*asked)
    assert (first["made"], first["kept"]) == (14, 0)
    assert (again["made"], again["kept"]) == (0, 14)


def test_evaluate_says_what_a_scheme_costs(answer, command):
    quality = answer("evaluate", "demo", "--scheme", "q4g64", "--limit", 4)
    assert quality["count"] == 4
    assert quality["exact_match"] == 1.0
    assert 0 < quality["kl"] < 0.01
    assert quality["ratio"] == 0.125
    cached = answer("evaluate", "demo", "--limit", 4, "--kv-cache", "int8")
    assert cached["cache"] == "int8"
    assert 0 < cached["kl"] < 0.001
    result = command("evaluate", "demo", "--scheme", "q4g64", "--limit", 4)
    assert "exact match" in result.out
    assert "12.50%" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "demo", "--scheme", "q9"), "unknown scheme 'q9'; known schemes: fp32, bf16"),
        (("evaluate", "demo", "--data", "none.json"), "cannot read none.json: No such file"),
        (("evaluate", "demo", "--limit", 1, "--scheme", "bf16", "--plan", "p.json"), "give either"),
        (("sensitivity", "demo", "--metric", "mse"), "unknown metric 'mse'; known metrics: kl,"),
        (
            ("sensitivity", "demo", "--text", "no/file.txt"),
            "no/file.txt: no such file; to read a data",
        ),
        (("quantize", "demo", "--schemes", "bf16"), "bf16 is not quantized in groups; give"),
        (("quantize", "demo", "--rounding", "awq", *FEW), "q2g64 is not rounded by 'awq'; methods"),
    ],
)
def test_bad_input_is_refused(command, arguments, message):
    result = command(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: {message}")


@pytest.fixture
def files(tmp_path):
    """A cluster of two, its profile, and losses a third of what they are: a promise to be kept."""
    (tmp_path / "cluster.toml").write_text(
        'source = "a"\n[[device]]\nname = "a"\nmemory = "3.2 MB"\n[[device]]\nname = "b"\n'
        'memory = "3.2 MB"\n[[link]]\nbetween = ["a", "b"]\nbandwidth = "1 Gbps"\n'
    )
    kinds = [Roofline(name, 1e11, 1e9) for name in ("a", "b")]
    (tmp_path / "profile.json").write_text(make_profile(SPEC, kinds, SCHEMES).to_json())
    losses = {
        "q2g64": (0.005,) * SPEC.num_layers,
        "q4g64": (0.0003,) * SPEC.num_layers,
        "bf16": (0.0,) * SPEC.num_layers,
    }
    text = Sensitivity(SPEC.digest, "kl", 0.33, losses).to_json()
    (tmp_path / "losses.json").write_text(text)
    return tmp_path


@pytest.fixture
def short(monkeypatch):
    """Plans are measured on fewer sequences."""
    monkeypatch.setattr("edgewise.quality.verification.SEQUENCES", 8)


def test_a_quality_budget_is_kept(answer, files, short):
    asked = ["--cluster", files / "cluster.toml", "--profile", files / "profile.json"]
    asked += ["--sensitivity", files / "losses.json", "--schemes", ",".join(SCHEMES)]
    asked += ["--prompt-tokens", 8, "--new-tokens", 8, "--out", files / "plan.json"]
    planned = answer("plan", "demo", *asked, "--quality", "0.05")
    rounds = planned["quality_rounds"]
    assert rounds[-1]["measured"] < rounds[-1]["upper"] <= 0.05
    plan = Plan.load(files / "plan.json")
    assert json.loads(plan.to_json()) == planned["plan"]
    ids = sequences("demo", text_of("demo", len(rounds) - 1))
    losses = plan_losses("demo", [plan.schemes], ids, method=plan.rounding)
    assert losses[0].mean == pytest.approx(rounds[-1]["measured"])
    assert plan.rounding.startswith("nearest:")
    ran = answer("run", "demo", "hello", "--cluster", files / "cluster.toml", "--plan",
                 files / "plan.json", "--max-tokens", 2)  # fmt: skip
    assert ran["tokens"] == 2


def test_a_file_in_few_bits_is_a_candidate_itself_beside_what_takes_less():
    assert candidates(SPEC) == CANDIDATES
    layers = tuple(
        replace(layer, stored=tuple(((rows, "q4g32h"),) for rows, _ in layer.matrices))
        for layer in SPEC.layers
    )
    assert candidates(replace(SPEC, layers=layers)) == ("q2g16ad", "q3g32ad", "stored")


def test_plans_keep_within_one_percent_by_default(answer, files):
    cluster = files / "cluster.toml"
    cluster.write_text(cluster.read_text().replace("3.2 MB", "4 MB"))
    asked = ("plan", "demo", "--cluster", cluster, "--profile", files / "profile.json")
    asked += ("--prompt-tokens", 8, "--new-tokens", 8)
    sensitivity, _, _ = cached_sensitivity(Asked("demo", SCHEMES))
    made = answer(*asked)
    assert len(set(made["plan"]["stages"][0]["schemes"])) > 1
    assert 0 < made["quality_rounds"][-1]["upper"] <= 0.01 * sensitivity.reference
    quicker = answer(*asked, "--quality", "any")
    assert quicker["quality_rounds"] is None
    assert {x for stage in quicker["plan"]["stages"] for x in stage["schemes"]} == {"q2g64"}


def test_sparse_schemes_are_weighed_planned_and_run(answer, files):
    """Two devices answer as one does that holds all in the same schemes."""
    schemes, cluster = ("q4g32ad", "q4g32ds"), files / "cluster.toml"
    lost = answer("sensitivity", "demo", "--schemes", ",".join(schemes), *FEW)
    dense, sparse = (lost["sensitivity"]["losses"][name] for name in schemes)
    assert sum(dense) < sum(sparse)
    cluster.write_text(cluster.read_text().replace("3.2 MB", "1.9 MB"))
    kinds = [Roofline(name, 1e11, 1e9) for name in ("a", "b")]
    (files / "profile.json").write_text(make_profile(SPEC, kinds, schemes).to_json())
    asked = ("plan", "demo", "--cluster", cluster, "--profile", files / "profile.json")
    asked += ("--prompt-tokens", 8, "--new-tokens", 8, "--schemes", ",".join(schemes))
    planned = answer(*asked, "--quality", "any", "--out", files / "plan.json")["plan"]
    assert {x for stage in planned["stages"] for x in stage["schemes"]} == {"q4g32ds"}
    question = ("demo", "When does the library close?", "--max-tokens", 8)
    ran = answer("run", *question, "--cluster", cluster, "--plan", files / "plan.json")
    assert len({stage["device"] for stage in planned["stages"]}) == 2
    assert ran["answer"] == answer("run", *question, "--scheme", "q4g32ds")["answer"]


def test_one_scheme_alone_needs_no_judgement(answer, files, monkeypatch):
    monkeypatch.setattr("edgewise.cli.plan_problem.cached_sensitivity", None)
    asked = ("plan", "demo", "--cluster", files / "cluster.toml", "--schemes", "q4g64")
    asked += ("--profile", files / "profile.json", "--prompt-tokens", 8, "--new-tokens", 8)
    assert answer(*asked)["quality_rounds"] is None


def test_where_the_budget_does_not_fit_another_is_named(answer, command, files):
    """And that one holds, measured."""
    cluster = files / "cluster.toml"
    cluster.write_text(cluster.read_text().replace("3.2 MB", "1.6 MB"))
    asked = ("plan", "demo", "--cluster", cluster, "--profile", files / "profile.json")
    asked += ("--prompt-tokens", 8, "--new-tokens", 8)
    refused = command(*asked)
    assert refused.code == 3
    assert "1% of the model's own loss" in refused.err
    (quality,) = re.findall(r"try --quality ([\d.]+%),", refused.err)
    assert answer(*asked, "--quality", quality)["quality_rounds"][-1]["upper"] > 0


def test_an_answer_within_a_quality_budget(answer, short, monkeypatch):
    """The plan's loss is measured, and kept: the second answer measures nothing."""
    candidates = ("q2g64", "q4g64", "bf16")
    monkeypatch.setattr("edgewise.opening.default_scheme.CANDIDATES", candidates)
    asked = ("run", "demo", "hello", "--quality", "5%", "--max-tokens", 2)
    ran = answer(*asked)
    plan = Plan.from_json(json.dumps(ran["plan"]))
    assert plan.rounding.startswith("nearest:")
    sensitivity, _, cached = cached_sensitivity(Asked("demo", candidates))
    assert cached
    (loss,) = plan_losses("demo", [plan.schemes], sequences("demo", text_of("demo", 0)),
                          method=plan.rounding)  # fmt: skip
    assert loss.mean <= sensitivity.budget("5%")
    monkeypatch.setattr("edgewise.quality.verification.plan_losses", None)
    monkeypatch.setattr("edgewise.opening.profile.measure_cluster", None)
    assert answer(*asked)["plan"] == ran["plan"]


def test_one_of_quality_scheme_and_plan_decides(answer, command):
    result = command("run", "demo", "hello", "--quality", "1%", "--scheme", "4bit")
    assert result.code == 2 and "give one of them" in result.err
    result = command("run", "demo", "hello", "--quality", "much")
    assert result.code == 2 and "neither like '1%' nor like '0.02'" in result.err
