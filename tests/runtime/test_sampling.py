"""The sampler against its definition: greedy, truncation, and the probabilities it draws with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from edgewise.errors import PromptError
from edgewise.runtime.sampling import Past, Sampling, kept, sample

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
        ({"min_p": 1.5}, "min-p must be between 0 and 1, not 1.5"),
        ({"repetition_penalty": 0.0}, "the repetition penalty must be above zero, not 0.0"),
        ({"presence_penalty": float("inf")}, "the presence penalty must be a number, not inf"),
        ({"logit_bias": ((3, float("nan")),)}, "the bias of token 3 must be a number, not nan"),
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


@given(
    st.integers(0, 10**6),
    st.floats(0.2, 3),
    st.integers(0, 40),
    st.floats(0.05, 1),
    st.floats(0, 0.5),
)
def test_what_is_kept_is_what_transformers_keeps(seed, temperature, top_k, top_p, min_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 3
    warpers = [
        hf.TemperatureLogitsWarper(temperature),
        *([hf.TopKLogitsWarper(top_k)] if top_k else []),
        *([hf.TopPLogitsWarper(top_p)] if top_p < 1 else []),
        hf.MinPLogitsWarper(min_p),
    ]
    scores = logits[None].double()
    for warper in warpers:
        scores = warper(torch.tensor([[0]]), scores)
    expected = scores[0].softmax(-1)
    order, probabilities = kept(logits, Sampling(temperature, top_k, top_p, min_p=min_p))
    ours = torch.zeros(40, dtype=torch.float64)
    ours[order] = probabilities / probabilities.sum()
    # A sum that reaches top_p in one way of adding up may miss it in another: then one token more.
    assert abs(int((ours > 0).sum()) - int((expected > 0).sum())) <= 1
    if torch.equal(ours > 0, expected > 0):
        assert torch.allclose(ours, expected, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0.5, 2), st.lists(st.integers(0, 9), max_size=20))
def test_bias_and_repetition_penalty_are_those_of_transformers(seed, penalty, tokens):
    logits = torch.randn(10, generator=torch.Generator().manual_seed(seed)) * 3
    bias = {(2,): 1.5, (7,): -2.0}
    scores = hf.SequenceBiasLogitsProcessor(bias)(torch.tensor([tokens]).long(), logits[None])
    if tokens:
        scores = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([tokens]), scores)
    settings = Sampling(repetition_penalty=penalty, logit_bias=((2, 1.5), (7, -2.0)))
    assert sample(logits, settings, 0, Past(tokens, 0)) == int(scores.argmax())


def test_presence_and_frequency_penalties_count_the_answer_only():
    past = Past((1, 1, 1, 3, 3, 0), prompt=3)  # the answer: twice 3, once 0
    once = Sampling(presence_penalty=1.6, frequency_penalty=0.0)
    often = Sampling(frequency_penalty=0.6)
    logits = torch.tensor([1.0, 0.0, 0.1, 1.1, 0.0])
    assert sample(logits, once, 6, past) == 2  # 1 - 1.6, 0, 0.1, 1.1 - 1.6, 0
    assert sample(logits, often, 6, past) == 0  # 1 - 0.6, 0, 0.1, 1.1 - 1.2, 0


def test_only_what_is_allowed_is_drawn():
    allowed = torch.tensor([True, False, True, False, False])
    hot = Sampling(temperature=5.0)
    assert {sample(LOGITS, hot, i, allowed=allowed) for i in range(200)} == {0, 2}
    assert sample(LOGITS, Sampling(), 0, allowed=allowed) == 0
