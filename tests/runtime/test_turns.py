"""Emulated devices compute in turns, and none waits for one that stopped."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgewise.runtime.worker.turns import Turns

HOLDER = """
import sys, time
from pathlib import Path
from edgewise.runtime.worker.turns import Turns
with Turns(Path(sys.argv[1])).one(0.0):
    print("has it", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "turns"


def test_one_waits_for_the_other(file: Path) -> None:
    first, second, ended = Turns(file), Turns(file), list[str]()

    def follow() -> None:
        with second.one(time.monotonic() + 30):
            ended.append("second")

    with first.one(0.0):
        thread = threading.Thread(target=follow)
        thread.start()
        time.sleep(0.05)
        ended.append("first")
    thread.join(30)
    assert ended == ["first", "second"]


def test_nobody_waits_longer_than_asked(file: Path) -> None:
    first, second = Turns(file), Turns(file)
    with first.one(0.0):
        began = time.monotonic()
        with second.one(began + 0.05):
            assert time.monotonic() >= began + 0.05
        with second.one(began):  # no time to spare: at once
            pass
    with second.one(0.0):  # who went ahead without a turn has not given away the other's
        assert not first._take()


def test_a_killed_one_gives_its_turn_back(file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        turns = Turns(file)
        assert not turns._take()
        holder.kill()
        holder.wait()
        with turns.one(time.monotonic() + 30):
            assert not Turns(file)._take()
