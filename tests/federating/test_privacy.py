import numpy as np
import pytest

from edgewise.errors import InputError
from edgewise.federating.privacy import classic_noise, gaussian_delta
from edgewise.federation.settings import FederatedSettings


def integrated_delta(epsilon, noise):
    """By what it is: the integral of what one normal density has over e^epsilon of another's."""
    x = np.linspace(-40 * noise, 40 * noise, 2_000_001)
    one, other = (np.exp(-((x - at) ** 2) / (2 * noise**2)) for at in (0.0, 1.0))
    over = np.maximum(one - np.exp(epsilon) * other, 0.0)
    return over.sum() * (x[1] - x[0]) / (noise * np.sqrt(2 * np.pi))


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-3), (8.0, 1e-5), (20.0, 1e-5)]
)
def test_the_delta_of_noise_is_what_integrating_gives(epsilon, delta):
    noise = classic_noise(epsilon, delta)
    assert gaussian_delta(epsilon, noise) == pytest.approx(
        integrated_delta(epsilon, noise), rel=1e-4
    )


@pytest.mark.parametrize(
    ("epsilon", "really"),
    [(0.5, None), (8.0, None), (9.0, "1.4e-05"), (20.0, "1.5e-03"), (1e9, "1.0e")],
)
def test_an_epsilon_that_the_noise_does_not_keep_is_refused(epsilon, really):
    if really is None:
        FederatedSettings("demo", epsilon=epsilon, delta=1e-5)
        return
    with pytest.raises(InputError, match=f"really gives a delta of {really}"):
        FederatedSettings("demo", epsilon=epsilon, delta=1e-5)
