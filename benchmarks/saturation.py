"""Claim: 64 clients keep three devices saturated for ten minutes while workers are killed and come
back, and no request fails; the server's memory does not grow.

SmolLM2 on `edgewise up` and two agents that joined it, slowed down, of which two are needed to hold
the model. Every client asks again as soon as it is answered (/v1/completions, streamed, greedy, one
of 16 prompts, which must always be answered alike). Every 40 s the worker of a device, by turns the
source's too, is killed (SIGKILL); its agent offers it again. Clients retry what is refused with 503
up to twice after what Retry-After says, as OpenAI's do; a request fails that is not answered then,
or whose stream breaks off. `python benchmarks/saturation.py [--minutes 10] [--clients 64]`.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles

import psutil
from claims import finish
from served import END_SECONDS, Server, Streamed, serving, stream

from edgewise import kernels
from edgewise.cli.devices import describe_machine

MODEL, PROMPTS, WORDS, NEW, SEQUENCES = "smollm2", 16, 20, 32, 16
RETRIES, PAUSE, LOOK = 2, 40.0, 5.0
DEVICES = {"jetson": "2", "pi": "3"}  # slowdowns
MEMORY = ("--memory", "150 MB")
SERVE = ("--scheme", "stored", "--listen", "127.0.0.1:0", "--name", "laptop", "--prompt-tokens",
         "64", "--new-tokens", str(NEW), "--sequences", str(SEQUENCES))  # fmt: skip
MOST_GROWTH = 0.05  # of the server's memory, from the second quarter of the time to the last
TOPICS = ("rain", "iron", "bread", "maps", "bees", "salt", "glass", "ice")


@dataclass
class Seen:
    """What became of all requests, and the server's own memory by time."""

    first_token: list[float] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    retries: int = 0
    failed: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    kills: int = 0

    def take(self, prompt: str, said: Streamed) -> None:
        if said.error or not said.times:
            self.failed.append(said.error or "no text")
            return
        self.first_token.append(said.first_token_seconds)
        self.tokens += said.tokens
        if self.answers.setdefault(prompt, said.text) != said.text:
            self.failed.append(f"'{prompt[:20]}' was answered differently")


async def client(server: Server, number: int, until: float, seen: Seen) -> None:
    for turn in cycle(range(PROMPTS)):
        if time.monotonic() >= until:
            return
        prompt = prompt_of((number + turn) % PROMPTS)
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": NEW}
        for tried in range(RETRIES + 1):
            said = await stream(server.host, server.port, body)
            if said.status != 503 or tried == RETRIES:
                break
            seen.retries += 1
            await asyncio.sleep(said.retry_seconds)
        seen.take(prompt, said)


def prompt_of(number: int) -> str:
    words = " ".join(TOPICS[(number * k + k) % len(TOPICS)] for k in range(WORDS))
    return f"{number}: tell of {words}."


async def disturb(parents: list[psutil.Process], server: Server, until: float, seen: Seen) -> None:
    """Kill a worker now and then, and look at the server's memory."""
    due, turns = time.monotonic() + PAUSE / 2, cycle(parents)
    while time.monotonic() < until:
        seen.memory.append(server.process.memory_full_info().uss)
        if time.monotonic() >= due:
            seen.kills += await asyncio.to_thread(kill_worker, next(turns))
            due += PAUSE
        await asyncio.sleep(LOOK)


def kill_worker(parent: psutil.Process) -> bool:
    """The one that computed most of its children: a spare has computed nothing."""
    workers = [
        x
        for x in parent.children(recursive=True)
        if "edgewise.runtime.worker" in " ".join(x.cmdline())
    ]
    if not workers:
        return False
    max(workers, key=lambda x: x.cpu_times().user).kill()
    return True


@contextlib.contextmanager
def joined(server: Server) -> Iterator[list[psutil.Process]]:
    """Agents of all DEVICES, by the line that `up` printed."""
    line = next(x["join"] for x in server.documents() if x.get("join"))
    agents = []
    with contextlib.ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory()))
        for name, slowdown in DEVICES.items():
            command = [sys.executable, "-m", *shlex.split(line), "--name", name, *MEMORY]
            with (folder / name).open("wb") as log:
                agent = subprocess.Popen([*command, "--slowdown", slowdown], stdout=log, stderr=log)
            started.callback(end, agent)
            agents.append(psutil.Process(agent.pid))
        yield agents


def end(agent: "subprocess.Popen[bytes]") -> None:
    agent.terminate()
    try:
        agent.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()


async def saturate(
    server: Server, parents: list[psutil.Process], clients: int, seconds: float
) -> Seen:
    seen, until = Seen(), time.monotonic() + seconds
    asking = [client(server, number, until, seen) for number in range(clients)]
    await asyncio.gather(*asking, disturb(parents, server, until, seen))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    load, seconds = os.getloadavg()[0], 60 * args.minutes
    with serving("up", MODEL, *SERVE, *MEMORY, wait=False) as server, joined(server) as agents:
        server.wait_until_ready()
        server.wait_for("joined", len(DEVICES))
        parents = [*agents, server.process]
        seen = asyncio.run(saturate(server, parents, args.clients, seconds))
    quarter = len(seen.memory) // 4
    early, late = median(seen.memory[quarter : 2 * quarter]), median(seen.memory[3 * quarter :])
    percentiles = quantiles(seen.first_token, n=100)
    failed = [f"{len(seen.failed)} requests failed: {seen.failed[0]}"] if seen.failed else []
    if late > early * (1 + MOST_GROWTH):
        failed.append(f"memory grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
    if not seen.kills:
        failed.append("nothing was killed")
    finish("saturation", {
        "machine": f"{describe_machine()['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "clients": args.clients, "seconds": seconds,
        "requests": len(seen.first_token), "kills": seen.kills, "retries": seen.retries,
        "tokens_per_second": seen.tokens / seconds, "first_token_p50": percentiles[49],
        "first_token_p99": percentiles[98], "first_token_most": max(seen.first_token),
        "server_megabytes": [x / 1e6 for x in (seen.memory[0], early, late, seen.memory[-1])],
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
