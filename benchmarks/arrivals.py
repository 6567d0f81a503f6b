"""Claim: requests that arrive at random for twenty minutes, while a device is lost every minute,
are all answered, as they are undisturbed, and memory stays flat; all are, too, in a day of the same
in the simulator.

A local device that was removed cannot come back yet, so it is the source's worker that is killed
every minute here, and started again by the engine; in the simulation it is one of the others, by
lot, which is back half a minute later. `python benchmarks/arrivals.py --minutes 20`, and
`--simulate HOURS` in its place.
"""

import argparse
import os
import random
import tempfile
import time
from dataclasses import replace
from statistics import median
from typing import Any

import psutil
from chaos import NAMES, SCENES, Pool, Scene, growth
from claims import finish
from disturbances import Disturbance, disturb, random_plan
from places import Local, Place
from streams import Streams

from edgewise import kernels
from edgewise.clusters import Cluster
from edgewise.planning.joint import joint
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.replanning import replanner
from edgewise.simulation import Fault, Join, Leave, Recovery, poisson, simulate_plan

EVERY_SECONDS, BACK_SECONDS = 60.0, 30.0
SAMPLE_SECONDS, SETTLING = 5.0, 4  # samples before memory counts
MOST_GROWTH = 0.05
NOTICE_SECONDS = 3.0


class Load:
    """Requests of a pool on an engine: what was asked, of which `Streams` has the answers."""

    def __init__(self, engine: Coordinator, pool: Pool, rate: float, rng: random.Random) -> None:
        self.streams, self._pool, self._rate, self._rng = Streams(engine), pool, rate, rng
        self.asked: list[tuple[int, list[int]]] = []
        self._next = time.monotonic()

    def submit_due(self) -> None:
        while self._next <= time.monotonic():
            number = self._rng.randrange(len(self._pool.requests))
            self.asked.append((number, self.streams.submit(self._pool.requests[number])))
            self._next += self._rng.expovariate(self._rate)

    def step(self) -> bool:
        """Whether tokens came; else it has waited for the next request."""
        if self.streams.step():
            return True
        time.sleep(max(min(self._next - time.monotonic(), 1.0), 0.0))
        return False

    @property
    def wrong(self) -> int:
        return sum(answer != self._pool.answers[number] for number, answer in self.asked)


def sizes(engine: Coordinator) -> tuple[int, int]:
    """Resident bytes of this process, and of all workers together."""
    pids = engine.workers.process_ids.values()
    workers = [psutil.Process(pid).memory_info().rss for pid in pids if psutil.pid_exists(pid)]
    return psutil.Process().memory_info().rss, sum(workers)


def serve(
    load: Load, engine: Coordinator, place: Place, seconds: float, rng: random.Random
) -> dict[str, Any]:
    """For so long, then until all are answered."""
    began = time.monotonic()
    lose, sample = began + EVERY_SECONDS / 2, began
    done, memory = list[Disturbance](), list[tuple[int, int]]()
    while (now := time.monotonic()) < began + seconds:
        load.submit_due()
        if now >= lose:
            lose += EVERY_SECONDS
            done.append(disturb(engine, place, "kill source", rng))
        if now >= sample:
            sample += SAMPLE_SECONDS
            memory.append(sizes(engine))
        load.step()
    while load.step():
        pass
    waits = [load.streams.seconds_after(x) for x in done] or [0.0]
    own, workers = ([x[i] for x in memory[SETTLING:]] for i in range(2))
    return {
        "requests": len(load.asked), "wrong": load.wrong, "tokens": len(load.streams.came),
        "lost": len(done), "median_wait": median(waits), "most_wait": max(waits),
        "growth": {"coordinator": growth(own), "workers": growth(workers)},
        "own_mib": own[-1] >> 20, "workers_mib": workers[-1] >> 20,
    }  # fmt: skip


def real(scene: Scene, minutes: float, rate: float, seed: int) -> dict[str, Any]:
    rng, names = random.Random(seed), NAMES[:3]
    pool, cluster = Pool.of(scene, rng), scene.cluster(names)
    place = Local(cluster)
    with place.workers as workers:
        replan = replanner(scene.problem(cluster, pool.profile))
        plan = random_plan(names, scene.plan(names[0]), rng)
        engine = Coordinator(workers, scene.model, plan, scene.work, replan=replan)
        return serve(Load(engine, pool, rate, rng), engine, place, minutes * 60, rng)


def simulated(scene: Scene, hours: float, rate: float, seed: int) -> dict[str, Any]:
    """The same with a clock of its own, on four devices."""
    rng, cluster = random.Random(seed), scene.cluster(NAMES)
    problem, plans = scene.problem(cluster, scene.profile()), dict[tuple[str, ...], Plan]()
    costs, work = problem.costs, scene.work

    def replan(there: Cluster, profile: Profile) -> Plan:
        names = tuple(device.name for device in there.devices)
        if names not in plans:
            plans[names] = joint(replace(problem, costs=replace(costs, cluster=there))).plan
        return plans[names]

    faults: list[Fault] = []
    for minute in range(int(hours * 60)):
        device, at = rng.choice(NAMES[1:]), (minute + 0.5) * EVERY_SECONDS
        faults += [Leave(device, at), Join(device, at + BACK_SECONDS)]
    count, first = int(rate * hours * 3600), replan(cluster, costs.profile)
    arrivals = poisson(count, rate, work.prompt_tokens, work.new_tokens, seed=seed)
    outcome = simulate_plan(
        costs, first, arrivals, faults=faults, replan=replan, recovery=Recovery(NOTICE_SECONDS)
    )
    waits = [x.latency_seconds for x in outcome.requests if x.finished]
    alone = costs.estimate(first)
    return {
        "devices": len(cluster.devices), "lost": len(faults) // 2,
        "requests": count, "unfinished": count - len(waits),
        "median_seconds": median(waits), "most_seconds": max(waits),
        "predicted_alone_seconds":
            alone.prefill_seconds + (work.new_tokens - 1) * alone.decode_seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=SCENES, default="demo")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--simulate", type=float, metavar="HOURS")
    parser.add_argument("--rate", type=float, default=0.5, help="requests a second")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    scene, failed, began = SCENES[asked.model], list[str](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="arrivals-") as folder:
        tempfile.tempdir = folder
        if asked.simulate is not None:
            figures = simulated(scene, asked.simulate, asked.rate, asked.seed)
            if figures["unfinished"]:
                failed.append(f"{figures['unfinished']} requests were not answered")
        else:
            figures = real(scene, asked.minutes, asked.rate, asked.seed)
            failed += [f"{figures['wrong']} other answers"] if figures["wrong"] else []
            grown = figures["growth"].items()
            failed += [f"{who} grew by {x:.1%}" for who, x in grown if x > MOST_GROWTH]
    finish("arrivals", {
        "model": scene.model, "scheme": scene.scheme, "rate": asked.rate, "seed": asked.seed,
        "kernels": kernels.instruction_set(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "hours": asked.simulate or asked.minutes / 60, "simulated": asked.simulate is not None,
        **figures, "seconds": time.monotonic() - began,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
