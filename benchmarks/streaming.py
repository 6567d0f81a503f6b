"""Claim: a model of twice its device's memory answers from disk at 80 % or more of what the disk
allows, bit for bit as from memory, as predicted within 15 %; so do three such devices in a
pipeline, in which one may be killed.

A Llama-shaped model of 1.2 billion random weights in bf16. Workers are in control groups that end
them if they take more than half of what their layers do, Python, torch and page cache included; so
that page cache has no part in it, layers are read past it, and the kernel's count of the bytes that
came from the disk is printed. The bound is that of reading the same files with nothing else to do,
by turns with the answers, and what is predicted at that rate. On one device a request is answered
at a time; three have one each under way, and a third of the disk. Answers are compared with their
log-probabilities. Needs Linux, root, control groups of version 1, and 6 GB on disk for temporary
files. `python benchmarks/streaming.py`.
"""
# ruff: noqa: I001

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import edgewise  # noqa: F401 (before torch: it says how torch's threads wait)
import torch
from claims import finish
from limited_worker import GROUPS, LIMIT, group_of
from safetensors.torch import save_file

from edgewise.cli.devices import describe_machine
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.direct_reads import DirectFile, aligned_bytes, anonymous_memory
from edgewise.models.layer_files import layer_path
from edgewise.models.layer_store import LayerFiles
from edgewise.planning import PLANNERS, Problem
from edgewise.planning.spilling import spilled
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.profiling import Grid, measure, read_memory
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.coordinator.workers import Workers
from edgewise.specs import Workload
from edgewise.streaming import streamed_bytes

HIDDEN, FFN, KV, VOCABULARY, BLOCKS = 1536, 4096, 256, 16_000, 48
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
    "intermediate_size": FFN, "num_hidden_layers": BLOCKS, "num_attention_heads": 24,
    "num_key_value_heads": 4, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
SCHEME, KIND, NAMES = "bf16", "board", ("a", "b", "c")
PROMPT, NEW, FEW, ROUNDS = 8, 8, 5, 3  # tokens: of a third of the disk, few
SHARE, WITHIN = 0.8, 0.15
PROCESS_BYTES = 220 * 10**6  # Python, torch and what they take to run, of a worker's memory
SLACK = 0.07  # of it, that allocation leaves unused
UNLIMITED = 1e11  # bytes a second: the disk's own rate, as it is measured


def write_checkpoint(folder: Path) -> None:
    """A file for each layer."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    generator, where = torch.Generator().manual_seed(0), dict[str, str]()
    rows = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN),
            "self_attn.v_proj": (KV, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN)}  # fmt: skip
    norms = ("input_layernorm", "post_attention_layernorm")
    for layer in range(-1, BLOCKS):
        if layer < 0:
            shapes = dict.fromkeys(("model.embed_tokens", "lm_head"), (VOCABULARY, HIDDEN))
            ones = ["model.norm"]
        else:
            shapes = {f"model.layers.{layer}.{name}": shape for name, shape in rows.items()}
            ones = [f"model.layers.{layer}.{name}" for name in norms]
        tensors = {
            f"{name}.weight": torch.empty(shape).normal_(0, 0.03, generator=generator).bfloat16()
            for name, shape in shapes.items()
        }
        tensors |= {f"{name}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16) for name in ones}
        file = f"part-{layer + 1:02}.safetensors"
        save_file(tensors, folder / file)
        where |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def cluster(names: Sequence[str], memory: int, rate: float = 0.0) -> Cluster:
    devices = tuple(Device(name, memory, kind=KIND, disk_bytes_per_second=rate) for name in names)
    links = tuple(Link(a, b, 1e9, 1e-4) for a in names for b in names if a != b)
    return Cluster(devices, links, names[0])


def room(most: int) -> int:
    """For layers, of a worker that may take so much."""
    return round(most * (1 - SLACK)) - PROCESS_BYTES


def requests(count: int, new: int = NEW) -> list[Request]:
    sampled = (Sampling(temperature=1.0, seed=7), Sampling(), Sampling(temperature=0.7, seed=3))
    prompts = [tuple(range(11 + i, 11 + i + PROMPT)) for i in range(count)]
    return [Request(x, new, how, top=1) for x, how in zip(prompts, sampled, strict=False)]


def answers(engine: Coordinator, asked: Sequence[Request], kill: int = 0) -> list[list[Token]]:
    """The tokens of requests that are asked together; `kill` is a process that ends after some."""
    given = {engine.submit(request): list[Token]() for request in asked}
    while tokens := engine.step():
        for token in tokens:
            given[token.request].append(token)
        if kill and sum(map(len, given.values())) >= sum(x.max_tokens for x in asked) // 2:
            os.kill(kill, signal.SIGKILL)
            kill = 0
    return list(given.values())


def said(answer: Sequence[Token]) -> list[object]:
    return [(token.id, token.score) for token in answer]


@contextlib.contextmanager
def limited(here: Cluster, most: int) -> Iterator[tuple[Workers, dict[str, Path]]]:
    """Workers that may take so much memory each; by device, where the kernel says what it took."""
    os.environ[LIMIT] = str(most)
    workers = start_local(here, "limited_worker")
    pids = set(workers.process_ids.values())
    try:
        yield workers, {name: group_of(pid) for name, pid in workers.process_ids.items()}
    finally:
        pids |= set(workers.process_ids.values())
        workers.close()
        for group in map(group_of, pids):
            group.rmdir()


def peak(group: Path) -> int:
    return int((group / "memory.max_usage_in_bytes").read_text())


def read_by(pid: int) -> int:
    """Bytes that a process has had from disks."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("read_bytes")).split()[1])


