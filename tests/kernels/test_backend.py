"""Whatever is plugged in for a kind of device keeps the contract of `Backend`, and is what runs."""

from collections import Counter

import pytest
import torch

from edgewise.kernels import BACKENDS, backend_of
from edgewise.kernels.backend import Cpp
from edgewise.models.cache import Segment
from edgewise.quantization.packed import random_packed
from edgewise.schemes import get_scheme
from tests.kernels.test_blocks import LLAMA, shard_of

HERE = [name for name, made in BACKENDS.items() if made() is not None]
pytestmark = pytest.mark.skipif(not HERE, reason="the kernels were not built, and there is no GPU")


@pytest.fixture(params=HERE)
def device(request):
    return torch.device(request.param)


@pytest.mark.parametrize(
    "name", ["q2g16ad", "q3g32ad", "q4g64", "q5g32ad", "q6g16d", "q8g32d", "q4g32ds"]
)
def test_products_are_those_of_the_whole_matrix(device, name):
    backend, scheme = backend_of(device), get_scheme(name)
    packed = random_packed(scheme, (50, 96), device)
    matrix = backend.pack(
        packed.shape, packed.tensors, None, scheme.bits, scheme.group, sparse=scheme.sparse
    )
    inputs, whole = torch.randn(20, 96, device=device), packed.dequantized()
    assert torch.equal(backend.whole(matrix, 3, 40), whole[3:40].bfloat16())
    products = backend.linear(matrix, inputs)
    bound = inputs.abs().amax() / 254 * whole.abs().sum(1) + 1e-4
    assert ((products - inputs @ whole.T).abs() <= bound).all()
    alone = torch.cat([backend.linear(matrix, row[None]) for row in inputs])
    assert torch.equal(products, alone)


def test_matrices_of_numbers_and_several_below_each_other(device):
    backend, bias = backend_of(device), torch.randn(70, device=device)
    weights = [torch.randn(rows, 64, device=device) for rows in (50, 20)]
    parts = [backend.pack(tuple(w.shape), {"codes": w}) for w in weights]
    inputs = torch.randn(3, 64, device=device)
    expected = inputs @ torch.cat(weights).T + bias
    assert torch.allclose(backend.linear(backend.stack(parts, bias), inputs), expected, atol=1e-4)
    assert backend.pack((2, 2), {"codes": torch.zeros(2, 2, dtype=torch.float64)}) is None


class Counting(Cpp):
    """The library, and what it was asked for."""

    def __init__(self) -> None:
        self.asked = Counter()

    def __getattribute__(self, name):
        if name in ("pack", "linear", "block", "run"):
            self.asked[name] += 1
        return super().__getattribute__(name)


def test_what_is_plugged_in_runs_blocks_and_products(monkeypatch):
    counting, states = Counting(), torch.randn(5, LLAMA.hidden_size)
    expected = shard_of(LLAMA, "q4g32").forward(states, [Segment(1, 0, 5)])
    monkeypatch.setitem(BACKENDS, "cpu", lambda: counting)
    shard = shard_of(LLAMA, "q4g32")
    assert torch.equal(shard.forward(states, [Segment(1, 0, 5)]), expected)
    assert (counting.asked["pack"], counting.asked["block"], counting.asked["run"]) == (12, 3, 1)
    product = shard.layers[0].out(torch.randn(2, 64))
    assert product.shape == (2, 64) and counting.asked["linear"] == 1
    monkeypatch.setitem(BACKENDS, "cpu", lambda: None)  # nobody: torch
    alone = shard_of(LLAMA, "q4g32")
    assert not alone.blocks.parts[0].native
    difference = alone.forward(states, [Segment(1, 0, 5)]) - expected
    assert difference.norm() < 0.02 * (expected - states).norm()
