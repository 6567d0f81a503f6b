"""Layers without a checkpoint: on torch's "meta" device, to be filled from a file or to see what a
layer consists of; and with random weights, for timing."""

from collections.abc import Sequence

import torch
from torch import nn

from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Layer, build_layer
from edgewise.models.loading import matrix_modules
from edgewise.quantization.linear import PackedModule
from edgewise.quantization.packed import random_packed
from edgewise.quantization.stacked import empty_matrix, few_parts, stored_module
from edgewise.schemes import Family, Scheme, get_scheme
from edgewise.specs import LayerSpec

# What is made there takes no memory. Nothing is computed there either: that would import torch's
# compiler, 70 MB in every worker.
META = torch.device("meta")


def blank_layer(config: DecoderConfig, number: int, scheme: Scheme, spec: LayerSpec) -> Layer:
    """A layer on the meta device, with all tensors of the names, types and sizes that it has when
    loaded in a scheme (Loader.layer). What is meant by `stored`, `spec` says."""
    concrete = spec.concrete(scheme)
    stored = concrete.family is Family.STORED
    dtype = getattr(torch, (get_scheme(spec.compute) if stored else concrete).compute)
    with META:
        layer = build_layer(config, number)
    for owner in layer.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=dtype, device=META)
            setattr(owner, name, nn.Parameter(empty, requires_grad=False))
    for i, (matrix, module) in enumerate(list(matrix_modules(layer))):
        rows = module.weight.shape[0]
        parts = few_parts(spec.stored[i]) if stored else ((rows, concrete.name),)
        setattr(layer, matrix, _blank_module(module, parts, dtype))
    return layer


def _blank_module(
    old: nn.Linear | nn.Embedding, parts: Sequence[tuple[int, str]], dtype: torch.dtype
) -> nn.Module:
    columns = old.weight.shape[1]
    matrices = [empty_matrix(get_scheme(name), (rows, columns), META) for rows, name in parts]
    return stored_module(old, matrices, dtype)


def random_layer(
    config: DecoderConfig,
    number: int,
    scheme: Scheme,
    device: torch.device,
    spec: LayerSpec | None = None,
) -> Layer:
    """A layer of a model's shape with random weights: for timing. What is meant by `stored`, `spec`
    says."""
    layer = blank_layer(config, number, scheme, spec or config.spec("").layers[number])
    for owner in layer.modules():
        if isinstance(owner, PackedModule):
            for name, buffer in random_packed(owner.scheme, owner.shape, device).tensors.items():
                setattr(owner, name, buffer)
        for name, parameter in owner.named_parameters(recurse=False):
            weights = torch.empty_like(parameter, device=device)
            weights = weights.normal_(std=0.02) if weights.ndim == 2 else weights.fill_(1.0)
            setattr(owner, name, nn.Parameter(weights, requires_grad=False))
    return layer
