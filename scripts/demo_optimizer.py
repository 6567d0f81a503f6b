"""Training the demo model quickly on a CPU: bf16 arithmetic, float32 weights, Muon and AdamW.

Weights, activations and gradients are bf16, which is 2-3 times faster than float32 on CPUs with
AVX512-BF16 or AMX; the optimizer updates float32 originals, so small steps are not rounded away.
Attention is written out because the backward pass of torch's fused CPU attention takes four times
as long at these lengths.
"""

from typing import Final, cast

import torch
import torch.nn.functional as F
from demo_batches import Batch
from torch import Tensor

from edgewise.models.decoder import Attend, Decoder, DecoderBlock
from edgewise.models.rotary import inverse_frequencies, rotation

MUON_RATE: Final = 5e-3
ADAM_RATE: Final = 3e-3
WARMUP: Final = 0.02


# Compiled, a step takes a sixth less time.
_run_block = torch.compile(DecoderBlock.forward, dynamic=True)


def training_attention(length: int, dtype: torch.dtype) -> Attend:
    """Causal attention among q, k, v [B, T, heads, D] as plain products."""
    mask = torch.full((length, length), float("-inf")).triu(1).to(dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[2] // k.shape[2]
        k, v = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
        scores = (q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + mask
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed.transpose(1, 2)

    return attend


def training_logits(decoder: Decoder, tokens: Tensor) -> Tensor:
    """What `decoder(tokens)` returns, with the attention above."""
    config = decoder.config
    if config.rope is None:
        raise ValueError("the demo model has rotary positions")
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    turn = rotation(inverse_frequencies(config.rope, config.head_dim), positions[:1])
    attend = training_attention(tokens.shape[1], next(decoder.parameters()).dtype)
    x: Tensor = decoder.layers[0](tokens, positions)
    for block in decoder.layers[1:-1]:
        x = _run_block(cast(DecoderBlock, block), x, turn, attend)
    logits: Tensor = decoder.layers[-1](x)
    return logits


def batch_losses(decoder: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """The weighted loss to minimise, and the mean loss of answer tokens."""
    logits = training_logits(decoder, batch.tokens[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
    weights = batch.weights.flatten()
    answers = losses.detach()[batch.answers.flatten()]
    return (losses * weights).sum() / weights.sum(), answers.mean()


def rate_factor(progress: float) -> float:
    """Linear warm-up, then linear decay to zero at progress 1."""
    return min(progress / WARMUP, max(0.0, 1.0 - progress) / (1.0 - WARMUP), 1.0)


class Optimizer:
    """Muon (Jordan 2024) for the blocks' matrices, AdamW for the rest, on float32 originals."""

    def __init__(self, decoder: Decoder) -> None:
        self._working = list(decoder.parameters())
        self._masters = [p.detach().float().clone() for p in self._working]
        inside = {id(p) for block in decoder.layers[1:-1] for p in block.parameters()}
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for working, master in zip(self._working, self._masters, strict=True):
            chosen = matrices if working.ndim == 2 and id(working) in inside else others
            chosen.append(master)
        muon = torch.optim.Muon(
            matrices, lr=MUON_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self._optimizers: tuple[tuple[torch.optim.Optimizer, float], ...] = (
            (muon, MUON_RATE),
            (adam, ADAM_RATE),
        )

    def step(self, factor: float) -> None:
        """One step with gradients of the working weights, at `factor` times the full rates."""
        for working, master in zip(self._working, self._masters, strict=True):
            master.grad = None if working.grad is None else working.grad.float()
            working.grad = None
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        with torch.no_grad():
            for working, master in zip(self._working, self._masters, strict=True):
                working.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """The float32 originals by position, to continue from."""
        return {str(index): master for index, master in enumerate(self._masters)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned; momenta start afresh."""
        with torch.no_grad():
            for index, (working, master) in enumerate(
                zip(self._working, self._masters, strict=True)
            ):
                master.copy_(state[str(index)])
                working.copy_(master)
