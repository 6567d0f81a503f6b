"""Means of what clients learned, and what keeps a client near the others while it learns.

    FedAvg    w = sum_k n_k w_k / sum_k n_k             (McMahan et al., 1602.05629)
    exact M   mean(U M_k D) = U mean(M_k) D             (Fed-SB, 2502.15436)
    FedProx   loss_k(w) + mu / 2 |w - w_start|^2        (Li et al., 1812.06127)
    FedAvgM   v <- beta v + (mean - w), w <- w + v      (Hsu et al., 1909.06335)

LoRA's mean(U_k) mean(D_k) is not mean(U_k D_k).
"""

from collections.abc import Sequence

from edgewise.errors import InputError
from edgewise.federating.updates import Array, Arrays, Update, combination, names_of

MIDDLE = ".middle"


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
