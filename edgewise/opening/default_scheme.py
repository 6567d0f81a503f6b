"""Which scheme a model runs in where nobody said: its own type if that fits, else the recipe with
the most bits that does."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.memory import device_bytes, layer_bytes, workspace_bytes
from edgewise.plans import Stage
from edgewise.schemes import CANDIDATES, RECIPES, STORED, get_scheme
from edgewise.specs import ModelSpec, Workload
from edgewise.units import format_bytes

ORDER = (STORED, *RECIPES)  # the most bits first

T = TypeVar("T")


def candidates(spec: ModelSpec) -> tuple[str, ...]:
    """What plans choose among where nobody said: a scheme for each width. Of a file that is in few
    bits itself, what it has, which loses nothing more, and those that take less of some layer."""
    if not any(layer.stored for layer in spec.layers):
        return CANDIDATES
    stored = get_scheme(STORED)
    smaller = [
        name
        for name in CANDIDATES
        if any(x.weight_bytes(get_scheme(name)) < x.weight_bytes(stored) for x in spec.layers)
    ]
    return (*smaller, STORED)


def needed_bytes(spec: ModelSpec, scheme: str, workload: Workload, devices: int) -> int:
    """Memory that a model takes in a scheme throughout: on one device with everything, on several
    at least, without what each needs to compute."""
    if devices == 1:
        stage = Stage("", 0, spec.num_layers, (scheme,) * spec.num_layers)
        return device_bytes(spec, [stage], workload)
    layers = range(spec.num_layers)
    held = sum(layer_bytes(spec, layer, scheme, workload) for layer in layers)
    return workspace_bytes(spec, workload) + held - spec.shared_bytes((scheme, scheme))


def schemes_that_fit(spec: ModelSpec, cluster: Cluster, workload: Workload) -> Iterator[str]:
    """Those of ORDER for which the devices have memory enough in all; what must stay free of it the
    cost model says."""
    room = sum(device.memory_bytes for device in cluster.devices)
    for name in ORDER:
        if needed_bytes(spec, name, workload, len(cluster.devices)) <= room:
            yield name


def first_that_fits(
    spec: ModelSpec, cluster: Cluster, workload: Workload, plan_in: Callable[[str, Cluster], T]
) -> tuple[T, str]:
    """What `plan_in` makes of the first scheme in which it finds a plan, and that scheme; where not
    even the fewest bits fit, of these with layers on disks. Raises Infeasible where that is no
    plan either."""
    reason: Infeasible | None = None
    for name in schemes_that_fit(spec, cluster, workload):
        try:
            return plan_in(name, cluster.without_disks()), name
        except Infeasible as error:  # enough memory in all, but not where it is needed
            reason = error
    if cluster.has_disks:
        return plan_in(ORDER[-1], cluster), ORDER[-1]
    raise reason or too_large(spec, ORDER[-1], cluster, workload)


def description(
    spec: ModelSpec, name: str, workload: Workload, devices: int, *, on_disk: bool = False
) -> str:
    """What was chosen, and what it costs."""
    size = format_bytes(needed_bytes(spec, name, workload, devices))
    if name == STORED:
        return f"{spec.name} runs as its file has it ({size})"
    blocks = spec.layers[1].concrete(get_scheme(name)).name
    if on_disk:
        return (
            f"{spec.name} does not fit in memory: it runs in {name} ({size}; blocks in {blocks}) "
            "with layers on disk, which are read for every token"
        )
    return (
        f"{spec.name} runs in {name} ({size}; blocks in {blocks}), the most bits that fit; "
        "--quality 1% chooses bits by what they cost"
    )


def check_size(spec: ModelSpec, name: str, cluster: Cluster, workload: Workload) -> None:
    """Raises Infeasible where the devices have too little memory in all for a scheme, and no disks:
    what nobody has to measure or plan for."""
    has = sum(device.memory_bytes for device in cluster.devices)
    if not cluster.has_disks and needed_bytes(spec, name, workload, len(cluster.devices)) > has:
        raise too_large(spec, name, cluster, workload)


def too_large(spec: ModelSpec, name: str, cluster: Cluster, workload: Workload) -> Infeasible:
    """Says what is missing for a scheme."""
    needed = needed_bytes(spec, name, workload, len(cluster.devices))
    has = sum(device.memory_bytes for device in cluster.devices)
    where = f"'{cluster.source}' has" if len(cluster.devices) == 1 else "the devices have"
    return Infeasible(
        f"'{spec.name}' needs {format_bytes(needed)} in {name}, but {where} {format_bytes(has)}: "
        f"{format_bytes(max(needed - has, 0))} too little; add devices with --cluster, or store "
        "fewer bits, or say how fast a disk is read for layers: `disk` in a cluster file, --disk",
        shortage_bytes=max(needed - has, 0),
    )
