"""Claim: with 16 clients, `edgewise serve` gives at least 1.5 times the tokens per second of
llama.cpp's own server on the same file.

The same GGUF file as it is stored, two threads on either side, the same streamed requests
(/v1/completions, greedy, prompts that neither has seen), 1, 4 and 16 clients in one lean process;
the servers take turns and rest meanwhile. Tokens per second are all clients' from the first request
to the last token; times to the first token are of that many requests at once. The peer is
llama-server, built from the sources in llama-cpp-python's sdist:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    cd llama_cpp_python-0.3.36/vendor/llama.cpp
    CC=clang-16 CXX=clang++-16 cmake -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON
    ninja -C build llama-server

or, with `--server PYTHON`, llama-cpp-python's (`pip install llama-cpp-python[server]`), which
answers one request at a time.

`python benchmarks/peers/llama_server.py --server build/bin/llama-server [--files FILE.gguf,...]
[--rounds 3]`.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from claims import finish
from served import Server, Streamed, free_port, running, serving, stream_all

from edgewise import kernels
from edgewise.cli.devices import describe_machine
from edgewise.models.named import named_file

CLIENTS, THREADS, WORDS, NEW = (1, 4, 16), 2, 24, 128
MOST, TIMES = 16, 1.5
ROOM = 256  # tokens of a request at most
SUBJECTS = ("rivers", "bridges", "bread", "clocks", "glass", "sails", "maps", "bees", "salt", "ice")


def prompts(count: int, seed: int) -> list[str]:
    """None begins like another."""
    draw = Random(seed)
    words = [[draw.choice(SUBJECTS) for _ in range(WORDS)] for _ in range(count)]
    return [f"{draw.randrange(10**6)}: a long story about {', '.join(row)}." for row in words]


@contextlib.contextmanager
def peer(command: str, file: Path) -> Iterator[Server]:
    """llama.cpp's server with a file, from when it is ready."""
    port, threads, context = str(free_port()), str(THREADS), str(MOST * ROOM)
    if Path(command).name == "llama-server":
        started = [command, "-m", str(file), "-t", threads, "-tb", threads, "-c", context,
                   "-np", str(MOST), "--host", "127.0.0.1", "--port", port]  # fmt: skip
    else:
        started = [command, "-m", "llama_cpp.server", "--model", str(file), "--port", port,
                   "--n_threads", threads, "--n_threads_batch", threads,
                   "--n_ctx", str(ROOM)]  # fmt: skip
    with running(started, int(port)) as server:
        server.wait_until_ready("/v1/models")
        yield server


def ask(server: Server, model: str, clients: int, seed: int) -> list[Streamed]:
    bodies = [
        {"model": model, "prompt": text, "temperature": 0, "max_tokens": NEW}
        for text in prompts(clients, seed)
    ]
    said = asyncio.run(stream_all(server.host, server.port, bodies))
    if errors := [x.error for x in said if x.error]:
        raise SystemExit(f"a stream failed: {errors[0]}")
    return said


def rate(said: Sequence[Streamed]) -> float:
    """Tokens per second of all."""
    tokens = sum(x.tokens or len(x.times) for x in said)
    return tokens / (max(x.times[-1] for x in said) - min(x.sent for x in said))


def first_token(said: Sequence[Streamed]) -> float:
    return median(x.first_token_seconds for x in said)


def compare(command: str, file: Path, rounds: int) -> list[dict[str, Any]]:
    options = ("--scheme", "stored", "--threads", str(THREADS), "--sequences", str(MOST),
               "--prompt-tokens", str(ROOM - NEW), "--new-tokens", str(NEW))  # fmt: skip
    rows = []
    with serving("serve", str(file), *options) as ours, peer(command, file) as theirs:
        for server, name in ((ours, str(file)), (theirs, file.name)):
            ask(server, name, 1, 0)
        for clients in CLIENTS:
            pairs = []
            for seed in range(1, rounds + 1):
                asked = clients, 1000 * clients + seed
                pairs.append((ask(ours, str(file), *asked), ask(theirs, file.name, *asked)))
            rows.append(row_of(file, clients, pairs))
    return rows


def row_of(
    file: Path, clients: int, pairs: Sequence[tuple[list[Streamed], list[Streamed]]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"file": file.name, "clients": clients}
    for side, name in enumerate(("ours", "theirs")):
        row[f"{name}_tokens_per_second"] = median(rate(pair[side]) for pair in pairs)
        row[f"{name}_first_token_seconds"] = median(first_token(pair[side]) for pair in pairs)
    row["ratio"] = median(rate(a) / rate(b) for a, b in pairs)
    print(
        f"{file.name}, {clients} clients: {row['ours_tokens_per_second']:.0f} tokens/s against "
        f"{row['theirs_tokens_per_second']:.0f}, {row['ratio']:.2f} times; first token after "
        f"{1000 * row['ours_first_token_seconds']:.0f} ms against "
        f"{1000 * row['theirs_first_token_seconds']:.0f}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--files", type=lambda x: [Path(y) for y in x.split(",")])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    load, files = os.getloadavg()[0], args.files or [named_file("smollm2")]
    rows = [row for file in files for row in compare(args.server, file, args.rounds)]
    failed = [
        f"{row['file']}: {row['ratio']:.2f} times with {MOST} clients"
        for row in rows
        if row["clients"] == MOST and row["ratio"] < TIMES
    ]
    finish("llama_server", {
        "machine": f"{describe_machine()['processor']}, {os.cpu_count()} cores", "load": load,
        "kernels": kernels.instruction_set(), "peer": Path(args.server).name, "rows": rows,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
