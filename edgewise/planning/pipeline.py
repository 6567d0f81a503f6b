"""LLM-PQ's view of a problem: an order of devices, a stage on each, and a makespan to make small
(arXiv 2403.01136; sections 3.2-3.5 of the notes)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, permutations, product

import numpy as np

from edgewise.planning.problem import Problem
from edgewise.planning.tables import INFINITY, Bools, Floats, Ints, Tables, equal_devices

Choice = tuple[list[int], list[int]]  # the stage and the scheme of every layer


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Data of one order of devices; axes are scheme b, layer i and stage j.

    `prefill[b, i, j]` and `decode[b, i, j]` are seconds of one of the `chunks` of a micro-batch's
    prompts and of one of its tokens, `step[j]` comes on top once; `prefill_hop[j]` and
    `decode_hop[j]` bring the input of stage j and keep their link busy for `prefill_busy[j]` and
    `decode_busy[j]`, `prompt_hop[j]` brings that of whole prompts; `ends` is the rest of the round
    trip (in at the first stage, out at the last), `ends_busy` the busier link of it. `omega[b, i]`
    is the loss of quality, worth `theta` seconds a unit and at most `budget`; `batches` are the
    paper's m and m', here one number; `tokens` are generated.
    """

    devices: tuple[int, ...]
    prefill: Floats
    decode: Floats
    step: Floats
    prefill_hop: Floats
    prompt_hop: Floats
    decode_hop: Floats
    prefill_busy: Floats
    decode_busy: Floats
    ends: float
    ends_busy: float
    size: Ints
    room: Ints
    shared: Ints
    omega: Floats
    allowed: Bools
    budget: float
    theta: float
    chunks: int
    batches: int
    tokens: int

    def stages(self, choice: Choice, *, faithful: bool = False) -> tuple[Floats, Floats]:
        """What every stage computes of a chunk, of whole prompts where `faithful`, and of a token
        of a micro-batch."""
        stage, scheme = choice
        layers, count = range(len(stage)), len(self.devices)
        prefill = np.bincount(stage, self.prefill[scheme, layers, stage], count)
        prefill = prefill * self.chunks if faithful else prefill
        decode = np.bincount(stage, self.decode[scheme, layers, stage], count)
        return prefill + self.step, decode + self.step

    def value(self, choice: Choice, *, faithful: bool = False) -> float:
        """The objective of a placement. The mended one: a chunk fills the pipeline, the others
        follow at the pace of the slowest; then every token takes a round, a micro-batch's trip
        or all of them through the busiest device or link, whichever is longer (costs.py)."""
        stage, scheme = choice
        prefill, decode = self.stages(choice, faithful=faithful)
        loss = self.theta * float(self.omega[scheme, range(len(stage))].sum())
        if faithful:
            each = np.maximum(prefill, self.prompt_hop), np.maximum(decode, self.decode_hop)
            return published_makespan(*each, self.batches, self.batches, self.tokens) + loss
        filling = float(prefill.sum() + self.prefill_hop.sum()) + self.ends
        trip = float(decode.sum() + self.decode_hop.sum()) + self.ends
        slowest = max(float(prefill.max()), float(self.prefill_busy.max()))
        busiest = max(float(decode.max()), float(self.decode_busy.max()), self.ends_busy)
        later = (self.batches * self.chunks - 1) * slowest
        return filling + later + (self.tokens - 1) * max(trip, self.batches * busiest) + loss

    def fits(self, choice: Choice) -> bool:
        """Whether memory, pins and budget hold."""
        stage, scheme = choice
        layers = range(len(stage))
        used = np.bincount(stage, self.size[scheme, layers], len(self.devices))
        if len(self.devices) == 1 and scheme[0] == scheme[-1]:
            used = used - self.shared[scheme[0]]
        return (
            bool((used <= self.room).all())
            and bool(self.allowed[layers, stage].all())
            and float(self.omega[scheme, layers].sum()) <= self.budget
        )


