"""Claim: at equal bits per weight, decoding is at least 1.15 times as quick as llama.cpp, eight
sequences at once 1.5 times, and prompts 1.2 times.

The 1.1 B shape with random weights in both, or SmolLM2-135M with its own; each pair in turn, both
models in memory, so that what else the machine does hurts both. llama-cpp-python lives in an
environment of its own, built with clang where gcc's build crashes:

    CC=clang-16 CXX=clang++-16 CMAKE_ARGS="-DGGML_NATIVE=ON" \
        pip install --no-cache-dir llama-cpp-python gguf

Without AVX-512, "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON", and
EDGEWISE_KERNELS=avx2 for our side; what the peer was built for is printed and checked: pip would
take a wheel that it built before.

`python benchmarks/peers/llama_cpp.py --peer PYTHON [--model smollm2] [--folder FOLDER]
[--types Q4_0,...]`, PYTHON being that environment's; models are made in FOLDER (3 GB) and kept
there. Ends with an error where the claim does not hold.
"""
# ruff: noqa: I001

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# What to compare with what: bits per weight as near as the formats allow.
PAIRS = {
    "Q2_K": "2bit", "Q3_K_M": "3bit", "Q4_0": "q4g32ad", "Q4_K_M": "4bit",
    "Q5_K_M": "5bit", "Q6_K": "6bit", "Q8_0": "8bit", "F16": "bf16",
}  # fmt: skip
MODELS = ("1.1B", "smollm2")
CONTEXT, SEQUENCES, PROMPTS = 128, 8, (128, 512)
SHAPE = {"blocks": 22, "hidden": 2048, "ffn": 5632, "heads": 32, "kv": 4, "vocabulary": 32_000}
# (what, threads)
TASKS = [
    ("decode", 1), ("decode", 2), ("batch", 2), ("prompt 128", 1), ("prompt 128", 2),
    ("prompt 512", 1), ("prompt 512", 2),
]  # fmt: skip
CLAIMS = {"decode": 1.15, "batch": 1.5, "prompt": 1.2}  # how many times as fast
# The sides take turns of TURN seconds (of one call where that is longer), for SECONDS and at least
# LEAST turns each: the machine's pace changes within seconds.
TURN, SECONDS, LEAST = 0.2, 6.0, 3


def serve(begin: Callable[[str, int], Callable[[], object]]) -> None:
    """Answer "what,threads" lines with a turn's median seconds of a call."""
    print("ready", flush=True)
    begun, run = "", None
    for line in sys.stdin:
        if line != begun:
            what, threads = line.rsplit(",", 1)
            begun, run = line, begin(what, int(threads))
            run()
        assert run
        times: list[float] = []
        while sum(times) < TURN:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        print(median(times), flush=True)


