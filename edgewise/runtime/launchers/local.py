"""Workers as processes of this machine: the embedded default, and what agents do elsewhere."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import IO

from edgewise.runtime.launchers import STOP_SECONDS
from edgewise.runtime.messages import Ended, WorkerProgram
from edgewise.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class _Process:
    """A worker's: once it has imported what every worker needs, it waits to be told whose it is."""

    popen: "subprocess.Popen[bytes]"
    stdin: IO[bytes]
    log: IO[bytes]

    @staticmethod
    def begin(program: str) -> "_Process":
        log = tempfile.TemporaryFile()  # noqa: SIM115
        popen = subprocess.Popen(
            # -P: the working directory may hold files named like the modules that a worker imports.
            [sys.executable, "-P", "-m", program],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the coordinator alone
        )
        assert popen.stdin is not None
        return _Process(popen, popen.stdin, log)

    def tell(self, settings: Settings) -> None:
        with contextlib.suppress(OSError):  # its end is noticed all the same
            self.stdin.write(settings.to_line())
            self.stdin.flush()

    def hang_up(self) -> None:
        """A worker ends when this pipe does."""
        with contextlib.suppress(OSError):
            self.stdin.close()

    def end(self, seconds: float = 0.0) -> None:
        """Wait for its end so long, then end it."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def forget(self) -> None:
        """Let go of what an ended one still takes here."""
        self.hang_up()
        self.log.close()


class LocalLauncher:
    """One process per worker, with a thread each that waits for its end. `program` is what it
    runs."""

    def __init__(self, post: Callable[[Ended], None], program: str = WorkerProgram.SERVE) -> None:
        self._post, self._program = post, program
        self._running: dict[str, tuple[_Process, threading.Thread]] = {}
        self._spare: _Process | None = None
        self._closing = False

    def start(self, settings: Settings) -> Future[str]:
        key: Future[str] = Future()
        name, process = settings.device.name, self._take_spare() or _Process.begin(self._program)
        waiter = threading.Thread(target=self._wait, args=(name, process), daemon=True)
        self._running[name] = process, waiter
        process.tell(settings)
        waiter.start()
        key.set_result(settings.public)
        return key

    def prepare(self) -> None:
        """Have a process import now what the next worker needs: that takes a second."""
        if self._spare is None:
            self._spare = _Process.begin(self._program)

    def switch(self, program: str) -> None:
        """Have workers that are started from now on run another program."""
        if program != self._program:
            self._program, spare = program, self._take_spare()
            if spare is not None:  # it has imported what the other one needs
                spare.end()
                spare.forget()

    def _take_spare(self) -> _Process | None:
        """None where there is none, or it has died."""
        spare, self._spare = self._spare, None
        if spare is None or spare.popen.poll() is None:
            return spare
        spare.forget()
        return None

    def _wait(self, name: str, process: _Process) -> None:
        code = process.popen.wait()
        if self._closing or self._running.get(name, (None,))[0] is not process:
            return  # it was ended from here
        how = f"stopped with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        self._post(Ended(name, how, _last_line(process.log)))

    @property
    def process_ids(self) -> dict[str, int]:
        """The operating system's number of each worker, by device."""
        return {name: process.popen.pid for name, (process, _) in self._running.items()}

    def end(self, device: str) -> None:
        if device in self._running:
            process, waiter = self._running.pop(device)
            process.end()
            waiter.join()
            process.forget()

    def close(self) -> None:
        self._closing = True
        processes = [process for process, _ in self._running.values()]
        if self._spare is not None:
            self._spare.popen.kill()  # it has nothing to bring to an end
            processes.append(self._spare)
        for process in processes:
            process.hang_up()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.end(max(deadline - time.monotonic(), 0))
        for _, waiter in self._running.values():
            waiter.join()
        for process in processes:
            process.forget()
        self._running.clear()
        self._spare = None


def _last_line(log: IO[bytes]) -> str:
    """What a process said last."""
    with contextlib.suppress(OSError, ValueError):
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def _environment() -> dict[str, str]:
    """This process's, without the empty entries of PYTHONPATH, which mean the working directory."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    rest = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**rest, "PYTHONPATH": os.pathsep.join(entries)} if entries else rest
