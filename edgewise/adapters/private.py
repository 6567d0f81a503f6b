"""What of a private adapter each side is told (PrivateLoRA, arXiv 2311.14030)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgewise.adapters.files import read_adapter
from edgewise.adapters.low_rank import AdapterConfig, Kind
from edgewise.adapters.matrices import Part, adapted_parts, parts_of
from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.specs import PrivateParts


@dataclass(frozen=True, slots=True)
class PrivateAdapter:
    """From this, U and D are drawn. `folder` is where M is, and for the `source` alone; "" for all
    others."""

    source: str
    rank: int
    matrices: tuple[str, ...]
    seed: int
    folder: str = ""

    @property
    def config(self) -> AdapterConfig:
        return AdapterConfig(Kind.PRIVATE, self.rank, matrices=self.matrices, seed=self.seed)

    def asked(self, config: DecoderConfig) -> PrivateParts:
        """What of it blocks ask for."""
        names = (tuple(name for name, _, _ in parts) for parts in self.parts(config).values())
        return PrivateParts(self.rank, tuple(names))

    def parts(self, config: DecoderConfig) -> dict[str, tuple[Part, ...]]:
        """By a block's matrix, the parts of it that something is added to."""
        return adapted_parts(config, self.matrices)


def private_adapter(folder: Path, checkpoint: Checkpoint, source: str) -> PrivateAdapter:
    """What a folder holds. Raises InputError where that is no private adapter for this model."""
    adapter, _ = _read(folder, checkpoint)
    return PrivateAdapter(source, adapter.rank, adapter.matrices, adapter.seed, str(folder))


def read_middles(adapter: PrivateAdapter, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Every M, float32 [r, r], by "BLOCK.PART". Raises InputError."""
    _, tensors = _read(Path(adapter.folder), checkpoint)
    return {
        name.removesuffix(".middle"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".middle")
    }


def _read(folder: Path, checkpoint: Checkpoint) -> tuple[AdapterConfig, dict[str, Tensor]]:
    config = checkpoint.config
    adapter, tensors = read_adapter(folder, config, checkpoint.spec.digest)
    if adapter.kind is not Kind.PRIVATE:
        raise InputError(
            f"{folder}: a {adapter.kind} adapter, whose trained matrices would have to leave the "
            "source; `edgewise tune --method private` makes one whose stay there"
        )
    parts = [part for parts in parts_of(config).values() for part, _, _ in parts]
    for block in range(config.num_blocks):
        for part in parts:
            if part in adapter.matrices and f"{block}.{part}.middle" not in tensors:
                raise InputError(f"{folder}: M of block {block}'s {part} is missing")
    return adapter, tensors
