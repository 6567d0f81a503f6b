"""Adapters that add something, as files."""

import torch

from edgewise.adapters import AdapterConfig, Kind, parts_of
from edgewise.adapters.files import save_adapter
from edgewise.adapters.low_rank import MATRICES
from edgewise.adapters.matrices import columns_of, low_ranks
from edgewise.adapters.served import Adapter
from edgewise.kernels import Addition
from edgewise.models.checkpoint import open_checkpoint


@torch.no_grad()
def write_adapter(folder, model, *, kind=Kind.LORA, rank=4, seed=1, size=0.1, matrices=MATRICES):
    """Random ones of every block of a model, each number about `size`; its folder."""
    opened = open_checkpoint(str(model))
    adapter = AdapterConfig(kind, rank, matrices=matrices, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    added = [low_ranks(opened.config, n, adapter) for n in range(opened.config.num_blocks)]
    for low in (low for parts in added for low in parts.values()):
        last = low.up if low.middle is None else low.middle
        last.copy_(torch.randn(last.shape, generator=generator) * size)
    save_adapter(folder, added, adapter, opened.config, opened.model, opened.spec.digest)
    return folder


def random_adapter(config, rank, seed):
    """Of all matrices, as it is when opened; one that changes answers."""
    made = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(config.num_blocks):
        added = {}
        for matrix, parts in parts_of(config).items():
            columns = columns_of(config, matrix)
            for _, first, rows in parts:
                down = torch.randn(rank, columns, generator=made) / columns**0.5
                up = torch.randn(rank, rows, generator=made) * 0.15
                added.setdefault(matrix, []).append(Addition(first, down, up))
        blocks.append(added)
    return Adapter(tuple(blocks))
