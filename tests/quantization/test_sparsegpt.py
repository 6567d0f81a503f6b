"""SparseGPT against the plainest way to do the same, and against trying everything."""

import itertools
import math
import sys

import pytest
import torch
from torch import Tensor

from edgewise import kernels
from edgewise.errors import InputError, QuantizationError
from edgewise.kernels import backend_of
from edgewise.quantization import quantize_matrix
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.packed import rows_of
from edgewise.quantization.rounding.gptq import gptq
from edgewise.quantization.rounding.sparsegpt import (
    BAND,
    DAMPING,
    SEMI_STRUCTURED,
    Pruned,
    Sparsity,
    prune,
)
from edgewise.schemes import get_scheme

SCHEME = get_scheme("q4g32d")
HALF = Sparsity(0.5)


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A matrix, and the second moments of inputs whose columns differ and hang together."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ mixed
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs)


def cost(weight: Tensor, changed: Tensor, moments: Tensor) -> float:
    """E |dW x|^2."""
    change = (changed - weight).double()
    return float((change @ moments.double() * change).sum())


def damped(moments: Tensor) -> Tensor:
    return moments.double() + DAMPING * moments.double().diagonal().diag()


def reference(weight: Tensor, moments: Tensor, sparsity: Sparsity) -> Tensor:
    """Column by column, with a fresh inverse of what is left each time: no factor, no bands that
    are brought up to date late."""
    rows, columns = weight.shape
    left, hessian = weight.double().clone(), damped(moments)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    keep, width = torch.ones(rows, columns, dtype=torch.bool), sparsity.among or BAND
    gone = 0
    for j in range(columns):
        if j % width == 0:
            near = range(j, min(j + width, columns))
            costs = torch.stack([left[:, i] ** 2 / inverses[i][0, 0] for i in near], dim=1)
            if sparsity.among:
                for row, values in enumerate(costs.tolist()):
                    ranked = sorted(range(len(values)), key=values.__getitem__)
                    for i in ranked[: int(sparsity.share * sparsity.among)]:
                        keep[row, j + i] = False
            else:
                places = list(itertools.product(range(rows), range(len(near))))
                ranked = sorted(places, key=lambda place: float(costs[place]))
                count = round(sparsity.share * rows * near.stop) - gone
                for row, i in ranked[:count]:
                    keep[row, j + i] = False
                gone += count
        error = torch.where(keep[:, j], 0.0, left[:, j])
        inverse = inverses[j]
        left[:, j:] -= error[:, None] / inverse[0, 0] * inverse[0]
        left[~keep[:, j], j] = 0.0
    return left


