"""Rounds of swarms: FedPSO, whose clients are the particles, and Model Swarms, whose particles are
adapters that all clients judge by what they hold out."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgewise.errors import EdgewiseError
from edgewise.federating.exchanges import (
    ADAPTER,
    SAMPLES,
    UTILITY,
    Ask,
    AskedFor,
    Clients,
    FederatedRound,
    Parcel,
    asked_all,
    mean_loss,
    sample_count,
    updates_of,
)
from edgewise.federating.model_swarms import (
    ModelSwarms,
    Swarm,
    crossovers,
    swarm_judged,
    swarm_of,
    swarm_step,
)
from edgewise.federating.particles import improving
from edgewise.federating.updates import Arrays, Update, fault_of, sift

PUBLISHED = ModelSwarms()


def fed_pso(clients: Clients, start: Arrays, rounds: int) -> Iterator[FederatedRound]:
    """All swim towards the common best and say how good they are; the best, if it is better than
    any before, sends its adapter. One that does not, or sends what cannot be used, is passed over.
    What clients say of themselves is believed: a liar can lead all astray."""
    best, utility = start, -math.inf
    for number in range(1, rounds + 1):
        request = Ask(AskedFor.SWIM, number, Parcel({ADAPTER: best}))
        replies, silent = asked_all(clients, request, clients.names())
        if not replies:
            raise EdgewiseError(f"round {number}: no client answered")
        said, refused = _said(replies)
        loss = mean_loss(replies, said)
        while (client := improving(said, utility)) is not None:
            sent = clients.ask({client: Ask(AskedFor.SEND, number)}).get(client, Parcel())
            update = Update(client, 1, sent.adapters.get(ADAPTER, {}))
            fault = fault_of(update, start)
            if fault is None:
                best, utility = update.arrays, said[client]
                break
            refused.append(f"client '{client}' is refused: {fault}")
            del said[client]
        yield FederatedRound(
            number, best, sorted(replies), silent, refused, clients.moved(), loss,
            utility if math.isfinite(utility) else None,
        )  # fmt: skip


def model_swarms(
    clients: Clients,
    start: Arrays,
    rounds: int,
    seed: int = 0,
    settings: ModelSwarms = PUBLISHED,
) -> Iterator[FederatedRound]:
    """Round 1: every client trains an expert, which with as many crossovers make the swarm. Each
    round after it moves the swarm, and all clients judge all particles: a particle's utility is the
    mean over what they hold out. Ends early when the swarm's patience does."""
    generator = np.random.default_rng(seed)
    request = Ask(AskedFor.TRAIN, 1, Parcel({ADAPTER: start}))
    replies, silent = asked_all(clients, request, clients.names())
    fit, refused = sift(updates_of(replies), start)
    if len(fit) < 2:
        raise EdgewiseError("; ".join(["a swarm needs at least two experts", *refused]))
    experts: list[Arrays] = [update.arrays for update in fit]
    experts += crossovers(experts, len(experts), generator)
    utilities, _ = _judged(clients, experts, 1)
    swarm = swarm_of(experts, utilities, generator, settings)
    loss = mean_loss(replies, [update.client for update in fit])
    yield _round(1, swarm, clients, replies, silent, refused, loss)
    for number in range(2, rounds + 1):
        if swarm.stale >= settings.patience:
            return
        swarm = swarm_step(swarm, generator, settings)
        utilities, replies = _judged(clients, [x.position for x in swarm.particles], number)
        silent = [name for name in clients.names() if name not in replies]
        swarm = swarm_judged(swarm, utilities)
        yield _round(number, swarm, clients, replies, silent, [])


def _said(replies: Mapping[str, Parcel]) -> tuple[dict[str, float], list[str]]:
    """Clients' utilities, and who sent none that is a number."""
    said = {name: reply.numbers.get(UTILITY, math.nan) for name, reply in replies.items()}
    refused = [
        f"client '{name}' is refused: its utility is no finite number"
        for name, utility in said.items()
        if not math.isfinite(utility)
    ]
    return {name: x for name, x in said.items() if math.isfinite(x)}, refused


def _judged(
    clients: Clients, positions: Sequence[Arrays], number: int
) -> tuple[list[float], dict[str, Parcel]]:
    """Each position's utility, NaN where nobody says, and the answers."""
    names = [f"particle {i}" for i in range(len(positions))]
    parcel = Parcel(dict(zip(names, positions, strict=True)))
    replies, _ = asked_all(clients, Ask(AskedFor.JUDGE, number, parcel), clients.names())
    return [_utility(replies, name) for name in names], replies


def _utility(replies: Mapping[str, Parcel], name: str) -> float:
    """The mean over clients by what they judged on, of those who say a finite number."""
    numbers = [reply.numbers for reply in replies.values()]
    pairs = [(x.get(name, math.nan), sample_count(x.get(SAMPLES, 0))) for x in numbers]
    said = [(utility, samples) for utility, samples in pairs if math.isfinite(utility)]
    total = sum(samples for _, samples in said)
    return sum(utility * (samples / total) for utility, samples in said) if total else math.nan


def _round(
    number: int,
    swarm: Swarm,
    clients: Clients,
    replies: Mapping[str, Parcel],
    silent: Sequence[str],
    refused: Sequence[str],
    loss: float | None = None,
) -> FederatedRound:
    utility = swarm.best_utility if math.isfinite(swarm.best_utility) else None
    return FederatedRound(
        number, swarm.best, sorted(replies), silent, refused, clients.moved(), loss, utility
    )
