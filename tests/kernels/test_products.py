"""Products and whole matrices from Python, against float64 and against torch's own path."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise import kernels
from edgewise.errors import EdgewiseError
from edgewise.models.linear import Linear
from edgewise.quantization.linear import PackedLinear, packed_matmul
from edgewise.quantization.packed import random_packed
from edgewise.quantization.rounding import quantize_matrix
from edgewise.schemes import BITS, GROUPS, SCHEMES, get_scheme
from tests.kernels.activations import rounded
from tests.kernels.conftest import BEST, usable

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")


DENSE = [f"q{x}g{y}{z}" for x in BITS for y in GROUPS for z in ("", "a", "d", "ad")]
SPARSE = [name for name, scheme in SCHEMES.items() if scheme.sparse]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def packed_of(scheme, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return quantize_matrix(torch.randn(shape, generator=generator), get_scheme(scheme), None)


def unpacked(weight, bias=None):
    return kernels.NativeMatrix(tuple(weight.shape), {"codes": weight}, bias)


def native_of(packed, bias=None):
    module = PackedLinear(packed, bias)
    assert module.native() is not None
    return module.native()


@pytest.mark.parametrize("scheme", DENSE + SPARSE)
def test_products_equal_double_precision(isa, scheme):
    """Beyond the rounding of the inputs nothing is lost but the last digits."""
    for shape in ((33, 70), (64, 256), (5, 31)):
        packed = packed_of(scheme, shape)
        weight, bias = packed.dequantized().double(), torch.randn(shape[0])
        for tokens in (1, 2, 3, 4, 8, 16, 17):
            inputs = torch.randn(tokens, shape[1])
            products = kernels.linear(native_of(packed, bias), inputs).double()
            seen, half = rounded(inputs.double(), packed.scheme.group, packed.scheme.sparse)
            size = inputs.double().abs() @ weight.abs().T + 1
            # A number halfway between two codes may go either way.
            one = (2 * half.unsqueeze(1) * weight.abs()).amax(-1)
            ties = 1e-5 * size + one
            assert ((products - seen @ weight.T - bias).abs() <= ties).all()
            error = (products - inputs.double() @ weight.T - bias).abs()
            assert (error <= half @ weight.abs().T * 1.001 + 1e-5 * size).all()
        whole = kernels.dequantize(native_of(packed), 0, shape[0])
        torch.testing.assert_close(whole, weight.bfloat16(), rtol=1 / 128, atol=1e-6)
        torch.testing.assert_close(kernels.dequantize(native_of(packed), 0, 3), whole[:3])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.one_of(st.sampled_from(DENSE), st.sampled_from(SPARSE)),
    st.integers(1, 90), st.integers(1, 400), st.integers(1, 40), st.integers(1, 4),
)  # fmt: skip
def test_any_shape_equals_torch(name, rows, columns, tokens, threads):
    torch.manual_seed(rows * columns + tokens)
    scheme = get_scheme(name)
    packed = random_packed(scheme, (rows, columns), torch.device("cpu"))
    inputs = torch.randn(tokens, columns)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        products = packed_matmul(inputs.bfloat16(), packed, None, native_of(packed))
        one = kernels.linear(native_of(packed), inputs)
        torch.set_num_threads(1)
        assert torch.equal(one, kernels.linear(native_of(packed), inputs))
    finally:
        torch.set_num_threads(before)
    expected = packed_matmul(inputs.bfloat16(), packed)
    weight = packed.dequantized().abs()
    _, half = rounded(inputs, scheme.group, scheme.sparse)
    limit = 0.02 * (inputs.abs() @ weight.T) + 1.1 * (half @ weight.T) + 1e-4
    assert ((products - expected).abs() <= limit).all()


@pytest.mark.parametrize("scheme", ["q8g32", "q4g64a", "q6g16d", "q5g128", "q4g32ds", "q6g64ds"])
def test_massive_activations_cost_little(isa, scheme):
    """One column is thousands of times as large as the others, as in trained models. Together with
    other tokens, a token is what it is alone."""
    packed = packed_of(scheme, (40, 512))
    inputs = torch.randn(9, 512)
    step = inputs.unflatten(1, (-1, packed.scheme.group)).abs().amax(-1, keepdim=True) / 127
    codes = (inputs.unflatten(1, (-1, packed.scheme.group)) / step).round() * step
    ordinary = ((codes.flatten(1) - inputs).double() @ packed.dequantized().double().T).norm(dim=1)
    inputs[:7, 5] *= 3000
    exact = inputs.double() @ packed.dequantized().double().T
    products = kernels.linear(native_of(packed), inputs)
    error = (products - exact).norm(dim=1)
    assert (error < 5 * ordinary.mean()).all()  # in 8 bits alone: hundreds of times
    alone = torch.cat([kernels.linear(native_of(packed), token) for token in inputs.split(1)])
    assert torch.equal(products, alone)


STACKS = (
    *(("q4g32a", "q6g16d"), ("q4g64", "q8g128", "q4g64"), ("bf16", "q5g32ad", "fp32")),
    *(("q4g32ds", "q4g32d", "q6g32ds"), ("bf16", "q5g64ds", "q4g64")),
)


@pytest.mark.parametrize("schemes", STACKS)
def test_parts_below_each_other_are_what_they_are_alone(isa, schemes):
    columns, parts = 150, []
    for number, scheme in enumerate(schemes):
        shape, bias = (21 + 16 * number, columns), torch.randn(21 + 16 * number)
        if scheme.startswith("q"):
            parts.append(native_of(packed_of(scheme, shape), bias))
        else:
            weight = torch.randn(shape).to(getattr(torch, get_scheme(scheme).compute))
            parts.append(unpacked(weight, bias))
    whole = kernels.NativeMatrix.stacked([parts[0], kernels.NativeMatrix.stacked(parts[1:])])
    assert whole.parts == tuple(parts)
    assert whole.shape == (sum(part.shape[0] for part in parts), columns)
    before = torch.get_num_threads()
    for tokens, threads in ((1, 1), (1, 3), (5, 2), (17, 3)):
        inputs = torch.randn(tokens, columns)
        torch.set_num_threads(threads)
        products = kernels.linear(whole, inputs)
        torch.set_num_threads(before)
        assert torch.equal(
            products, torch.cat([kernels.linear(part, inputs) for part in parts], dim=1)
        )
    if all(scheme.startswith("q") for scheme in schemes):
        each = torch.cat([kernels.dequantize(part, 0, part.shape[0]) for part in parts])
        for start, end in ((0, len(each)), (3, 5), (16, 50), (20, 22)):
            assert torch.equal(kernels.dequantize(whole, start, end), each[start:end])


def test_the_bias_of_all_parts():
    parts = [native_of(packed_of(scheme, (21, 70))) for scheme in ("q4g32a", "q6g16d")]
    inputs, bias = torch.randn(3, 70), torch.randn(42)
    products = kernels.linear(kernels.NativeMatrix.stacked(parts, bias), inputs)
    plain = torch.cat([kernels.linear(part, inputs) for part in parts], dim=1)
    assert torch.equal(products, plain + bias)


def test_parts_need_the_same_columns():
    parts = [unpacked(torch.zeros(2, columns)) for columns in (3, 4)]
    with pytest.raises(ValueError, match="same columns"):
        kernels.NativeMatrix.stacked(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_plain_matrices_lose_nothing_but_the_last_digits(isa, dtype):
    for shape in ((33, 70), (64, 256), (5, 31), (1, 1)):
        weight, bias = (torch.randn(shape) * 1e-3).to(dtype), torch.randn(shape[0])
        weight[0, 0] = 6e-8  # of fp16, the smallest number there is
        for tokens in (1, 2, 3, 4, 5, 8, 16, 17):
            inputs = torch.randn(tokens, shape[1])
            products = kernels.linear(unpacked(weight, bias), inputs)
            expected = inputs.double() @ weight.double().T + bias.double()
            assert (products.double() - expected).abs().max() < 1e-6


def test_linear_is_the_kernels_only_for_few_tokens_and_fixed_weights():
    layer = Linear(40, 24).bfloat16()
    inputs = torch.randn(3, 40, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
        assert torch.equal(layer(inputs), expected) and layer._native is None
        layer.requires_grad_(False)
        torch.testing.assert_close(layer(inputs), expected)
        assert layer._native is not None
        layer.weight = torch.nn.Parameter(2 * layer.weight, requires_grad=False)
        expected = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
        torch.testing.assert_close(layer(inputs), expected)


@pytest.mark.parametrize("scheme", ["q5g64a", "q4g32ds", "q5g64ds"])
def test_the_instruction_sets_agree(scheme):
    packed, inputs = packed_of(scheme, (48, 320)), torch.randn(9, 320)
    sets, products = usable(), []
    assert len(sets) > 1, "portable alone: nothing to compare"
    for _ in filter(kernels.use, sets):
        products.append(kernels.linear(native_of(packed), inputs))
    kernels.use(BEST)
    for other in products[1:]:
        torch.testing.assert_close(other, products[0], rtol=1e-4, atol=1e-4)


def test_a_wrong_instruction_set_is_an_error_and_off_means_torch(monkeypatch):
    code = "from edgewise import kernels; print(kernels.instruction_set())"

    def asked(instructions):
        monkeypatch.setenv("EDGEWISE_KERNELS", instructions)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert asked("off").stdout == "None\n"
    assert asked("portable").stdout == "portable\n"
    assert "EDGEWISE_KERNELS=mmx: this machine has no such instruction set" in asked("mmx").stderr


def test_a_library_of_other_sources_is_an_error(monkeypatch):
    """Its structs would be read wrongly."""
    module = sys.modules[kernels.available.__module__]
    monkeypatch.setattr(module, "STRUCTS", (module.LaneStruct, *module.STRUCTS[1:]))
    with pytest.raises(EdgewiseError, match="was built from other sources"):
        module.library.__wrapped__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own():
    """Its helpers stay behind with its parent, and so do their locks."""
    code = """
