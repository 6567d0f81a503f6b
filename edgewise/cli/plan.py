"""`edgewise plan`: choose devices, layers and schemes, and say why."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgewise.cli.default_scheme import ORDER, description, schemes_that_fit, too_large
from edgewise.cli.prepare import best, compare, comparison_json
from edgewise.cli.profile import cached_profile, check_reachable, load_profile
from edgewise.cli.promise import keep_promise
from edgewise.cli.sensitivity import Asked, cached_sensitivity
from edgewise.cli.terminal import (
    bars,
    comparison_table,
    console,
    plan_table,
    print_json,
    print_notes,
)
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import Infeasible, InputError, PlanError, ProfileError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning import PLANNERS, Objective, Problem
from edgewise.profiles import Profile
from edgewise.quality.rounding import rounding_for
from edgewise.schemes import CANDIDATES, get_scheme
from edgewise.sensitivities import Sensitivity, parse_quality
from edgewise.specs import ModelSpec, Workload

DEFAULT_PLANNER = "joint"


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `edgewise plan` was asked for."""

    cluster: Path
    profile: Path | None
    schemes: tuple[str, ...] | None
    sensitivity: Path | None
    quality: str | None
    objective: Objective
    workload: Workload
    pins: tuple[str, ...]
    private: int | None
    avoid: tuple[str, ...]
    require: tuple[str, ...]
    planner: str | None
    compare: bool
    plot: Path | None
    frontier: Path | None
    rounding: str | None
    out: Path | None
    as_json: bool


def run_plan(model: str, options: PlanOptions) -> None:
    """Print the plan, or the comparison of all planners; write what was asked for."""
    planner = options.planner or DEFAULT_PLANNER
    if planner not in PLANNERS:
        raise InputError(f"unknown planner '{planner}'; known planners: {', '.join(PLANNERS)}")
    spec = open_checkpoint(model).spec
    problem = make_problem(model, spec, options)
    rounding = rounding_for(model, problem.schemes, options.rounding, bars(options.as_json))
    options = replace(options, rounding=rounding)
    names = tuple(PLANNERS) if options.compare else (planner,)
    outcomes = compare(problem, names)
    screen = console(options.as_json)
    if options.compare:
        chosen = best(problem, outcomes)
        screen.print(comparison_table(outcomes, chosen.planner))
    else:
        outcome = outcomes[planner]
        if isinstance(outcome, Infeasible):
            raise outcome
        chosen = outcome
        screen.print(plan_table(chosen))
    kept = (
        keep_promise(model, problem, chosen, options.rounding, screen) if options.quality else None
    )
    chosen = kept.result if kept is not None else chosen
    chosen = replace(chosen, plan=replace(chosen.plan, rounding=options.rounding))
    if options.out is not None:
        options.out.write_text(chosen.plan.to_json() + "\n", encoding="utf-8")
    if options.plot is not None:
        from edgewise.plots import save_gantt

        save_gantt(chosen.estimate, options.plot)
    drawn = _draw_frontier(problem, planner, options)
    if options.as_json:
        document: dict[str, object] = {
            "model": model,
            "plans": comparison_json(outcomes),
            "chosen": chosen.planner,
            "plan": json.loads(chosen.plan.to_json()),
            "quality_rounds": None if kept is None else [asdict(x) for x in kept.rounds],
            "frontier": drawn,
        }
        print_json(document)


def _draw_frontier(
    problem: Problem, planner: str, options: PlanOptions
) -> list[dict[str, object]] | None:
    if options.frontier is None:
        return None
    from edgewise.cli.frontier import draw_frontier

    return draw_frontier(problem, PLANNERS[planner], options.frontier, options.as_json)


