"""A server as people start it, and lean clients of its streams, in processes of their own."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HEADS = {"Content-Type": "application/json", "Connection": "close"}


@dataclass
class Server:
    """`edgewise serve` or `up`, answering at `host` and `port`."""

    process: psutil.Process
    log: Path
    host: str
    port: int

    @property
    def cpu_seconds(self) -> float:
        """That the server's own process took, without its workers'."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def documents(self) -> list[dict[str, Any]]:
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextlib.contextmanager
def serving(*arguments: str, seconds: float = 120.0, profile: str = "") -> Iterator[Server]:
    """`edgewise ARGUMENTS` at a free port, from when it is ready; ended like by Ctrl-C. `profile`:
    a file for cProfile's statistics of its process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        profiled = ("-m", "cProfile", "-o", profile) if profile else ()
        command = (sys.executable, *profiled, "-m", "edgewise", *arguments)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--http", "127.0.0.1:0", "--json"], stdout=file, stderr=file
            )
        try:
            server = Server(psutil.Process(process.pid), log, "127.0.0.1", 0)
            deadline = time.monotonic() + seconds
            while not _is_ready(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"not ready: {log.read_text(encoding='utf-8')[-2000:]}")
                time.sleep(0.02)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_ready(server: Server) -> bool:
    if not server.port:
        urls = [x["url"] for x in server.documents() if "url" in x]
        if not urls:
            return False
        server.port = int(urls[0].removesuffix("/v1").rpartition(":")[2])
    status, _ = asyncio.run(get(server.host, server.port, "/ready"))
    return status == 200


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    body = await reader.read()
    writer.close()
    return status, body


@dataclass
class Streamed:
    """One request's stream: the status, when it was sent, when events with text came, all by
    time.monotonic, and what it said. `error` is "" where it ended well."""

    status: int = 0
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    error: str = ""

    @property
    def first_token_seconds(self) -> float:
        return self.times[0] - self.sent


async def stream(host: str, port: int, body: dict[str, Any]) -> Streamed:
    """POST /v1/completions, streamed, read event by event."""
    asked = {"stream": True, "stream_options": {"include_usage": True}, **body}
    data, said = json.dumps(asked).encode(), Streamed()
    head = HEADS | {"Host": f"{host}:{port}", "Content-Length": str(len(data))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    said.sent = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"POST /v1/completions HTTP/1.1\r\n{lines}\r\n".encode() + data)
        said.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if line.startswith(b"data: {"):
                _read(json.loads(line[6:]), said)
            elif line.startswith(b"{"):
                said.error = line.decode()
            elif line.startswith(b"data: [DONE]"):
                return said
        said.error = said.error or "the stream broke off"
    except (OSError, IndexError, ValueError) as error:
        said.error = repr(error)
    finally:
        writer.close()
    return said


def _read(event: dict[str, Any], said: Streamed) -> None:
    if "error" in event:
        said.error = str(event["error"])
        return
    if event.get("choices") and (text := event["choices"][0].get("text")):
        said.times.append(time.monotonic())
        said.text += text
    if event.get("usage"):
        said.tokens = int(event["usage"]["completion_tokens"])


async def stream_all(host: str, port: int, bodies: Sequence[dict[str, Any]]) -> list[Streamed]:
    """All at a time."""
    return list(await asyncio.gather(*(stream(host, port, body) for body in bodies)))
