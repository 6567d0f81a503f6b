"""2:4 sparse schemes: where codes and places lie, which weights stay, and what they become."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewise import kernels
from edgewise.errors import QuantizationError
from edgewise.kernels import backend_of
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.packed import Packed, random_packed, rows_of
from edgewise.quantization.rounding import quantize_matrix
from edgewise.quantization.rounding.sparsegpt import SEMI_STRUCTURED, prune
from edgewise.quantization.sparse import pack_sparse, unpack_sparse
from edgewise.schemes import SCHEMES, SPARSE_BITS, get_scheme

SPARSE = [name for name, scheme in SCHEMES.items() if scheme.sparse]
SHAPES = [(16, 64), (1, 1), (17, 33), (5, 200), (48, 130)]


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def sparse_codes(rows: int, columns: int, bits: int, seed: int) -> Tensor:
    """Codes of which at most two of every four neighbours are not that of zero."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (rows, columns), generator=generator, dtype=torch.int32)
    order = torch.rand(rows, columns // 4, 4, generator=generator).argsort(-1)
    return codes.view(rows, -1, 4).scatter(-1, order[..., :2], 2 ** (bits - 1)).flatten(1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(SPARSE_BITS), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_codes_come_back(bits: int, blocks: int, tiles: int, seed: int) -> None:
    codes = sparse_codes(16 * blocks, 64 * tiles, bits, seed)
    stored = pack_sparse(codes, bits)
    assert stored.dtype == torch.uint8
    assert stored.nbytes * 8 == codes.numel() * (bits + 2) // 2
    assert torch.equal(unpack_sparse(stored, bits).to(torch.int32), codes)


@pytest.mark.parametrize("bits", SPARSE_BITS)
def test_a_code_and_its_place_lie_where_the_layout_says(bits: int) -> None:
    """Two neighbours at a time, found with nothing but the description of the layout: kept codes
    are a matrix of half as many columns, and so are their places."""
    top, zero = 2**bits - 1, 2 ** (bits - 1)
    for row, four, places in ((0, 0, (0, 1)), (3, 5, (1, 3)), (15, 15, (2, 3))):
        codes = torch.full((32, 128), zero, dtype=torch.int32)
        for place in places:
            codes[16 + row, 64 + 4 * four + place] = top
        nothing = pack_sparse(torch.full((32, 128), zero, dtype=torch.int32), bits)[1, 1]
        changed = pack_sparse(codes, bits)[1, 1] ^ nothing
        chunk, byte = four // 2, 4 * row + four % 2 * 2
        where = {tuple(x) for x in changed.nonzero().tolist()}
        assert {x for _, x in where} <= {byte, byte + 1}
        stored = pack_sparse(codes, bits)[1, 1, bits:]  # two bits each: four chunks to a vector
        found = [int(stored[chunk // 4, byte + i]) >> chunk % 4 * 2 & 3 for i in (0, 1)]
        assert tuple(found) == places


def test_three_of_four_neighbours_cannot_be_kept() -> None:
    codes = torch.full((16, 64), 8)
    codes[3, 4:7] = 1
    with pytest.raises(ValueError, match="more than two of four"):
        pack_sparse(codes, 4)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_are_those_of_the_formula(rounder: None, name: str, shape: tuple[int, int]) -> None:
    scheme = get_scheme(name)
    made = quantize_matrix(normal(*shape), scheme)
    drawn = random_packed(scheme, shape, torch.device("cpu"))
    assert made.nbytes == scheme.matrix_bytes(*shape) == drawn.nbytes
    assert made.dequantized().shape == shape
    for packed in (made, drawn):
        assert int(of_four(packed.dequantized() != 0).sum(-1).max()) <= 2


def of_four(matrix: Tensor) -> Tensor:
    beyond = -matrix.shape[1] % 4
    return torch.nn.functional.pad(matrix, (0, beyond)).unflatten(1, (-1, 4))


@pytest.mark.parametrize("name", ["q3g32ds", "q4g32ds", "q8g64ds"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_two_stay_that_cost_most_and_become_what_the_dense_scheme_makes_of_them(
    rounder: None, name: str, shape: tuple[int, int]
) -> None:
    weight, moments = normal(*shape), torch.rand(shape[1], generator=torch.Generator()) + 0.5
    costs = of_four(weight**2 * moments)
    best = costs.topk(2).indices
    kept = of_four(weight) * torch.zeros_like(costs).scatter_(-1, best, 1.0)
    kept = kept.flatten(1)[:, : shape[1]]
    scheme = get_scheme(name)
    dense = quantize_matrix(kept, scheme.dense, None, moments).dequantized()
    assert torch.equal(quantize_matrix(weight, scheme, None, moments).dequantized(), dense)


def test_of_two_pairs_the_one_that_loses_less_stays() -> None:
    """All six pairs tried, by what they lose in the product."""
    weight, moments = normal(1, 4, 3), torch.tensor([1.0, 30.0, 0.1, 2.0])
    stay = quantize_matrix(weight, get_scheme("q8g32ds"), None, moments).dequantized() != 0
    pairs = list(itertools.combinations(range(4), 2))
    lost = [
        float(sum(weight[0, i] ** 2 * moments[i] for i in range(4) if i not in x)) for x in pairs
    ]
    assert stay[0].nonzero().flatten().tolist() == list(pairs[lost.index(min(lost))])


def correlated(columns: int) -> Tensor:
    mixed = normal(columns, columns, 1)
    inputs = normal(4 * columns, columns, 2) @ mixed
    return inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("name", ["q3g32ds", "q4g32ds", "q6g64ds"])
def test_gptq_with_sparsegpt_loses_less_than_magnitude(name: str) -> None:
    weight, moments, scheme = normal(48, 192), correlated(192), get_scheme(name)

    def lost(packed: Packed) -> float:
        change = packed.dequantized() - weight
        return float((change @ moments * change).sum())

    by_gptq = quantize_matrix(weight, scheme, "gptq", moments)
    assert lost(by_gptq) < 0.8 * lost(quantize_matrix(weight, scheme, None, moments))
    kept = prune(weight, moments, SEMI_STRUCTURED).keep
    assert not by_gptq.dequantized()[~kept].any()


def test_gptq_needs_whole_fours() -> None:
    with pytest.raises(QuantizationError, match="no whole groups of 4"):
        quantize_matrix(normal(16, 34), get_scheme("q4g32ds"), "gptq", correlated(34))


@pytest.mark.parametrize("name", ["q3g32ds", "q5g64ds", "q8g32ds"])
@pytest.mark.parametrize(("start", "end"), [(0, 40), (3, 21), (39, 40)])
def test_rows(name: str, start: int, end: int) -> None:
    whole = random_packed(get_scheme(name), (40, 200), torch.device("cpu"))
    part, numbers = rows_of(whole, start, end), whole.dequantized()
    assert part.nbytes == get_scheme(name).matrix_bytes(end - start, 200)
    assert torch.equal(part.dequantized(), numbers[start:end])
    assert torch.equal(whole.dequantized(start, end), numbers[start:end])
    picked = torch.tensor([[end - 1, start], [start, start]])
    assert torch.equal(whole.rows(picked), numbers[picked])


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")
@pytest.mark.parametrize("name", SPARSE)
def test_the_kernels_see_no_more_than_two_of_four(name: str) -> None:
    """In integers, one column at a time."""
    packed = random_packed(get_scheme(name), (20, 96), torch.device("cpu"))
    linear, backend = PackedLinear(packed), backend_of(torch.device("cpu"))
    assert backend is not None and (native := linear.native()) is not None
    numbers = packed.dequantized()
    assert torch.equal(backend.whole(native, 0, 20), numbers.bfloat16())
    products = torch.stack([linear(x.bfloat16()) for x in torch.eye(96)], dim=1)
    torch.testing.assert_close(products.float(), numbers, rtol=1e-2, atol=1e-6)
    assert (products[numbers == 0] == 0).all()