def reading_rate(paths: Sequence[Path]) -> float:
    """Bytes a second of reading files past the page cache, with nothing else to do."""
    files = [DirectFile(path) for path in paths]
    memory = anonymous_memory(aligned_bytes(max(x.size for x in files)))
    began = time.perf_counter()
    for file in files:
        for _ in file.read(memory):
            pass
        file.close()
    return sum(path.stat().st_size for path in paths) / (time.perf_counter() - began)


def per_token(given: Sequence[Token]) -> float:
    """Seconds, of the tokens after the first."""
    return (given[-1].at - given[0].at) / (len(given) - 1)


class Bench:
    def __init__(self, model: str) -> None:
        self.model, self.spec = model, open_checkpoint(model).spec
        self.files, self.failed = LayerFiles(open_checkpoint(model)), list[str]()
        blocks = range(1, BLOCKS + 1)
        self.paths = {x: layer_path(self.files.folder, self.files.file(x, SCHEME).key)
                      for x in blocks}  # fmt: skip
        self.whole = self.spec.weight_bytes((SCHEME,) * self.spec.num_layers)

    def plan(self, names: Sequence[str]) -> Plan:
        """The layers cut evenly."""
        ends, stages = [round((BLOCKS + 2) * (i + 1) / len(names)) for i in range(len(names))], []
        for name, a, b in zip(names, [0, *ends], ends, strict=False):
            stages.append(Stage(name, a, b, (SCHEME,) * (b - a)))
        return Plan(self.model, self.spec.digest, BLOCKS + 2, tuple(stages))

    def in_memory(self) -> tuple[Profile, list[list[object]], float]:
        """What one device with room for everything says, each request alone, and its profile."""
        work = Workload(PROMPT, NEW)
        with start_local(cluster("a", 2 * self.whole)) as workers:
            profile = measure(workers, self.model, self.spec, [SCHEME], Grid.around(work))
            engine = Coordinator(workers, self.model, self.plan("a"), work)
            given = [answers(engine, [request])[0] for request in requests(3)]
        return profile, [said(x) for x in given], median(per_token(x) for x in given)

    def one(self, profile: Profile, expected: list[list[object]]) -> dict[str, object]:
        """A device that has half of the memory that the model takes."""
        most, work = self.whole // 2, Workload(PROMPT, NEW)
        here = cluster("a", room(most), UNLIMITED)
        with limited(here, most) as (workers, groups):
            (reading,) = read_memory(workers)
            costs = self.costs(here, profile, work, reading.disk_bytes_per_second)
            plan = PLANNERS["solo"](Problem(costs, (SCHEME,))).plan
            streamed, size = plan.stages[0].streamed, sum(streamed_bytes(self.spec, plan.stages[0]))
            engine = Coordinator(workers, self.model, plan, work)
            pid, shares, seconds = workers.process_ids["a"], list[float](), list[float]()
            already, same = read_by(pid), True
            files = [self.paths[x] for x in streamed]
            rates = [reading_rate(files)]
            for request, wanted in zip(requests(ROUNDS), expected, strict=True):
                given = answers(engine, [request])[0]
                same = same and said(given) == wanted
                seconds.append(per_token(given))
                rates.append(reading_rate(files))
                shares.append(size / fmean(rates[-2:]) / seconds[-1])
            came, took = read_by(pid) - already, peak(groups["a"])
        self.check("one device", same, median(shares))
        before, after = (
            self.costs(here, profile, work, rate).estimate(plan).decode_seconds
            for rate in (reading.disk_bytes_per_second, fmean(rates))
        )
        off = median(seconds) / after - 1
        if abs(off) > WITHIN:
            self.failed.append(f"one device: {off:+.0%} beside what was predicted")
        return {"limit": most, "peak": took, "streamed": len(streamed), "bytes": size,
                "came_per_step": came / (ROUNDS * NEW), "rates": rates, "share": shares,
                "seconds_per_token": seconds,
                "predicted": before, "predicted_at_rates": after, "same": same}  # fmt: skip

    def costs(self, here: Cluster, profile: Profile, work: Workload, rate: float) -> CostModel:
        """For devices whose disk is read at a rate."""
        (known,) = profile.devices
        known = replace(known, disk_bytes_per_second=rate)
        return CostModel(self.spec, here, replace(profile, devices=(known,)), work)

    def three(self, profile: Profile, expected: list[list[object]]) -> dict[str, object]:
        """Devices that have half of the memory that the model takes together, one killed later."""
        most, work = self.whole // 6, Workload(PROMPT, NEW, sequences=3, micro_batches=3)
        rate = reading_rate(list(self.paths.values())) / 3.5
        here = cluster(NAMES, room(most), rate)

        def evenly(workers: Workers, _: object = None) -> Plan:
            costs = CostModel(self.spec, workers.cluster, profile, work)
            return spilled(costs, self.plan(workers.names))

        with limited(here, most) as (workers, groups):
            plan = evenly(workers)
            estimate = CostModel(self.spec, here, profile, work).estimate(plan)
            engine = Coordinator(workers, self.model, plan, work, replan=evenly)
            given = answers(engine, requests(3, FEW))
            begun, ended = max(x[0].at for x in given), min(x[-1].at for x in given)
            count = sum(begun < token.at <= ended for row in given for token in row)
            bound = max(sum(streamed_bytes(self.spec, x)) for x in plan.stages) / rate
            round_seconds = (ended - begun) / count
            took = {name: peak(group) for name, group in groups.items()}
            killed = answers(engine, requests(3, FEW), kill=workers.process_ids["b"])
            left = workers.names
        expected = [x[:FEW] for x in expected]
        same = [said(x) for x in given] == expected
        self.check("three devices", same, bound / round_seconds)
        if abs(round_seconds * estimate.tokens_per_second - 1) > WITHIN:
            self.failed.append("three devices: not as predicted")
        if [said(x) for x in killed] != expected or left != ("a", "c"):
            self.failed.append(f"killed: other tokens, or devices {left} are left")
        return {"limit": most, "peak": took, "streamed": [len(x.streamed) for x in plan.stages],
                "rate": rate, "share": bound / round_seconds, "same": same,
                "seconds_per_token": round_seconds,
                "predicted": 1 / estimate.tokens_per_second, "killed": left}  # fmt: skip

    def check(self, what: str, same: bool, share: float) -> None:
        if not same:
            self.failed.append(f"{what}: other tokens, or log-probabilities, than in memory")
        if share < SHARE:
            self.failed.append(f"{what}: {share:.0%} of what the disk allows")


def main() -> None:
    if not GROUPS.is_dir() or os.geteuid():
        sys.exit("needs Linux, root, and control groups of version 1 (memory)")
    with tempfile.TemporaryDirectory(prefix="edgewise-streaming-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])
        write_checkpoint(Path(folder))
        bench = Bench(folder)
        profile, expected, seconds = bench.in_memory()
        print(f"{bench.whole / 1e9:.2f} GB of weights; in memory {seconds:.3f} s a token")
        one = bench.one(profile, expected)
        print(f"one device: {json.dumps(one)}")
        three = bench.three(profile, expected)
        print(f"three devices: {json.dumps(three)}")
    finish("streaming", {
        "machine": describe_machine()["processor"], "load": os.getloadavg()[0],
        "bytes": bench.whole, "in_memory": seconds, "one": one, "three": three,
    }, bench.failed)  # fmt: skip


if __name__ == "__main__":
    main()
