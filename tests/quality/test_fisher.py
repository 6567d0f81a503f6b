"""Losses to second order, against the KL divergence that a small change truly makes."""

import pytest
import torch

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.fisher import block_gradient, head_gradient, quadratic_loss
from edgewise.quality.streaming import divergence, run_layer
from edgewise.schemes import get_scheme

DRAWS = 400


@pytest.mark.parametrize("family", ["llama", "opt-350m", "mistral-window"])
def test_a_small_change_costs_its_quadratic_form(checkpoint, family):
    """Of one position of a block's output, to which that of drawn labels is exact in the mean."""
    checkpoint = open_checkpoint(checkpoint(family))
    config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"))
    layers = [loader.layer(i, get_scheme("fp32")) for i in range(6)]
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(config.vocab_size, (1, 8), generator=generator)

    def run(first, states):
        for number in range(first, 6):
            states = run_layer(config, number, layers[number], states)
        return states

    states = [ids]
    for number in range(5):
        states.append(run_layer(config, number, layers[number], states[-1]))
    change = torch.zeros_like(states[4])
    change[0, 3] = 0.01 * torch.randn(config.hidden_size, generator=generator)
    expected = float(divergence(run(4, states[4]), run(4, states[4] + change)).mean())

    many = states[5].expand(DRAWS, -1, -1)
    gradient = head_gradient(layers[5], many, generator)
    output, gradient = block_gradient(
        config, 4, layers[4], states[4].expand(DRAWS, -1, -1), gradient
    )
    assert torch.allclose(output, states[5].expand_as(output), atol=1e-5)
    assert quadratic_loss(gradient, change) == pytest.approx(expected, rel=0.25)


def test_states_of_zeros_have_no_gradient_and_take_none_from_others(checkpoint):
    checkpoint = open_checkpoint(checkpoint("llama"))
    block = Loader(checkpoint, torch.device("cpu")).layer(2, get_scheme("fp32"))
    generator = torch.Generator().manual_seed(7)
    states, upper = (torch.randn(3, 6, 32, generator=generator) for _ in range(2))
    states[0, :2] = 0.0
    _, gradient = block_gradient(checkpoint.config, 2, block, states, upper)
    assert not gradient[0, :2].any()
    _, beside = block_gradient(checkpoint.config, 2, block, states + 1e-30, upper)
    kept = torch.ones(3, 6, dtype=torch.bool)
    kept[0, :2] = False
    assert torch.allclose(gradient[kept], beside[kept], rtol=1e-4)
    assert beside[0, :2].abs().amax() > 10 * gradient.abs().amax()


def test_no_change_costs_nothing():
    gradient = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert quadratic_loss(gradient, torch.zeros(2, 3, 4)) == 0.0
    assert quadratic_loss(torch.ones(1, 2, 3), torch.ones(1, 2, 3)) == 4.5


def test_a_sequence_whose_gradient_is_beyond_reason_is_left_out():
    generator = torch.Generator().manual_seed(5)
    gradient, change = (torch.randn(8, 32, 4, generator=generator) for _ in range(2))
    expected = quadratic_loss(gradient[1:], change[1:])
    gradient[0, 0] *= 1000
    assert quadratic_loss(gradient, change) == pytest.approx(expected, rel=1e-6)
    gradient[0, 0] /= 900  # large, but no more than happens
    assert quadratic_loss(gradient, change) > 0.9 * expected
