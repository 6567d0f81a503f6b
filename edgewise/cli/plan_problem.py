"""What `edgewise plan` was asked for, as a problem for planners: checked first, then measured."""

import math

from edgewise.cli.commands import PlanOptions, workload_of
from edgewise.cli.options import split_names
from edgewise.cli.pins import all_pins
from edgewise.cli.terminal import bars, print_notes
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import InputError, ProfileError
from edgewise.opening.default_scheme import candidates, check_size, needed_bytes
from edgewise.opening.profile import cached_profile, check_reachable, load_profile
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.planning import Problem
from edgewise.profiles import Profile
from edgewise.schemes import get_scheme
from edgewise.sensitivities import Sensitivity, parse_quality
from edgewise.specs import ModelSpec, Workload

DEFAULT_QUALITY, ANY_QUALITY = "1%", "any"


def make_problem(spec: ModelSpec, options: PlanOptions) -> Problem:
    """Everything a planner needs; what can be wrong with it is found before anything is measured.
    Raises InputError, and Infeasible where the model is too large in the fewest bits."""
    cluster = load_cluster(options.cluster)
    workload = workload_of(options, options.kv_cache, options.wire)
    check_reachable(cluster)
    pins = _checked_pins(spec, cluster, options)
    _check_context(spec, workload)
    profile, sensitivity = _read_profile(spec, options), _read_sensitivity(spec, options)
    schemes = _offered(spec, cluster, workload, options, profile, sensitivity)
    for scheme in schemes:
        get_scheme(scheme)
    quality = _allowed(options, schemes, sensitivity)
    show = bars(options.as_json)
    if sensitivity is None and (quality is not None or options.frontier is not None):
        asked = Asked(options.model, schemes, rounding=options.rounding)
        sensitivity, _, _ = cached_sensitivity(asked, show=show)
    if profile is None:
        profile, _, _ = cached_profile(options.model, spec, cluster, schemes, show=show)
    return Problem(
        CostModel(spec, cluster, profile, workload, sensitivity),
        schemes,
        objective=options.objective,
        budget=sensitivity.budget(quality) if sensitivity else math.inf,
        pins=pins,
        forbidden=frozenset(options.avoid or ()),
        required=frozenset(options.require or ()),
    )


def _checked_pins(spec: ModelSpec, cluster: Cluster, options: PlanOptions) -> dict[int, str]:
    pins = all_pins(options.pin or (), options.private, spec, cluster.source)
    for name in (*pins.values(), *(options.avoid or ()), *(options.require or ())):
        cluster.device(name)
    return pins


def _check_context(spec: ModelSpec, workload: Workload) -> None:
    if workload.context > spec.max_context:
        raise InputError(
            f"prompt and answer of {workload.context} tokens exceed the context of "
            f"'{spec.name}', {spec.max_context}"
        )


def _read_profile(spec: ModelSpec, options: PlanOptions) -> Profile | None:
    if options.profile is None:
        return None
    profile = load_profile(options.profile)
    if profile.model != spec.digest:
        raise ProfileError(
            f"profile {options.profile} is for another model shape ({profile.model}), not for "
            f"'{options.model}' ({spec.digest}); measure again"
        )
    return profile


def _read_sensitivity(spec: ModelSpec, options: PlanOptions) -> Sensitivity | None:
    if options.sensitivity is None:
        return None
    sensitivity = Sensitivity.load(options.sensitivity)
    if sensitivity.model != spec.digest:
        raise ProfileError(
            f"sensitivity {options.sensitivity} is for another model shape ({sensitivity.model}), "
            f"not for '{options.model}' ({spec.digest}); measure again"
        )
    return sensitivity


def _offered(
    spec: ModelSpec,
    cluster: Cluster,
    workload: Workload,
    options: PlanOptions,
    profile: Profile | None,
    sensitivity: Sensitivity | None,
) -> tuple[str, ...]:
    """The schemes asked for, else those that a file knows, else one for each width. Raises
    Infeasible where the devices are too small for the fewest bits of these."""
    if options.schemes is not None:
        return split_names(options.schemes)
    if sensitivity is not None:
        return tuple(sensitivity.losses)
    if profile is not None:
        return profile.schemes
    names = candidates(spec)
    smallest = min(names, key=lambda x: needed_bytes(spec, x, workload, len(cluster.devices)))
    check_size(spec, smallest, cluster, workload)
    return names


def _allowed(
    options: PlanOptions, schemes: tuple[str, ...], sensitivity: Sensitivity | None
) -> str | None:
    """What the plan may lose, None: anything. Nobody has to say so where there is one scheme, and
    nothing to choose. Raises InputError."""
    if options.quality == ANY_QUALITY:
        return None
    if options.quality is not None:
        parse_quality(options.quality)
        return options.quality
    # The losses of other metrics are no shares of the model's own.
    if len(schemes) == 1 or (sensitivity is not None and sensitivity.metric != "kl"):
        return None
    print_notes(
        [
            f"choosing among {', '.join(schemes)} within {DEFAULT_QUALITY} of the model's own "
            f"loss; --schemes names others, --quality {ANY_QUALITY} sets no limit"
        ]
    )
    return DEFAULT_QUALITY
