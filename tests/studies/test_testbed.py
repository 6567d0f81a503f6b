"""The testbed's links carry what they are said to, measured by plain sockets."""

import subprocess
import sys

import pytest

from edgewise.errors import InputError
from edgewise.studies import write_study
from edgewise.studies.testbed.machines import Machine, Machines

A, B = Machine("test-a", 1.0, "1 GB"), Machine("test-b", 1.0, "1 GB")
RECEIVE = """
import socket, sys, time
with socket.create_server((sys.argv[1], 7900)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    connection.recv(1)
    began, size = time.monotonic(), 0
    while part := connection.recv(2**16):
        size += len(part)
    print(8 * size / (time.monotonic() - began) / 1e6)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 7900), 5) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def machines(namespaces):
    with Machines((A, B), "10.79.0") as made:
        yield made


@pytest.mark.timing
@pytest.mark.parametrize("mbps", [1, 10])
def test_a_link_carries_its_rate(machines, mbps):
    """But for the headers of small packets: 52 of 300 bytes, and 14 that the kernel counts."""
    machines.set_rate(mbps)
    address = machines.address(B)
    receive = machines.command(B, sys.executable, "-c", RECEIVE, address)
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout.readline() == "listening\n"
        size = str(round(mbps * 1e6 / 8))
        send = machines.command(A, sys.executable, "-c", SEND, address, size)
        subprocess.run(send, check=True, timeout=30)
        measured = float(receiver.stdout.readline())
    assert mbps * 248 / 314 * 0.85 <= measured <= mbps * 248 / 314 * 1.1


def test_machines_leave_nothing(namespaces):
    with Machines((Machine("test-c", 1.0, "1 GB"),), "10.80.0"):
        assert "ew-test-c" in subprocess.check_output(["ip", "netns"], text=True)
    assert "ew-test-c" not in subprocess.check_output(["ip", "netns"], text=True)


def test_only_some_studies_have_a_testbed(tmp_path):
    with pytest.raises(InputError, match="'llm-pq' has no testbed"):
        write_study("llm-pq", tmp_path, testbed=True)
