"""Means of what clients learned, and what keeps a client near the others while it learns.

    FedAvg    w = sum_k n_k w_k / sum_k n_k             (McMahan et al., 1602.05629)
    exact M   mean(U M_k D) = U mean(M_k) D             (Fed-SB, 2502.15436)
    FedProx   loss_k(w) + mu / 2 |w - w_start|^2        (Li et al., 1812.06127)
    FedAvgM   v <- beta v + (mean - w), w <- w + v      (Hsu et al., 1909.06335)

LoRA's mean(U_k) mean(D_k) is not mean(U_k D_k): `factor_loss` says how far it is off.
"""

import math
from collections.abc import Sequence

import numpy as np

from edgewise.errors import InputError
from edgewise.federating.updates import Array, Arrays, Update, combination, names_of

MIDDLE, UP, DOWN = ".middle", ".up", ".down"


def fed_avg(updates: Sequence[Update]) -> dict[str, Array]:
    """The mean of all arrays, weighted by samples. A client that lies about its samples counts for
    as many: `robust` has rules that go by the number of clients. Raises ValueError without any."""
    names_of(updates)
    shares = _shares(updates)
    return combination(*((share, x.arrays) for share, x in zip(shares, updates, strict=True)))


def exact_average(updates: Sequence[Update]) -> dict[str, Array]:
    """FedAvg of private adapters, of which M [r, r] travels alone: arrays called "X.middle". Their
    mean is exactly the mean adapter where all draw U and D from one seed. Raises InputError of any
    other array, whose mean would not be exact, and ValueError without updates."""
    for update in updates:
        if others := [name for name in update.arrays if not name.endswith(MIDDLE)]:
            raise InputError(
                f"client '{update.client}' sends {others[0]}: only {MIDDLE[1:]} matrices have an "
                "exact mean"
            )
    return fed_avg(updates)


def factor_loss(updates: Sequence[Update]) -> dict[str, float]:
    """What LoRA loses where its factors "X.up" [rows, r] and "X.down" [r, columns] are averaged one
    by one: |mean(U) mean(D) - mean(U D)| / |mean(U D)|, Frobenius norms, by X. No product [rows,
    columns] is made. Raises ValueError without updates."""
    stems = [name.removesuffix(UP) for name in names_of(updates) if name.endswith(UP)]
    shares = _shares(updates)
    return {stem: _factor_loss(shares, *_factors(updates, stem)) for stem in stems}


def proximal_gradient(arrays: Arrays, start: Arrays, strength: float) -> dict[str, Array]:
    """What FedProx adds to the gradient of a client's loss: strength * (arrays - start), strength
    being mu and `start` what the round began with."""
    return combination((strength, arrays), (-strength, start))


def with_momentum(mean: Arrays, last: Arrays, before: Arrays, momentum: float) -> dict[str, Array]:
    """FedAvgM's next arrays, from the mean of what clients learned from `last`. v is what the last
    round moved, last - before, so nobody has to keep it: whoever leads next has both."""
    return combination((1.0, mean), (momentum, last), (-momentum, before))


def _shares(updates: Sequence[Update]) -> list[float]:
    samples = sum(update.samples for update in updates)
    return [update.samples / samples for update in updates]


def _factors(updates: Sequence[Update], stem: str) -> tuple[Array, Array]:
    """[clients, rows, r] and [clients, r, columns], float64."""
    ups, downs = (np.stack([x.arrays[stem + end] for x in updates]) for end in (UP, DOWN))
    return ups.astype(np.float64), downs.astype(np.float64)


def _factor_loss(shares: Sequence[float], ups: Array, downs: Array) -> float:
    # mean(U D) - mean(U) mean(D) is the mean of (U - mean U)(D - mean D): a covariance.
    weights = np.array(shares)[:, None, None]
    off_ups, off_downs = (x - (weights * x).sum(0) for x in (ups, downs))
    lost = _norm_of_sum(weights * off_ups, off_downs)
    if lost == 0.0:
        return 0.0
    whole = _norm_of_sum(weights * ups, downs)
    return lost / whole if whole else math.inf


def _norm_of_sum(lefts: Array, rights: Array) -> float:
    """|sum_k L_k R_k| from Gram matrices: |L R|^2 = sum of (L' L) * (R R'), elementwise."""
    left = np.concatenate(list(lefts), axis=1)
    right = np.concatenate(list(rights), axis=0)
    return math.sqrt(max(0.0, float(((left.T @ left) * (right @ right.T)).sum())))
