"""Small random planning problems, few enough placements to try them all. A seed is a problem."""

import random
from dataclasses import replace
from functools import cache

from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.costs import CostModel
from edgewise.memory import workspace_bytes
from edgewise.planning import Objective, Problem
from edgewise.profiles import DeviceReading, LayerTiming, Profile
from edgewise.schemes import DEFAULT, get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.specs import (
    AddedPart,
    ExtraWork,
    LayerKind,
    LayerSpec,
    ModelSpec,
    PrivateParts,
    Workload,
)
from tests.kinds import DECODER_KINDS

AMPLE_BYTES = 10**9
FEW_SHAPES = ((1, 1, 4), (1, 1, 20), (1, 2, 0), (1, 16, 0))
MORE_SHAPES = (*FEW_SHAPES, (3, 1, 4), (3, 1, 20), (3, 2, 0), (3, 16, 0))
MORE_SCHEMES = ("fp32", "bf16", "fp16")


@cache
def random_problem(seed: int, *, tight: bool = False, all_linked: bool = False) -> Problem:
    """2 to 4 devices, 3 to 7 layers, links that differ by direction; everything in fp32.

    Half of the problems charge for steps; half lack some links unless `all_linked`. Every device
    holds the whole model many times over unless `tight`: then most are smaller than the model,
    and about one problem in four has no answer.
    """
    rng = random.Random(seed)
    workload = Workload(rng.randint(2, 9), rng.randint(1, 9), rng.randint(1, 3))
    words = f"random {seed}{' tight' * tight}{' all linked' * all_linked}"
    model = replace(_model(rng, blocks=5), name=words)
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


@cache
def mixed_problem(seed: int) -> Problem:
    """2 or 3 devices, 3 to 5 layers, 2 or 3 schemes, and all that a problem can ask for: either
    objective, micro-batches, a budget, pins, forbidden and required devices.

    Some devices are of one kind, some hops are as a network says and not measured, and some memory
    is bounded by what was free. About one problem in seven has no answer.
    """
    rng = random.Random(f"mixed {seed}")
    sequences = rng.randint(1, 6)
    lanes = rng.randint(1, min(3, sequences))
    workload = Workload(rng.randint(2, 9), rng.randint(1, 9), sequences, lanes)
    model = replace(_model(rng, blocks=3), name=f"mixed {seed}")
    names = ["a", "b", "c"][: rng.randint(2, 3)]
    source = rng.choice(names)
    schemes = tuple(rng.sample(MORE_SCHEMES, rng.randint(2, 3)))
    twins = rng.random() < 0.3
    kinds = {name: names[0] if twins and name == names[1] else name for name in names}
    links = _links(rng, names, rng.choice([0.0, 0.2, 0.6]))
    networks = ()
    if rng.random() < 0.6:
        networks = (Network(tuple(names), 10 ** rng.uniform(4.5, 7), rng.uniform(0, 1e-3)),)
    workspace, whole = workspace_bytes(model, workload), _bytes_of(model, workload)
    rooms = {name: workspace + int(whole * rng.uniform(0.3, 1.5)) for name in names}
    free = {kind: int(rng.uniform(0.6, 2) * rooms[kind]) for kind in kinds.values()}
    free = free if rng.random() < 0.4 else {}
    profile = _profile(
        rng, model, list(dict.fromkeys(kinds.values())), source, links, schemes, MORE_SHAPES, free
    )
    devices = tuple(Device(name, rooms[name], kind=kinds[name]) for name in names)
    cluster = Cluster(devices, tuple(Link(x.source, x.target) for x in links), source, networks)
    sensitivity = _sensitivity(rng, model) if rng.random() < 0.7 else None
    costs = CostModel(model, cluster, profile, workload, sensitivity)
    return Problem(
        costs,
        schemes,
        rng.choice(list(Objective)),
        first_token_weight=rng.choice([0.0, 0.0, 0.1]),
        **_wishes(rng, names, source, model.num_layers, costs),
    )


def _wishes(
    rng: random.Random, names: list[str], source: str, num_layers: int, costs: CostModel
) -> dict[str, object]:
    """Budget, pins, forbidden and required devices."""
    budget = float("inf")
    if costs.sensitivity is not None and rng.random() < 0.7:
        budget = sum(costs.sensitivity.losses["bf16"]) * rng.uniform(0, 1.2)
    pins: dict[int, str] | None = None
    if rng.random() < 0.5:
        layers = rng.sample(range(num_layers), rng.randint(0, 2))
        pins = {layer: rng.choice(names) for layer in layers}
    used = {source} if pins is None else set(pins.values())
    unused = [name for name in names if name not in used]
    forbidden = frozenset(rng.sample(unused, 1) if unused and rng.random() < 0.3 else [])
    usable = [name for name in names if name not in forbidden]
    required = frozenset(rng.sample(usable, 1) if rng.random() < 0.3 else [])
    return {"budget": budget, "pins": pins, "forbidden": forbidden, "required": required}


def _sensitivity(rng: random.Random, model: ModelSpec) -> Sensitivity:
    losses = {"fp32": (0.0,) * model.num_layers}
    for scheme in ("bf16", "fp16"):
        losses[scheme] = tuple(rng.choice([0.0, rng.random()]) for _ in model.layers)
    return Sensitivity(model.digest, "nats", 2.0, losses)


