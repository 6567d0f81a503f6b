"""Claim: with SmolLM2's blocks on another device and M on the source, answers are token for token
those of one process with the same adapter merged, over one device or two; at rank 8 the adapters'
traffic is 95 % less than every layer's hidden state down and up; a token takes what it takes on a
link without latency, and a round trip a layer more, within 15 %.

Adapters on q, k and v whose M was drawn, not trained, so large that answers change; layers in
float32; what is counted are the bytes of tensors, as the runtime counts them, of a token of an
answer. The source is emulated, four times as slow as a core of this machine, and has 60 Mbps up and
100 Mbps down to the other device, which is as quick as a core. Beside it the source alone, and the
same cut without adapters. `python benchmarks/private.py [answers traffic pace] [--rounds 3]`.
"""
# ruff: noqa: I001

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish

from edgewise.adapters import AdapterConfig, Kind, LowRank
from edgewise.adapters.files import save_adapter
from edgewise.adapters.matrices import columns_of, parts_of
from edgewise.adapters.private import private_adapter
from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Link
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import DecoderBlock
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import open_engine
from edgewise.specs import Workload

MODEL, SCHEME, RANKS, RANK = "smollm2", "fp32", (4, 8, 16), 8
PHONE, CLOUD, OTHER = "phone", "cloud", "other"
SLOWDOWN, UP, DOWN = 4.0, 60e6 / 8, 100e6 / 8  # bytes per second
LATENCIES = (0.0, 0.001, 0.01)  # seconds, one way
TOGETHER, NEW = 16, 32
LESS, OFF = 0.95, 0.15
PARTS = ("q", "k", "v")
PROMPTS = (
    "What is the capital of France?", "Write a short story about a lighthouse.",
    "Why is the sky blue?", "List three fruits.", "Explain what a compiler does.",
    "Who wrote Hamlet?", "Give me a recipe for pancakes.", "How do magnets work?",
)  # fmt: skip
Added = list[dict[str, LowRank]]
Ends = tuple[tuple[str, int], ...]  # devices, and where their layers end; from the last where <= 0

ALONE: Ends = ((PHONE, 0),)
SPLIT: Ends = ((PHONE, 1), (CLOUD, -1), (PHONE, 0))
OVER_TWO: Ends = ((PHONE, 1), (CLOUD, 16), (OTHER, -1), (PHONE, 0))


def drawn(rank: int, folder: Path) -> Added:
    """An adapter that changes what the model says, saved."""
    checkpoint, generator = open_checkpoint(MODEL), torch.Generator().manual_seed(7)
    config, adapter = checkpoint.config, AdapterConfig(Kind.PRIVATE, rank, matrices=PARTS, seed=3)
    added = [
        {
            name: LowRank(adapter, f"{block}.{name}", rows, columns_of(config, "qkv"))
            for name, _, rows in parts_of(config)["qkv"]
        }
        for block in range(config.num_blocks)
    ]
    for parts in added:
        for low in parts.values():
            assert low.middle is not None
            low.middle.data = torch.randn(rank, rank, generator=generator) * 0.2
    save_adapter(folder, added, adapter, config, MODEL, checkpoint.spec.digest)
    return added


