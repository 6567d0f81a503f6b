"""Machines that joined: agents as processes of their own, with folders of their own."""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgewise.clusters import Device
from edgewise.runtime.coordinator.gathering import wait_for_machines
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.live import start_live
from edgewise.runtime.messages import WorkerProgram
from tests.runtime.places import AGENT, SECONDS


@dataclass
class Machines:
    """Those that have been started, by name; `workers` are of this machine and of those that were
    let in."""

    workers: Workers
    agents: AgentLauncher
    token: str
    folder: Path
    processes: "dict[str, subprocess.Popen[bytes]]"

    def start(self, name: str) -> None:
        """Have a machine ask to be let in. It shares no folder with this one."""
        told = [sys.executable, "-c", AGENT, self.agents.address, self.token, name]
        environment = os.environ | {"XDG_CACHE_HOME": str(self.folder / name)}
        self.processes[name] = subprocess.Popen(told, env=environment)

    def let_in(self, count: int, seconds: float = SECONDS, say=lambda text: None) -> None:
        wait_for_machines(self.workers, self.agents, count, seconds, say)

    def files(self, name: str) -> set[str]:
        """Of layers, that a machine has been sent."""
        return {path.stem for path in (self.folder / name).rglob("*.safetensors")}


@contextlib.contextmanager
def machines(folder: Path, names: str = ""):
    """This machine, 'a', and those that joined it."""
    started = start_live(Device("a", 10**9), "127.0.0.1", 0, program=WorkerProgram.TUNE)
    workers, agents, invitation = started
    with workers:
        here = Machines(workers, agents, invitation.token, folder, {})
        try:
            for name in names:
                here.start(name)
            here.let_in(len(names))
            yield here
        finally:
            for process in here.processes.values():
                process.kill()
                process.wait()
