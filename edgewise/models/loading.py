"""From a checkpoint to one layer in a scheme, one matrix at full precision in memory at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgewise.errors import ModelError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Embedding, Layer, Origin, build_layer
from edgewise.models.digests import tensor_digests
from edgewise.models.finite import all_finite
from edgewise.models.names import parameter_names
from edgewise.quantization.linear import PackedEmbedding, PackedLinear, PackedModule
from edgewise.quantization.packed import PARTS, Packed
from edgewise.quantization.rounding import (
    calibration_of,
    default_method,
    quantize_matrix,
    sees_pairs,
)
from edgewise.quantization.stacked import stored_module
from edgewise.quantization.statistics import load_statistics
from edgewise.quantization.store import Store
from edgewise.schemes import Family, Scheme, get_scheme

Matrix = nn.Linear | nn.Embedding


@dataclass(frozen=True)
class Loader:
    """Loads layers of one checkpoint. `method` rounds (None: each family's own), `store` keeps the
    result (None: nowhere). A method's full name, such as "nearest:KEY", also says which statistics
    of the layers' inputs it looks at (quantization/statistics.py)."""

    checkpoint: Checkpoint
    device: torch.device
    method: str | None = None
    store: Store | None = None

    @property
    def config(self) -> DecoderConfig:
        return self.checkpoint.config

    def layer(
        self,
        number: int,
        scheme: Scheme,
        tied: Layer | None = None,
        moments: Mapping[str, Tensor] | None = None,
    ) -> Layer:
        """Layer `number`; a tied head takes the matrix of the embedding `tied` if that is in the
        same scheme. `moments`, by matrix, are second moments of their inputs, in place of those
        that the method's name says. Raises ModelError, QuantizationError."""
        layer = self._layer(number, scheme, tied, moments)
        layer.origin = self.origin(number, scheme)
        self._check_finite(layer, number, scheme)
        return layer.requires_grad_(False)

    def origin(self, number: int, scheme: Scheme) -> Origin:
        return Origin(self.checkpoint.model, number, scheme.name, self.method, str(self.device))

    def shares(self, number: int, scheme: Scheme, table: Layer | None) -> bool:
        """Whether layer `number` is a head that uses the matrix of the embedding `table`."""
        head = self.config.tied and number == self.config.num_layers - 1
        return head and table is not None and table.origin == self.origin(0, scheme)

    def _layer(
        self, number: int, scheme: Scheme, tied: Layer | None, moments: Mapping[str, Tensor] | None
    ) -> Layer:
        shared, spec = self._shared(number, scheme, tied), self.checkpoint.spec.layers[number]
        scheme = spec.concrete(scheme)
        if scheme.family is Family.STORED:
            return self._as_stored(number, get_scheme(spec.compute), shared)
        layer, dtype = self._empty(number), getattr(torch, scheme.compute)
        matrices = _stored(layer, scheme)
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
        packed = {"out": shared} if isinstance(shared, Packed) else {}
        own = {name: module for name, module in matrices.items() if name not in packed}
        packed |= self._packed(layer, own, number, scheme, moments) if own else {}
        for name, module in matrices.items():
            setattr(layer, name, _module(module, packed[name]))
        return layer

    def _as_stored(self, number: int, compute: Scheme, shared: Tensor | Packed | None) -> Layer:
        """Layer `number` with its matrices as the checkpoint has them, the rest in a type."""
        layer, dtype = self._empty(number), getattr(torch, compute.compute)
        matrices = dict(matrix_modules(layer))
        state = {}
        for parameter, empty in layer.state_dict().items():
            if parameter.removesuffix(".weight") not in matrices or parameter.endswith(".bias"):
                names = self._names(layer, parameter, number)
                state[parameter] = self._read(names, empty.shape, dtype)
        layer.load_state_dict(state, strict=False, assign=True)
        for name, module in matrices.items():
            names = self._names(layer, f"{name}.weight", number)
            if name == "out" and shared is not None:
                parts = [shared]
            else:
                parts = [self._part(tensor, module.weight.shape[1]) for tensor in names]
            rows = sum(part.shape[0] for part in parts)
            if rows != module.weight.shape[0]:
                raise ModelError(
                    f"{self.checkpoint.model}: {', '.join(names)} have {rows} rows together, but "
                    f"the configuration asks for {module.weight.shape[0]}"
                )
            setattr(layer, name, stored_module(module, parts, dtype))
        return layer

    def _part(self, name: str, columns: int) -> Tensor | Packed:
        part = self.checkpoint.stored(name)
        if len(part.shape) != 2 or part.shape[1] != columns:
            raise ModelError(
                f"{self.checkpoint.model}: tensor {self.checkpoint.where(name)} has shape "
                f"{list(part.shape)}, but the configuration asks for rows of {columns}"
            )
        return part.to(self.device)

    def _check_finite(self, layer: Layer, number: int, scheme: Scheme) -> None:
        """Raise ModelError where weights hold what is no number, or none that the type can hold."""
        for parameter, tensor in layer.state_dict().items():
            if tensor.is_floating_point() and not all_finite(tensor):
                module, _, last = parameter.rpartition(".")
                module = module.partition(".parts.")[0]
                own = last if last not in PARTS else "weight"
                names = self._names(layer, f"{module}.{own}" if module else own, number)
                raise ModelError(
                    f"{self.checkpoint.model}: layer {number} in {scheme.name}: "
                    f"{', '.join(names)} holds numbers that are not finite; the file is damaged, "
                    f"or {scheme.name} is too narrow for them: try bf16 or fp32"
                )

    def is_stored(self, number: int, scheme: Scheme) -> bool:
        """Whether a layer is kept, quantized by this method."""
        layer, scheme = self._empty(number), self.checkpoint.spec.layers[number].concrete(scheme)
        path = self._path(number, self._tensors(layer, _stored(layer, scheme), number), scheme)
        return path is not None and path.is_file()

    def _empty(self, number: int) -> Layer:
        with torch.device("meta"):
            return build_layer(self.config, number)

    def _names(self, layer: Layer, parameter: str, number: int) -> tuple[str, ...]:
        return parameter_names(self.config, layer.kind, parameter, number - 1)

    def _shared(self, number: int, scheme: Scheme, tied: Layer | None) -> Tensor | Packed | None:
        """The embedding's matrix, where the head may use it too."""
        if not isinstance(tied, Embedding) or not self.shares(number, scheme, tied):
            return None
        tokens = tied.tokens
        return tokens.packed if isinstance(tokens, PackedModule) else tokens.weight

    def _tensors(
        self, layer: Layer, matrices: Mapping[str, Matrix], number: int
    ) -> dict[str, tuple[str, ...]]:
        """The checkpoint's tensors of every matrix."""
        return {name: self._names(layer, f"{name}.weight", number) for name in matrices}

    def _path(
        self, number: int, tensors: Mapping[str, tuple[str, ...]], scheme: Scheme
    ) -> Path | None:
        """Where the store keeps these matrices."""
        method = self.method or default_method(scheme)
        # GPTQ without its text's name could be anything.
        if self.store is None or (sees_pairs(method) and not calibration_of(method)):
            return None
        digests = tensor_digests(self.checkpoint, [x for names in tensors.values() for x in names])
        # Of equal layers every one has inputs of its own.
        own = [str(number)] if calibration_of(method) else []
        return self.store.path([*own, *tensors, *digests], scheme, method)

    def _moments(self, number: int) -> Mapping[str, Tensor]:
        """What is known of a layer's inputs, by matrix, where the method's name says which."""
        key = calibration_of(self.method or "")
        return load_statistics(key).of(number) if key else {}

    def _packed(
        self,
        layer: Layer,
        matrices: Mapping[str, Matrix],
        number: int,
        scheme: Scheme,
        moments: Mapping[str, Tensor] | None,
    ) -> dict[str, Packed]:
        """The layer's matrices, from the store or made now and kept there."""
        tensors = self._tensors(layer, matrices, number)
        path = self._path(number, tensors, scheme)
        if self.store is None or path is None:
            return self._quantized(matrices, tensors, number, scheme, moments)
        stored = self.store.read(path, scheme)
        if stored is not None and stored.keys() == matrices.keys():
            return {name: packed.to(self.device) for name, packed in stored.items()}
        made = self._quantized(matrices, tensors, number, scheme, moments)
        self.store.write(path, made)
        return made

    def _quantized(
        self,
        matrices: Mapping[str, Matrix],
        tensors: Mapping[str, tuple[str, ...]],
        number: int,
        scheme: Scheme,
        moments: Mapping[str, Tensor] | None,
    ) -> dict[str, Packed]:
        """The layer's matrices, each read from its tensors."""
        packed, moments = {}, self._moments(number) if moments is None else moments
        for name, module in matrices.items():
            whole = self._read(tensors[name], module.weight.shape)
            where = f"{self.checkpoint.model}: {', '.join(tensors[name])}"
            # Looking rows up is no product: GPTQ has nothing to look at, but for a head's.
            looked_up = isinstance(module, nn.Embedding) and not self.config.tied
            method = None if looked_up else self.method
            packed[name] = quantize_matrix(whole, scheme, method, moments.get(name), name=where)
            del whole
        return packed

    def _read(
        self, names: tuple[str, ...], shape: torch.Size, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Stack the rows of the named tensors, one tensor in memory at a time; without a `dtype` in
        the type that they are stored in, where a single tensor stays in its file until it is
        touched."""
        checkpoint, whole, row = self.checkpoint, None, 0
        for name in names:
            part = checkpoint.read(name)
            if dtype is None and len(names) == 1 and part.shape == shape:
                return part.to(self.device)
            if whole is None:
                whole = torch.empty(shape, dtype=dtype or part.dtype, device=self.device)
            fits = part.shape[1:] == shape[1:] and row + part.shape[0] <= shape[0]
            if not fits or (name == names[-1] and row + part.shape[0] != shape[0]):
                expected = [shape[0] - row, *shape[1:]]
                raise ModelError(
                    f"{checkpoint.model}: tensor {checkpoint.where(name)} has shape "
                    f"{list(part.shape)}, but the configuration asks for {expected}"
                )
            whole[row : row + part.shape[0]] = part
            row += part.shape[0]
        assert whole is not None  # every parameter has a name
        return whole


def _stored(layer: Layer, scheme: Scheme) -> dict[str, Matrix]:
    """The matrices that a scheme packs."""
    return {} if scheme.family is Family.FLOAT else dict(matrix_modules(layer))


def matrix_modules(layer: Layer) -> Iterator[tuple[str, Matrix]]:
    """The matrices that a scheme stores, by name; position tables are none of them."""
    for name, module in layer.named_children():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Embedding) and name == "tokens"):
            yield name, module


def _module(old: Matrix, packed: Packed) -> PackedModule:
    if isinstance(old, nn.Embedding):
        return PackedEmbedding(packed)
    return PackedLinear(packed, old.bias)
