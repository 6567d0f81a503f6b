"""An adapter as it serves: what it adds to each block's matrices, whatever it was trained as."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgewise.adapters.files import EXITS, read_adapter
from edgewise.adapters.matrices import parts_of
from edgewise.errors import InputError
from edgewise.kernels import MOST_RANK, Addition
from edgewise.models.adapting import BlockAdapter
from edgewise.models.config import DecoderConfig
from edgewise.tensor_files import read_tensors


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """By block, the first is 0; empty where nothing is added."""

    blocks: tuple[BlockAdapter, ...]

    @property
    def block_bytes(self) -> int:
        """Memory that it takes in the block where it takes most."""
        sizes = (sum(x.nbytes for parts in added.values() for x in parts) for added in self.blocks)
        return max(sizes, default=0)


def open_adapter(folder: Path, config: DecoderConfig, digest: str) -> Adapter:
    """LoRA and private ones in PEFT's layout. Raises InputError as `read_adapter` does, and for
    one of windows, which is right with its exits only."""
    adapter, tensors = read_adapter(folder, config, digest)
    if _has_exits(folder):
        raise InputError(
            f"{folder}: an adapter of windows, whose blocks are right with its exits only, which "
            "are not served: train with --method lora or private"
        )
    if adapter.rank > MOST_RANK:
        raise InputError(f"{folder}: rank {adapter.rank}; served are ranks up to {MOST_RANK}")
    blocks = range(config.num_blocks)
    return Adapter(tuple(_added(block, config, tensors, adapter.scale) for block in blocks))


def _added(
    block: int, config: DecoderConfig, tensors: Mapping[str, Tensor], scale: float
) -> BlockAdapter:
    added: dict[str, list[Addition]] = {}
    for matrix, parts in parts_of(config).items():
        for part, first, _ in parts:
            down, up = (tensors.get(f"{block}.{part}.{half}") for half in ("down", "up"))
            if down is not None and up is not None:
                up = (up * scale).T.contiguous()
                added.setdefault(matrix, []).append(Addition(first, down.contiguous(), up))
    return added


def _has_exits(folder: Path) -> bool:
    path = folder / EXITS
    return path.exists() and bool(read_tensors(path)[1])
