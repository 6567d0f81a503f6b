"""What a model says of a text: whole, of fewer blocks, or with blocks that have learned."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgewise.models.checkpoint import Checkpoint
from edgewise.models.decoder import Block
from edgewise.models.loading import Loader
from edgewise.quality.streaming import run_in_parts, run_layer
from edgewise.schemes import get_scheme

PRECISION = "bf16"


@torch.inference_mode()
def token_nats(
    checkpoint: Checkpoint,
    ids: Tensor,
    *,
    scheme: str = PRECISION,
    method: str | None = None,
    blocks: Sequence[int] | None = None,
    changed: Mapping[int, Block] | None = None,
    first: int = 1,
    on_step: Callable[[str], None] = lambda step: None,
) -> Tensor:
    """Nats that a model loses on each token of sequences ids [B, T] from the one at `first` on,
    float64 [B, T - first]. It consists of `blocks` by number, all by default, each as it is in a
    scheme, rounded by a method, or as in `changed`; one layer is in memory at a time. Raises
    ModelError, NonFinite."""
    config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"), method)
    wanted, changed = range(config.num_blocks) if blocks is None else blocks, changed or {}
    states = ids
    for number in (0, *(block + 1 for block in wanted)):
        own = changed.get(number - 1)
        layer = loader.layer(number, get_scheme(scheme)) if own is None else own
        states = run_in_parts(config, number, layer, states)
        on_step(f"layer {number}")
    last = config.num_layers - 1
    head = loader.layer(last, get_scheme(scheme))
    nats = torch.empty(len(ids), ids.shape[1] - first, dtype=torch.float64)
    for place, (row, tokens) in enumerate(zip(states, ids, strict=True)):
        said = run_layer(config, last, head, row[first - 1 : -1]).double().log_softmax(-1)
        nats[place] = -said.gather(-1, tokens[first:, None])[:, 0]
    on_step("head")
    return nats
