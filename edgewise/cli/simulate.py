"""`edgewise simulate`: a plan at work on devices that need not exist."""

from rich.table import Table

from edgewise.cli.commands import SimulateOptions, workload_of
from edgewise.cli.terminal import console, print_json
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import InputError, ProfileError
from edgewise.plans import Plan
from edgewise.profiles import Profile
from edgewise.simulation import (
    SHAPES,
    Jitter,
    Outcome,
    load_testbed,
    poisson,
    simulate_plan,
    together,
)
from edgewise.specs import ModelSpec
from edgewise.units import format_seconds


def run_simulate(options: SimulateOptions) -> None:
    """Print what requests experience, and how busy the devices are. Raises InputError."""
    plan = Plan.load(options.plan)
    model = _model(plan)
    cluster, profile = _devices(plan, model, options)
    work = workload_of(options, plan.cache, plan.wire)
    costs = CostModel(model, cluster, profile, work)
    plan.check(model, cluster)
    costs.check_memory(plan)
    lengths = work.prompt_tokens, work.new_tokens
    if options.rate is None:
        requests = together(options.requests, *lengths)
    else:
        requests = poisson(options.requests, options.rate, *lengths, seed=options.seed)
    jitter = Jitter(options.jitter, options.jitter, options.seed)
    outcome = simulate_plan(costs, plan, requests, bubbles=options.bubbles, jitter=jitter)
    if options.trace is not None:
        options.trace.write_text(outcome.chrome_trace() + "\n", encoding="utf-8")
    estimate = costs.estimate(plan)
    predicted = work.sequences / estimate.round_seconds(bubbles=options.bubbles)
    console(options.as_json).print(_table(outcome, predicted))
    if options.as_json:
        document = {**outcome.summary(), "predicted_tokens_per_second": predicted}
        print_json(document)


def _model(plan: Plan) -> ModelSpec:
    """The shape that the plan was made for: a well-known one, else that of its checkpoint."""
    for shape in SHAPES:
        if shape.digest == plan.digest:
            return shape
    from edgewise.models.checkpoint import open_checkpoint

    return open_checkpoint(plan.model).spec


def _devices(plan: Plan, model: ModelSpec, options: SimulateOptions) -> tuple[Cluster, Profile]:
    if (options.testbed is None) == (options.cluster is None):
        raise InputError("give either --testbed or --cluster with --profile")
    if options.testbed is not None:
        if options.profile is not None:
            raise InputError("a testbed brings its own profile: leave --profile out")
        schemes = tuple(dict.fromkeys(plan.schemes))
        return load_testbed(options.testbed, model, schemes=schemes)
    if options.cluster is None or options.profile is None:
        raise InputError("--cluster needs --profile: nothing is measured in a simulation")
    profile = Profile.load(options.profile)
    if profile.model != model.digest:
        raise ProfileError(
            f"profile {options.profile} is for another model shape ({profile.model}), not for "
            f"'{model.name}' ({model.digest}); measure again"
        )
    return load_cluster(options.cluster), profile


def _table(outcome: Outcome, predicted: float) -> Table:
    """Means over requests, rates over the makespan."""
    count = len(outcome.requests)
    first = sum(request.first_token_seconds for request in outcome.requests) / count
    latency = sum(request.latency_seconds for request in outcome.requests) / count
    table = Table("what", "value", title=f"{count} simulated requests")
    table.add_row("time to first token, mean", format_seconds(first))
    table.add_row("time to last token, mean", format_seconds(latency))
    table.add_row("makespan", format_seconds(outcome.makespan_seconds))
    table.add_row("tokens per second", f"{outcome.tokens_per_second:.2f}")
    table.add_row("tokens per second, all lanes full (predicted)", f"{predicted:.2f}")
    for device, share in outcome.utilisation().items():
        table.add_row(f"{device} computes", f"{share:.0%}")
    return table
