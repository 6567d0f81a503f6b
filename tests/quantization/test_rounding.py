"""Every scheme's error, against what arithmetic allows; every method, against a plainer one."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewise.errors import QuantizationError
from edgewise.quantization import quantize_matrix
from edgewise.quantization.packed import random_packed
from edgewise.quantization.rounding import descent
from edgewise.schemes import SCHEMES, Family, Scheme, get_scheme

UNPACKED = (Family.FLOAT, Family.STORED, Family.RECIPE)
PACKED = [x for x in SCHEMES.values() if x.family not in UNPACKED and not x.half]
# Sparse ones: test_sparse.py.
GROUPED = [x for x in PACKED if x.family is Family.GROUPED and not x.sparse]
# Every width, every group, every kind of sides; not every combination.
SOME = [
    *map(get_scheme, ("q2g16ad", "q2g32a", "q2g128", "q3g16d", "q3g64a", "q3g32ad", "q4g32ad")),
    *map(get_scheme, ("q4g64", "q4g128a", "q4g16", "q5g32ad", "q5g64d", "q6g16d", "q6g32a")),
    *map(get_scheme, ("q8g32", "q8g64ad", "q8g16a", "t4", "t10", "t16")),
]
SOME_GROUPED = [scheme for scheme in SOME if scheme.family is Family.GROUPED]
pytestmark = pytest.mark.usefixtures("rounder")
BF16 = 2.0**-7  # relative spacing of bf16, at most


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def groups_of(matrix: Tensor, size: int) -> list[np.ndarray]:
    """Every group of every row, the last of a row shorter."""
    numbers = matrix.double().numpy()
    return [row[i : i + size] for row in numbers for i in range(0, len(row), size)]


def allowed_error(group: np.ndarray, scheme: Scheme, row: np.ndarray) -> float:
    """The sum of squares that rounding without clipping cannot exceed, sides in bf16, or in
    multiples of what the widest group of the row needs."""
    top = 2**scheme.bits - 1 if scheme.asymmetric else 2 ** (scheme.bits - 1) - 1
    widest, off = np.abs(group).max(), 0.0
    if scheme.asymmetric:
        widest = group.max() - group.min() + BF16 * abs(group.min())
    step = widest * (1 + BF16) / top
    if scheme.double:
        span = 2 * np.abs(row).max()
        step += span * (1 + BF16) / top / 127
        off = span / 127 if scheme.asymmetric else 0.0
    return len(group) * (0.5 * step + off) ** 2 * (1 + 1e-5) + 1e-60


def change(
    weight: Tensor, scheme: Scheme, method: str | None = None, moments: Tensor | None = None
) -> Tensor:
    """What rounding adds to a matrix."""
    return quantize_matrix(weight, scheme, method, moments).dequantized() - weight


def within_bounds(weight: Tensor, rounded: Tensor, scheme: Scheme) -> bool:
    size, wrongs = scheme.group, groups_of(rounded - weight, scheme.group)
    rows = [row for row in weight.double().numpy() for _ in range(0, len(row), size)]
    return all(
        (wrong**2).sum() <= allowed_error(group, scheme, row)
        for group, wrong, row in zip(groups_of(weight, size), wrongs, rows, strict=True)
    )


@pytest.mark.parametrize("scheme", SOME, ids=lambda x: x.name)
@pytest.mark.parametrize("shape", [(16, 128), (1, 1), (17, 33), (5, 200), (48, 130)])
def test_bytes_are_those_of_the_formula(scheme: Scheme, shape: tuple[int, int]) -> None:
    packed = quantize_matrix(normal(*shape), scheme)
    assert packed.nbytes == scheme.matrix_bytes(*shape)
    assert packed.dequantized().shape == shape
    assert random_packed(scheme, shape, torch.device("cpu")).nbytes == packed.nbytes


@pytest.mark.parametrize("scheme", SOME_GROUPED, ids=lambda x: x.name)
def test_every_group_is_within_its_bound(scheme: Scheme) -> None:
    weight = normal(20, 300)
    assert within_bounds(weight, quantize_matrix(weight, scheme).dequantized(), scheme)


@pytest.mark.parametrize("name", [f"t{bits}" for bits in range(4, 17, 2)])
def test_truncation_loses_less_than_its_last_bit(name: str) -> None:
    scheme, weight = get_scheme(name), normal(20, 70)
    truncated = quantize_matrix(weight, scheme).dequantized()
    step = weight.abs().max() / 2 ** (scheme.bits - 1)
    inside = weight.abs() < weight.abs().max() - step
    assert (truncated.abs() <= weight.abs() * (1 + 1e-6)).all()
    assert ((weight - truncated).abs()[inside] <= step * (1 + 1e-5)).all()


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Odd shapes with outliers, zeros and denormals."""
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 150))
    weight = normal(rows, columns, draw(st.integers(0, 10_000)))
    weight = weight * 10.0 ** draw(st.integers(-6, 6))
    for value in draw(st.lists(st.sampled_from([0.0, 1e4, -1e4, 1e-40, 300.0]), max_size=4)):
        row, column = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
        weight[row, column] = value
    if draw(st.booleans()):
        weight[draw(st.integers(0, rows - 1))] = 0.0
    return weight


