"""The quickest plan whose loss, when measured, is within a budget."""

from collections.abc import Callable
from dataclasses import replace

from edgewise.costs import CostModel
from edgewise.errors import Infeasible
from edgewise.opening.default_scheme import candidates
from edgewise.opening.profile import cached_profile, check_reachable
from edgewise.opening.promise import keep_promise
from edgewise.opening.remedy import with_remedy
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.opening.wanted import Decided, Wanted
from edgewise.planning import Problem
from edgewise.planning.joint import joint
from edgewise.quality.rounding import Show, rounding_for
from edgewise.specs import ModelSpec, Workload


def plan_by_quality(
    wanted: Wanted, quality: str, spec: ModelSpec, show: Show, note: Callable[[str], None]
) -> Decided:
    """Measured once, then found in the cache. Raises Infeasible where no plan keeps the budget."""
    model, cluster = wanted.model, wanted.cluster
    check_reachable(cluster)
    schemes = candidates(spec)
    rounding = rounding_for(model, schemes, None, show)
    sensitivity, _, _ = cached_sensitivity(Asked(model, schemes), show=show)
    profile, _, _ = cached_profile(model, spec, cluster, schemes, show=show)
    workload = _rounded(wanted.workload, spec)
    costs = CostModel(spec, cluster, profile, workload, sensitivity)
    problem = Problem(costs, schemes, budget=sensitivity.budget(quality))
    try:
        chosen = joint(problem)
    except Infeasible as error:
        raise with_remedy(problem, joint, error) from None
    kept = keep_promise(model, problem, chosen, rounding, show, note)
    if kept is not None:
        chosen, problem = kept.result, replace(problem, budget=kept.allowed)
    return Decided(replace(chosen.plan, rounding=rounding), problem)


def _rounded(workload: Workload, spec: ModelSpec) -> Workload:
    """Up to the next powers of two, within the model's context: prompts of about one length are to
    get one plan, whose loss is measured once."""
    lengths = (workload.prompt_tokens, workload.new_tokens)
    prompt, new = (1 << (x - 1).bit_length() for x in lengths)
    if prompt + new > spec.max_context:
        return workload
    return replace(workload, prompt_tokens=prompt, new_tokens=new)
