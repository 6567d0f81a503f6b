"""What changing one layer does to the next token, from one backward pass over all layers.

Let a scheme change a layer's output by d_s at position s, and let y be drawn from the model's own
next-token distribution p. To second order

    KL(p || changed) = 1/2 E_y [(sum_s g_s . d_s)^2],    g_s = gradient of log p(y) at that output:

the quadratic form of Fisher's information. A label is drawn at every position and the gradient of
the sum of all their log p taken: scores at different positions are not correlated, so the square's
mean is the sum over positions predicted. Positions at which a layer changes its output are taken
for independent, too, which is an approximation; what a whole model loses in the scheme, measured,
sets the scale (sensitivity.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Layer, causal_attention
from edgewise.models.rotary import inverse_frequencies, rotation
from edgewise.quality.writing import draw

AT_ONCE = 2048  # tokens through which gradients are taken at a time
BEYOND = 16  # times the median


def head_gradient(head: Layer, states: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient [B, T, H] of the log probability of tokens drawn from the model's own, at the
    head's inputs [B, T, H]."""
    with _differentiable(head):
        return torch.stack([_head_gradient(head, row, generator) for row in states])


def _head_gradient(head: Layer, states: Tensor, generator: torch.Generator) -> Tensor:
    with torch.enable_grad():
        inputs = states.clone().requires_grad_()
        logs = head(inputs).log_softmax(-1)
        drawn = draw(logs.detach().exp(), generator).unsqueeze(-1)
        (gradient,) = torch.autograd.grad(logs.gather(-1, drawn).sum(), inputs)
    return gradient


def block_gradient(
    config: DecoderConfig, number: int, block: Block, states: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """A block's outputs for inputs `states` [B, T, H], and the gradient there of what has
    `gradient` [B, T, H] at its outputs; none at states that are all zeros."""
    turn = None
    if config.rope is not None:
        frequency = inverse_frequencies(config.rope, config.head_dim)
        turn = rotation(frequency, torch.arange(states.shape[1]).unsqueeze(0))
    attend = causal_attention(config.windows[number - 1])
    outputs, gradients = [], []
    at_once = max(AT_ONCE // states.shape[1], 1)
    for part, upper in zip(states.split(at_once), gradient.split(at_once), strict=True):
        with torch.enable_grad(), _differentiable(block):
            inputs = part.clone().requires_grad_()
            output = block(inputs, turn, attend)
            (lower,) = torch.autograd.grad(output, inputs, upper)
        # A padding token's embedding is zeros, and where a text begins with it so is every state
        # after it, in any scheme: nothing changes. But each norm multiplies the gradient by
        # 1 / sqrt(epsilon), a thousand, and after a dozen layers there is no number for it.
        gradients.append(lower.masked_fill(~part.any(-1, keepdim=True), 0.0))
        outputs.append(output.detach())
    return torch.cat(outputs), torch.cat(gradients)


@contextmanager
def _differentiable(layer: Layer) -> Iterator[None]:
    """The kernels know no gradients; weights that have one are left to torch."""
    layer.requires_grad_(True)
    try:
        yield
    finally:
        layer.requires_grad_(False)


def quadratic_loss(gradient: Tensor, change: Tensor) -> float:
    """Nats per token that a change [B, T, H] of a layer's outputs adds, given the gradient there of
    the log probability of drawn tokens: a mean over sequences, but for those that are BEYOND times
    the median. A first token that is about to carry massive activations, and after the change
    perhaps does not, has a gradient with which the second order means nothing: 25,000 nats at one
    token (SmolLM2, one sequence of eight), beside which the layers' shares disappear."""
    sequences = (gradient * change).sum(-1).double().square().mean(-1)
    sound = sequences[sequences <= BEYOND * sequences.quantile(0.5)]
    return float(sound.mean()) / 2