def merged_answers(added: Added, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """By one process, one prompt after the other, with W + U M D as matrices."""
    shard = load_shard(MODEL, schemes=SCHEME, context=512)
    for block, parts in zip(shard.layers[1:-1], added, strict=True):
        assert isinstance(block, DecoderBlock)
        for name, first, rows in parts_of(shard.config)["qkv"]:
            if name in parts:
                block.qkv.weight.data[first : first + rows] += parts[name].whole()
    answers = []
    for number, prompt in enumerate(prompts):
        tokens, entering, at = list[int](), torch.tensor(prompt), 0
        while len(tokens) < NEW:
            logits = shard.forward(entering, [Segment(number, at, len(entering))],
                                   rows=[len(entering) - 1])  # fmt: skip
            at += len(entering)
            tokens.append(int(logits[0].argmax()))
            entering = torch.tensor(tokens[-1:])
        shard.drop(number)
        answers.append(tokens)
    return answers


def cluster(latency: float, slowdown: float = 1.0) -> Cluster:
    devices = (Device(PHONE, 8 * 10**9, slowdown=slowdown), Device(CLOUD, 8 * 10**9),
               Device(OTHER, 8 * 10**9))  # fmt: skip
    links = [Link(PHONE, x, UP, latency) for x in (CLOUD, OTHER)]
    links += [Link(x, PHONE, DOWN, latency) for x in (CLOUD, OTHER)]
    return Cluster(devices, (*links, Link(CLOUD, OTHER, 125e6, 0.0)), PHONE)


def plan_of(ends: Ends) -> Plan:
    spec, at, stages = open_checkpoint(MODEL).spec, 0, list[Stage]()
    for device, end in ends:
        end = end if end > 0 else spec.num_layers + end
        stages.append(Stage(device, at, end, (SCHEME,) * (end - at)))
        at = end
    return Plan(spec.name, spec.digest, spec.num_layers, tuple(stages))


def opened(ends: Ends, folder: Path | None, where: Cluster) -> Coordinator:
    checkpoint = open_checkpoint(MODEL)
    private = private_adapter(folder, checkpoint, PHONE) if folder else None
    work = Workload(64, 128, sequences=TOGETHER)
    return open_engine(MODEL, plan_of(ends), where, work, spec=checkpoint.spec, private=private)


def answers_of(engine: Coordinator, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """All at once."""
    answers = {engine.submit(Request(prompt, NEW)): list[int]() for prompt in prompts}
    while tokens := engine.step():
        for token in tokens:
            answers[token.request].append(token.id)
    return list(answers.values())


def bytes_per_token(engine: Coordinator) -> int:
    """Both ways together, of the tokens of an answer."""
    tokens = stream(engine, Request((5, 6, 7), 40))
    for _ in range(8):
        next(tokens)
    before = sum(link.bytes for link in engine.stats().links)
    for _ in range(16):
        next(tokens)
    after = sum(link.bytes for link in engine.stats().links)
    tokens.close()
    return (after - before) // 16


def traffic(folder: Path) -> dict[str, int]:
    """Measured, but for what no way of running here sends: all layers' hidden states."""
    counted = {}
    with closing(opened(SPLIT, None, cluster(0.0))) as engine:
        counted["states at the ends"] = bytes_per_token(engine)
    for rank in RANKS:
        drawn(rank, folder / str(rank))
        with closing(opened(SPLIT, folder / str(rank), cluster(0.0))) as engine:
            counted[f"private, rank {rank}"] = bytes_per_token(engine)
    config = open_checkpoint(MODEL).config
    counted["states of all layers"] = config.num_blocks * 2 * config.hidden_size * 4
    return counted


def rate_of(engine: Coordinator) -> float:
    """Tokens per second of TOGETHER requests, while all of them are being answered."""
    prompts = [(5 + n, 6, 7, 8) for n in range(TOGETHER)]
    came = {engine.submit(Request(prompt, 24)): list[float]() for prompt in prompts}
    while tokens := engine.step():
        for token in tokens:
            came[token.request].append(token.at)
    begun, ended = max(x[0] for x in came.values()), min(x[-1] for x in came.values())
    return sum(begun < at <= ended for x in came.values() for at in x) / (ended - begun)


def milliseconds(ends: Ends, folder: Path | None, latency: float, rounds: int) -> list[float]:
    """Of a token, one request alone; tokens per second of TOGETHER requests."""
    took, rates = list[float](), list[float]()
    with closing(opened(ends, folder, cluster(latency, SLOWDOWN))) as engine:
        for _ in range(rounds):
            times = [token.at for token in stream(engine, Request((5, 6, 7, 8), 24))]
            took += [1000 * (b - a) for a, b in pairwise(times)]
            rates.append(rate_of(engine))
    return [median(took), median(rates)]


def compare_answers(folder: Path) -> tuple[dict[str, int], list[str]]:
    """How many are as merged, over one device and over two, and others than without adapters."""
    tokenizer, failed = load_tokenizer(MODEL), list[str]()
    prompts = [tuple(tokenizer.encode_chat([{"role": "user", "content": x}])) for x in PROMPTS]
    added = drawn(RANK, folder)
    truth, plain = merged_answers(added, prompts), merged_answers([{}] * len(added), prompts)
    counts = {"changed": sum(a != b for a, b in zip(truth, plain, strict=True))}
    if not counts["changed"]:
        failed.append("the adapter changes no answer")
    for name, ends in (("one device", SPLIT), ("two devices", OVER_TWO)):
        with closing(opened(ends, folder, cluster(0.0))) as engine:
            given = answers_of(engine, prompts)
        counts[name] = sum(a == b for a, b in zip(given, truth, strict=True))
        if counts[name] < len(prompts):
            failed.append(f"{len(prompts) - counts[name]} answers over {name} differ")
    print(f"of {len(prompts)} answers as merged, and others than without: {counts}", flush=True)
    return counts, failed


def compare_traffic(folder: Path) -> tuple[dict[str, int], list[str]]:
    counted = traffic(folder)
    asked = counted[f"private, rank {RANK}"] - counted["states at the ends"]
    less = 1 - asked / counted["states of all layers"]
    print(f"bytes of a token: {counted}; rank {RANK} sends {less:.1%} less", flush=True)
    return counted, [] if less >= LESS else [f"rank {RANK} sends only {less:.1%} less"]


def compare_pace(folder: Path, rounds: int) -> tuple[dict[str, list[float]], list[str]]:
    drawn(RANK, folder)
    pace, failed = {"alone": milliseconds(ALONE, None, 0.0, rounds)}, list[str]()
    print("alone", pace["alone"], flush=True)
    trips = 2 * (open_checkpoint(MODEL).config.num_blocks + 1)  # one way
    for latency in LATENCIES:
        for name, adapter in (("split", None), ("private", folder)):
            key = f"{name}, {1000 * latency:g} ms"
            pace[key] = milliseconds(SPLIT, adapter, latency, rounds)
            print(key, pace[key], flush=True)
        took, said = pace[key][0], pace["private, 0 ms"][0] + trips * 1000 * latency
        if abs(took / said - 1) > OFF:
            failed.append(f"{took:.0f} ms a token at {1000 * latency:g} ms, {said:.0f} expected")
    worth = (pace["alone"][0] - pace["private, 0 ms"][0]) / trips
    print(f"as quick as the source alone at {worth:.2f} ms one way")
    return pace, failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["answers", "traffic", "pace"])
    parser.add_argument("--rounds", type=int, default=1)
    args, load, failed = parser.parse_args(), os.getloadavg()[0], list[str]()
    figures = dict[str, object]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "answers" in args.parts:
            figures["answers"], wrong = compare_answers(folder / "answers")
            failed += wrong
        if "traffic" in args.parts:
            figures["bytes"], wrong = compare_traffic(folder / "traffic")
            failed += wrong
        if "pace" in args.parts:
            figures["pace"], wrong = compare_pace(folder / "pace", args.rounds)
            failed += wrong
    finish("private", {
        "machine": describe_machine()["processor"], "load": load, "torch": torch.__version__,
        **figures,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