@pytest.mark.parametrize("sparsity", [HALF, Sparsity(0.3), SEMI_STRUCTURED, Sparsity(0.25, 8)])
@pytest.mark.parametrize("columns", [8, 200])
def test_it_is_the_algorithm(sparsity: Sparsity, columns: int) -> None:
    weight, moments = problem(6, columns)
    pruned, expected = prune(weight, moments, sparsity), reference(weight, moments, sparsity)
    assert torch.equal(pruned.weight == 0, expected == 0)
    assert torch.equal(pruned.keep, expected != 0)
    torch.testing.assert_close(pruned.weight, expected.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_a_single_zero_is_the_best_there_is(seed: int) -> None:
    """Of all places, each with the least squares of the columns behind it: what is before a column
    is settled."""
    weight, moments = problem(2, 6, seed)
    hessian, best = damped(moments), (math.inf, weight)
    for row, j in itertools.product(range(2), range(6)):
        changed = weight.double().clone()
        right = hessian[j + 1 :, j] * changed[row, j]
        changed[row, j + 1 :] += torch.linalg.solve(hessian[j + 1 :, j + 1 :], right)
        changed[row, j] = 0.0
        best = min(best, (cost(weight, changed, hessian), changed.float()), key=lambda x: x[0])
    pruned = prune(weight, moments, Sparsity(1 / 12))
    torch.testing.assert_close(pruned.weight, best[1], rtol=1e-4, atol=1e-4)


def test_no_way_to_prune_half_of_a_row_costs_less_than_the_best() -> None:
    """The best of all masks, each by least squares, is a bound, and not far off."""
    weight, moments = problem(1, 8)
    hessian, least = damped(moments), math.inf
    for kept in itertools.combinations(range(8), 4):
        rest, changed = list(kept), torch.zeros(1, 8, dtype=torch.float64)
        right = hessian[rest] @ weight[0].double()
        changed[0, rest] = torch.linalg.solve(hessian[rest][:, rest], right)
        least = min(least, cost(weight, changed, hessian))
    found = cost(weight, prune(weight, moments, HALF).weight, hessian)
    assert least * (1 - 1e-6) <= found <= 2 * least


def by_magnitude(weight: Tensor, among: int) -> Tensor:
    near = weight.view(-1, among) if among else weight.view(1, -1)
    least = near.abs().topk(near.shape[1] // 2, largest=False).indices
    return near.scatter(1, least, 0.0).view_as(weight)


@pytest.mark.parametrize("sparsity", [HALF, SEMI_STRUCTURED], ids=["anywhere", "2:4"])
def test_it_costs_less_than_dropping_what_is_small(sparsity: Sparsity) -> None:
    weight, moments = problem(64, 256)
    dropped = by_magnitude(weight, sparsity.among)
    pruned = prune(weight, moments, sparsity)
    rounded = gptq(weight, SCHEME, moments, pruned).dequantized()
    plain = quantize_matrix(dropped, SCHEME, "nearest", moments).dequantized()
    assert cost(weight, pruned.weight, moments) < 0.8 * cost(weight, dropped, moments)
    assert cost(weight, rounded, moments) < 0.8 * cost(weight, plain, moments)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_what_is_pruned_decodes_to_zero(bits: int, share: float) -> None:
    weight, moments = problem(20, 96)
    pruned = prune(weight, moments, Sparsity(share))
    assert int((~pruned.keep).sum()) == round(share * weight.numel())
    decoded = gptq(weight, get_scheme(f"q{bits}g32d"), moments, pruned).dequantized()
    assert (decoded[~pruned.keep] == 0).all()
    assert (pruned.weight[~pruned.keep] == 0).all()


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_the_kernels_decode_it_to_zero_too(bits: int) -> None:
    weight, moments = problem(20, 96)
    pruned = prune(weight, moments, HALF)
    linear = PackedLinear(gptq(weight, get_scheme(f"q{bits}g32d"), moments, pruned))
    backend, native = backend_of(torch.device("cpu")), linear.native()
    assert backend is not None and native is not None
    assert (backend.whole(native, 0, 20)[~pruned.keep] == 0).all()
    # In integers, one column at a time: nothing of a pruned weight is in the product.
    products = torch.stack([linear(x.bfloat16()) for x in torch.eye(96)], dim=1)
    assert (products[~pruned.keep] == 0).all()


def test_two_of_four_neighbours_are_zero() -> None:
    weight, moments = problem(20, 96)
    pruned = prune(weight, moments, SEMI_STRUCTURED)
    decoded = gptq(weight, SCHEME, moments, pruned).dequantized()
    assert (pruned.keep.view(20, -1, 4).sum(-1) == 2).all()
    assert ((decoded.view(20, -1, 4) != 0).sum(-1) <= 2).all()


@pytest.mark.parametrize("name", ["q3g32d", "q4g64", "q8g32d"])
def test_nothing_pruned_is_gptq_bit_by_bit(name: str) -> None:
    weight, moments = problem(40, 160)
    plain = quantize_matrix(weight, get_scheme(name), "gptq", moments)
    pruned = prune(weight, moments, Sparsity(0.0))
    assert torch.equal(pruned.weight, weight)
    same = gptq(weight, get_scheme(name), moments, pruned)
    assert all(torch.equal(x, same.tensors[part]) for part, x in plain.tensors.items())


def test_columns_that_saw_no_input_go_first() -> None:
    weight, moments = problem(8, 32)
    moments[4:8], moments[:, 4:8] = 0.0, 0.0
    pruned = prune(weight, moments, Sparsity(4 / 32))
    assert not pruned.keep[:, 4:8].any() and pruned.keep.sum() == 8 * 28
    assert torch.equal(pruned.weight[:, 8:], weight[:, 8:])  # nothing has to be made good


def test_rows_of_a_large_matrix_are_pruned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTQ takes some rows at a time; which of them are zero it is told."""
    weight, moments = problem(64, 64)
    pruned = prune(weight, moments, HALF)
    whole = gptq(weight, SCHEME, moments, pruned).dequantized()
    module = sys.modules["edgewise.quantization.rounding.gptq"]  # not the function of that name
    monkeypatch.setattr(module, "AT_ONCE", 16 * 64)
    assert torch.equal(gptq(weight, SCHEME, moments, pruned).dequantized(), whole)


@pytest.mark.parametrize("name", ["q4g32d", "q3g32ad", "q8g32h", "q6g64a"])
@pytest.mark.parametrize(("start", "end"), [(0, 40), (3, 21), (16, 32), (39, 40)])
def test_rows_of_a_packed_matrix(name: str, start: int, end: int) -> None:
    scheme = get_scheme(name)
    made = "q8g32" if scheme.half else name
    whole = quantize_matrix(problem(40, 96)[0], get_scheme(made))
    part = rows_of(whole, start, end)
    assert part.nbytes == get_scheme(made).matrix_bytes(end - start, 96)
    assert torch.equal(part.dequantized(), whole.dequantized()[start:end])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
def test_shares_that_are_none(share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Sparsity(share)


def test_what_cannot_be_pruned() -> None:
    weight, moments = problem(8, 34)
    with pytest.raises(InputError, match="no whole number of 4"):
        Sparsity(0.3, 4)
    with pytest.raises(QuantizationError, match="no whole groups of 4"):
        prune(weight, moments, SEMI_STRUCTURED)
    nothing = Pruned(weight, torch.ones_like(weight, dtype=torch.bool))
    with pytest.raises(QuantizationError, match="no exact zero"):
        gptq(weight, get_scheme("q4g32ad"), moments, nothing)