def ours(model: str, scheme: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from decode import TINY, step
    import torch
    from edgewise.models.cache import Segment
    from edgewise.models.shard import load_shard, random_shard

    if model == "1.1B":
        shard = random_shard(TINY, 0, TINY.num_layers, scheme, device="cpu",
                             slots=SEQUENCES, context=max(PROMPTS))  # fmt: skip
    else:
        shard = load_shard(model, schemes=scheme, slots=SEQUENCES, context=max(PROMPTS))

    def begin(what: str, threads: int) -> Callable[[], object]:
        torch.set_num_threads(threads)
        if what.startswith("prompt"):
            count = int(what.split()[1])
            ids, segments = torch.arange(count), [Segment(0, 0, count)]
            return lambda: shard.forward(ids, segments, [count - 1])
        return step(shard, 1 if what == "decode" else SEQUENCES, CONTEXT)

    serve(begin)


def peer_api() -> Any:
    """llama-cpp-python's module, which has this file's name."""
    folder = str(Path(__file__).parent)
    sys.path[:] = [x for x in sys.path if x != folder]
    return importlib.import_module("llama_cpp")


def theirs(file: str) -> None:
    api = peer_api()

    api.llama_backend_init()
    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, None)
    model = api.llama_model_load_from_file(file.encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx, params.n_seq_max = max(max(PROMPTS), CONTEXT + 8) * SEQUENCES, SEQUENCES
    params.n_batch = params.n_ubatch = max(PROMPTS)
    context = api.llama_init_from_model(model, params)
    memory = api.llama_get_memory(context)
    batch = api.llama_batch_init(max(PROMPTS) * 2, 0, 1)

    def run(tokens: list[tuple[int, int]]) -> None:
        """(sequence, position) of each token; logits of the last one of each sequence."""
        last = {sequence: i for i, (sequence, _) in enumerate(tokens)}
        batch.n_tokens = len(tokens)
        for i, (sequence, position) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = 5 + i % 1000, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, last[sequence] == i
        assert api.llama_decode(context, batch) == 0
        api.llama_synchronize(context)

    def again(sequences: int) -> None:
        for sequence in range(sequences):
            api.llama_memory_seq_rm(memory, sequence, CONTEXT, -1)
        run([(sequence, CONTEXT) for sequence in range(sequences)])

    def prompt(count: int) -> None:
        api.llama_memory_clear(memory, True)
        run([(0, i) for i in range(count)])

    def begin(what: str, threads: int) -> Callable[[], object]:
        api.llama_set_n_threads(context, threads, threads)
        if what.startswith("prompt"):
            return lambda: prompt(int(what.split()[1]))
        sequences = 1 if what == "decode" else SEQUENCES
        api.llama_memory_clear(memory, True)
        for sequence in range(sequences):
            run([(sequence, i) for i in range(CONTEXT)])
        return lambda: again(sequences)

    serve(begin)


def write_model(file: str) -> None:
    """The shape as F16 GGUF, random."""
    import gguf
    import numpy as np

    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(file, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(SHAPE["hidden"])
    writer.add_block_count(SHAPE["blocks"])
    writer.add_feed_forward_length(SHAPE["ffn"])
    writer.add_head_count(SHAPE["heads"])
    writer.add_head_count_kv(SHAPE["kv"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(SHAPE["hidden"] // SHAPE["heads"])
    writer.add_vocab_size(SHAPE["vocabulary"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    hidden, ffn, kv = SHAPE["hidden"], SHAPE["ffn"], SHAPE["hidden"] // SHAPE["heads"] * SHAPE["kv"]

    def add(name: str, *shape: int) -> None:
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            values = rng.standard_normal(shape, np.float32) * 0.02
            writer.add_tensor(name, values.astype(np.float16))

    add("token_embd.weight", SHAPE["vocabulary"], hidden)
    for block in range(SHAPE["blocks"]):
        at = f"blk.{block}."
        add(f"{at}attn_norm.weight", hidden)
        add(f"{at}attn_q.weight", hidden, hidden)
        add(f"{at}attn_k.weight", kv, hidden)
        add(f"{at}attn_v.weight", kv, hidden)
        add(f"{at}attn_output.weight", hidden, hidden)
        add(f"{at}ffn_norm.weight", hidden)
        add(f"{at}ffn_gate.weight", ffn, hidden)
        add(f"{at}ffn_up.weight", ffn, hidden)
        add(f"{at}ffn_down.weight", hidden, ffn)
    add("output_norm.weight", hidden)
    add("output.weight", SHAPE["vocabulary"], hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: str, target: str, kind: str) -> None:
    api = peer_api()

    params = api.llama_model_quantize_default_params()
    params.allow_requantize = True  # what a model is worth does not matter here
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = os.cpu_count() or 1
    assert api.llama_model_quantize(source.encode(), target.encode(), params) == 0


def describe() -> None:
    api = peer_api()

    print(json.dumps({
        "llama-cpp-python": api.__version__,
        "features": api.llama_print_system_info().decode().strip(),
    }))  # fmt: skip


class Child:
    """One side, loaded and waiting."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout and self.process.stdin
        assert self.process.stdout.readline() == "ready\n", f"{command} did not start"

    def measure(self, what: str, threads: int) -> float:
        assert self.process.stdout and self.process.stdin
        self.process.stdin.write(f"{what},{threads}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def peer_file(peer: str, folder: Path, model: str, kind: str) -> Path:
    """The model in one of llama.cpp's types, made where it is not there."""
    file, whole = folder / f"{model}-{kind}.gguf", folder / f"{model}-F16.gguf"
    if model != "1.1B":
        from edgewise.models.named import named_file

        whole = named_file(model)
    elif not whole.exists():
        subprocess.run([peer, __file__, "--write", str(whole)], check=True)
    if not file.exists():
        command = [peer, __file__, "--quantize", str(whole), str(file), kind]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return file


def check_peer(features: str, ours: str) -> None:
    """A peer built for other instructions than our side uses is no peer."""
    for theirs, mine in (("AVX512_VNNI = 1", "avx512"), ("AVX_VNNI = 1", "avx-vnni")):
        if (theirs in features) != ours.startswith(mine) and ours.startswith("avx"):
            raise SystemExit(f"our side uses {ours}, but the peer was built for: {features}")


def compare(peer: str, file: Path, model: str, kind: str, scheme: str) -> list[dict[str, Any]]:
    children = [
        Child(sys.executable, __file__, "--ours", model, scheme),
        Child(peer, __file__, "--theirs", str(file)),
    ]
    rows = []
    try:
        for what, threads in TASKS:
            pairs, end = list[list[float]](), time.perf_counter() + SECONDS
            while len(pairs) < LEAST or time.perf_counter() < end:
                pairs.append([x.measure(what, threads) for x in children])
            mine, other = (min(x[side] for x in pairs) for side in (0, 1))
            ratio, claimed = median(b / a for a, b in pairs), CLAIMS[what.split()[0]]
            tokens = int(what.split()[1]) if " " in what else SEQUENCES if what == "batch" else 1
            rows.append({
                "model": model, "peer": kind, "scheme": scheme, "task": what, "threads": threads,
                "tokens_per_second": tokens / mine, "peer_tokens_per_second": tokens / other,
                "ratio": ratio, "claimed": claimed, "peer_megabytes": file.stat().st_size / 1e6,
            })  # fmt: skip
            print(
                f"{kind:7} {scheme:7} {what:10} {threads} threads: {tokens / mine:7.1f} against "
                f"{tokens / other:7.1f} tokens/s, {ratio:.2f} times as fast"
                + ("" if ratio >= claimed else f", {claimed} claimed"),
                flush=True,
            )
    finally:
        for child in children:
            child.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "peer-models")
    parser.add_argument("--types", type=lambda x: x.split(","), default=list(PAIRS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    said = subprocess.run([args.peer, __file__, "--describe"], capture_output=True, text=True)
    about = json.loads(said.stdout.strip().splitlines()[-1])
    from edgewise import kernels

    check_peer(about["features"], str(kernels.instruction_set()))
    rows = []
    for kind in args.types:
        file = peer_file(args.peer, args.folder, args.model, kind)
        rows += compare(args.peer, file, args.model, kind, PAIRS[kind])
    machine = f"{platform.machine()}, {kernels.instruction_set()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "llama_cpp", "machine": machine, "peer": about, "rows": rows}))
    below = [row for row in rows if row["ratio"] < row["claimed"]]
    if below:
        sys.exit(f"{len(below)} of {len(rows)} ratios are below what is claimed")


if __name__ == "__main__":
    sides: dict[str, Callable[..., None]] = {
        "--ours": ours, "--theirs": theirs, "--write": write_model, "--quantize": quantize,
        "--describe": describe,
    }  # fmt: skip
    if len(sys.argv) > 1 and sys.argv[1] in sides:
        sides[sys.argv[1]](*sys.argv[2:])
    else:
        main()
