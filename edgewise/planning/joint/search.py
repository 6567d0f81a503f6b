"""What all searches share: the best placement so far, the bound, the clock, and how routes become
placements (`orders` moves devices, `assign` gives a route its best schemes)."""

import time as clock
from dataclasses import dataclass, field

import numpy as np

from edgewise.planning.joint.arrays import Floats, Ints, JointProblem, Placement, evaluate
from edgewise.planning.joint.assign import assign, settled
from edgewise.planning.joint.elementary import Found, survivors
from edgewise.planning.joint.exact import Exact
from edgewise.planning.joint.integer import integer
from edgewise.planning.joint.orders import improve, order_of
from edgewise.planning.joint.paths import Path
from edgewise.planning.joint.relax import Chain, Dual, Relaxation
from edgewise.planning.joint.slots import Slots, make_slots
from edgewise.planning.joint.stages import Lower, Stages

SHARES = ((1.0, 0.0), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9))  # of the first device, for its two stages
TINY = 1e-9
MERGE_FROM = 9  # devices from which equal ones share a slot
PRICES = (  # factors of the dual's price of loss and of the first device's room, for `elementary`
    (1, 1), (0.8, 1), (0.9, 1), (1.1, 1), (1.25, 1), (1.6, 1), (3, 1), (8, 1), (1, 0.4), (1, 1.6),
)  # fmt: skip
SHARED_PRICES = ((1, 1), (1, 0.4), (1, 0.8), (1, 1.3), (1, 2.0))


@dataclass
class JointResult:
    """`bound` <= optimum <= `placement.objective`; `gap` relative to the bound. `status` is
    "optimal", "gap", "infeasible" or "unknown"; `price` is seconds per unit of loss."""

    placement: Placement | None
    bound: float
    status: str
    seconds: float
    price: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        if self.placement is None:
            return float("inf")
        return max(self.placement.objective / max(self.bound, 1e-300) - 1, 0.0)


def simplified(p: JointProblem) -> JointProblem:
    """No budget means no loss; the rest as it is."""
    if np.isinf(p.budget):
        return p.with_(loss=np.zeros_like(p.loss), budget=0.0)
    return p


