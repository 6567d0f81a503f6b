"""What each block's output loses when that block alone is in few bits, or pruned: the errors by
which LUC chooses (Edge-LLM, arXiv 2406.15758, section 1a of the notes)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from edgewise.compression.blocks import compress_block, filled_block, prune_block
from edgewise.compression.policies import pruned_scheme
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block
from edgewise.models.loading import Loader
from edgewise.quality.streaming import run_in_parts, run_observed
from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding.sparsegpt import Pruned, Sparsity
from edgewise.schemes import get_scheme

FULL = get_scheme("fp32")
DENSE = Sparsity(0.0)
# Those of the paper's figure 3; the authors' code takes the mean over seven, from 0.05 to 0.9.
SPARSITIES = (0.3, 0.5, 0.7)

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class BlockErrors:
    """What blocks' outputs lose, one number for every block, by bits and by sparsity."""

    by_bits: dict[int, tuple[float, ...]]
    by_sparsity: dict[float, tuple[float, ...]]

    @property
    def of_pruning(self) -> tuple[float, ...]:
        """Every block's mean over all sparsities."""
        return tuple(sum(x) / len(x) for x in zip(*self.by_sparsity.values(), strict=True))


@torch.inference_mode()
def measure_block_errors(
    model: str,
    ids: Tensor,
    bits: Sequence[int],
    sparsities: Sequence[float] = SPARSITIES,
    on_step: OnStep = lambda step: None,
) -> BlockErrors:
    """On sequences ids [B, T], every block given what the model at full precision hands it, one
    layer in memory at a time. Raises ModelError, SchemeError, QuantizationError."""
    schemes = {number: pruned_scheme(number) for number in bits}
    checkpoint = open_checkpoint(model)
    config, loader, states = checkpoint.config, Loader(checkpoint, torch.device("cpu")), ids
    by_bits: dict[int, list[float]] = {number: [] for number in bits}
    by_sparsity: dict[float, list[float]] = {share: [] for share in sparsities}
    for number in range(config.num_layers - 1):
        layer = loader.layer(number, FULL)
        if not isinstance(layer, Block):
            states = run_in_parts(config, number, layer, states)
            continue
        outputs, moments = run_observed(config, number, layer, states, pairs=True)
        run = partial(_error, config, number, layer, states, outputs)
        for b, scheme in schemes.items():
            by_bits[b].append(run(compress_block(config, layer, moments, scheme, DENSE)))
        for share in sparsities:
            pruned = prune_block(config, layer, moments, Sparsity(share))
            by_sparsity[share].append(run(pruned))
        states = outputs
        on_step(f"block {number}")
    return BlockErrors(
        {b: tuple(x) for b, x in by_bits.items()}, {p: tuple(x) for p, x in by_sparsity.items()}
    )


def _error(
    config: DecoderConfig,
    number: int,
    block: Block,
    states: Tensor,
    outputs: Tensor,
    matrices: Mapping[str, Packed] | Mapping[str, Pruned],
) -> float:
    """Squares of what these matrices change of a block's outputs [B, T, H], as a share of theirs.

    A share, since hidden states grow with depth, and what was changed early is as much of what all
    later blocks see. Without first tokens: in many models their states are a hundred times as long
    as others' (massive activations, arXiv 2402.17762), so that a sum would be about them alone."""
    changed = filled_block(config, number, block, matrices)
    change = run_in_parts(config, number, changed, states) - outputs
    changed_by, all_of_it = (x[:, 1:].double().square().sum() for x in (change, outputs))
    return float(changed_by / all_of_it)