@settings(max_examples=150, deadline=None, derandomize=True)
@given(weight=matrices(), scheme=st.sampled_from(GROUPED))
def test_any_matrix_is_within_its_bound(weight: Tensor, scheme: Scheme) -> None:
    packed = quantize_matrix(weight, scheme)
    assert packed.nbytes == scheme.matrix_bytes(*weight.shape)
    rounded = packed.dequantized()
    assert torch.isfinite(rounded).all()
    assert within_bounds(weight, rounded, scheme)


@pytest.mark.parametrize("scheme", SOME, ids=lambda x: x.name)
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    assert not quantize_matrix(torch.zeros(3, 40), scheme).dequantized().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    weight = normal(4, 64)
    weight[2, 3] = bad
    with pytest.raises(QuantizationError) as caught:
        quantize_matrix(weight, get_scheme("q4g64"), name="model.layers.0.mlp.up_proj.weight")
    assert str(caught.value) == (
        "model.layers.0.mlp.up_proj.weight holds numbers that are not finite"
    )


@pytest.mark.parametrize(
    ("scheme", "method", "message"),
    [
        ("q4g64", "awq", "q4g64 is not rounded by 'awq'; methods: nearest, gptq"),
        ("t4", "gptq", "t4 is not rounded by 'gptq'; methods: truncate"),
        ("bf16", "nearest", "bf16 is not rounded by 'nearest'; methods: none"),
        ("q4g32h", "nearest", "q4g32h is not rounded by 'nearest'; methods: none"),
        (
            "q4g64",
            "gptq",
            "gptq looks at what a model computes: run `edgewise quantize --rounding gptq` first",
        ),
    ],
)
def test_methods_that_do_not_apply_are_refused(scheme: str, method: str, message: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        quantize_matrix(normal(2, 64), get_scheme(scheme), method)
    assert str(caught.value) == message


@pytest.mark.parametrize("scheme", SOME_GROUPED, ids=lambda x: x.name)
def test_more_bits_lose_less(scheme: Scheme) -> None:
    if scheme.bits == 8:
        return
    wider = get_scheme(scheme.name.replace(f"q{scheme.bits}", f"q{scheme.bits + 1}").replace(
        "q7", "q8"))  # fmt: skip
    weight = normal(32, 256)
    errors = [change(weight, x).square().sum() for x in (scheme, wider)]
    assert errors[1] < 0.6 * errors[0]


def test_clipping_beats_the_full_range_where_bits_are_few() -> None:
    """Against plain rounding to the largest magnitude of a group, written out in numpy."""
    weight = normal(64, 256)
    for bits in (2, 3, 4):
        plain = 0.0
        for group in groups_of(weight, 64):
            step = np.abs(group).max() / (2 ** (bits - 1) - 1)
            codes = np.clip(np.round(group / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            plain += ((codes * step - group) ** 2).sum()
        assert float(change(weight, get_scheme(f"q{bits}g64")).square().sum()) < 0.93 * plain


@pytest.mark.parametrize("name", ["q2g32", "q3g64", "q4g64", "q4g32a", "q3g128a"])
def test_gptq_answers_better_than_rounding(name: str) -> None:
    """What counts is the output on correlated inputs."""
    scheme, columns = get_scheme(name), 160
    mixing = normal(columns, columns, 1) @ torch.diag(torch.logspace(0, -2, columns))
    inputs = normal(2000, columns, 2) @ mixing.T
    fresh = normal(2000, columns, 3) @ mixing.T
    weight = normal(48, columns, 4)
    moments = inputs.T @ inputs / len(inputs)
    errors = {
        method: float((fresh @ change(weight, scheme, method, moments).T).square().sum())
        for method in ("nearest", "gptq")
    }
    assert errors["gptq"] < 0.75 * errors["nearest"]


def test_codes_and_sides_in_turn_lower_gptqs_error_on_other_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of columns that are seen twice as often as there are columns."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.eye(128) + 0.1 * torch.randn(128, 128, generator=generator)
    seen, other = (torch.randn(n, 128, generator=generator) @ mix for n in (256, 4000))
    weight, moments, errors = normal(48, 128), seen.T @ seen / len(seen), {}
    for rounds in (0, 1, 3):
        monkeypatch.setattr(descent, "ROUNDS", rounds)
        lost = change(weight, get_scheme("q3g32ad"), "gptq", moments)
        errors[rounds] = float((other @ lost.T).square().mean())
    assert errors[3] <= errors[1] < errors[0]


def test_gptq_without_correlation_is_rounding() -> None:
    """With orthogonal inputs of equal length no column can make good for another; what little is
    gained is scales that fit once more."""
    scheme, weight = get_scheme("q4g64"), normal(32, 64, 5)
    gptq, nearest = (
        float(change(weight, scheme, method, torch.eye(64) * 8).norm())
        for method in ("gptq", "nearest")
    )
    assert 0.99 * nearest < gptq <= nearest


def test_gptq_refuses_moments_that_say_nothing() -> None:
    with pytest.raises(QuantizationError, match="moments of the inputs are not finite"):
        moments = torch.full((64, 64), math.nan)
        quantize_matrix(normal(2, 64), get_scheme("q4g64"), "gptq", moments)


@pytest.mark.parametrize("name", ["q2g16d", "q3g32ad", "q4g64a", "q4g32d", "q6g16d"])
def test_errors_are_weighed_by_what_columns_are_multiplied_with(name: str) -> None:
    scheme, weight = get_scheme(name), normal(64, 256)
    moments = torch.logspace(2, -2, 256)[torch.randperm(256)]
    errors = [
        float((change(weight, scheme, None, x).square() @ moments).sum()) for x in (None, moments)
    ]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("scheme", [x for x in SOME if x.double], ids=lambda x: x.name)
def test_double_quantization_costs_little_where_groups_are_alike(scheme: Scheme) -> None:
    weight = normal(32, 256)
    single = get_scheme(scheme.name.removesuffix("d"))
    errors = [change(weight, x).square().sum() for x in (single, scheme)]
    assert errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize("scheme", SOME, ids=lambda x: x.name)
def test_rows_and_slices_are_those_of_the_whole(scheme: Scheme) -> None:
    packed = quantize_matrix(normal(50, 70), scheme)
    whole = packed.dequantized()
    assert torch.equal(packed.dequantized(7, 33), whole[7:33])
    numbers = torch.tensor([[0, 49], [17, 17]])
    assert torch.equal(packed.rows(numbers), whole[numbers])


def test_large_matrices_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(70, 130)
    for name in ("q3g32", "q4g64a"):
        whole = quantize_matrix(weight, get_scheme(name))
        module = sys.modules["edgewise.quantization.rounding.nearest"]
        monkeypatch.setattr(module, "AT_ONCE", 32 * 130)
        parts = quantize_matrix(weight, get_scheme(name))
        assert parts.shape == whole.shape
        assert torch.equal(parts.codes, whole.codes)
        assert torch.equal(parts.dequantized(), whole.dequantized())
