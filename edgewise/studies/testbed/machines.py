"""Namespaces and links, made and removed.

Every machine is a network namespace with one interface (veth) to a switch (a bridge in a namespace
of its own). What it sends passes a token bucket (tc tbf) of a given rate. A bucket holds a packet:
that much passes at once after a pause, which is why packets are small.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.errors import InputError

PREFIX = "ew-"
PACKET_BYTES = 300  # the smaller, the less passes at once


@dataclass(frozen=True, slots=True)
class Machine:
    """How many times as long as a core of this machine its device takes to compute, and what it may
    take of memory."""

    name: str
    slowdown: float
    memory: str


class Machines:
    """Makes them when entered, and removes them when left. Raises InputError where that cannot be
    done here, and what a command of it ends with."""

    def __init__(self, machines: Sequence[Machine], subnet: str = "10.78.0") -> None:
        self._machines, self._subnet = machines, subnet
        self._switch = f"{PREFIX}switch-{subnet}"

    def address(self, machine: Machine) -> str:
        return f"{self._subnet}.{1 + self._machines.index(machine)}"

    def command(self, machine: Machine, *command: str) -> list[str]:
        """What runs a command on a machine."""
        return ["ip", "netns", "exec", PREFIX + machine.name, *command]

    def set_rate(self, mbps: float) -> None:
        """Of what every machine sends."""
        bucket = f"rate {mbps}mbit burst {PACKET_BYTES + 14} limit 10000000".split()
        for machine in self._machines:
            _ip_in(machine.name, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *bucket)

    def __enter__(self) -> "Machines":
        check_possible()
        self._remove()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "switch", "up")
        for number, machine in enumerate(self._machines):
            name, port = PREFIX + machine.name, f"port{number}"
            _run("ip", "netns", "add", name)
            other = f"type veth peer name {port} netns {self._switch}".split()
            _run("ip", "link", "add", "eth0", "netns", name, *other)
            _run("ip", "-n", self._switch, "link", "set", port, "master", "switch", "up")
            _run("ip", "-n", name, "addr", "add", f"{self.address(machine)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "mtu", str(PACKET_BYTES), "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            # The interface must not hand the kernel's large packets over whole.
            off = ["tso", "off", "gso", "off", "gro", "off"]
            if shutil.which("ethtool"):
                _ip_in(machine.name, "ethtool", "-K", "eth0", *off)
            else:
                _run("ip", "-n", name, "link", "set", "eth0", "gso_max_segs", "1")

    def _remove(self) -> None:
        """Whatever there is of them."""
        for name in (self._switch, *(PREFIX + machine.name for machine in self._machines)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def check_possible() -> None:
    """Raises InputError, saying what is missing."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise InputError("the testbed makes network namespaces: run this as root, under Linux")
    for tool in ("ip", "tc"):
        if not shutil.which(tool):
            raise InputError(f"the testbed needs the command {tool} (Debian: iproute2)")
    probe = f"{PREFIX}probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        raise InputError(f"network namespaces cannot be made here: {made.stderr.strip()}")
    _run("ip", "netns", "del", probe)


def _ip_in(machine: str, *command: str) -> None:
    _run("ip", "netns", "exec", PREFIX + machine, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