def published_makespan(
    prefill: Floats, decode: Floats, prefill_batches: int, decode_batches: int, tokens: int
) -> float:
    """Section 3.4, from the slower of computing and sending of every stage, prompts whole. With one
    micro-batch it counts a single decode step."""
    filling = prefill.sum() + (prefill_batches - 1) * prefill.max()
    steps = decode.sum() + (decode_batches - 1) * (tokens - 1) * decode.max()
    return float(filling + steps)


def pipelines(
    problem: Problem, arrays: Tables, theta: float, most: int
) -> tuple[list[Pipeline], bool]:
    """A pipeline for every order of device types and number of devices of each, at most `most`;
    whether these are all. Equal devices stay neighbours, as in the paper."""
    orders = list(islice(_orders(problem, arrays), most + 1))
    usable = [_pipeline(problem, arrays, order, theta) for order in orders[:most]]
    linked = [p for p in usable if np.isfinite(p.decode_hop).all() and p.ends < INFINITY]
    return linked, len(orders) <= most


def _orders(problem: Problem, arrays: Tables) -> Iterator[tuple[int, ...]]:
    groups = equal_devices(problem, arrays)
    groups = tuple(sorted(groups, key=lambda g: float(arrays.decode[0, :, g[0]].sum())))
    only = arrays.allowed.sum(axis=1) == 1
    must = {int(arrays.allowed[i].argmax()) for i in np.flatnonzero(only)}
    must |= set(np.flatnonzero(arrays.required).tolist())
    for count in range(1, len(groups) + 1):
        for types in permutations(groups, count):
            first, last = types[0][0], types[-1][0]
            pinned = arrays.allowed[0, first] and arrays.allowed[-1, last]
            if not pinned or not must <= {j for group in types for j in group}:
                continue
            for counts in product(*(range(1, len(group) + 1) for group in types)):
                if sum(counts) <= arrays.num_layers:
                    yield tuple(j for g, n in zip(types, counts, strict=True) for j in g[:n])


def _pipeline(problem: Problem, arrays: Tables, order: tuple[int, ...], theta: float) -> Pipeline:
    work, index = problem.costs.workload, list(order)
    usable = (arrays.loss <= problem.budget)[:, :, None]
    omega = np.where(np.isfinite(arrays.loss), arrays.loss, 0.0)
    if theta and (known := np.isfinite(arrays.loss)).any(axis=0).all():
        usable = usable & known[:, :, None]
    moves, hop = list(pairwise(order)), problem.costs.activation_hop
    prompts = [hop(arrays.names[a], arrays.names[b], work.prompt_tokens) for a, b in moves]
    return Pipeline(
        devices=order,
        prefill=np.where(usable, arrays.prefill[:, :, index], INFINITY),
        decode=np.where(usable, arrays.decode[:, :, index], INFINITY),
        step=arrays.step[index],
        prefill_hop=np.array([0.0, *(arrays.chunk_hop[a, b] for a, b in moves)]),
        prompt_hop=np.array([0.0, *(whole.seconds for whole in prompts)]),
        decode_hop=np.array([0.0, *(arrays.hop[a, b] for a, b in moves)]),
        prefill_busy=np.array([0.0, *(arrays.chunk_busy[a, b] for a, b in moves)]),
        decode_busy=np.array([0.0, *(arrays.busy[a, b] for a, b in moves)]),
        ends=float(arrays.entry[order[0]] + arrays.back[order[-1]]),
        ends_busy=float(max(arrays.entry_busy[order[0]], arrays.back_busy[order[-1]])),
        size=arrays.size,
        room=arrays.room[index],
        shared=arrays.shared,
        omega=omega,
        allowed=arrays.allowed[:, index],
        budget=problem.budget,
        theta=theta,
        chunks=arrays.chunks,
        batches=work.micro_batches,
        tokens=work.new_tokens,
    )


def to_names(
    arrays: Tables, pipeline: Pipeline, choice: Choice
) -> tuple[Sequence[str], Sequence[str]]:
    """The device and the scheme of every layer, by name."""
    devices = [arrays.names[pipeline.devices[j]] for j in choice[0]]
    return devices, [arrays.schemes[b] for b in choice[1]]