import os, sys, torch
from edgewise import kernels
torch.set_num_threads(2)
matrix = kernels.NativeMatrix((64, 256), {"codes": torch.ones(64, 256)})
x = torch.ones(3, 256)
before = kernels.linear(matrix, x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(kernels.linear(matrix, x), before) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("field", "value"), [("bits", 7), ("group", 24), ("type", 9), ("sides", 1)]
)
def test_a_matrix_that_the_kernels_do_not_know_is_refused(field, value):
    matrix = native_of(packed_of("q4g32ad", (16, 64)))
    setattr(matrix.struct, field, value)
    with pytest.raises(ValueError, match="a shape or type that they do not know"):
        kernels.linear(matrix, torch.ones(1, 64))


@pytest.mark.parametrize(
    ("field", "value"), [("bits", 2), ("group", 16), ("group", 128), ("minimum", 1)]
)
def test_a_sparse_matrix_that_the_kernels_do_not_know_is_refused(field, value):
    matrix = native_of(packed_of("q4g32ds", (16, 128)))
    kernels.linear(matrix, torch.ones(1, 128))
    setattr(matrix.struct, field, value)
    with pytest.raises(ValueError, match="a shape or type that they do not know"):
        kernels.linear(matrix, torch.ones(1, 128))


KINDS = (
    *("bf16", "fp16", "fp32", "q4g32ad", "q6g16d", "q8g32", "q5g64a"),
    *("q3g64ds", "q4g32ds", "q6g32ds", "q8g64ds"),
)


