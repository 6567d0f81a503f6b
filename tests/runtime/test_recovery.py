"""Devices that die while requests run: every answer goes on as if nothing had happened."""

import os
import random
import signal
import time

import psutil
import pytest

from edgewise.errors import DeviceLost
from edgewise.plans import Plan, Stage
from edgewise.runtime.engine import Request
from edgewise.runtime.local import open_engine
from edgewise.runtime.sampling import Sampling
from edgewise.specs import Workload
from tests.runtime.conftest import NAMES, cluster, plan_of, reference
from tests.runtime.test_exact import FAMILIES
from tests.seeds import cases

WORK = Workload(prompt_tokens=20, new_tokens=30, sequences=4, micro_batches=2)


def evenly(workers, plan):
    """A plan that cuts the layers evenly between the devices that are there."""
    names, count = workers.names, plan.num_layers
    ends = [round(count * (i + 1) / len(names)) for i in range(len(names))]
    stages = tuple(
        Stage(name, start, end, plan.schemes[start:end])
        for name, start, end in zip(names, [0, *ends], ends, strict=False)
    )
    return Plan(plan.model, plan.digest, count, stages, plan.rounding)


def requests_of(rng):
    return [
        Request(
            tuple(rng.randrange(3, 90) for _ in range(rng.randint(1, 20))),
            rng.randint(5, 30),
            rng.choice([Sampling(), Sampling(temperature=1.2, seed=rng.randrange(100))]),
        )
        for _ in range(rng.randint(2, 7))
    ]


def run(engine, requests, disturb):
    """The tokens of every request; `disturb(n)` is called before step n."""
    numbers = {engine.submit(request): [] for request in requests}
    step = 0
    while True:
        disturb(step)
        tokens = engine.step()
        if not tokens:
            return list(numbers.values())
        for token in tokens:
            assert token.finish != "error", token.error
            numbers[token.request].append(token.id)
        step += 1


@pytest.fixture
def opened(checkpoint):
    engines = []

    def start(family="llama", names=NAMES, replan=evenly):
        model = checkpoint(family)
        spec, plan = plan_of(model, *zip(names, (2, 4, 6), strict=True))
        engine = open_engine(str(model), plan, cluster(names=names), WORK, spec=spec, replan=replan)
        engines.append((engine, set(engine.workers.process_ids.values())))
        return model, engine

    yield start
    for engine, pids in engines:
        engine.close()
        assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.parametrize("victim", NAMES)
def test_answers_go_on_without_a_device(opened, victim, how):
    model, engine = opened()
    rng = random.Random(f"{victim} {how}")
    requests = requests_of(rng)
    at, died = rng.randint(1, 12), []

    def disturb(step):
        if step == at:
            os.kill(engine.workers.process_ids[victim], how)
            died.append(time.monotonic())
        elif step == at + 1:
            died.append(time.monotonic())

    answers = run(engine, requests, disturb)
    assert answers == [reference(model, request) for request in requests]
    assert died[1] - died[0] < (2 if how is signal.SIGKILL else 5) * (1 + os.getloadavg()[0] / 2)
    there = NAMES if victim == NAMES[0] else [name for name in NAMES if name != victim]
    assert sorted(engine.workers.names) == sorted(there)


def test_two_of_three_die(opened):
    model, engine = opened()
    requests = requests_of(random.Random(3))

    def disturb(step):
        if step in (3, 9):
            os.kill(engine.workers.process_ids["jetson" if step == 3 else "pi"], signal.SIGKILL)

    assert run(engine, requests, disturb) == [reference(model, x) for x in requests]
    assert engine.workers.names == ("laptop",)


@pytest.mark.parametrize("seed", cases(range(6), range(100)))
def test_chaos(opened, seed):
    """Whatever dies whenever, as long as the source's machine is there."""
    rng = random.Random(seed)
    model, engine = opened(rng.choice(FAMILIES))
    requests = requests_of(rng)
    deaths = {rng.randint(0, 40): rng.choice(NAMES) for _ in range(rng.randint(1, 3))}

    def disturb(step):
        pid = engine.workers.process_ids.get(deaths.get(step, ""))
        if pid is not None:
            os.kill(pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))

    assert run(engine, requests, disturb) == [reference(model, x) for x in requests], deaths


def test_without_another_plan_a_lost_device_ends_everything(opened):
    _, engine = opened(replan=None)
    engine.submit(Request((1, 2, 3), 20))
    engine.step()
    os.kill(engine.workers.process_ids["pi"], signal.SIGKILL)
    with pytest.raises(DeviceLost, match="device 'pi' was killed by SIGKILL while it held layers"):
        while engine.step():
            pass
