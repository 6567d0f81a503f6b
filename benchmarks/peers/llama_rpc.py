"""Claim: cut over two devices of one thread each, a model answers one request at least three times
as quickly as llama.cpp's RPC backend on the same cut.

The same GGUF file on both sides, as it is stored; half of the blocks on each of two processes on
loopback, a thread each. Both sides keep their model in memory and answer by turns. The peer is
llama-cpp-python in an environment of its own, built with the RPC backend:

    CC=clang-16 CXX=clang++-16 CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_RPC=ON" \
        pip install --no-cache-dir --no-binary llama-cpp-python llama-cpp-python

`python benchmarks/peers/llama_rpc.py --peer PYTHON --model FILE.gguf`.
"""

import argparse
import ctypes
import importlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

HERE = str(Path(__file__).parent)
PROMPT, NEW, ROUNDS = 32, 64, 5
TIMES = 3.0
START_SECONDS = 60


def peer_api() -> tuple[Any, Any]:
    """llama-cpp-python's module, and ggml's RPC library beside it."""
    sys.path[:] = [x for x in sys.path if x != HERE]  # a file here has the module's name
    api = importlib.import_module("llama_cpp")
    return api, library(api, "libggml-rpc")


def library(api: Any, name: str) -> Any:
    """As the module loaded it: by another name the same file would be another library."""
    return ctypes.CDLL(str(Path(api.__file__).parent / "lib" / f"{name}.so.0"))


def serve(endpoint: str) -> None:
    """A device of one thread that computes for others, until it is ended."""
    api, rpc = peer_api()
    api.llama_backend_init()
    base = library(api, "libggml")
    base.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(base.ggml_backend_dev_by_type(0))  # the processor
    start = rpc.ggml_backend_rpc_start_server
    start.argtypes = [
        ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p,
    ]  # fmt: skip
    start(endpoint.encode(), None, 1, 1, devices)


def answer(file: str, endpoint: str, layers: str) -> None:
    """For every line that is read: a prompt and greedy tokens; seconds of each token but the
    first."""
    api, rpc = peer_api()
    api.llama_backend_init()
    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, None)
    add = rpc.ggml_backend_rpc_add_server
    add.argtypes, add.restype = [ctypes.c_char_p], ctypes.c_void_p
    base = library(api, "libggml")
    base.ggml_backend_register.argtypes = [ctypes.c_void_p]
    base.ggml_backend_register(add(endpoint.encode()))
    params = api.llama_model_default_params()
    params.n_gpu_layers = int(layers)
    model = api.llama_model_load_from_file(file.encode(), params)
    params = api.llama_context_default_params()
    params.n_ctx = PROMPT + NEW + 8
    context = api.llama_init_from_model(model, params)
    api.llama_set_n_threads(context, 1, 1)
    memory = api.llama_get_memory(context)
    batch = api.llama_batch_init(PROMPT, 0, 1)
    words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def run(tokens: list[int], start: int) -> int:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i == len(tokens) - 1
        assert api.llama_decode(context, batch) == 0
        logits = api.llama_get_logits_ith(context, -1)
        return max(range(0, words, 97), key=lambda i: logits[i])  # any token does

    print("ready", flush=True)
    for _ in sys.stdin:
        api.llama_memory_clear(memory, True)
        token = run(list(range(5, 5 + PROMPT)), 0)
        began = time.perf_counter()
        for i in range(NEW - 1):
            token = run([token], PROMPT + i)
        print((time.perf_counter() - began) / (NEW - 1), flush=True)


def ours(file: str) -> None:
    """The same on our side."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from batching import plan_of

    from edgewise.clusters import Cluster, Device, Network
    from edgewise.models.checkpoint import open_checkpoint
    from edgewise.runtime.engine import Request, stream
    from edgewise.runtime.local import open_engine
    from edgewise.specs import Workload

    names = ("device-0", "device-1")
    cluster = Cluster(tuple(Device(x, 8 * 10**9) for x in names), (), names[0], (Network(names),))
    spec = open_checkpoint(file).spec
    plan = plan_of(spec, spec.name, names, "stored")
    with closing(open_engine(file, plan, cluster, Workload(PROMPT, NEW), spec=spec)) as engine:
        print("ready", flush=True)
        for _ in sys.stdin:
            request = Request(tuple(range(5, 5 + PROMPT)), NEW)
            at = [token.at for token in stream(engine, request)]
            print((at[-1] - at[0]) / (NEW - 1), flush=True)


class Side:
    """A process that answers once a line."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait("ready")

    def _wait(self, said: str) -> None:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.strip() == said, f"{self.process.args!r} did not start"

    def seconds(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for(endpoint: str) -> None:
    host, port = endpoint.split(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the peer's server did not start")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    from edgewise import kernels
    from edgewise.models.checkpoint import open_checkpoint

    load, half = os.getloadavg()[0], open_checkpoint(args.model).spec.num_blocks // 2
    endpoint = free_endpoint()
    with ExitStack() as stack:
        server = subprocess.Popen(
            [args.peer, __file__, "--serve", endpoint],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(server.wait)
        stack.callback(server.kill)
        wait_for(endpoint)
        peer = Side(args.peer, __file__, "--answer", args.model, endpoint, str(half + 1))
        stack.callback(peer.close)
        mine = Side(sys.executable, __file__, "--ours", args.model)
        stack.callback(mine.close)
        pairs = [(mine.seconds(), peer.seconds()) for _ in range(ROUNDS)]
    rates = [1 / median(side) for side in zip(*pairs, strict=True)]
    ratio = median(b / a for a, b in pairs)
    print(f"one request, two devices: {rates[0]:.1f} tokens/s against {rates[1]:.1f}, {ratio:.2f}")
    machine = f"{platform.machine()}, {kernels.instruction_set()}, {os.cpu_count()} cores"
    print(json.dumps({
        "benchmark": "llama_rpc", "machine": machine, "load": load, "model": args.model,
        "tokens_per_second": rates[0], "peer_tokens_per_second": rates[1], "ratio": ratio,
        "claimed": TIMES, "seconds": pairs,
    }))  # fmt: skip
    if ratio < TIMES:
        sys.exit(f"{ratio:.2f} times as quick, {TIMES:g} claimed")


if __name__ == "__main__":
    sides: dict[str, Callable[..., None]] = {"--serve": serve, "--answer": answer, "--ours": ours}
    if len(sys.argv) > 1 and sys.argv[1] in sides:
        sides[sys.argv[1]](*sys.argv[2:])
    else:
        main()
