"""The shape of a GGUF file's model, with what the file has of every matrix: what the scheme
`stored` means there. The sizes that the metadata states are held against the tensors' before they
are used."""

from collections.abc import Iterator

from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.gguf.blocks import BLOCK_TYPES
from edgewise.models.gguf.header import Header, TensorEntry
from edgewise.models.gguf.names import gguf_name
from edgewise.models.names import MATRICES, parameter_names
from edgewise.specs import LayerKind, ModelSpec

FLOATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
OTHER = "bf16"  # what types that have no scheme of ours are kept as


def gguf_spec(name: str, config: DecoderConfig, header: Header, where: str) -> ModelSpec:
    """Raises ModelError where tensors are missing, or other than the configuration asks for."""
    kinds = {tensor.kind for tensor in header.tensors.values() if len(tensor.shape) > 1}
    floats = len(kinds) == 1 and kinds <= FLOATS.keys()
    compute = FLOATS[kinds.pop()] if floats else OTHER
    shape = config.spec(name)
    layers = []
    for number, layer in enumerate(shape.layers):
        matrices = []
        parts_of = _parts(config, layer.kind, number, header, where)
        for (rows, columns), parts in zip(layer.matrices, parts_of, strict=True):
            _check(parts, rows, columns, where)
            matrices.append(tuple((part.shape[0], scheme_name(part.kind)) for part in parts))
        layers.append(tuple(matrices))
    return config.spec(name, compute, None if floats else layers)


def scheme_name(kind: str) -> str:
    """The scheme that holds a tensor of ggml type `kind`."""
    if kind in BLOCK_TYPES:
        return BLOCK_TYPES[kind].scheme.name
    return FLOATS.get(kind, OTHER)


def tensor_entry(header: Header, tensor: str, where: str) -> TensorEntry:
    """A tensor by its Hugging Face name. Raises ModelError where it is missing."""
    name = gguf_name(tensor)
    if name not in header.tensors:
        raise ModelError(f"{where}: tensor '{name}' is missing from the file")
    return header.tensors[name]


def _parts(
    config: DecoderConfig, kind: LayerKind, number: int, header: Header, where: str
) -> Iterator[list[TensorEntry]]:
    """The tensors of every matrix of a layer."""
    for matrix in MATRICES[kind]:
        names = parameter_names(config, kind, f"{matrix}.weight", number - 1)
        yield [tensor_entry(header, name, where) for name in names]


def _check(parts: list[TensorEntry], rows: int, columns: int, where: str) -> None:
    wide = all(len(part.shape) == 2 and part.shape[1] == columns for part in parts)
    if not wide or sum(part.shape[0] for part in parts) != rows:
        shapes = ", ".join(f"'{part.name}' has shape {list(part.shape)}" for part in parts)
        raise ModelError(
            f"{where}: {shapes}; the configuration asks for {rows} rows of {columns} in all"
        )
