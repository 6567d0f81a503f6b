"""What noise on a client's numbers keeps private."""

import math

MOST = 700.0  # e to the power of more is no float


def classic_noise(epsilon: float, delta: float) -> float:
    """The standard deviation of noise for (epsilon, delta), in sensitivities, that Flower's
    LocalDpMod has: Dwork and Roth (2014), theorem A.1, who prove it below epsilon 1."""
    return math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def gaussian_delta(epsilon: float, noise: float) -> float:
    """The delta that normal noise of so many sensitivities really gives: Balle and Wang
    (1805.06530), theorem 8, equation 6."""
    middle, far = 1 / (2 * noise), epsilon * noise
    return _normal(middle - far) - math.exp(min(epsilon, MOST)) * _normal(-middle - far)


def _normal(x: float) -> float:
    """The standard normal distribution's share below `x`."""
    return math.erfc(-x / math.sqrt(2)) / 2
