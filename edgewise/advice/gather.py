"""The facts of models on devices: bytes by their shapes, seconds by profiles that are kept."""

from collections.abc import Mapping
from dataclasses import replace

from edgewise.advice.facts import Variant
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.opening.comparison import best, compare
from edgewise.opening.default_scheme import ORDER, candidates, needed_bytes
from edgewise.opening.profile import kept_profile
from edgewise.planning import Problem
from edgewise.profiles import Profile
from edgewise.schemes import STORED, get_scheme
from edgewise.specs import ACTIVATION_BYTES, ModelSpec, Workload
from edgewise.tuning.recipe import Recipe

RECORD = 128  # tokens of a record, as it is learned from
WORK = Workload(prompt_tokens=RECORD, new_tokens=64)
RECIPE = Recipe()  # of `edgewise tune` unless it is told otherwise
STATE_BYTES = 16  # of a trained number: itself, its gradient, Adam's two, all in float32


def gather(models: Mapping[str, ModelSpec], cluster: Cluster) -> tuple[Variant, ...]:
    """Every model, by name, as its file has it, and in the schemes of `edgewise run` that take
    less."""
    return tuple(
        variant_of(name, spec, scheme, cluster, _kept(spec, scheme, cluster))
        for name, spec in models.items()
        for scheme in schemes_of(spec)
    )


def schemes_of(spec: ModelSpec) -> list[str]:
    """In the order of their bits. A file that is in few bits itself has no more of them to give."""
    stored = _bytes(spec, STORED)
    return [name for name in ORDER if name == STORED or _bytes(spec, name) < stored]


def variant_of(
    name: str, spec: ModelSpec, scheme: str, cluster: Cluster, profile: Profile | None = None
) -> Variant:
    """What is known of a model in a scheme; with a profile, what the best plan takes."""
    needed = needed_bytes(spec, scheme, WORK, len(cluster.devices))
    block = spec.layers[1]
    variant = Variant(
        name,
        scheme,
        weights=_bytes(spec, "bf16") // 2,
        bits=16 * block.weight_bytes(get_scheme(scheme)) / block.weight_bytes(get_scheme("bf16")),
        needed_bytes=needed,
        learning_bytes=needed + _learning_bytes(spec),
        fits=needed <= sum(device.memory_bytes for device in cluster.devices),
    )
    return variant if profile is None else _planned(variant, spec, cluster, profile)


def _planned(variant: Variant, spec: ModelSpec, cluster: Cluster, profile: Profile) -> Variant:
    problem = Problem(CostModel(spec, cluster, profile, WORK), (variant.scheme,))
    try:
        estimate = best(problem, compare(problem)).estimate
    except Infeasible:
        return replace(variant, fits=False)
    seconds = estimate.decode_seconds, estimate.prefill_seconds
    return replace(variant, fits=True, decode_seconds=seconds[0], record_seconds=seconds[1])


def _kept(spec: ModelSpec, scheme: str, cluster: Cluster) -> Profile | None:
    """Of the profiles that commands make, one with this scheme."""
    for schemes in ((scheme,), candidates(spec)):
        if scheme in schemes and (profile := kept_profile(spec, cluster, schemes)) is not None:
            return profile
    return None


def _bytes(spec: ModelSpec, scheme: str) -> int:
    return spec.weight_bytes((scheme,) * spec.num_layers)


def _learning_bytes(spec: ModelSpec) -> int:
    """At least, beside what answering takes: adapters of all blocks with their gradients and
    optimizer, and what a batch keeps of a window's blocks to go back through them."""
    sides = [sum(map(sum, layer.matrices)) for layer in spec.layers[1:-1]]
    kept = RECIPE.batch * RECORD * ACTIVATION_BYTES * sum(sides[-RECIPE.window :])
    return STATE_BYTES * RECIPE.adapter.rank * sum(sides) + kept
