"""A model opened: planned, started, loaded."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from edgewise.adapters.private import private_adapter
from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.adapters import with_private, with_room
from edgewise.opening.by_fit import check_free, plan_by_fit
from edgewise.opening.by_quality import plan_by_quality
from edgewise.opening.default_scheme import ORDER, check_size
from edgewise.opening.private import private_plan, private_replanner
from edgewise.opening.wanted import Decided, Wanted
from edgewise.quality.rounding import Show, rounding_for, unseen
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.checks import check_route
from edgewise.runtime.coordinator.coordinator import Coordinator, Replan
from edgewise.runtime.coordinator.replanning import replanner
from edgewise.runtime.events import Event, PlanInUse
from edgewise.runtime.local import start_local
from edgewise.runtime.machine import free_bytes, physical_cores
from edgewise.specs import ModelSpec


def open_wanted(
    wanted: Wanted, show: Show = unseen, note: Callable[[str], None] = lambda text: None
) -> Coordinator:
    """An engine, for whoever closes it. Everything that can be wrong is found before a process
    starts. A device that is lost is planned around, but where the plan was given. `note` is told
    what was chosen and when that changes. Raises EdgewiseError."""
    checkpoint = open_checkpoint(wanted.model)
    spec, private = checkpoint.spec, None
    if wanted.private is not None:
        private = private_adapter(wanted.private, checkpoint, wanted.cluster.source)
    if wanted.plan is not None:
        plan, asked = wanted.plan, wanted.workload
        wanted = replace(wanted, workload=replace(asked, cache=plan.cache, wire=plan.wire))
    work = with_room(wanted.workload, wanted.adapters.values())
    work = with_private(work, private, checkpoint.config)
    wanted, room = replace(wanted, workload=work), (work.adapter_bytes, work.exit_bytes)
    decided = _decided_before(wanted, spec, show, note)
    with ExitStack() as started:
        workers = started.enter_context(start_local(wanted.cluster))
        if decided is None:
            decided = plan_by_fit(workers, wanted, spec, show, note)
        else:
            check_free(workers, spec, wanted.workload, decided.plan)
        plan, replan = decided.plan, _replan_of(wanted, decided, spec)
        plan = replace(plan, rounding=rounding_for(wanted.model, plan.schemes, plan.rounding, show))
        with show("loading", spec.num_layers) as advance:
            engine = Coordinator(
                workers,
                wanted.model,
                plan,
                wanted.workload,
                private=private,
                replan=replan,
                adapters=Adapters(workers, room[0], wanted.adapters, room[1]),
                on_layer=advance,
            )
        engine.listen(lambda event: _note_change(event, note))
        started.pop_all()
        return engine


def _replan_of(wanted: Wanted, decided: Decided, spec: ModelSpec) -> Replan | None:
    """Nobody but whoever gave a plan can say what goes instead of it."""
    if wanted.private is not None and wanted.plan is None:
        return private_replanner(spec, wanted.workload)
    return None if decided.problem is None else replanner(decided.problem)


def _note_change(event: Event, note: Callable[[str], None]) -> None:
    if isinstance(event, PlanInUse) and event.why:
        note(f"{event.why}; without it since {event.seconds:.1f} s of planning and loading")


def _decided_before(
    wanted: Wanted, spec: ModelSpec, show: Show, note: Callable[[str], None]
) -> Decided | None:
    """What needs no workers of this run; checks what does."""
    if wanted.plan is not None:
        wanted.plan.check(spec, wanted.cluster)
        check_route(wanted.plan, wanted.cluster)
    if wanted.private is not None:
        return Decided(private_plan(wanted, spec), None)
    if wanted.plan is not None:
        return Decided(wanted.plan, None)
    if wanted.quality is not None:
        return plan_by_quality(wanted, wanted.quality, spec, show, note)
    check_size(spec, wanted.scheme or ORDER[-1], wanted.cluster, wanted.workload)
    return None


def this_machine() -> Cluster:
    """This machine as the only device: its physical cores, its free memory."""
    return Cluster.of_this_machine(free_bytes(), physical_cores())