def _model(rng: random.Random, blocks: int) -> ModelSpec:
    hidden, vocabulary = 16, rng.randint(20, 120)
    table = (vocabulary, hidden)
    middle = [
        LayerSpec(
            LayerKind.BLOCK,
            ((rng.randint(10, 60), hidden), (hidden, hidden)),
            2 * hidden,
            kv_width=8,
        )
        for _ in range(rng.randint(1, blocks))
    ]
    embedding = LayerSpec(LayerKind.EMBEDDING, (table,), 0)
    head = LayerSpec(LayerKind.HEAD, (table,), hidden)
    layers = (embedding, *middle, head)
    return ModelSpec("random", layers, hidden, vocabulary, 64, tied=rng.random() < 0.3)


def _bytes_of(model: ModelSpec, workload: Workload) -> int:
    weights = sum(layer.weight_bytes(get_scheme(DEFAULT)) for layer in model.layers)
    cached = sum(layer.kv_width for layer in model.layers)
    return weights + 4 * cached * workload.context * workload.sequences


@cache
def interface_problem(seed: int) -> Problem:
    """The most tokens per second in six lanes, most devices with an interface that is slow beside
    their links and of the order of what they compute. Odd seeds are mixed problems; in even ones
    every other layer is the source's, which then may send to others more than once."""
    rng = random.Random(f"interface {seed}")
    problem = mixed_problem(seed) if seed % 2 else random_problem(seed, tight=seed % 4 == 0)
    costs = problem.costs
    devices = tuple(
        replace(x, interface_bytes_per_second=10 ** rng.uniform(3.6, 4.6))
        if x.name == problem.source or rng.random() < 0.5
        else x
        for x in costs.cluster.devices
    )
    pins = dict.fromkeys(range(0, problem.num_layers, 2), problem.source)
    work = replace(costs.workload, sequences=6, micro_batches=6)
    costs = replace(costs, cluster=replace(costs.cluster, devices=devices), workload=work)
    return replace(
        problem,
        costs=costs,
        objective=Objective.THROUGHPUT,
        pins=problem.pins if seed % 2 else pins,
    )


@cache
def adapted_problem(seed: int) -> Problem:
    """The mixed problem where exits of windows vote, where blocks ask the source for what is
    private, or both. What is private may be asked for where no link leads to the source."""
    rng, problem = random.Random(f"adapted {seed}"), mixed_problem(seed)
    costs = problem.costs
    matrices = rng.choice([(("q", "k", "v"),), (("v",), ("gate", "up"), ("down",))])
    private = PrivateParts(rng.randint(1, 200), matrices)
    ends = None if seed % 3 == 0 else tuple(range(1, rng.randint(1, 4)))
    added = (AddedPart("qkv", 0, 8, 16, rng.randint(1, 9)), AddedPart("down", 0, 8, 8, 2))
    extra = ExtraWork(ends, added, None if seed % 3 == 1 else private)
    kinds = dict(zip(costs.model.classes, (x.kind for x in costs.model.layers), strict=True))
    known = costs.profile.layers
    layers = [  # each class takes so many times as long with it
        replace(
            x, layer=name, seconds=x.seconds * (2.0 if kinds[x.layer] is LayerKind.HEAD else 1.5)
        )
        for x in known
        if (name := extra.timed(x.layer, kinds[x.layer])) != x.layer
    ]
    profile = replace(costs.profile, layers=(*known, *layers))
    work = replace(costs.workload, extra=extra)
    return replace(problem, costs=replace(costs, profile=profile, workload=work))


def unlike_problem(seed: int) -> Problem:
    """The mixed problem with blocks that take seconds in proportion to their matrices."""
    problem = mixed_problem(seed)
    costs = problem.costs
    larger = shares(costs.model, LayerKind.BLOCK)
    layers = tuple(
        replace(x, seconds=x.seconds * larger.get(x.layer, 1.0)) for x in costs.profile.layers
    )
    profile = replace(costs.profile, layers=layers)
    return replace(problem, costs=replace(costs, profile=profile))


def shares(model: ModelSpec, kind: LayerKind) -> dict[str, float]:
    """The classes of layers of a kind, and how much larger each is than the first."""
    sizes = {
        name: float(sum(rows * columns for rows, columns in layer.matrices))
        for name, layer in zip(model.classes, model.layers, strict=True)
        if layer.kind is kind
    }
    return {name: size / next(iter(sizes.values())) for name, size in sizes.items()}


def _links(rng: random.Random, names: list[str], missing: float) -> list[Link]:
    return [
        Link(a, b, latency_seconds=rng.uniform(0, 1e-3), bytes_per_second=10 ** rng.uniform(4.5, 7))
        for a in names
        for b in names
        if a != b and rng.random() >= missing
    ]


def _profile(
    rng: random.Random,
    model: ModelSpec,
    kinds: list[str],
    source: str,
    links: list[Link],
    schemes: tuple[str, ...] = (DEFAULT,),
    shapes: tuple[tuple[int, int, int], ...] = FEW_SHAPES,
    free: dict[str, int] | None = None,
) -> Profile:
    layers, readings = [], []
    overhead = rng.choice([0.0, 2e-3])
    for name in kinds:
        slowness = rng.uniform(1, 8)
        readings.append(DeviceReading(name, overhead * rng.random(), (free or {}).get(name, 0)))
        for scheme in schemes:
            for kind in DECODER_KINDS:
                for sequences, tokens, context in shapes:
                    work = sequences * (tokens + context / 8)
                    seconds = slowness * work * rng.uniform(2e-4, 1e-3)
                    for layer in shares(model, kind):  # equal seconds, whatever their bytes
                        timing = (name, layer, scheme, sequences, tokens, context, seconds)
                        layers.append(LayerTiming(*timing))
    within = Link(source, source, 1e9, rng.uniform(0, 1e-4))
    return Profile(model.digest, tuple(layers), tuple(readings), (within, *links))
