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
from dataclasses import dataclass
from typing import IO

from edgewise.runtime.launchers import STOP_SECONDS
from edgewise.runtime.messages import Ended
from edgewise.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class _Running:
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    waiter: threading.Thread


class LocalLauncher:
    """One process per worker, with a thread each that waits for its end."""

    def __init__(self, post: Callable[[Ended], None]) -> None:
        self._post = post
        self._running: dict[str, _Running] = {}
        self._closing = False

    def start(self, settings: Settings) -> str:
        name = settings.device.name
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            # -P: the working directory may hold files named like the modules that a worker imports.
            [sys.executable, "-P", "-m", "edgewise.runtime.worker"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the coordinator alone
        )
        waiter = threading.Thread(target=self._wait, args=(name, process, log), daemon=True)
        self._running[name] = _Running(process, log, waiter)
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # its end is noticed all the same
            process.stdin.write(settings.to_line())
            process.stdin.flush()
        waiter.start()
        return settings.public

    def _wait(self, name: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        code = process.wait()
        running = self._running.get(name)
        if self._closing or running is None or running.process is not process:
            return  # it was ended from here
        how = f"stopped with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        self._post(Ended(name, how, _last_line(log)))

    @property
    def process_ids(self) -> dict[str, int]:
        """The operating system's number of each worker, by device."""
        return {name: running.process.pid for name, running in self._running.items()}

    def end(self, device: str) -> None:
        running = self._running.pop(device, None)
        if running is not None:
            running.process.kill()
            _clean_up(running)

    def close(self) -> None:
        self._closing = True
        deadline = time.monotonic() + STOP_SECONDS
        for running in self._running.values():
            assert running.process.stdin is not None
            with contextlib.suppress(OSError):  # a worker ends when this pipe does
                running.process.stdin.close()
        for running in self._running.values():
            try:
                running.process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                running.process.kill()
            _clean_up(running)
        self._running.clear()


def _clean_up(running: _Running) -> None:
    running.waiter.join()
    assert running.process.stdin is not None
    with contextlib.suppress(OSError):
        running.process.stdin.close()
    running.log.close()


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
