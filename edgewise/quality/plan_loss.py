"""What a plan truly loses: KL divergence from full precision, measured layer by layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.streaming import divergence, run_layer
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme

FULL = get_scheme("fp32")


def plan_loss(
    model: str,
    schemes: Sequence[str],
    ids: Tensor,
    *,
    method: str | None = None,
    store: Store | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> float:
    """Mean KL(full || planned) in nats per token, on sequences ids [B, T], of a model with one
    scheme per layer."""
    checkpoint = open_checkpoint(model)
    loader = Loader(checkpoint, torch.device("cpu"), method, store)
    last = checkpoint.config.num_layers - 1

    def run(number: int, scheme: str, x: Tensor) -> Tensor:
        return run_layer(checkpoint.config, number, loader.layer(number, get_scheme(scheme)), x)

    full = planned = ids
    for number in range(last):
        full, planned = run(number, FULL.name, full), run(number, schemes[number], planned)
        on_step(f"layer {number}")
    heads = [loader.layer(last, get_scheme(name)) for name in (FULL.name, schemes[last])]
    before, after = (
        lambda x, head=head: run_layer(checkpoint.config, last, head, x) for head in heads
    )
    on_step("head")
    return divergence(before, full, after, planned)
