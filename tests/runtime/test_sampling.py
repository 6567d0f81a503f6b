"""The sampler against its definition: greedy, truncation, and the probabilities it draws with."""

import pytest
import torch

from edgewise.errors import PromptError
from edgewise.runtime.sampling import Sampling, sample

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])


def draws(sampling, count=4000):
    return [sample(LOGITS, sampling, position) for position in range(count)]


def test_temperature_zero_takes_the_likeliest():
    assert sample(LOGITS, Sampling(), 3) == 1


def test_the_same_seed_and_position_draw_the_same_token():
    hot = Sampling(temperature=1.0, seed=7)
    assert draws(hot, 50) == draws(hot, 50)
    assert draws(hot, 50) != draws(Sampling(temperature=1.0, seed=8), 50)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    counts = torch.bincount(torch.tensor(draws(Sampling(temperature=temperature))), minlength=5)
    expected = (LOGITS / temperature).softmax(-1)
    # Four standard deviations of a binomial share over 4,000 draws.
    allowed = 4 * (expected * (1 - expected) / 4000).sqrt()
    assert ((counts / 4000 - expected).abs() <= allowed).all()


def test_top_k_keeps_the_k_likeliest():
    assert set(draws(Sampling(temperature=5.0, top_k=2))) == {1, 3}
    assert set(draws(Sampling(temperature=5.0, top_k=1), 50)) == {1}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    # softmax: token 1 has 0.56, token 3 has 0.21, token 0 has 0.13
    assert set(draws(Sampling(temperature=1.0, top_p=0.5))) == {1}
    assert set(draws(Sampling(temperature=1.0, top_p=0.7))) == {1, 3}
    assert set(draws(Sampling(temperature=1.0, top_p=0.85))) == {0, 1, 3}


def test_adding_a_constant_or_a_tie_changes_nothing_unexpected():
    hot = Sampling(temperature=1.0, seed=3)
    assert [sample(LOGITS + 100, hot, i) for i in range(50)] == draws(hot, 50)
    assert sample(torch.zeros(4), Sampling(), 0) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be zero or more, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be zero or more, not nan"),
        ({"top_k": -2}, "top-k must be zero or more, not -2"),
        ({"top_p": 0.0}, "top-p must be above 0 and at most 1, not 0.0"),
        ({"seed": -1}, "the seed must be between 0 and 2^63 - 1, not -1"),
    ],
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(PromptError) as error:
        Sampling(**settings)
    assert str(error.value) == message


def test_the_smallest_temperatures_are_greedy():
    assert [sample(LOGITS, Sampling(temperature=1e-40, seed=i), 0) for i in range(20)] == [1] * 20


def test_neighbouring_seeds_are_not_shifted_copies():
    first = draws(Sampling(temperature=1.0, seed=0), 200)
    second = draws(Sampling(temperature=1.0, seed=1), 200)
    for shift in range(5):
        same = sum(a == b for a, b in zip(first[shift:], second, strict=False))
        assert same < 130  # by chance: 200 times the sum of squared probabilities, about 78
