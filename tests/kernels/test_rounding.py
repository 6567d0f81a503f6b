"""Rounding in the library, against the search in torch that it stands for."""

import sys

import pytest
import torch
from torch import Tensor

from edgewise import kernels
from edgewise.quantization.packed import Packed
from edgewise.quantization.rounding import quantize_matrix
from edgewise.schemes import get_scheme

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")
NEAREST = sys.modules["edgewise.quantization.rounding.nearest"]
SCHEMES = (
    *("q2g16ad", "q2g32ad", "q2g128", "q3g16d", "q3g32ad", "q3g64", "q4g32ad", "q4g64a", "q4g16"),
    *("q5g32ad", "q6g16d", "q6g32d", "q8g32", "q8g32d", "q8g128a"),
)


def trained(rows: int, columns: int) -> Tensor:
    """As trained weights are: rows and columns of different size, tails."""
    generator = torch.Generator().manual_seed(rows)
    normal = torch.randn(rows, columns, generator=generator)
    sizes = torch.randn(columns, generator=generator).mul(0.5).exp()
    return (0.02 * normal * normal.abs().sqrt() * sizes).bfloat16()


def heavy(columns: int) -> Tensor:
    """Second moments from 1e-3 to 1e3."""
    generator = torch.Generator().manual_seed(columns)
    return 10.0 ** (6 * torch.rand(columns, generator=generator) - 3)


def in_torch(weight: Tensor, scheme: str, moments: Tensor | None = None) -> Packed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NEAREST, "can_round", lambda _: False)
        return quantize_matrix(weight, get_scheme(scheme), None, moments)


def loss(packed: Packed, weight: Tensor, moments: Tensor) -> float:
    return float(
        (packed.dequantized() - weight.float()).double().square().sum(0) @ moments.double()
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_as_good_as_in_torch(isa: str, scheme: str) -> None:
    for weight in (trained(48, 320), torch.randn(20, 256)):
        for moments in (torch.rand(weight.shape[1]) + 0.1, heavy(weight.shape[1])):
            native = quantize_matrix(weight, get_scheme(scheme), None, moments)
            plain = in_torch(weight, scheme, moments)
            assert loss(native, weight, moments) < 1.01 * loss(plain, weight, moments)


@pytest.mark.parametrize("scheme", ["q2g16ad", "q3g64", "q4g128a", "q6g32d"])
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (33, 130)])
def test_tensors_are_those_of_torch(scheme: str, shape: tuple[int, int]) -> None:
    weight = trained(*shape)
    native, plain = quantize_matrix(weight, get_scheme(scheme)), in_torch(weight, scheme)
    kinds = [{name: (x.shape, x.dtype) for name, x in p.tensors.items()} for p in (native, plain)]
    assert kinds[0] == kinds[1]
    moments = torch.ones(shape[1])
    assert loss(native, weight, moments) <= 1.01 * loss(plain, weight, moments) + 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_are_read_in_the_type_that_they_are_stored_in(dtype: torch.dtype) -> None:
    weight = trained(20, 70).to(dtype)
    native = quantize_matrix(weight, get_scheme("q4g32ad"))
    assert torch.equal(native.codes, quantize_matrix(weight.float(), get_scheme("q4g32ad")).codes)


def test_parts_of_a_matrix_are_read_where_they_lie() -> None:
    whole, scheme = trained(40, 300), get_scheme("q5g32ad")
    for part in (whole[3:29, 50:200], whole.T[:37, :33]):
        packed, alone = quantize_matrix(part, scheme), quantize_matrix(part.contiguous(), scheme)
        assert torch.equal(packed.codes, alone.codes)


def test_threads_change_nothing() -> None:
    weight, threads = trained(130, 200), torch.get_num_threads()
    packed = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        packed.append(quantize_matrix(weight, get_scheme("q3g32ad")))
    torch.set_num_threads(threads)
    for name, tensor in packed[0].tensors.items():
        assert all(torch.equal(tensor, other.tensors[name]) for other in packed[1:])
