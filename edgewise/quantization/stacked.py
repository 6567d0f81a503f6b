"""A matrix whose rows are kept in several ways: what a file stores apart, our blocks multiply as
one (query, key and value), and the parts may be in different schemes."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.kernels import NativeMatrix, backend_of
from edgewise.quantization.linear import PackedEmbedding, PackedLinear, PackedModule, packed_matmul
from edgewise.quantization.packed import Packed, empty_packed, joined
from edgewise.schemes import TILE_ROWS, Family, Scheme, get_scheme

ROWS_AT_ONCE = 1024  # of a floating-point part made float32 at a time

Part = PackedLinear | nn.Linear


class StackedLinear(nn.Module):
    """`parts` below each other; the bias [rows], of the compute type, is the whole matrix's. Parts
    multiply in the type of what they are given, floating-point ones of another type in float32."""

    def __init__(self, parts: Sequence[Part], bias: Tensor | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._native: NativeMatrix | None = None

    def native(self) -> NativeMatrix | None:
        """The matrix as the kernels see it; None where torch has to do without them."""
        known = [_native(part) for part in self.parts]
        parts, backend = [part for part in known if part is not None], backend_of(self.device)
        if backend is None or len(parts) < len(known):
            return None
        sources = [part.source for part in parts]
        if self._native is None or [part.source for part in self._native.parts] != sources:
            self._native = backend.stack(parts, self.bias)
        return self._native

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.buffers(), self.parameters())).device

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [..., columns] -> [..., rows], of the same type."""
        native, backend = self.native(), backend_of(inputs.device)
        if backend and native and inputs.numel() <= native.most_tokens * native.shape[1]:
            product = backend.linear(native, inputs.reshape(-1, native.shape[1]).float())
            return product.to(inputs.dtype).view(*inputs.shape[:-1], -1)
        products = torch.cat([_product(inputs, part) for part in self.parts], dim=-1)
        return products if self.bias is None else products + self.bias.to(products.dtype)


def _native(part: nn.Module) -> NativeMatrix | None:
    """A part as the kernels see it, if they can."""
    if isinstance(part, PackedLinear):
        return part.native()
    assert isinstance(part, nn.Linear)
    rows, columns = part.weight.shape
    backend = backend_of(part.weight.device)
    return backend.pack((rows, columns), {"codes": part.weight}) if backend else None


def _product(inputs: Tensor, part: nn.Module) -> Tensor:
    if isinstance(part, PackedLinear):
        return packed_matmul(inputs, part.packed, None, part.native())
    assert isinstance(part, nn.Linear)
    if part.weight.dtype == inputs.dtype:
        product: Tensor = part(inputs)
        return product
    starts = range(0, len(part.weight), ROWS_AT_ONCE)
    tiles = (part.weight[i : i + ROWS_AT_ONCE].float() for i in starts)
    whole = torch.cat([F.linear(inputs.float(), tile) for tile in tiles], dim=-1)
    return whole.to(inputs.dtype)


def in_few_parts(parts: Sequence[Tensor | Packed]) -> list[Tensor | Packed]:
    """The same matrix [rows, columns] in as few parts as possible: neighbours in one scheme are
    joined, packed ones where the upper one fills whole tiles."""
    merged: list[Tensor | Packed] = []
    for part in parts:
        before = merged[-1] if merged else None
        if isinstance(part, Tensor) and isinstance(before, Tensor) and part.dtype == before.dtype:
            merged[-1] = torch.cat((before, part))
        elif isinstance(part, Packed) and isinstance(before, Packed) and _fits(before, part):
            merged[-1] = joined([before, part])
        else:
            merged.append(part)
    return merged


def stored_module(
    old: nn.Linear | nn.Embedding, parts: Sequence[Tensor | Packed], dtype: torch.dtype
) -> nn.Module:
    """A module in place of `old` with these parts of its matrix, one below the other; `dtype` is
    what the layer computes in."""
    parts = in_few_parts(parts)
    if isinstance(old, nn.Embedding):
        (part,) = parts
        return PackedEmbedding(part) if isinstance(part, Packed) else _table(part)
    if len(parts) == 1 and isinstance(parts[0], Packed):
        return PackedLinear(parts[0], old.bias)
    if len(parts) == 1 and isinstance(parts[0], Tensor) and parts[0].dtype == dtype:
        old.weight = nn.Parameter(parts[0], requires_grad=False)
        return old
    return StackedLinear([_linear(part) for part in parts], old.bias)


def numbers_of(module: nn.Module) -> Tensor:
    """The matrix of a module of any kind here, or of torch's own, as float32 [rows, columns]."""
    if isinstance(module, StackedLinear):
        return torch.cat([numbers_of(part) for part in module.parts])
    if isinstance(module, PackedModule):
        return module.packed.dequantized()
    assert isinstance(module, nn.Linear | nn.Embedding)
    return module.weight.float()


def _table(weight: Tensor) -> nn.Embedding:
    rows, columns = weight.shape
    return nn.Embedding(rows, columns, _weight=weight)


def _linear(part: Tensor | Packed) -> Part:
    if isinstance(part, Packed):
        return PackedLinear(part)
    rows, columns = part.shape
    linear = nn.Linear(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(part, requires_grad=False)
    return linear


def empty_matrix(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> Tensor | Packed:
    """A part of the types and sizes that it has, whatever is in it."""
    if scheme.family is not Family.FLOAT:
        return empty_packed(scheme, shape, device)
    return torch.empty(shape, dtype=getattr(torch, scheme.compute), device=device)


def few_parts(parts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """What `in_few_parts` makes of parts that are (rows, scheme)."""
    merged: list[tuple[int, str]] = []
    for rows, name in parts:
        scheme = get_scheme(name)
        if merged and merged[-1][1] == name and _joins(scheme, merged[-1][0]):
            merged[-1] = (merged[-1][0] + rows, name)
        else:
            merged.append((rows, name))
    return merged


def _fits(above: Packed, below: Packed) -> bool:
    return above.scheme == below.scheme and _joins(above.scheme, above.shape[0])


def _joins(scheme: Scheme, rows: int) -> bool:
    """Whether more rows in a scheme can follow so many, in the same tensors."""
    if scheme.family is Family.FLOAT:
        return True
    return scheme.family is Family.GROUPED and rows % TILE_ROWS == 0
