"""Two network namespaces as two machines: a script asks from the first, the second joins it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from edgewise.studies.testbed.machines import Machine, Machines

PACKET_BYTES, BURST_BYTES, LIMIT_BYTES = 1500, 4000, 10_000_000


@contextlib.contextmanager
def process(command: list[str], cache: str) -> "Iterator[subprocess.Popen[str]]":
    """With a cache folder of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=environment) as started:  # fmt: skip
        try:
            yield started
        finally:
            started.terminate()


def joined(
    script: str,
    mbps: dict[str, float],
    caches: Sequence[str],
    told: Sequence[str],
    seconds: float,
    subnet: str,
) -> str:
    """What a script, called with --inside, prints on the first of two machines, each of which sends
    so many `mbps`. It is told its address, and what else is `told`, line by line; says its port and
    a token; and is then joined by the second machine."""
    source, device = machines = [Machine(name, 1.0, "4 GB") for name in mbps]
    with Machines(machines, subnet) as made:
        for machine in machines:
            rate = f"rate {mbps[machine.name]}mbit burst {BURST_BYTES} limit {LIMIT_BYTES}"
            bucket = f"tc qdisc replace dev eth0 root tbf {rate}"
            for command in (f"ip link set eth0 mtu {PACKET_BYTES}", bucket):
                subprocess.run(made.command(machine, *command.split()), check=True)
        address = made.address(source)
        with process(made.command(source, sys.executable, script, "--inside"), caches[0]) as host:
            assert host.stdin is not None and host.stdout is not None
            host.stdin.write("".join(f"{line}\n" for line in (address, *told)))
            host.stdin.flush()
            port, token = json.loads(host.stdout.readline())
            join = [sys.executable, "-m", "edgewise", "join", f"{address}:{port}", "--token", token,
                    "--name", device.name, "--memory", "4 GB", "--threads", "1"]  # fmt: skip
            with process(made.command(device, *join), caches[1]):
                output, _ = host.communicate(timeout=seconds)
    return output
