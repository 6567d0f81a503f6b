"""Small random planning problems, few enough placements to try them all. A seed is a problem."""

import random
from functools import cache

from edgewise.costs import CostModel, workspace_bytes
from edgewise.planning import Problem
from edgewise.profiles import LayerTiming, LinkTiming, Profile, StepTiming
from edgewise.schemes import DEFAULT, get_scheme
from edgewise.specs import Cluster, Device, LayerKind, LayerSpec, Link, ModelSpec, Workload

AMPLE_BYTES = 10**9


@cache
def random_problem(seed: int, *, tight: bool = False, all_linked: bool = False) -> Problem:
    """2 to 4 devices, 3 to 7 layers, links that differ by direction.

    Half of the problems charge for steps; half lack some links unless `all_linked`. Every device
    holds the whole model many times over unless `tight`: then most are smaller than the model,
    and about one problem in four has no answer.
    """
    rng = random.Random(seed)
    workload = Workload(rng.randint(2, 9), rng.randint(1, 9), rng.randint(1, 3))
    model = _model(rng)
    names = ["a", "b", "c", "d"][: rng.randint(2, 4)]
    source = rng.choice(names)
    links = _links(rng, names, 0.0 if all_linked or rng.random() < 0.5 else 0.3)
    profile = _profile(rng, model, names, source, links)
    workspace, whole = workspace_bytes(model, workload), _bytes_of(model, workload)
    devices = tuple(
        Device(name, workspace + int(whole * rng.uniform(0.2, 1.0)) if tight else AMPLE_BYTES)
        for name in names
    )
    cluster = Cluster(devices, tuple(Link(x.source, x.target) for x in links), source)
    return Problem(CostModel(model, cluster, profile, workload))


def _model(rng: random.Random) -> ModelSpec:
    hidden, vocabulary = 16, rng.randint(20, 120)
    table = (vocabulary, hidden)
    blocks = [
        LayerSpec(LayerKind.BLOCK, ((rng.randint(10, 60), hidden), (hidden, hidden)), 2 * hidden)
        for _ in range(rng.randint(1, 5))
    ]
    embedding = LayerSpec(LayerKind.EMBEDDING, (table,), 0)
    head = LayerSpec(LayerKind.HEAD, (table,), hidden)
    layers = (embedding, *blocks, head)
    return ModelSpec("random", layers, hidden, vocabulary, 64, 8, tied=rng.random() < 0.3)


def _bytes_of(model: ModelSpec, workload: Workload) -> int:
    weights = sum(layer.weight_bytes(get_scheme(DEFAULT)) for layer in model.layers)
    return weights + 4 * model.kv_width * model.num_blocks * workload.context * workload.sequences


def _links(rng: random.Random, names: list[str], missing: float) -> list[LinkTiming]:
    return [
        LinkTiming(a, b, rng.uniform(0, 1e-3), 10 ** rng.uniform(4.5, 7))
        for a in names
        for b in names
        if a != b and rng.random() >= missing
    ]


def _profile(
    rng: random.Random, model: ModelSpec, names: list[str], source: str, links: list[LinkTiming]
) -> Profile:
    layers, steps = [], []
    overhead = rng.choice([0.0, 2e-3])
    for name in names:
        slowness = rng.uniform(1, 8)
        steps.append(StepTiming(name, overhead * rng.random()))
        for kind in LayerKind:
            for tokens, context in ((1, 4), (1, 20), (2, 0), (16, 0)):
                seconds = slowness * (tokens + context / 8) * rng.uniform(2e-4, 1e-3)
                layers.append(LayerTiming(name, kind, DEFAULT, tokens, context, seconds))
    within = LinkTiming(source, source, rng.uniform(0, 1e-4), 1e9)
    return Profile(model.digest, tuple(layers), tuple(steps), (within, *links))
