"""A server as people start it, and lean clients of its streams, in processes of their own."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

START_SECONDS, END_SECONDS = 120.0, 60.0


@dataclass
class Server:
    """A server that runs, and what it writes: of ours, a JSON document a line."""

    process: psutil.Process
    log: Path
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def cpu_seconds(self) -> float:
        """That the server's own process took, without its workers'."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def documents(self) -> list[dict[str, Any]]:
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until so many events say it."""
        self.wait(lambda: sum(text in x.get("text", "") for x in self.documents()) >= times)

    def wait_until_ready(self, path: str = "/ready") -> None:
        self.wait(lambda: self._answers(path))

    def _answers(self, path: str) -> bool:
        try:
            return asyncio.run(get(self.host, self.port, path)) == 200
        except OSError:
            return False

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until it does, while the process runs."""
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            if not self.process.is_running() or time.monotonic() > deadline:
                raise SystemExit(f"not ready: {self.log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.02)


@contextlib.contextmanager
def running(command: Sequence[str], port: int = 0) -> Iterator[Server]:
    """A server's process, interrupted at the end."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            yield Server(psutil.Process(process.pid), log, port=port)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def serving(*arguments: str, wait: bool = True, profile: str = "") -> Iterator[Server]:
    """`edgewise ARGUMENTS` at a free port, from when it is ready, or listens. `profile`: a file for
    cProfile's statistics of its process."""
    profiled = ("-m", "cProfile", "-o", profile) if profile else ()
    command = (sys.executable, *profiled, "-m", "edgewise", *arguments)
    with running((*command, "--http", "127.0.0.1:0", "--json")) as server:
        server.wait(lambda: any("url" in x for x in server.documents()))
        url = next(x["url"] for x in server.documents() if "url" in x)
        server.port = int(url.removesuffix("/v1").rpartition(":")[2])
        if wait:
            server.wait_until_ready()
        yield server


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def get(host: str, port: int, path: str) -> int:
    """The status."""
    reader, writer = await asyncio.open_connection(host, port)
    name = f"{host}:{port}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


@dataclass
class Streamed:
    """One request's stream: the status, when it was sent, when events with text came, all by
    time.monotonic, and what it said. `error` is "" where it ended well; `retry_seconds`: after
    which to ask again."""

    status: int = 0
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    error: str = ""
    retry_seconds: float = 0.0

    @property
    def first_token_seconds(self) -> float:
        return self.times[0] - self.sent


async def stream(host: str, port: int, body: dict[str, Any]) -> Streamed:
    """POST /v1/completions, streamed, read event by event."""
    asked = {"stream": True, "stream_options": {"include_usage": True}, **body}
    data, said = json.dumps(asked).encode(), Streamed()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    said.sent = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.closing(writer):
            writer.write(head.encode() + data)
            said.status = int((await reader.readline()).split()[1])
            async for line in reader:
                if _read(line, said):
                    return said
        said.error = said.error or "the stream broke off"
    except (OSError, IndexError, ValueError) as error:
        said.error = repr(error)
    return said


def _read(line: bytes, said: Streamed) -> bool:
    """Whether it was the last one."""
    if line.startswith(b"data: {"):
        event = json.loads(line[6:])
        if "error" in event:
            said.error = str(event["error"])
        if event.get("choices") and (text := event["choices"][0].get("text")):
            said.times.append(time.monotonic())
            said.text += text
        said.tokens = int((event.get("usage") or {}).get("completion_tokens", 0)) or said.tokens
    elif line.lower().startswith(b"retry-after:"):
        said.retry_seconds = float(line.partition(b":")[2])
    elif line.startswith(b"{"):
        said.error = line.decode()
    return line.startswith(b"data: [DONE]")


async def stream_all(host: str, port: int, bodies: Sequence[dict[str, Any]]) -> list[Streamed]:
    """All at a time."""
    return list(await asyncio.gather(*(stream(host, port, body) for body in bodies)))
