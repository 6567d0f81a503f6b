"""Machines of a cluster whose disks are full: others are answered, and nothing is lost."""

import signal
import threading

import pytest

from tests.hosting.clusters import PATIENCE, ask
from tests.hosting.test_up import HERE, SLOW, SMALL, TEXT, is_ready, state_of
from tests.runtime.places import until

FULL = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'


@pytest.fixture
def full(tmp_path, namespaces):
    """How to start a command whose cache has no room for a layer: what goes before it, and its
    environment."""
    folder = tmp_path / "full"
    folder.mkdir()
    prefix = ("unshare", "--mount", "--fork", "--kill-child", "sh", "-c", FULL, str(folder))
    return {"prefix": prefix, "XDG_CACHE_HOME": str(folder)}


def test_a_machine_whose_disk_is_full_is_let_go(started, full):
    """The only one with the model's layers is lost, and they do not fit on the other's disk: who
    has asked waits, and is answered when another one comes."""
    up = started.start("up", "demo", *HERE, *SMALL)
    there = started.join(up, "--name", "there", *SLOW)
    expected, answers = ask(up, TEXT, 60, patience=PATIENCE), []
    started.join(up, "--name", "full", "--slowdown", "40", **full)
    up.wait_for("text", "'full' joined")
    up.wait_for("text", "the plan stays")
    assert until(lambda: is_ready(up))
    client = threading.Thread(target=lambda: answers.append(ask(up, TEXT, 60)))
    client.start()
    assert until(lambda: state_of(up)["running"]) and not answers
    there.process.kill()
    said = up.wait_for("text", "device 'full' cannot use its disk")["text"]
    assert "are to come, but the disk has" in said and "free" in said
    started.join(up, "--name", "another")
    client.join(PATIENCE)
    assert answers == [expected]
    assert up.end(signal.SIGINT) == 0
