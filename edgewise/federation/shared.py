"""A federation's adapters as arrays: what all begin with, what a model has, and as files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from edgewise.adapters import AdapterConfig, LowRank
from edgewise.adapters.files import fill, save_adapter
from edgewise.adapters.matrices import low_ranks
from edgewise.errors import InputError
from edgewise.federating.updates import Array, Arrays
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig

Added = Sequence[Mapping[str, LowRank]]  # by block, by part


def added_by(config: DecoderConfig, adapter: AdapterConfig, first: int) -> list[dict[str, LowRank]]:
    """New adapters on blocks from `first` on, without a model: nothing on those before."""
    blocks = range(config.num_blocks)
    return [low_ranks(config, number, adapter) if number >= first else {} for number in blocks]


def first_block(config: DecoderConfig, blocks: int) -> int:
    """The first of the last `blocks`, or of all where that is 0. Raises InputError."""
    if blocks > config.num_blocks:
        raise InputError(f"the model has {config.num_blocks} blocks, fewer than {blocks}")
    return config.num_blocks - blocks if blocks else 0


def arrays_of(added: Added) -> dict[str, Array]:
    """What is trained of adapters, float32 by "BLOCK.PART.middle", or ".up" and ".down"."""
    return {name: x.detach().numpy().copy() for name, x in _trained(added)}


@torch.no_grad()
def put(added: Added, arrays: Arrays) -> None:
    """Let adapters be `arrays`."""
    for name, parameter in _trained(added):
        parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))


def save_shared(
    folder: Path, arrays: Arrays, checkpoint: Checkpoint, adapter: AdapterConfig, first: int
) -> None:
    """Write what was learned in PEFT's layout. Raises OSError."""
    config = checkpoint.config
    added = added_by(config, adapter, first)
    fill(added, {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()})
    save_adapter(folder, added, adapter, config, checkpoint.model, checkpoint.spec.digest)


def _trained(added: Added) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for number, parts in enumerate(added):
        for part, low in parts.items():
            for name, parameter in sorted(low.named_parameters()):
                if parameter.requires_grad:
                    yield f"{number}.{part}.{name}", parameter
