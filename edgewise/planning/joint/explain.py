"""Why a plan is what it is: what binds, why a device is unused, what would help most.

Cheap by design. An unused device is inserted at its best place into the present order of devices,
cuts chosen anew at the plan's own price of loss: one dynamic program. What would help is the same
program with one figure changed. Both compare relaxed values, so differences are near, not exact.
"""

from itertools import pairwise

import numpy as np

from edgewise.planning.joint.arrays import JointProblem, Placement
from edgewise.planning.joint.orders import insertion, order_dp
from edgewise.planning.joint.relax import Chain, Dual, Relaxation
from edgewise.planning.joint.search import MERGE_FROM, simplified
from edgewise.planning.joint.slots import Slots, make_slots
from edgewise.planning.joint.stages import Stages
from edgewise.units import format_bytes

MOST_UNUSED = 8  # named one by one
MOST_TRIALS = 8
MORE_MEMORY, MORE_LOSS, FASTER = 0.25, 0.1, 2.0  # what is tried out
BINDS = 0.995


def explain(
    p: JointProblem, names: tuple[str, ...], plan: Placement, price: float
) -> tuple[str, ...]:
    """Sentences. `price` is seconds per unit of loss, `names[j]` the device behind j."""
    return (
        *_binding(p, names, plan),
        *_unused(p, names, plan, price),
        *_help(p, names, plan, price),
    )


def _binding(p: JointProblem, names: tuple[str, ...], plan: Placement) -> list[str]:
    """Constraints without room for the next larger scheme or layer."""
    used, busy = _loads(p, plan)
    found = [
        f"memory of '{names[j]}' ({format_bytes(int(used[j]))} of {format_bytes(int(p.cap[j]))})"
        for j in _tight(p, plan)
    ]
    if np.isfinite(p.budget) and plan.loss > 0.98 * p.budget:
        found.append(f"quality (loss {plan.loss:.4g} of {p.budget:.4g})")
    if (~p.allowed).any() and p.shape[1] > 1:
        held = int((p.allowed.sum(1) < p.allowed.sum(1).max()).sum())
        found += [f"pins of {held} layer{'s' if held > 1 else ''}"] if held else []
    if p.passes > 1:
        found += [
            f"time of '{names[j]}'" for j in np.flatnonzero(busy >= BINDS * plan.objective).tolist()
        ]
        found += [
            f"link {names[a]} -> {names[b]}"
            for a, b in _hops(plan)
            if p.hop[a, b] >= BINDS * plan.objective
        ]
    return ["binding: " + ", ".join(found)] if found else []


def _hops(plan: Placement) -> list[tuple[int, int]]:
    return list(pairwise(j for j, _, _ in plan.stages))


