"""What is written for Flower, and said of it."""

import math
import shlex
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from edgewise.errors import InputError
from edgewise.federation.flower.certificates import Certificates
from edgewise.federation.flower.processes import FlowerDevice, SuperLink, line_for
from edgewise.federation.flower.project import write_connection, write_project

DOCS = Path(__file__).parents[2] / "docs" / "federating.md"


def test_settings_come_back_from_the_project_as_they_were(tmp_path):
    config = {
        "model": "folder \U0001f338 \"x\" \\ \t\x1f\x7f", "rate": 1e-7, "delta": 1e22, "rounds": 5,
        "leaders": True, "out": "/\u00e4",
    }  # fmt: skip
    write_project(tmp_path, config)
    read = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert read["tool"]["flwr"]["app"]["config"] == config
    write_connection(tmp_path, "127.0.0.1:1", tmp_path / "\U0001f338.crt")
    read = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))
    assert read["superlink"]["edgewise"]["root-certificates"] == str(tmp_path / "\U0001f338.crt")


@pytest.mark.parametrize("value", [math.inf, math.nan, "\udc80"])
def test_what_cannot_be_written_down_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="cannot be handed to Flower"):
        write_project(tmp_path, {"rate": value})


def test_the_line_for_another_machine_is_the_one_in_the_docs(tmp_path):
    certificates = Certificates(tmp_path / "ca.crt", tmp_path / "c", tmp_path / "k")
    link = SuperLink(tmp_path, "192.168.1.10:9092", certificates, None, {})
    line = shlex.split(line_for(link, FlowerDevice("far", None)))
    assert line[:2] == ["FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1"]
    text = DOCS.read_text(encoding="utf-8")
    shown = text[text.index("$ FLWR_TELEMETRY") + 2 :]
    assert shlex.split(shown[: shown.index("```")].replace("\\\n", " ")) == line
