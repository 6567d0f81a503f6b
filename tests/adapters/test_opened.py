"""Adapters of a model that is opened from Python, or by a command."""

import json
import subprocess

import pytest

import edgewise
from edgewise.errors import InputError, PromptError
from tests.adapters.made import write_adapter
from tests.hosting.clusters import EDGEWISE

ASKED = "When does the museum close?"


def test_python_and_the_command_answer_alike(tmp_path):
    folders = {f"a{i}": write_adapter(tmp_path / str(i), "demo", seed=i, size=1.0) for i in (1, 2)}
    with edgewise.load("demo", scheme="fp32", adapters=folders, sequences=2) as model:
        plain = model.generate(ASKED, max_tokens=12)
        said = {name: model.generate(ASKED, max_tokens=12, adapter=name) for name in folders}
        streams = [model.stream(ASKED, max_tokens=12, adapter=name) for name in folders]
        pieces = {name: [next(stream)] for name, stream in zip(folders, streams, strict=True)}
        for name, stream in zip(folders, streams, strict=True):
            assert "".join(pieces[name] + list(stream)) == said[name]
        with pytest.raises(PromptError, match="there is no adapter 'a3'"):
            model.generate(ASKED, adapter="a3")
    assert len({plain, *said.values()}) == 3
    command = ("run", "demo", ASKED, "--max-tokens", "12", "--scheme", "fp32", "--json")
    done = subprocess.run(
        [*EDGEWISE, *command, "--adapter", str(folders["a2"])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout)["answer"] == said["a2"], done.stderr


def test_folders_and_names_are_checked_first(tmp_path):
    folder = write_adapter(tmp_path / "one", "demo")
    with pytest.raises(InputError, match="cannot be an adapter's name"):
        edgewise.load("demo", adapters={"a:b": folder})
    with pytest.raises(InputError, match=r"cannot read .*adapter_config\.json"):
        edgewise.load("demo", adapters={"a": tmp_path / "none"})
