"""A model layer by layer, so that one larger than memory can be measured: hidden states of many
sequences pass through a layer, then the layer makes room for the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgewise.models.cache import through_eight_bits
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Embedding, Head, Layer, causal_attention
from edgewise.models.finite import check_finite
from edgewise.models.loading import matrix_modules
from edgewise.models.rotary import inverse_frequencies
from edgewise.models.rotary import rotation as angles
from edgewise.schemes import CacheType

AT_ONCE = 2048  # tokens whose inputs of a layer's matrices are in memory at a time
ToLogits = Callable[[Tensor], Tensor]  # states [T, H] -> logits [T, vocabulary]


@torch.inference_mode()
def run_layer(
    config: DecoderConfig,
    number: int,
    layer: Layer,
    inputs: Tensor,
    cache: CacheType = CacheType.FULL,
) -> Tensor:
    """One layer on sequences of equal length: ids [B, T] or states [B, T, H] -> states, or logits
    [B, T, vocabulary]. Every position sees those before it, as a cache of that kind keeps them.
    Raises NonFinite."""
    positions = torch.arange(inputs.shape[1]).expand(inputs.shape[0], -1)
    if isinstance(layer, Embedding):
        outputs: Tensor = layer(inputs, positions)
    elif isinstance(layer, Block):
        turn = None
        if config.rope is not None:
            turn = angles(inverse_frequencies(config.rope, config.head_dim), positions[:1])
        attend = causal_attention(config.windows[number - 1])
        if cache is CacheType.INT8:
            attend = through_eight_bits(attend)
        outputs = layer(inputs, turn, attend)
    else:
        outputs = layer(inputs)
    return check_finite(outputs, f"layer {number}")


def run_in_parts(config: DecoderConfig, number: int, layer: Layer, inputs: Tensor) -> Tensor:
    """`run_layer`, a few sequences at a time: what a block holds on the way is several times as
    large as what comes out."""
    parts = inputs.split(max(AT_ONCE // inputs.shape[1], 1))
    return torch.cat([run_layer(config, number, layer, part) for part in parts])


@torch.inference_mode()
def divergence(full: Tensor, changed: Tensor) -> Tensor:
    """KL(full || changed) in nats [...] of distributions given by logits [..., vocabulary].

    With d = log q - log p, sum p (e^d - 1 - d): the same, as both sum to 1, but no term is
    negative, so that float32 loses nothing to cancellation."""
    p = full.float().log_softmax(-1)
    d = changed.float().log_softmax(-1) - p
    return (p.exp() * (d.clamp(max=80.0).expm1() - d)).sum(-1)  # e^80: not beyond float32


@torch.inference_mode()
def cross_entropy(head: ToLogits, states: Tensor, ids: Tensor) -> float:
    """Mean loss in nats per token of sequences: states [B, T, H], ids [B, T]."""
    total, count = 0.0, 0
    for row, tokens in zip(states, ids, strict=True):
        logits = head(row[:-1]).double().log_softmax(-1)
        total -= float(logits.gather(-1, tokens[1:, None]).sum())
        count += len(tokens) - 1
    return total / count


@contextmanager
def watched(layer: Layer) -> Iterator[dict[str, list[Tensor]]]:
    """What each matrix of a layer is multiplied with while the context lasts, [tokens, columns]."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in matrix_modules(layer):
        if isinstance(module, nn.Linear):
            seen[name] = []
            handles.append(module.register_forward_pre_hook(_keep(seen[name])))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(parts: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        parts.append(inputs[0].detach().flatten(0, -2).float())

    return hook


class Moments:
    """E[x_i^2] [columns] of inputs x that come in parts, or if `pairs` E[x_i x_j] [columns,
    columns]."""

    def __init__(self, pairs: bool) -> None:
        self.pairs, self.total, self.count = pairs, torch.zeros(()), 0

    def add(self, inputs: Tensor) -> None:
        """inputs [..., columns]."""
        inputs = inputs.detach().flatten(0, -2).float()
        self.total = self.total + (inputs.T @ inputs if self.pairs else inputs.square().sum(0))
        self.count += len(inputs)

    @property
    def value(self) -> Tensor:
        return self.total / self.count


@torch.inference_mode()
def run_observed(
    config: DecoderConfig, number: int, layer: Layer, inputs: Tensor, *, pairs: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """One layer on ids [B, T] or states [B, T, H], and the moments of what its matrices are
    multiplied with, by name. A head's logits are not computed; its states come back as they are."""
    seen: dict[str, Moments] = {}
    handles = []
    for name, module in matrix_modules(layer):
        if isinstance(module, nn.Linear):
            seen[name] = Moments(pairs)
            handles.append(module.register_forward_pre_hook(_observe(seen[name])))
    parts = []
    for part in inputs.split(max(AT_ONCE // inputs.shape[1], 1)):
        if isinstance(layer, Head):
            seen["out"].add(layer.inputs(part))
        else:
            parts.append(run_layer(config, number, layer, part))
    for handle in handles:
        handle.remove()
    return torch.cat(parts) if parts else inputs, {k: v.value for k, v in seen.items() if v.count}


def _observe(moments: Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, inputs: moments.add(inputs[0])