def _loads(p: JointProblem, plan: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and seconds of every device."""
    n, m, _ = p.shape
    rows = np.arange(n)
    used = np.bincount(plan.device, weights=p.bytes[rows, plan.scheme], minlength=m)
    busy = np.bincount([j for j, _, _ in plan.stages], minlength=m) * p.step
    busy += np.bincount(plan.device, p.time[rows, plan.device, plan.scheme], m)
    return used, busy


def _tight(p: JointProblem, plan: Placement) -> list[int]:
    """Used devices without room for a layer's next larger scheme, or for another layer."""
    used, _ = _loads(p, plan)
    found = []
    for j in np.unique(plan.device).tolist():
        here = plan.device == j
        more = p.bytes[here] - p.bytes[here, plan.scheme[here]][:, None]
        room = p.cap[j] - used[j]
        if (more > room).any() or (not here.all() and p.bytes[~here].min() > room):
            found.append(j)
    return found


class _Route:
    """The plan's order of devices, with cuts and schemes free at a price of loss."""

    def __init__(self, p: JointProblem, plan: Placement, price: float) -> None:
        self.p = simplified(p).with_(passes=1.0)
        self.plan, self.price = plan, price
        self.slots = make_slots(self.p, merge=p.shape[1] >= MERGE_FROM)
        self.order = _order(plan, self.slots)
        self.table, self.chain = self._tables(self.p)
        self.now, _ = order_dp(self.order, self.table, self.chain, self.slots)

    def _tables(self, p: JointProblem) -> tuple[np.ndarray, Chain]:
        stages = Stages(p, self.slots, np.inf, 1.0, self.price)
        chain = Chain.of(p, self.slots, 1.0, np.inf)
        zero = Dual(self.price, np.zeros(2), np.zeros(len(self.slots.count)))
        lower = Relaxation(stages, chain, p.budget).table(zero)
        return stages.divided(lower, _share(p, self.plan)), chain

    def adding(self, k: int) -> float:
        """Seconds that using slot k adds at least."""
        return insertion(self.order, k, self.table, self.chain, self.slots)[0] - self.now

    def saved(self, **changes: np.ndarray) -> float:
        """Seconds saved by other memories or links."""
        changed = self.p.with_(**changes)
        slots = self.slots
        if "hop" in changes:
            hop = changed.hop[np.ix_(slots.device, slots.device)]
            slots = Slots(
                slots.device, slots.members, slots.count,
                np.where(np.isfinite(slots.hop), hop, np.inf),
                slots.starts, slots.ends, slots.shared, slots.required,
            )  # fmt: skip
            chain = Chain.of(changed, slots, 1.0, np.inf)
            return self.now - order_dp(self.order, self.table, chain, slots)[0]
        return self.now - order_dp(self.order, self._tables(changed)[0], self.chain, slots)[0]


def _order(plan: Placement, slots: Slots) -> list[int]:
    """The plan's stages as slots."""
    names = [j for j, _, _ in plan.stages]
    twice = names.count(0) > 1
    order = []
    for i, j in enumerate(names):
        ok = [k for k, members in enumerate(slots.members) if j in members]
        if j == 0 and twice:
            ok = [k for k in ok if slots.shared[k] and slots.starts[k] == (i == 0)]
        elif j == 0:
            ok = [k for k in ok if not slots.shared[k] and (i == 0) == slots.starts[k]]
        order += ok[:1]
    return order


def _share(p: JointProblem, plan: Placement) -> tuple[float, float]:
    """Parts of device 0's memory that its first and last stage take."""
    names = [j for j, _, _ in plan.stages]
    if names.count(0) < 2:
        return 1.0, 0.0
    _, a, b = plan.stages[-1]
    tail = float(p.bytes[np.arange(a, b), plan.scheme[a:b]].sum() / p.cap[0])
    return 1 - tail, tail


def _unused(p: JointProblem, names: tuple[str, ...], plan: Placement, price: float) -> list[str]:
    free = [j for j in range(p.shape[1]) if names[j] and not (plan.device == j).any()]
    if not free:
        return []
    route = _Route(p, plan, price)
    said: list[str] = []
    for j in free[:MOST_UNUSED]:
        slot = [k for k, members in enumerate(route.slots.members) if j in members]
        if not (p.allowed[:, j] & (p.bytes.min(1) <= p.cap[j])).any():
            said.append(f"{names[j]} unused: no layer may lie there or fits")
            continue
        costs = min((route.adding(k) for k in slot), default=np.inf) if route.order else np.inf
        if not np.isfinite(route.now) or np.isnan(costs):
            said.append(f"{names[j]} unused")
        elif np.isinf(costs):
            said.append(f"{names[j]} unused: no link leads there and on")
        elif costs > 0:
            said.append(f"{names[j]} unused: adding it costs {costs * 1e3:.3g} ms/token")
        else:
            said.append(f"{names[j]} unused: adding it gains nothing that is proven")
    if len(free) > MOST_UNUSED:
        said.append(f"{len(free) - MOST_UNUSED} more devices unused")
    return said


def _help(p: JointProblem, names: tuple[str, ...], plan: Placement, price: float) -> list[str]:
    """The change that saves most on this route."""
    if p.passes > 1 and plan.latency / p.passes < BINDS * plan.objective:
        _, busy = _loads(p, plan)
        hops = _hops(plan)
        slowest = max(hops, key=lambda x: float(p.hop[x]), default=None)
        if slowest is not None and p.hop[slowest] > busy.max():
            return [f"what would help most: a faster link {_arrow(names, slowest)}"]
        return [f"what would help most: a faster '{names[int(busy.argmax())]}'"]
    route = _Route(p, plan, price)
    trials: list[tuple[float, str]] = []
    for j in _tight(p, plan)[: MOST_TRIALS // 2]:
        cap = route.p.cap.copy()
        cap[j] *= 1 + MORE_MEMORY
        what = f"{MORE_MEMORY:.0%} more memory for layers on '{names[j]}'"
        trials.append((route.saved(cap=cap), what))
    slow = sorted(set(_hops(plan)), key=lambda x: -float(p.hop[x]))
    for a, b in slow[: MOST_TRIALS // 2]:
        hop = route.p.hop.copy()
        hop[a, b] /= FASTER
        trials.append((route.saved(hop=hop), f"link {_arrow(names, (a, b))} twice as fast"))
    if np.isfinite(p.budget) and p.budget > 0 and price > 0:
        trials.append((price * MORE_LOSS * p.budget, f"a budget larger by {MORE_LOSS:.0%}"))
    saved, what = max((x for x in trials if np.isfinite(x[0])), default=(0.0, ""))
    if saved < 1e-3 * plan.latency:
        return []
    return [f"what would help most: {what} (about {saved * 1e3:.3g} ms/token less)"]


def _arrow(names: tuple[str, ...], link: tuple[int, int]) -> str:
    return f"{names[link[0]]} -> {names[link[1]]}"
