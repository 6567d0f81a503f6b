"""A model layer by layer, so that one larger than memory can be measured: hidden states of many
sequences pass through a layer, then the layer makes room for the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgewise.models.cache import through_eight_bits
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Embedding, Layer, causal_attention, inverse_frequencies
from edgewise.models.decoder import rotation as angles
from edgewise.models.finite import check_finite
from edgewise.models.loading import matrix_modules
from edgewise.schemes import CacheType

Head = Callable[[Tensor], Tensor]  # states [T, H] -> logits [T, vocabulary]


@torch.inference_mode()
def run_layer(
    config: DecoderConfig,
    number: int,
    layer: Layer,
    x: Tensor,
    cache: CacheType = CacheType.FULL,
) -> Tensor:
    """One layer on sequences of equal length: ids [B, T] or states [B, T, H] -> states, or logits
    [B, T, vocabulary]. Every position sees those before it, as a cache of that kind keeps them.
    Raises NonFinite."""
    positions = torch.arange(x.shape[1]).expand(x.shape[0], -1)
    if isinstance(layer, Embedding):
        found: Tensor = layer(x, positions)
    elif isinstance(layer, Block):
        turn = None
        if config.rope is not None:
            turn = angles(inverse_frequencies(config.rope, config.head_dim), positions[:1])
        attend = causal_attention(config.windows[number - 1])
        found = layer(x, turn, through_eight_bits(attend) if cache is CacheType.INT8 else attend)
    else:
        found = layer(x)
    return check_finite(found, f"layer {number}")


@torch.inference_mode()
def divergences(full_head: Head, full: Tensor, changed_head: Head, changed: Tensor) -> Tensor:
    """KL(full || changed) of the next token, in nats, a mean for every sequence [B]: states
    [B, T, H] of both, and what makes logits of them."""
    found = []
    for before, after in zip(full, changed, strict=True):
        p = full_head(before).double().log_softmax(-1)
        q = changed_head(after).double().log_softmax(-1)
        found.append((p.exp() * (p - q)).sum(-1).mean().clamp(min=0.0))
    return torch.stack(found)


@torch.inference_mode()
def cross_entropy(head: Head, states: Tensor, ids: Tensor) -> float:
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


def _keep(found: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(0, -2).float())

    return hook
