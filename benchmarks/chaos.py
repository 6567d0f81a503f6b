"""Claim: whatever happens to the devices while requests run, every stream is token for token that
of the undisturbed run on one device; a dead device costs 2 s at most until the next token with the
demo model, 5 s with SmolLM2; and nothing is left behind.

Each run starts a cluster of three or four devices, of which two are needed to hold the model, and a
plan drawn by lot. Requests arrive at random, greedy and sampled, some with a common beginning; one
to three times something happens: workers are killed (the source's too, two at once), stop for good,
stop for less than the 3 s after which they count as lost, lose their connections for a while, or
another plan is applied, or devices join or come back, and the plan after that is drawn by lot too.
`python benchmarks/chaos.py --model demo --runs 100 --seed 0`. With `--launcher agent` or `ray` all
workers but the source's are those of agents, or of the nodes of a Ray cluster.
"""

import argparse
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from claims import finish
from disturbances import Disturbance, Held, adopt_orphans, disturb, random_plan
from places import Agents, Local, Place, RayNodes
from streams import Streams

from edgewise import kernels
from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.errors import EdgewiseError
from edgewise.memory import device_bytes
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.profile import cached_profile
from edgewise.planning import Problem
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.replanning import keep_spare, replanner
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Sampling
from edgewise.specs import ModelSpec, Workload

LAUNCHERS: dict[str, Callable[[Cluster], Place]] = {
    "local": Local,
    "agent": Agents,
    "ray": RayNodes,
}
WHATS = ("kill", "kill", "kill source", "kill two", "hang", "stall", "cut", "join", "apply")
DEATHS = ("kill", "kill source", "kill two")
NAMES = ("laptop", "jetson", "pi", "phone")
SHARE = 0.6  # of the memory that the model takes on two devices, each of them's
POOL, MOST_DISTURBANCES = 40, 3
MOST_GROWTH = 0.05  # of this process's memory, from the second quarter of the runs to the last


@dataclass(frozen=True)
class Scene:
    """`goal` is seconds from a death to the next token; `start` tokens some prompts share."""

    model: str
    scheme: str
    work: Workload
    start: int
    goal: float

    @property
    def spec(self) -> ModelSpec:
        return open_checkpoint(self.model).spec

    def plan(self, device: str) -> Plan:
        """All on one device."""
        spec = self.spec
        stage = Stage(device, 0, spec.num_layers, (self.scheme,) * spec.num_layers)
        return Plan(self.model, spec.digest, spec.num_layers, (stage,))

    def cluster(self, names: tuple[str, ...]) -> Cluster:
        spec, middle = self.spec, self.spec.num_layers // 2
        cuts = (0, middle), (middle, spec.num_layers)
        halves = [Stage("", a, b, (self.scheme,) * (b - a)) for a, b in cuts]
        whole = sum(device_bytes(spec, [half], self.work) for half in halves)
        devices = tuple(Device(name, int(SHARE * whole), kind="any") for name in names)
        links = tuple(Link(a, b, 1e8, 5e-4) for a in names for b in names if a != b)
        return Cluster(devices, links, names[0])

    def profile(self) -> Profile:
        """Of the devices; links are as the cluster says."""
        profile, _, _ = cached_profile(
            self.model, self.spec, self.cluster(NAMES[:2]), (self.scheme,)
        )
        return replace(profile, links=())

    def problem(self, cluster: Cluster, profile: Profile) -> Problem:
        return Problem(CostModel(self.spec, cluster, profile, self.work), (self.scheme,))

    def requests(self, rng: random.Random, count: int) -> list[Request]:
        spec, work = self.spec, self.work
        ids = range(10, min(spec.vocab_size, 5000))
        start = tuple(rng.choices(ids, k=self.start))
        return [
            Request(
                rng.choice([start, ()]) + tuple(rng.choices(ids, k=rng.randint(1, 40))),
                rng.randint(8, work.new_tokens),
                rng.choice([Sampling(), Sampling(temperature=1.0, seed=rng.randrange(1000))]),
            )
            for _ in range(count)
        ]


SCENES = {
    "demo": Scene("demo", "fp32", Workload(300, 48, 4, 2), 256, 2.0),
    "smollm2": Scene("smollm2", "q4g32ad", Workload(300, 48, 4, 2), 256, 5.0),
}


@dataclass(frozen=True)
class Run:
    """`next_seconds`, by disturbance: `Streams.seconds_after`."""

    identical: bool
    requests: int
    tokens: int
    disturbances: tuple[Disturbance, ...]
    next_seconds: tuple[float, ...]


def undisturbed(scene: Scene, requests: list[Request]) -> list[list[int]]:
    """The tokens of every request, alone, on one device."""
    memory = device_bytes(scene.spec, scene.plan("").stages, scene.work)
    alone = Cluster((Device("alone", memory),), (), "alone")
    with start_local(alone) as workers:
        engine = Coordinator(workers, scene.model, scene.plan("alone"), scene.work)
        return [tokens_of(engine, request) for request in requests]


def tokens_of(engine: Coordinator, request: Request) -> list[int]:
    engine.submit(request)
    return [token.id for tokens in iter(engine.step, []) for token in tokens]


