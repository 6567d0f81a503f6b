"""What a model's matrices are multiplied with, summed up: second moments of their inputs.

For y = W x, rounding costs E |dW x|^2 = sum_ij dw_i dw_j E[x_i x_j]; the diagonal E[x_i^2] says how
much an error in column i counts. Real models have a few columns that carry thousands of times what
the others do, so few bits are lost without it (dev/LOG.md, 2026-11-26).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgewise.caches import cache_folder, remove, write_atomically
from edgewise.errors import QuantizationError
from edgewise.tensor_files import write_tensors


@dataclass(frozen=True)
class Statistics:
    """`moments` float32 [columns] by "LAYER.MATRIX", such as "3.qkv"; matrices that nothing is
    known of, such as tables that rows are looked up in, are left out."""

    moments: Mapping[str, Tensor]

    def of(self, layer: int) -> dict[str, Tensor]:
        """The moments of one layer's matrices, by name."""
        names = ((name, *name.split(".", 1)) for name in self.moments)
        return {matrix: self.moments[name] for name, at, matrix in names if int(at) == layer}

    def keep(self, path: Path | None) -> bool:
        """Write them to the cache; False where that cannot be."""
        return path is not None and write_atomically(
            path, lambda partial: write_tensors(partial, self.moments, {})
        )


def statistics_path(key: str) -> Path | None:
    """Where the statistics of that name are kept; None: nowhere. The name says what model on which
    text (quality/statistics.py)."""
    folder = cache_folder("statistics")
    return folder and folder / f"{key}.safetensors"


@lru_cache(maxsize=4)
def load_statistics(key: str) -> Statistics:
    """Kept statistics. Raises QuantizationError where there are none of that name."""
    path = statistics_path(key)
    if path is not None:
        try:
            return Statistics(load_file(path))
        except FileNotFoundError:
            pass
        except (SafetensorError, OSError):
            with contextlib.suppress(OSError):
                remove(path)  # damaged
    raise QuantizationError(
        f"no statistics '{key}' of the model's inputs are kept on this machine, which layers are "
        "to be rounded by: run `edgewise quantize` here, or copy them from where they are"
    )
