"""What plans truly lose: KL divergence from full precision, measured on the code that runs them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.loading import Loader
from edgewise.models.shard import Shard, load_shard
from edgewise.quality.running import run_sequences, run_shard
from edgewise.quality.streaming import ToLogits, divergence, run_in_parts, run_layer
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType, Wire, get_scheme

FULL = "fp32"
MOST_BYTES = 2**30  # of weights in memory at a time, unless a layer alone is larger; of logits

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Loss:
    """A mean over `count` sequences, in nats per token, and its standard error."""

    mean: float
    error: float = 0.0
    count: int = 2

    @staticmethod
    def of(sequences: Tensor) -> "Loss":
        """From the losses of sequences [B]; the error of a single one is not known: infinite."""
        count = len(sequences)
        error = float(sequences.std() / count**0.5) if count > 1 else float("inf")
        return Loss(float(sequences.mean()), error, count)

    def upper(self, level: float) -> float:
        """What the loss on other text of the kind exceeds with probability `level` only."""
        return (
            self.mean + student_t(level, self.count - 1) * self.error if self.error else self.mean
        )


@lru_cache
def student_t(level: float, freedom: int) -> float:
    """What Student's t with `freedom` degrees of freedom, at least 1, exceeds with probability
    `level` <= 1/2. With t = sqrt(freedom) tan(a), its density is that of cos(a)^(freedom - 1)."""
    freedom = max(freedom, 1)
    angles = np.linspace(0.0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    parts = (density[1:] + density[:-1]) / 2
    above = np.append(np.cumsum(parts[::-1])[::-1], 0.0) / parts.sum() / 2
    return float(np.sqrt(freedom) * np.tan(np.interp(level, above[::-1], angles[::-1])))


def plan_losses(
    model: str,
    plans: Sequence[Sequence[str]],
    ids: Tensor,
    *,
    method: str | None = None,
    cache: CacheType = CacheType.FULL,
    rounded: Mapping[int, Wire] | None = None,
    store: Store | None = None,
    on_step: OnStep = lambda step: None,
) -> list[Loss]:
    """KL(full || planned) in nats per token, on sequences ids [B, T], of a model in each of
    several choices of a scheme per layer, with that cache, and the inputs of the layers `rounded`
    as they come by links.

    The planned model is run by shards, a few layers in memory at a time: with the kernels, and as
    an answer is made, at most so many tokens at once as go through them."""
    checkpoint = open_checkpoint(model)
    full, head = full_states(checkpoint, ids, on_step)
    full_logits = None  # the full model's logits, where several plans need them and memory allows
    if len(plans) > 1 and 4 * ids.numel() * checkpoint.config.vocab_size <= MOST_BYTES:
        full_logits = [head(row) for row in full]
    losses = []
    for schemes in plans:
        states = ids
        for shard in _shards(checkpoint, schemes, ids, method, cache, rounded, store):
            if shard.end < checkpoint.config.num_layers:
                states = run_shard(shard, states)
                continue
            rows = [
                divergence(full_logits[i] if full_logits else head(full[i]), logits).mean()
                for i, logits in enumerate(run_sequences(shard, states))
            ]
            losses.append(Loss.of(torch.stack(rows).double()))
        on_step(f"plan {len(losses)}")
    return losses


def checkpoint_loss(
    model: str, other: str, ids: Tensor, on_step: OnStep = lambda step: None
) -> Loss:
    """KL(model || other) in nats per token, on sequences ids [B, T], of two checkpoints with the
    same tokens, both at full precision. Raises InputError where they have others."""
    opened = [open_checkpoint(name) for name in (model, other)]
    sizes = [checkpoint.config.vocab_size for checkpoint in opened]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"'{other}' has {sizes[1]} tokens and '{model}' {sizes[0]}: their losses cannot be "
            "compared"
        )
    (full, head), (theirs, their_head) = (full_states(x, ids, on_step) for x in opened)
    rows = [divergence(head(a), their_head(b)).mean() for a, b in zip(full, theirs, strict=True)]
    return Loss.of(torch.stack(rows).double())


def plan_loss_steps(model: str, plans: int = 1) -> int:
    """How many times `plan_losses` reports progress."""
    return open_checkpoint(model).config.num_layers - 1 + plans


def full_states(
    checkpoint: Checkpoint, ids: Tensor, on_step: OnStep = lambda step: None
) -> tuple[Tensor, ToLogits]:
    """What the head sees [B, T, H] at full precision, and the head: one layer in memory at a
    time."""
    loader, states = Loader(checkpoint, torch.device("cpu")), ids
    last = checkpoint.config.num_layers - 1
    for number in range(last):
        states = run_in_parts(
            checkpoint.config, number, loader.layer(number, get_scheme(FULL)), states
        )
        on_step(f"layer {number}")
    head = loader.layer(last, get_scheme(FULL))
    return states, lambda inputs: run_layer(checkpoint.config, last, head, inputs)


def _shards(
    checkpoint: Checkpoint,
    schemes: Sequence[str],
    ids: Tensor,
    method: str | None,
    cache: CacheType,
    rounded: Mapping[int, Wire] | None,
    store: Store | None,
) -> Iterator[Shard]:
    """The model in stretches of layers, one in memory at a time; room for one sequence in each."""
    layers, start = checkpoint.spec.layers, 0
    while start < len(layers):
        end, size = start, 0
        while end < len(layers) and (end == start or size <= MOST_BYTES):
            size += layers[end].weight_bytes(get_scheme(schemes[end]))
            end += 1
        yield load_shard(
            checkpoint,
            start,
            end,
            schemes[start:end],
            slots=1,
            context=ids.shape[1],
            cache=cache,
            rounded=rounded,
            method=method,
            store=store,
        )
        start = end