@dataclass(frozen=True)
class Pool:
    """Requests, what they are answered undisturbed, and the profile to plan with."""

    requests: list[Request]
    answers: list[list[int]]
    profile: Profile

    @staticmethod
    def of(scene: Scene, rng: random.Random) -> "Pool":
        requests = scene.requests(rng, POOL)
        return Pool(requests, undisturbed(scene, requests), scene.profile())


def run(
    streams: Streams,
    place: Place,
    requests: list[Request],
    expected: list[list[int]],
    rng: random.Random,
) -> Run:
    """Half of the requests at once, the others while tokens come, all in the order given."""
    total, half = sum(map(len, expected)), (len(requests) + 1) // 2
    arrivals = [0] * half + sorted(rng.randrange(total // 2) for _ in requests[half:])
    count = rng.randint(1, MOST_DISTURBANCES)
    due = sorted((rng.randrange(1, total * 2 // 3), rng.choice(WHATS)) for _ in range(count))
    done, answers = list[Disturbance](), list[list[int]]()
    going = True
    while going or len(answers) < len(requests):
        came = len(streams.came)
        while len(answers) < len(requests) and (arrivals[len(answers)] <= came or not going):
            answers.append(streams.submit(requests[len(answers)]))
            going = True
        while due and due[0][0] <= came:
            done.append(disturb(streams.engine, place, due.pop(0)[1], rng))
        streams.let_in(place, rng)
        going = bool(streams.step())
    seconds = tuple(streams.seconds_after(x) for x in done)
    return Run(answers == expected, len(requests), len(streams.came), tuple(done), seconds)


def one(scene: Scene, launcher: str, pool: Pool, rng: random.Random) -> Run:
    """A cluster of its own, some requests of the pool, and what happens to them."""
    names = NAMES[: rng.choice((3, 4))]
    chosen = rng.sample(range(len(pool.requests)), rng.randint(3, 7))
    requests, expected = [pool.requests[i] for i in chosen], [pool.answers[i] for i in chosen]
    cluster = scene.cluster(names)
    plan = random_plan(names, scene.plan(names[0]), rng)
    place = LAUNCHERS[launcher](cluster)
    try:
        replan = replanner(scene.problem(cluster, pool.profile))
        engine = Coordinator(place.workers, scene.model, plan, scene.work, replan=replan)
        keep_spare(engine)
        return run(Streams(engine), place, requests, expected, rng)
    finally:
        place.close()


def describe(number: int, done: Run, held: Held) -> str:
    happened = "; ".join(
        f"{x.what} {'+'.join(x.devices)} {seconds:.2f} s"
        for x, seconds in zip(done.disturbances, done.next_seconds, strict=True)
    )
    result = "identical" if done.identical else "DIFFERENT"
    return (
        f"{number:3} {result} {done.requests} requests, {done.tokens:3} tokens: {happened} "
        f"[{held.own_bytes / 2**20:.0f} MiB]"
    )


def growth(sizes: list[int]) -> float:
    """Of memory, from the second quarter to the last."""
    quarter = len(sizes) // 4
    if not quarter:
        return 0.0
    return median(sizes[-quarter:]) / median(sizes[quarter : 2 * quarter]) - 1


def by_kind(runs: list[Run]) -> dict[str, dict[str, float]]:
    """Seconds until the next token."""
    seconds = defaultdict(list)
    for done in runs:
        for what, took in zip(done.disturbances, done.next_seconds, strict=True):
            seconds[what.what].append(took)
    return {
        what: {"count": len(x), "median": median(x), "max": max(x)}
        for what, x in sorted(seconds.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=SCENES, default="demo")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local")
    asked = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        tempfile.tempdir = folder  # all that is made there is this process's
        report(asked, SCENES[asked.model])


def report(asked: argparse.Namespace, scene: Scene) -> None:
    pool = Pool.of(scene, random.Random(asked.seed))
    one(scene, asked.launcher, pool, random.Random("warm up"))
    before, runs, failed, sizes = Held.now(), list[Run](), list[str](), list[int]()
    began = time.monotonic()
    for number in range(asked.runs):
        seed = f"{asked.seed} {number}"
        try:
            runs.append(one(scene, asked.launcher, pool, random.Random(seed)))
        except EdgewiseError as error:
            failed.append(f"run {number}: {type(error).__name__}: {error}")
            print(failed[-1], flush=True)
            continue
        held = Held.now()
        sizes.append(held.own_bytes)
        print(describe(number, runs[-1], held), flush=True)
        if not runs[-1].identical:
            failed.append(f"run {number}: other tokens")
        failed += [f"run {number} left {what}" for what in held.left_since(before)]
    times = by_kind(runs)
    failed += [
        f"{what}: {times[what]['max']:.2f} s at most" for what in DEATHS
        if what in times and times[what]["max"] > scene.goal
    ]  # fmt: skip
    if growth(sizes) > MOST_GROWTH:
        failed.append(f"memory grew by {growth(sizes):.1%}")
    finish("chaos", {
        "model": scene.model, "scheme": scene.scheme, "launcher": asked.launcher,
        "kernels": kernels.instruction_set(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "runs": asked.runs, "identical": sum(x.identical for x in runs), "seed": asked.seed,
        "seconds_to_next_token": times, "goal_after_death": scene.goal,
        "own_mib": [round(size / 2**20, 1) for size in sizes[:1] + sizes[-1:]],
        "memory_growth": growth(sizes), "seconds": time.monotonic() - began,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