@pytest.mark.parametrize("columns", [64, 72, 131])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokens_product_is_bitwise_the_same_alone_and_among_others(isa, kind, columns):
    scheme, inputs = get_scheme(kind), torch.randn(23, columns) * torch.logspace(2, -2, 23)[:, None]
    weight = torch.randn(37, columns)
    if scheme.group:
        matrix = native_of(quantize_matrix(weight, scheme, None))
    else:
        matrix = unpacked(weight.to(getattr(torch, scheme.compute)))
    alone = torch.cat([kernels.linear(matrix, row[None]) for row in inputs])
    for count in (2, 3, 5, 8, 9, 16, 17, 23):
        assert torch.equal(kernels.linear(matrix, inputs[:count]), alone[:count]), count


@pytest.mark.parametrize("size", [1e-30, 1e-36, 1e-39, 1e-45])
def test_activations_whose_reciprocal_is_no_number_count_as_nothing(isa, size):
    packed = packed_of("q4g32ad", (40, 96))
    inputs = torch.randn(3, 96)
    tiny = inputs.clone()
    tiny[1] *= size
    products, expected = (kernels.linear(native_of(packed), x) for x in (tiny, inputs))
    assert torch.equal(products[[0, 2]], expected[[0, 2]])
    assert products[1].abs().max() < 1e3 * size + 1e-28
