"""Who is let in to a SuperLink, and what for."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from edgewise.errors import EdgewiseError
from edgewise.federation.flower.certificates import make_node_key
from edgewise.federation.flower.processes import (
    FlowerDevice,
    flower,
    flower_environment,
    node_command,
    super_link,
)
from edgewise.federation.flower.project import CONNECTION, write_connection, write_project
from tests.federation.relay import relayed

WITHIN = 500.0  # seconds on a loaded machine


@contextmanager
def started(folder, link, address, secret, device):
    """A device's SuperNode, and its log."""
    log = folder / "node.log"
    with log.open("wb") as out:
        node = subprocess.Popen(
            node_command(address, link.certificates, secret, device),
            env=flower_environment(folder), stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield node, log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def test_another_machine_cannot_control_it_and_a_known_device_comes_in_from_there(tmp_path):
    """It has the address and the authority's certificate, and in the end a device's key."""
    device, stranger = FlowerDevice("far", None), tmp_path / "stranger"
    stranger.mkdir()
    with super_link(tmp_path, [device]) as link, relayed(link.address) as port:
        from_there = f"127.0.0.1:{port}"
        write_connection(stranger / "home", from_there, link.certificates.authority)
        _, public = make_node_key(stranger, "stranger")
        write_project(stranger / "app", {})
        for asked in (
            ("supernode", "register", str(public), CONNECTION),
            ("supernode", "list", CONNECTION),
            ("run", str(stranger / "app"), CONNECTION),
        ):
            with pytest.raises(EdgewiseError, match="403 Forbidden"):
                flower(stranger, *asked)
        with started(tmp_path, link, from_there, tmp_path / "keys" / "far.key", device):
            end = time.monotonic() + WITHIN
            while "online" not in (said := flower(tmp_path, "supernode", "list", CONNECTION)):
                assert time.monotonic() < end, said
                time.sleep(0.5)


def test_a_device_whose_key_nobody_knows_is_not_let_in(tmp_path):
    device = FlowerDevice("stranger", tmp_path / "data.txt")
    with super_link(tmp_path, []) as link:
        secret, _ = make_node_key(tmp_path, "stranger")
        with started(tmp_path, link, link.address, secret, device) as (node, log):
            assert node.wait(WITHIN) != 0
    assert "Failed to initialize the connection" in log.read_text()
