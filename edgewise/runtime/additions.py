"""What an adapter adds to a block, as it travels beside a message: one tensor of all numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgewise.kernels import Addition
from edgewise.models.adapting import BlockAdapter, added_parts
from edgewise.specs import AddedPart


def packed_additions(
    added: BlockAdapter,
) -> tuple[tuple[AddedPart, ...], Tensor | None]:
    """What is added to a block, as it travels."""
    every = [x for additions in added.values() for x in additions]
    numbers = [half.flatten() for x in every for half in (x.down, x.up)]
    return added_parts(added), torch.cat(numbers) if numbers else None


def unpacked_additions(
    parts: Sequence[AddedPart], numbers: Tensor | None
) -> dict[str, list[Addition]]:
    """What `packed_additions` packed, in memory of its own. Raises ValueError where the numbers
    are not as many as the parts need."""
    added: dict[str, list[Addition]] = {}
    sizes = [size for part in parts for size in (part.rank * part.columns, part.rank * part.rows)]
    if sum(sizes) != (0 if numbers is None else numbers.numel()) or min(sizes, default=1) < 1:
        raise ValueError("an adapter's numbers are not as many as its parts need")
    tensors = iter([] if numbers is None else numbers.clone().split(sizes))
    for part in parts:
        down = next(tensors).view(part.rank, part.columns)
        up = next(tensors).view(part.rank, part.rows)
        added.setdefault(part.matrix, []).append(Addition(part.first, down, up))
    return added