class Search:
    """One problem, a relative gap to reach and a time to stop at. `prove` goes on to exactness."""

    def __init__(self, p: JointProblem, target: float, seconds: float, prove: bool) -> None:
        self.began = clock.perf_counter()
        self.deadline = self.began + seconds
        self.original, self.p = p, simplified(p)
        self.target, self.prove = target, prove
        self.slots: Slots = make_slots(self.p, merge=p.shape[1] >= MERGE_FROM)
        self.best: Placement | None = None
        self.bound = 0.0
        self.tried: dict[tuple[tuple[int, int, int], ...], float] = {}  # and their bounds
        self.dual: Dual | None = None
        self.price = 0.0
        self.notes: dict[str, float] = {}
        self.settled_all = False

    @property
    def value(self) -> float:
        return self.best.objective if self.best else float("inf")

    def offer(self, found: Placement | None) -> None:
        if found is not None and found.objective < self.value:
            self.best = found

    def offer_known(self, known: Placement | None) -> None:
        """A placement of this or a similar problem, as it is and with the best schemes."""
        if known is None or len(known.device) != self.p.shape[0]:
            return
        self.offer(evaluate(self.p, known.device, known.scheme))
        self.offer(assign(self.p, known.device, 0.5))

    def left(self) -> float:
        return self.deadline - clock.perf_counter()

    def closed(self) -> bool:
        return self.best is not None and self.value <= self.bound * (1 + max(self.target, TINY))

    def settled(self) -> bool:
        return self.best is not None and self.value <= self.bound * (1 + TINY)

    def polish(self, path: Path, seconds: float = 0.6) -> bool:
        """Give a route its best schemes, once. True where it is feasible."""
        key = tuple(path)
        if not path or key in self.tried or self.left() < 0:
            return False
        limit = min(seconds, max(self.left(), 0.05))
        gap = 0.2 * max(self.target, 5e-4)
        found, self.tried[key] = settled(self.p, self.devices(path), limit, gap)
        self.offer(found)
        return found is not None

    def devices(self, path: Path) -> Ints:
        """Members of a slot in turn."""
        taken = np.zeros(len(self.slots.count), dtype=np.int64)
        device: list[int] = []
        for k, a, b in path:
            members = self.slots.members[k]
            device += [members[taken[k] % len(members)]] * (b - a)
            taken[k] += 1
        return np.array(device)

    def polish_all(self, found: Found, most: int = 25, patience: int = 12) -> None:
        misses = 0
        for bound, path in found.routes[:most]:
            if bound >= self.value or self.closed() or self.left() < 0 or misses > patience:
                break
            before = self.value
            self.polish(path)
            misses = 0 if self.value < before else misses + 1

    def routes(
        self, relax: Relaxation, table: Floats, seeds: list[Path], limit: float
    ) -> list[tuple[float, Path]]:
        """Local search on the order, from several relaxed paths, with and without the first
        device's pair of stages."""
        found: dict[tuple[tuple[int, int, int], ...], float] = {}
        for seed in seeds:
            order = order_of(seed, self.slots)
            pair = [k for k in order if self.slots.shared[k]]
            alone = [k for k in order if self.slots.source[k] and k not in pair]
            for drop in (pair, alone):
                rest = [k for k in order if k not in drop]
                end = min(limit, self.deadline)
                value, path = improve(rest, table, relax.chain, self.slots, end)
                if path:
                    found[tuple(path)] = min(value, found.get(tuple(path), np.inf))
        return sorted(((v, list(k)) for k, v in found.items()), key=lambda x: x[0])

    def relaxation(self, limit: float) -> Relaxation:
        """The relaxed problem in which no device may be busy for longer than `limit`."""
        weight = 1.0 if np.isfinite(self.p.passes) else 0.0
        points = (24 if np.isinf(limit) else 10) if weight else 16
        stages = Stages(self.p, self.slots, limit, weight, 0.0 if weight else 1.0, points=points)
        return Relaxation(stages, Chain.of(self.p, self.slots, weight, limit), self.p.budget)

    def start(self, relax: Relaxation) -> tuple[Dual, Floats]:
        """A first price of loss by trial, and the size of a sensible change of every multiplier."""
        k = len(self.slots.count)
        least = float(self.p.time.min((1, 2)).sum())
        trial = [0.0]
        if self.p.budget > 0 and self.p.loss.max() > 0:
            trial += list(least / self.p.budget * np.geomspace(0.003, 30, 9))
        values = [(relax.value(Dual(x, np.zeros(2), np.zeros(k)))[0], x) for x in trial]
        bound, price = max(values)
        bound = max(bound, least)
        many = self.slots.count > self.p.shape[0]
        change = 0.0
        if len(trial) > 1:
            change = max(price * 0.5, 1e-3 * least / max(self.p.budget, 1e-300))
        busy = 0.0 if np.isinf(relax.stages.limit) else 0.2
        shared = [busy, 0.2 * bound / float(self.p.cap[0])]
        visit = np.where(self.slots.source | many, 0.0, 0.1 * bound)
        return Dual(price, np.zeros(2), np.zeros(k)), np.concatenate([[change], shared, visit])

    def around(self, dual: Dual) -> list[Dual]:
        """Dual points for the route search: other prices of loss and of the first device's room."""
        pairs = PRICES if dual.price else SHARED_PRICES
        return [Dual(dual.price * m, dual.shared * w, dual.visit) for m, w in pairs]

    def tables(self, relax: Relaxation, duals: list[Dual], cutoff: float) -> list[Lower]:
        """Stage tables at the duals, integer where the cutoff does not rule a stage out."""
        out = []
        for dual in duals:
            lower = relax.table(dual)
            if relax.stages.weight:
                only = survivors(relax, dual, lower, cutoff)
                lower = integer(relax.stages, lower, only)
            out.append(lower)
        return out

    def settle(self, most: int = 200_000) -> bool:
        """Exact search below the incumbent (or for one, where there is none). True where complete:
        then the incumbent is optimal, or nothing is feasible."""
        threshold = self.value * (1 - TINY) if self.best else 1e30
        limit = threshold if self.p.passes > 1 and self.best else np.inf
        relax = self.relaxation(limit)
        weight = relax.stages.weight
        if weight == 0 and np.isinf(limit):
            relax.stages.price = 1.0
        zero = Dual(0.0 if weight else 1.0, np.zeros(2), np.zeros(len(self.slots.count)))
        base = self.dual or zero
        duals = [*(self.around(base) if weight else [base]), zero]
        lowers = [relax.table(d) for d in duals]
        verdict = Exact(relax, duals, lowers, threshold, self.p.passes, most).run()
        self.notes["exact_labels"] = verdict.labels
        if verdict.best is not None:
            self.offer(evaluate(self.p, *verdict.best))
        self.settled_all |= verdict.done
        if verdict.done and self.best is not None:
            self.bound = self.value
        return verdict.done

    def result(self, status: str | None = None) -> JointResult:
        if self.best is not None:
            status = "optimal" if self.value <= self.bound * (1 + 2 * TINY) else "gap"
            self.best = evaluate(self.original, self.best.device, self.best.scheme)
        elif status is None and self.settled_all:
            status = "infeasible"
        seconds = clock.perf_counter() - self.began
        return JointResult(
            self.best, self.bound, status or "unknown", seconds, self.price, self.notes
        )
