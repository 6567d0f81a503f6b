"""Gradients through frozen matrices, against autograd on the same numbers as a plain matrix."""

import pytest
import torch
from torch import nn

from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.rounding import quantize_matrix
from edgewise.quantization.stacked import StackedLinear, numbers_of
from edgewise.schemes import get_scheme
from edgewise.tuning import frozen
from edgewise.tuning.frozen import Frozen, tiles

SCHEMES = ("q4g32ad", "q4g64", "q8g64", "q3g32ad", "q4g32ds")


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(frozen, "TILE", 128 * 1024)


def packed(scheme, rows=2064, columns=128):
    torch.manual_seed(0)
    return PackedLinear(quantize_matrix(torch.randn(rows, columns), get_scheme(scheme)))


def gradients(module, inputs, upstream):
    inputs = inputs.clone().requires_grad_()
    product = module(inputs)
    product.backward(upstream)
    return product.detach(), inputs.grad


@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_matrices_have_the_gradients_of_what_they_stand_for(scheme, dtype, error):
    """In more tiles than one. bf16's own products differ by how sums are rounded, so both are held
    against float32 of the same inputs."""
    matrix = packed(scheme)
    plain = nn.Linear(128, 2064, bias=False)
    plain.weight = nn.Parameter(numbers_of(matrix), requires_grad=False)
    inputs, upstream = torch.randn(3, 7, 128).to(dtype), torch.randn(3, 7, 2064).to(dtype)
    ours = gradients(Frozen(matrix), inputs, upstream)
    true = gradients(plain, inputs.float(), upstream.float())
    limit = error if dtype is torch.float32 else 2**-8 + error  # what bf16 itself can hold
    for mine, right in zip(ours, true, strict=True):
        assert (mine.float() - right).norm() <= limit * right.norm()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_one_tile_they_are_those_of_bf16_itself(scheme, monkeypatch):
    monkeypatch.setattr(frozen, "TILE", 2064 * 128)
    matrix = packed(scheme)
    plain = nn.Linear(128, 2064, bias=False)
    plain.weight = nn.Parameter(numbers_of(matrix).bfloat16(), requires_grad=False)
    inputs, upstream = torch.randn(21, 128).bfloat16(), torch.randn(21, 2064).bfloat16()
    ours = gradients(Frozen(matrix), inputs, upstream)
    for mine, right in zip(ours, gradients(plain, inputs, upstream), strict=True):
        assert (mine - right).norm() <= 1e-3 * right.norm()


def test_stacked_matrices_have_the_gradients_of_their_parts():
    torch.manual_seed(0)
    above, below = packed("q4g64", 64, 64), nn.Linear(64, 48, bias=False)
    matrix = StackedLinear([above, below], torch.randn(112))
    plain = nn.Linear(64, 112)
    plain.weight = nn.Parameter(numbers_of(matrix), requires_grad=False)
    plain.bias = nn.Parameter(matrix.bias.detach(), requires_grad=False)
    inputs, upstream = torch.randn(5, 64), torch.randn(5, 112)
    for mine, right in zip(
        gradients(Frozen(matrix), inputs, upstream),
        gradients(plain, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


def test_no_whole_matrix_is_kept_or_made():
    matrix, seen = packed("q4g64"), []
    inputs = torch.randn(4, 128, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: seen.append(x.numel()) or x, lambda x: x
    ):
        Frozen(matrix)(inputs).sum().backward()
    assert sum(seen) == 0
    assert max(len(tile) for _, tile in tiles(matrix, torch.float32)) < 2064


def test_without_gradients_service_and_frozen_are_the_same():
    matrix, inputs = packed("q4g64"), torch.randn(4, 128)
    with torch.no_grad():
        assert torch.equal(Frozen(matrix)(inputs), matrix(inputs))
