"""What `edgewise federate` refuses before anything is started; what it does: tests/federation."""

import io
import json
from importlib.util import find_spec

import pytest
from rich.console import Console

from edgewise.cli.federate import rounds_table


@pytest.fixture
def data(tmp_path):
    files = {}
    for name in ("a", "b"):
        files[name] = tmp_path / f"{name}.txt"
        files[name].write_text("The Harbour library opens at 09:05. Tram line 12 runs often.\n" * 9)
    return [x for name, file in files.items() for x in ("--data-on", f"{name}={file}")]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--data-on", "a=other.txt"], "'a' is given twice"),
        (["--data-on", "c"], "write DEVICE=FILE"),
        (["--data-on", "c d=x"], "write DEVICE=FILE"),
        (["--data-on", "superlink=x"], "take another"),
        (["--data-on", "c=nowhere.txt"], "nowhere.txt"),
        (["--lora"], "no exact mean"),
        (["--algorithm", "fedpso", "--leaders"], "nothing that a leader could merge"),
        (["--algorithm", "swarms", "--epsilon", "1"], "is of what is merged"),
        (["--epsilon", "1", "--clip", "0"], "--clip above 0"),
        (["--rate", "inf"], "--rate is inf"),
        (["--epsilon", "20"], "really gives a delta of 1.5e-03"),
        (["--algorithm", "magic"], "magic"),
    ],
)
def test_what_contradicts_itself_is_refused(command, data, tmp_path, more, reason):
    ran = command("federate", "demo", *data, "--out", tmp_path / "out", *more)
    assert ran.code == 2 and reason in ran.err
    assert not (tmp_path / "out").exists()


def test_one_device_does_not_learn_together(command, data, tmp_path):
    ran = command("federate", "demo", *data[:2], "--out", tmp_path / "out", "--json")
    assert ran.code == 2
    assert "at least two devices" in json.loads(ran.out)["error"]["message"]


def test_what_devices_call_themselves_is_no_markup():
    done = {
        "number": 1, "loss": None, "utility": None, "leader": "[/]", "answered": ["[/]"],
        "silent": ["[bold]b"], "refused": ["client '[red]' is refused"],
        "down_bytes": 1, "up_bytes": 1,
    }  # fmt: skip
    screen = Console(width=200, file=io.StringIO())
    screen.print(rounds_table([done]))
    for name in ("[/]", "[bold]b", "client '[red]' is refused"):
        assert name in screen.file.getvalue()


@pytest.mark.skipif(find_spec("flwr") is not None, reason="Flower is installed")
def test_without_flower_it_says_what_to_install(command, data, tmp_path):
    ran = command("federate", "demo", *data, "--out", tmp_path / "out")
    assert ran.code == 2 and "pip install 'edgewise[federated]'" in ran.err
