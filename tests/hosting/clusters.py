"""`up` and `join` as people start them: processes, here or in network namespaces."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosting import client
from tests.hosting.client import fetch

EDGEWISE = (sys.executable, "-m", "edgewise")
PATIENCE = 120.0  # for a plan, seconds


@dataclass
class Running:
    """A process of ours, with what it writes to a file, a JSON document a line."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def lines(self) -> list[dict[str, object]]:
        text = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for(self, key: str, part: str = "", seconds: float = 60.0) -> dict[str, object]:
        """The first line that has a key, and a part in its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.lines():
                if key in line and part in str(line[key]):
                    return line
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            time.sleep(0.05)
        raise AssertionError(f"no {key} with '{part}' in: {self.log.read_text(encoding='utf-8')}")

    def end(self, signal: int) -> int:
        self.process.send_signal(signal)
        return self.process.wait(30)


@dataclass
class Commands:
    """Starts commands, and ends what still runs. `prefix` runs one on another machine."""

    folder: Path
    running: list[Running] = field(default_factory=list)

    def start(self, *arguments: str, prefix: Sequence[str] = (), **environment: str) -> Running:
        log = self.folder / f"{len(self.running)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*prefix, *EDGEWISE, *arguments, "--json"],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"XDG_CONFIG_HOME": str(self.folder)} | environment,
            )
        self.running.append(Running(process, log))
        return self.running[-1]

    def join(self, up: Running, *arguments: str, **options: object) -> Running:
        """By the line that `up` printed."""
        line = shlex.split(str(up.wait_for("join")["join"]))
        return self.start(*line[1:], *arguments, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        for each in self.running:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()


@contextlib.contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    started = Commands(folder)
    try:
        yield started
    finally:
        started.close()


def get(
    url: str, body: object = None, prefix: Sequence[str] = (), patience: float = 0.0
) -> dict[str, object]:
    """What a server answers, seen from a machine; see `fetch`."""
    asked = url, json.dumps(body) if body else "", patience
    answer: dict[str, object] = json.loads(
        _fetch_there(prefix, *asked) if prefix else fetch(*asked)
    )
    return answer


def _fetch_there(prefix: Sequence[str], *asked: object) -> str:
    command = [*prefix, sys.executable, client.__file__, *map(str, asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(
    up: Running, text: str, tokens: int = 40, prefix: Sequence[str] = (), patience: float = 0.0
) -> str:
    """A greedy answer; with PATIENCE before there is a plan. Without, nobody asks again: what is
    under way when a device is lost has to be answered."""
    turns = [{"role": "user", "content": text}]
    body = {"messages": turns, "temperature": 0, "max_tokens": tokens}
    url = str(up.wait_for("url")["url"])
    answer = get(f"{url}/chat/completions", body, prefix, patience)
    return str(answer["choices"][0]["message"]["content"])  # type: ignore[index]
