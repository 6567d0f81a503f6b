"""From a checkpoint to one layer in a scheme, one matrix at full precision in memory at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgewise.errors import ModelError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Embedding, Head, Layer, build_layer
from edgewise.models.digests import tensor_digests
from edgewise.models.names import table_name, tensor_names
from edgewise.quantization.linear import PackedEmbedding, PackedLinear, PackedModule
from edgewise.quantization.packed import Packed, random_packed
from edgewise.quantization.rounding import METHODS, quantize
from edgewise.quantization.store import Store
from edgewise.schemes import Family, Scheme

Matrix = nn.Linear | nn.Embedding


@dataclass(frozen=True)
class Loader:
    """Loads layers of one checkpoint. `method` rounds (None: each family's own), `store` keeps the
    result (None: nowhere)."""

    checkpoint: Checkpoint
    device: torch.device
    method: str | None = None
    store: Store | None = None

    @property
    def config(self) -> DecoderConfig:
        return self.checkpoint.config

    def layer(self, number: int, scheme: Scheme, tied: Layer | None = None) -> Layer:
        """Layer `number`; a tied head takes the matrix of the embedding `tied` if that is in the
        same scheme. Raises ModelError, QuantizationError."""
        with torch.device("meta"):
            layer = build_layer(self.config, number)
        dtype = getattr(torch, scheme.compute)
        matrices = dict(matrix_modules(layer)) if scheme.family is not Family.FLOAT else {}
        shared = self._shared(number, scheme, tied)
        state = {}
        for parameter, empty in layer.state_dict().items():
            if parameter.removesuffix(".weight") in matrices and parameter.endswith(".weight"):
                continue
            if parameter == "out.weight" and isinstance(shared, Tensor):
                state[parameter] = shared
                continue
            names = self._names(layer, parameter, number)
            state[parameter] = self._read(names, empty.shape, dtype)
        layer.load_state_dict(state, strict=not matrices, assign=True)
        if matrices:
            own = {name: x for name, x in matrices.items() if not (name == "out" and shared)}
            packed = self._packed(layer, own, number, scheme)
            if isinstance(shared, Packed):
                packed["out"] = shared
            for name, module in matrices.items():
                setattr(layer, name, _module(module, packed[name]))
        return layer.requires_grad_(False)

    def _names(self, layer: Layer, parameter: str, number: int) -> tuple[str, ...]:
        config = self.config
        if isinstance(layer, Head) and parameter == "out.weight" and config.tied:
            return (table_name(config.names),)
        return tensor_names(config.names, layer.kind, parameter, number - 1)

    def _shared(self, number: int, scheme: Scheme, tied: Layer | None) -> Tensor | Packed | None:
        """The embedding's matrix, where the head may use it too."""
        last = number == self.config.num_layers - 1
        if not (self.config.tied and last and isinstance(tied, Embedding)):
            return None
        tokens = tied.tokens
        if isinstance(tokens, PackedModule):
            return tokens.packed if tokens.scheme == scheme else None
        same = tokens.weight.dtype == getattr(torch, scheme.compute)
        return tokens.weight if same and scheme.family is Family.FLOAT else None

    def _packed(
        self, layer: Layer, matrices: Mapping[str, Matrix], number: int, scheme: Scheme
    ) -> dict[str, Packed]:
        """The layer's matrices, from the store or made now and kept there."""
        names = {x: self._names(layer, f"{x}.weight", number) for x in matrices}
        path = None
        if self.store is not None:
            method = self.method or next(iter(METHODS[scheme.family]))
            flat = [name for found in names.values() for name in found]
            path = self.store.path(tensor_digests(self.checkpoint, flat), scheme, method)
            found = self.store.read(path, scheme)
            if found is not None and found.keys() == matrices.keys():
                return {name: _moved(x, self.device) for name, x in found.items()}
        packed = {}
        for name, module in matrices.items():
            whole = self._read(names[name], module.weight.shape, torch.float32)
            where = f"{self.checkpoint.model}: {', '.join(names[name])}"
            packed[name] = quantize(whole, scheme, self.method, name=where)
            del whole
        if self.store is not None and path is not None:
            self.store.write(path, packed)
        return packed

    def _read(self, names: tuple[str, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Stack the rows of the named tensors, one tensor in memory at a time."""
        checkpoint = self.checkpoint
        whole, row = torch.empty(shape, dtype=dtype, device=self.device), 0
        for name in names:
            part = checkpoint.read(name)
            fits = part.shape[1:] == shape[1:] and row + part.shape[0] <= shape[0]
            if not fits or (name == names[-1] and row + part.shape[0] != shape[0]):
                expected = [shape[0] - row, *shape[1:]]
                raise ModelError(
                    f"{checkpoint.model}: tensor '{name}' in "
                    f"{checkpoint.files[checkpoint.name(name)]} has shape {list(part.shape)}, but "
                    f"the configuration asks for {expected}"
                )
            whole[row : row + part.shape[0]] = part
            row += part.shape[0]
        return whole


def random_layer(config: DecoderConfig, number: int, scheme: Scheme, device: torch.device) -> Layer:
    """A layer of a model's shape with random weights: for timing, without a checkpoint."""
    grouped = scheme.family is not Family.FLOAT
    with torch.device("meta"):
        layer = build_layer(config, number)
    if grouped:
        for name, module in dict(matrix_modules(layer)).items():
            rows, columns = module.weight.shape
            packed = random_packed(scheme, (rows, columns), device)
            setattr(layer, name, _module(module, packed))
    layer.requires_grad_(False)
    for owner in layer.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                dtype = getattr(torch, scheme.compute)
                value = torch.empty_like(parameter, device=device, dtype=dtype)
                value = value.normal_(std=0.02) if parameter.ndim == 2 else value.fill_(1.0)
                setattr(owner, name, nn.Parameter(value, requires_grad=False))
    return layer


def matrix_modules(layer: Layer) -> Iterator[tuple[str, Matrix]]:
    """The matrices that a scheme stores, by name; position tables are none of them."""
    for name, module in layer.named_children():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Embedding) and name == "tokens"):
            yield name, module


def _module(old: Matrix, packed: Packed) -> PackedModule:
    if isinstance(old, nn.Embedding):
        return PackedEmbedding(packed)
    return PackedLinear(packed, old.bias)


def _moved(packed: Packed, device: torch.device) -> Packed:
    minimum = None if packed.minimum is None else packed.minimum.to(device)
    return Packed(
        packed.scheme, packed.shape, packed.codes.to(device), packed.scale.to(device), minimum
    )
