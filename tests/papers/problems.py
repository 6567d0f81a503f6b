"""Small random planning problems, few enough placements to try them all. A seed is a problem."""

import random
from functools import cache

from edgewise.clusters import Cluster, Device, Link
from edgewise.costs import CostModel
from edgewise.memory import workspace_bytes
from edgewise.planning import Objective, Problem
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.schemes import get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload
from tests.kinds import DECODER_KINDS
from tests.planning.problems import shares

AMPLE_BYTES = 10**9
SCHEMES = ("fp32", "bf16", "fp16")


@cache
def random_problem(
    seed: int,
    *,
    tight: bool | None = None,
    objective: Objective = Objective.LATENCY,
    most: int = 20_000,
    per_layer: bool = False,
) -> Problem:
    """2 to 4 devices, 3 to 7 layers, 1 to 3 schemes, links that differ by direction.

    At most `most` placements, with a scheme for every layer if `per_layer`. By the seed, memory and
    the budget for losses bind or not, some links are missing, devices are twins, layers are pinned,
    devices are forbidden or required, and the first token counts. `tight` decides about memory.
    """
    rng = random.Random(seed)
    names = ["a", "b", "c", "d"][: rng.randint(2, 4)]
    schemes = SCHEMES[: rng.randint(1, 3)]
    choices = len(names) * (len(schemes) if per_layer else 1)
    blocks = rng.choice([n for n in range(1, 6) if choices ** (n + 2) <= most or n == 1])
    sequences = rng.randint(1, 4)
    workload = Workload(rng.randint(2, 9), rng.randint(2, 9), sequences, rng.randint(1, sequences))
    model = _model(rng, blocks)
    source = rng.choice(names)
    kinds = _kinds(rng, names, source)
    profile = _profile(rng, model, names, kinds, schemes, source)
    tight = rng.random() < 0.6 if tight is None else tight
    devices = _devices(rng, model, workload, kinds, schemes[-1], tight)
    links = tuple(Link(x.source, x.target) for x in profile.links if x.source != x.target)
    cluster = Cluster(devices, links, source)
    losses = {s: tuple(_loss(rng, n) for _ in model.layers) for n, s in enumerate(schemes)}
    sensitivity = Sensitivity(model.digest, "random", 1.0, losses)
    budget = float("inf")
    if rng.random() < 0.5:
        least, most_loss = (sum(map(f, zip(*losses.values(), strict=True))) for f in (min, max))
        budget = least + (most_loss - least) * rng.uniform(0.0, 1.0) + 1e-9
    extras = _extras(rng, names, source, len(model.layers))
    weight = rng.choice([0.0, 0.0, 0.1])
    costs = CostModel(model, cluster, profile, workload, sensitivity)
    return Problem(
        costs,
        schemes,
        objective,
        budget,
        first_token_weight=weight,
        **extras,  # type: ignore[arg-type]
    )


def _loss(rng: random.Random, rank: int) -> float:
    return rank * rng.uniform(0.01, 0.1) if rng.random() < 0.9 else 0.0


def _extras(rng: random.Random, names: list[str], source: str, layers: int) -> dict[str, object]:
    kind = rng.randrange(8)
    if kind == 0:
        return {"pins": {}}
    if kind == 1:
        return {"pins": {0: source, layers - 1: source}}
    if kind == 2:
        return {"pins": {0: source, rng.randrange(1, layers): rng.choice(names)}}
    other = next(name for name in names if name != source)
    if kind == 3:
        return {"required": frozenset({other})}
    if kind == 4 and len(names) > 2:
        return {"forbidden": frozenset({other})}
    return {}


def _kinds(rng: random.Random, names: list[str], source: str) -> dict[str, str]:
    """Every device a kind of its own, or all but the source twins."""
    if rng.random() < 0.3:
        return {name: name if name == source else "twin" for name in names}
    return {name: name for name in names}


def _model(rng: random.Random, blocks: int) -> ModelSpec:
    hidden, vocabulary = 16, rng.randint(20, 120)
    table, equal = (vocabulary, hidden), rng.random() < 0.5
    widths = (
        [rng.randint(10, 60)] * blocks if equal else [rng.randint(10, 60) for _ in range(blocks)]
    )
    inner = [
        LayerSpec(LayerKind.BLOCK, ((width, hidden), (hidden, hidden)), 2 * hidden, kv_width=8)
        for width in widths
    ]
    layers = (
        LayerSpec(LayerKind.EMBEDDING, (table,), 0),
        *inner,
        LayerSpec(LayerKind.HEAD, (table,), hidden),
    )
    return ModelSpec("random", layers, hidden, vocabulary, 64, tied=rng.random() < 0.3)


def _devices(
    rng: random.Random,
    model: ModelSpec,
    workload: Workload,
    kinds: dict[str, str],
    scheme: str,
    tight: bool,
) -> tuple[Device, ...]:
    whole = sum(layer.weight_bytes(get_scheme(scheme)) for layer in model.layers)
    cache_bytes = get_scheme(scheme).compute_bytes * sum(layer.kv_width for layer in model.layers)
    whole += cache_bytes * workload.context * workload.sequences
    workspace = workspace_bytes(model, workload)
    memory = {
        kind: workspace + int(whole * rng.uniform(0.25, 1.3)) if tight else AMPLE_BYTES
        for kind in dict.fromkeys(kinds.values())
    }
    return tuple(Device(name, memory[kind], kind=kind) for name, kind in kinds.items())


def _profile(
    rng: random.Random,
    model: ModelSpec,
    names: list[str],
    kinds: dict[str, str],
    schemes: tuple[str, ...],
    source: str,
) -> Profile:
    layers, readings = [], []
    overhead, missing = rng.choice([0.0, 2e-3]), rng.choice([0.0, 0.25])
    for kind in dict.fromkeys(kinds.values()):
        slowness = rng.uniform(1, 8)
        readings.append(DeviceReading(kind, overhead * rng.random()))
        for rank, scheme in enumerate(schemes):
            faster = rng.uniform(0.6, 1.1) ** rank
            for layers_kind in DECODER_KINDS:
                for tokens, context in ((1, 4), (1, 20), (2, 0), (16, 0)):
                    seconds = slowness * faster * (tokens + context / 8) * rng.uniform(2e-4, 1e-3)
                    layers += [
                        LayerTiming(kind, layer, scheme, 1, tokens, context, share * seconds)
                        for layer, share in shares(model, layers_kind).items()
                    ]
    figures = {
        (a, b): None
        if rng.random() < missing
        else (rng.uniform(0, 1e-3), 10 ** rng.uniform(4.5, 7))
        for a in sorted(set(kinds.values()))
        for b in sorted(set(kinds.values()))
    }
    links = [
        Link(a, b, figure[1], figure[0])
        for a in names
        for b in names
        if a != b and (figure := figures[kinds[a], kinds[b]]) is not None
    ]
    within = Link(source, source, 1e9, rng.uniform(0, 1e-4))
    return Profile(model.digest, tuple(layers), tuple(readings), (within, *links))