def make_problem(model: str, spec: ModelSpec, options: PlanOptions) -> Problem:
    """Everything a planner needs, checked. Raises InputError."""
    cluster = load_cluster(options.cluster)
    check_reachable(cluster)
    schemes = chosen_schemes(options, spec, cluster)
    for scheme in schemes:
        get_scheme(scheme)
    sensitivity = _sensitivity(model, schemes, options)
    if sensitivity is not None and sensitivity.model != spec.digest:
        raise ProfileError(
            f"sensitivity {options.sensitivity} is for another model shape ({sensitivity.model})"
        )
    if options.workload.context > spec.max_context:
        raise InputError(
            f"prompt and answer of {options.workload.context} tokens exceed the context of "
            f"'{model}', {spec.max_context}"
        )
    if options.profile is not None:
        profile = load_profile(options.profile)
        if profile.model != spec.digest:
            raise ProfileError(
                f"profile {options.profile} is for another model shape ({profile.model}), not for "
                f"'{model}' ({spec.digest}); measure again"
            )
    else:
        profile, _, _ = cached_profile(model, spec, cluster, schemes, quiet=options.as_json)
    return Problem(
        CostModel(spec, cluster, profile, options.workload, sensitivity),
        schemes,
        objective=options.objective,
        budget=sensitivity.budget(options.quality) if sensitivity else math.inf,
        pins=all_pins(options, spec, cluster.source),
        forbidden=frozenset(options.avoid),
        required=frozenset(options.require),
    )


def chosen_schemes(options: PlanOptions, spec: ModelSpec, cluster: Cluster) -> tuple[str, ...]:
    """Those asked for, else those that the sensitivity or the profile file knows, else where
    quality matters one for each width, else the first that fits. Raises Infeasible where none
    does."""
    if options.schemes is not None:
        return options.schemes
    if options.sensitivity is not None:
        return tuple(Sensitivity.load(options.sensitivity).losses)
    if options.profile is not None:
        return Profile.load(options.profile).schemes
    matters = options.quality is not None or options.frontier is not None
    if matters:
        return CANDIDATES
    for name in schemes_that_fit(spec, cluster, options.workload):
        print_notes([description(spec, name, options.workload, len(cluster.devices))])
        return (name,)
    raise too_large(spec, ORDER[-1], cluster, options.workload)


def _sensitivity(model: str, schemes: tuple[str, ...], options: PlanOptions) -> Sensitivity | None:
    """The file's, or where quality matters the model's own, measured now or before."""
    if options.quality is not None:
        parse_quality(options.quality)
    if options.sensitivity is not None:
        return Sensitivity.load(options.sensitivity)
    if options.quality is None and options.frontier is None:
        return None
    asked = Asked(model, schemes, rounding=options.rounding)
    return cached_sensitivity(asked, quiet=options.as_json)[0]


def all_pins(options: PlanOptions, spec: ModelSpec, source: str) -> dict[int, str]:
    """The embedding on the source unless it is pinned elsewhere, what is private there, and the
    pins asked for. Raises PlanError where one is about a private layer."""
    pins = parse_pins(options.pins, spec.num_layers)
    if options.private is None:
        return {0: source, **pins}
    most, last = spec.num_blocks, spec.num_layers - 1
    if options.private > most:
        raise PlanError(f"--private {options.private}: the model has {most} blocks")
    ends = (*range(options.private + 1), *range(last - options.private, last + 1))
    if pinned := [layer for layer in ends if pins.get(layer, source) != source]:
        raise PlanError(f"layer {pinned[0]} is private and stays on '{source}', but is pinned")
    return pins | dict.fromkeys(ends, source)


def parse_pins(texts: Sequence[str], num_layers: int) -> dict[int, str]:
    """Pins such as '0=laptop', '0-3=laptop' or 'head=laptop'. Raises PlanError."""
    pins: dict[int, str] = {}
    for text in texts:
        layers, _, device = text.partition("=")
        layers = {"embedding": "0", "head": str(num_layers - 1)}.get(layers, layers)
        first, _, last = layers.partition("-")
        if not device or not first.isdigit() or not (last or first).isdigit():
            raise PlanError(f"pin '{text}' is not like '0=laptop', '0-3=laptop' or 'head=laptop'")
        if last and int(last) < int(first):
            raise PlanError(f"pin '{text}': {first} comes after {last}")
        for layer in range(int(first), int(last or first) + 1):
            if layer >= num_layers:
                raise PlanError(f"pin '{text}': the model has layers 0 to {num_layers - 1}")
            if layer in pins:
                raise PlanError(f"pin '{text}': layer {layer} is pinned to '{pins[layer]}' already")
            pins[layer] = device
    return pins
