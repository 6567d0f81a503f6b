"""The quickest plan whose loss, when measured, is within a budget: for `edgewise run --quality`."""

from dataclasses import replace

from rich.console import Console

from edgewise.cli.profile import cached_profile, check_reachable
from edgewise.cli.promise import keep_promise
from edgewise.cli.remedy import with_remedy
from edgewise.cli.sensitivity import Asked, cached_sensitivity
from edgewise.cli.terminal import bars
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.planning import Problem
from edgewise.planning.default_scheme import candidates
from edgewise.planning.joint import joint
from edgewise.plans import Plan
from edgewise.quality.rounding import rounding_for
from edgewise.specs import ModelSpec, Workload


def plan_for_quality(
    model: str, spec: ModelSpec, cluster: Cluster, workload: Workload, quality: str, quiet: bool
) -> Plan:
    """Measured once, then found in the cache. Raises Infeasible where no plan keeps the budget."""
    check_reachable(cluster)
    schemes = candidates(spec)
    rounding = rounding_for(model, schemes, None, bars(quiet))
    sensitivity, _, _ = cached_sensitivity(Asked(model, schemes), quiet=quiet)
    profile, _, _ = cached_profile(model, spec, cluster, schemes, quiet=quiet)
    problem = Problem(
        CostModel(spec, cluster, profile, _rounded(workload, spec), sensitivity),
        schemes,
        budget=sensitivity.budget(quality),
    )
    try:
        chosen = joint(problem)
    except Infeasible as error:
        raise with_remedy(problem, joint, error) from None
    screen = Console(stderr=True, quiet=quiet, highlight=False)
    kept = keep_promise(model, problem, chosen, rounding, screen)
    result = chosen if kept is None else kept.result
    return replace(result.plan, rounding=rounding)


def _rounded(workload: Workload, spec: ModelSpec) -> Workload:
    """Up to the next powers of two, within the model's context: prompts of about one length are to
    get one plan, whose loss is measured once."""
    lengths = (workload.prompt_tokens, workload.new_tokens)
    prompt, new = (1 << (x - 1).bit_length() for x in lengths)
    if prompt + new > spec.max_context:
        return workload
    return replace(workload, prompt_tokens=prompt, new_tokens=new)
