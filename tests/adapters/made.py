"""Adapters that add something, as files."""

import torch

from edgewise.adapters import AdapterConfig, Kind, LowRank, parts_of
from edgewise.adapters.files import save_adapter
from edgewise.adapters.low_rank import MATRICES
from edgewise.adapters.matrices import columns_of
from edgewise.adapters.served import Adapter
from edgewise.kernels import Addition
from edgewise.models.checkpoint import open_checkpoint


@torch.no_grad()
def write_adapter(folder, model, *, kind=Kind.LORA, rank=4, seed=1, size=0.1, matrices=MATRICES):
    """Random ones of every block of a model, each number about `size`; its folder."""
    opened = open_checkpoint(str(model))
    adapter = AdapterConfig(kind, rank, matrices=matrices, seed=seed)
    generator, added = torch.Generator().manual_seed(seed), []
    for block in range(opened.config.num_blocks):
        added.append({})
        for matrix, parts in parts_of(opened.config).items():
            for name, _, rows in parts:
                if name in matrices:
                    low = LowRank(
                        adapter, f"{block}.{name}", rows, columns_of(opened.config, matrix)
                    )
                    last = low.up if low.middle is None else low.middle
                    last.copy_(torch.randn(last.shape, generator=generator) * size)
                    added[block][name] = low
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
