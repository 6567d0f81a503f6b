"""What `import edgewise` offers, and that it is what the commands do."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import edgewise
from edgewise.clusters import Cluster, Device, Link
from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import ClusterError, Infeasible, InputError, PlanError, PromptError
from edgewise.opening.engine import this_machine

NAMES = ("laptop", "jetson", "pi")
LINKS = tuple(Link(a, b, 1e9, 1e-3) for a in NAMES for b in NAMES if a != b)
SMALL = {"prompt_tokens": 150, "new_tokens": 60}


def devices(memory_bytes: int) -> Cluster:
    return Cluster(tuple(Device(name, memory_bytes) for name in NAMES), LINKS, NAMES[0])


@pytest.fixture(scope="module")
def question() -> str:
    asked = draw_questions(3, 1)[0]
    return prompt(asked.context, asked.question)


@pytest.fixture(scope="module")
def model():
    with edgewise.load("demo", **SMALL) as loaded:
        yield loaded


def test_all_is_there_and_documented():
    assert edgewise.__all__ == sorted(edgewise.__all__)
    for name in set(edgewise.__all__) - {"__version__"}:
        assert getattr(edgewise, name).__doc__
    assert set(edgewise.__all__) <= set(dir(edgewise))
    assert "edgewise.load(" in (Path(__file__).parents[1] / "README.md").read_text()
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = edgewise.lode


def test_importing_it_imports_nothing_heavy():
    script = (
        "import sys, edgewise\n"
        "print(sorted({'torch', 'numpy', 'zmq', 'edgewise.opening'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_answer_is_that_of_the_command_and_its_pieces_join_to_it(model, question):
    asked = [sys.executable, "-m", "edgewise", "run", "demo", question]
    for raw in (False, True):
        ran = subprocess.run([*asked, *["--raw"] * raw], capture_output=True, text=True)
        whole = model.generate(question, raw=raw)
        assert ran.stdout == whole + "\n"
        assert "".join(model.stream(question, raw=raw)) == whole
    assert model.stats().finished >= 4


def test_streams_may_be_read_by_turns_and_left(model, question):
    whole = model.generate(question, raw=True)
    first, second = (model.stream(question, raw=True) for _ in range(2))
    next(model.stream(question, raw=True))  # nobody reads on
    pieces = [next(first), next(second)]
    assert (pieces[1] + "".join(second), pieces[0] + "".join(first)) == (whole, whole)
    stop = whole.split()[1]
    assert model.generate(question, raw=True, stop=stop) == whole.partition(stop)[0]


def test_over_a_cluster_a_lost_device_changes_no_answer(model, question):
    whole = model.generate(question, raw=True)
    with edgewise.load("demo", cluster=devices(10**7), **SMALL) as spread:
        assert len(spread.plan.stages) > 1
        pieces = spread.stream(question, raw=True)
        start = next(pieces)
        victim = spread.plan.stages[-1].device
        os.kill(spread.engine.workers.process_ids[victim], signal.SIGKILL)
        assert start + "".join(pieces) == whole
        assert victim == NAMES[0] or victim not in spread.plan.devices


def test_where_what_is_left_is_too_small_it_says_so(question):
    with edgewise.load("demo", cluster=devices(56 * 10**5), scheme="bf16", **SMALL) as spread:
        assert len(spread.plan.stages) == 3
        pieces = spread.stream(question, raw=True)
        next(pieces)
        os.kill(spread.engine.workers.process_ids["pi"], signal.SIGKILL)
        with pytest.raises(Infeasible, match="no plan is left without 'pi': "):
            list(pieces)


def test_a_plan_is_followed(model, question, tmp_path):
    plan = replace(model.plan, rounding=None)
    (tmp_path / "plan.json").write_text(plan.to_json())
    for given in (plan, tmp_path / "plan.json"):
        with edgewise.load("demo", plan=given, cluster=this_machine(), **SMALL) as again:
            assert again.plan.stages == plan.stages
            assert again.generate(question) == model.generate(question)


def test_wrong_arguments(model, tmp_path):
    for arguments, error, text in (
        ({"scheme": "4bit", "quality": "1%"}, InputError, "give one of them"),
        ({"quality": "much"}, InputError, "neither like"),
        ({"sequences": 0}, InputError, "sequences must be at least 1"),
        ({"kv_cache": "int3"}, InputError, "int3"),
        ({"cluster": tmp_path / "none.toml"}, ClusterError, "cannot read cluster file"),
        ({"plan": tmp_path / "none.json"}, PlanError, "none.json"),
    ):
        with pytest.raises(error, match=text):
            edgewise.load("demo", **arguments)
    with pytest.raises(PromptError, match="the prompt is empty"):
        model.generate(" ")
    with pytest.raises(PromptError, match="max tokens must be at least 1"):
        model.stream("Hello", max_tokens=0)
    with pytest.raises(TypeError, match="tempo"):
        model.generate("Hello", tempo=1)


def test_a_closed_model_says_so():
    with edgewise.load("demo", **SMALL) as closed:
        pass
    closed.close()
    with pytest.raises(InputError, match="this model is closed"):
        closed.generate("Hello")
