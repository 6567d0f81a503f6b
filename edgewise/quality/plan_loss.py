"""What plans truly lose: KL divergence from full precision, measured layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.streaming import ToLogits, divergences, run_layer
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType, get_scheme

FULL = "fp32"
CERTAIN = 1.645  # standard errors: with 95 % certainty the true mean is not above


@dataclass(frozen=True, slots=True)
class Loss:
    """A mean over sequences, in nats per token, and its standard error."""

    mean: float
    error: float = 0.0

    @staticmethod
    def of(sequences: Tensor) -> "Loss":
        """From the losses of sequences [B]; of a single one the error is not known, and 0."""
        error = float(sequences.std() / len(sequences) ** 0.5) if len(sequences) > 1 else 0.0
        return Loss(float(sequences.mean()), error)

    @property
    def upper(self) -> float:
        """What the loss on other text of the kind does not exceed, with 95 % certainty."""
        return self.mean + CERTAIN * self.error


def plan_losses(
    model: str,
    plans: Sequence[Sequence[str]],
    ids: Tensor,
    *,
    method: str | None = None,
    cache: CacheType = CacheType.FULL,
    store: Store | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> list[Loss]:
    """KL(full || planned) in nats per token, on sequences ids [B, T], of a model in each of
    several choices of a scheme per layer, with that cache. Hidden states of all of them stay in
    memory."""
    checkpoint = open_checkpoint(model)
    config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"), method, store)
    last = config.num_layers - 1
    full, planned = ids, [ids] * len(plans)
    for number in range(last):
        wanted = dict.fromkeys([FULL, *(schemes[number] for schemes in plans)])
        for name in wanted:
            layer = loader.layer(number, get_scheme(name))
            for index, schemes in enumerate(plans):
                if schemes[number] == name:
                    planned[index] = run_layer(config, number, layer, planned[index], cache)
            if name == FULL:
                full = run_layer(config, number, layer, full)
        on_step(f"layer {number}")

    def head(name: str) -> ToLogits:
        layer = loader.layer(last, get_scheme(name))
        return lambda x: run_layer(config, last, layer, x)

    heads = {name: head(name) for name in {FULL, *(schemes[last] for schemes in plans)}}
    on_step("head")
    return [
        Loss.of(divergences(heads[FULL], full, heads[schemes[last]], states))
        for schemes, states in zip(plans, planned, strict=True)
    ]
