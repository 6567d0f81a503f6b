"""Checkpoints of packed matrices: Hugging Face's layout, but that a matrix in few bits is stored as
its parts, NAME.codes, NAME.scale and so on. What each matrix is, config.json says under
`quantization_config`; its `model_type` is ours, so other programs refuse such a folder rather than
misread it. The scheme `stored` means these matrices, as it does for a GGUF file.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.names import MATRICES, parameter_names
from edgewise.models.safetensors_checkpoint import SafetensorsCheckpoint
from edgewise.quantization.packed import PARTS, Packed, empty_packed
from edgewise.schemes import SCHEMES, Family, get_scheme
from edgewise.specs import LayerKind, ModelSpec

FORMAT = 1
COMPUTE = "bf16"  # what the rest is kept, and computed, in


class PackedMatrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A matrix of a checkpoint: the scheme that it is stored in, a type where that is no packed
    one, and its shape."""

    scheme: str
    rows: int
    columns: int


class PackedDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What config.json says under `quantization_config`: of every matrix what it is, by name."""

    quant_method: str
    format: int
    matrices: dict[str, PackedMatrix]


class PackedCheckpoint(SafetensorsCheckpoint):
    """Raises ModelError where config.json describes what cannot be."""

    @cached_property
    def matrices(self) -> dict[str, PackedMatrix]:
        """What every matrix is stored as, by name. Raises ModelError."""
        return _described(self.hf_config["quantization_config"], self.model)

    def _tensor_files(self) -> dict[str, str]:
        """Of packed matrices the name without its parts'."""
        files = {}
        for stored, file in super()._tensor_files().items():
            name, _, part = stored.rpartition(".")
            files[name if part in PARTS and name in self.matrices else stored] = file
        return files

    @cached_property
    def spec(self) -> ModelSpec:
        """The model's shape, with what `stored` means of every matrix. Raises ModelError."""
        layers = []
        for number, layer in enumerate(self.config.spec(self.model).layers):
            matrices = []
            parts_of = self._parts(layer.kind, number)
            for (rows, columns), parts in zip(layer.matrices, parts_of, strict=True):
                wide = all(part.columns == columns for part in parts)
                if not wide or sum(part.rows for part in parts) != rows:
                    raise ModelError(
                        f"{self.model}: matrices of layer {number} are not of the shape "
                        f"[{rows}, {columns}] that the rest of config.json asks for"
                    )
                matrices.append(tuple((part.rows, part.scheme) for part in parts))
            layers.append(tuple(matrices))
        return self.config.spec(self.model, COMPUTE, layers)

    def _parts(self, kind: LayerKind, number: int) -> Iterator[list[PackedMatrix]]:
        """What every matrix of a layer is stored as."""
        for matrix in MATRICES[kind]:
            names = parameter_names(self.config, kind, f"{matrix}.weight", number - 1)
            if missing := [name for name in names if name not in self.matrices]:
                raise ModelError(f"{self.model}: config.json does not say what '{missing[0]}' is")
            yield [self.matrices[name] for name in names]

    def read(self, tensor: str) -> Tensor:
        """One tensor in floating point. Raises ModelError naming the file and the tensor."""
        matrix = self.stored(tensor)
        return matrix.dequantized() if isinstance(matrix, Packed) else matrix

    def stored(self, tensor: str) -> Tensor | Packed:
        """One matrix as the files have it. Raises ModelError naming the file and the tensor."""
        name, path = self.name(tensor), self.path(tensor)
        known = self.matrices.get(name)
        scheme = None if known is None else get_scheme(known.scheme)
        if known is None or scheme is None or scheme.family is Family.FLOAT:
            return super().read(tensor)
        shape = (known.rows, known.columns)
        expected = empty_packed(scheme, shape, torch.device("meta")).tensors
        try:
            with safe_open(path, framework="pt") as file:
                parts = {part: file.get_tensor(f"{name}.{part}") for part in expected}
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot read tensor '{name}': {error}") from None
        for part, empty in expected.items():
            if parts[part].shape != empty.shape or parts[part].dtype != empty.dtype:
                raise ModelError(
                    f"{path}: tensor '{name}.{part}' is not that of a matrix {list(shape)} in "
                    f"{scheme.name}"
                )
        return Packed(scheme, shape, **parts)


def _described(document: Any, where: str) -> dict[str, PackedMatrix]:
    try:
        described = msgspec.convert(document, PackedDescription)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: config.json, quantization_config: {error}") from None
    if described.format != FORMAT:
        raise ModelError(
            f"{where}: packed matrices of format {described.format}; this version reads {FORMAT}"
        )
    for name, matrix in described.matrices.items():
        scheme = SCHEMES.get(matrix.scheme)
        known = scheme is not None and scheme.family in (Family.FLOAT, Family.GROUPED)
        if not known or min(matrix.rows, matrix.columns) < 1:
            raise ModelError(f"{where}: config.json: '{name}' is a matrix that cannot be: {matrix}")
    return described.matrices
