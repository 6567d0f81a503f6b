"""Whole blocks in the kernels, against torch's own layers on the same weights."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from edgewise import kernels
from edgewise.kernels.block import run_blocks
from edgewise.models.blank import random_layer
from edgewise.models.cache import Segment
from edgewise.models.config import DecoderConfig, Rope
from edgewise.models.shard import Shard, random_shard
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.rounding import quantize_matrix
from edgewise.schemes import CacheType, get_scheme
from tests.kernels.activations import rounded

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built")

LLAMA = DecoderConfig(
    architecture="LlamaForCausalLM", vocab_size=97, hidden_size=64, ffn_size=150, num_blocks=3,
    num_heads=4, num_kv_heads=2, head_dim=16, max_context=64, norm="rms", norm_eps=1e-5,
    activation="silu", gated=True, rope=Rope(theta=10000.0), windows=(None,) * 3, tied=False,
    embed_size=64, names="llama",
)  # fmt: skip
SHAPES = {
    "llama": LLAMA,
    "wide heads": dataclasses.replace(LLAMA, head_dim=80),
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, qk_norm=True, head_dim=32),
    "windows": dataclasses.replace(LLAMA, windows=(4, None, 4)),
    "opt": dataclasses.replace(
        LLAMA, norm="layer", activation="relu", gated=False, rope=None, num_kv_heads=4,
        qkv_bias=True, out_bias=True, mlp_bias=True, names="opt",
    ),
    "gelu": dataclasses.replace(LLAMA, activation="gelu"),
}  # fmt: skip
# Prompts, chunks and decoding steps of three sequences; all of at most 16 tokens.
STEPS = (
    [Segment(1, 0, 9)],
    [Segment(2, 0, 1), Segment(1, 9, 3)],
    [Segment(1, 12, 1), Segment(2, 1, 1), Segment(3, 0, 7)],
    [Segment(3, 7, 1)],
)


class InFull(torch.nn.Module):
    """A floating-point matrix's product in float32."""

    def __init__(self, matrix) -> None:
        super().__init__()
        self.weight, self.bias = matrix.weight.float(), matrix.bias

    def forward(self, inputs):
        return F.linear(inputs, self.weight, None if self.bias is None else self.bias.float())


class Rounded(torch.nn.Module):
    """A packed matrix's product in float32, with its input rounded as the kernels do."""

    def __init__(self, packed: PackedLinear) -> None:
        super().__init__()
        self.weight, self.bias, self.group = (
            packed.packed.dequantized(),
            packed.bias,
            packed.scheme.group,
        )

    def forward(self, inputs):
        seen, _ = rounded(inputs, self.group)
        return F.linear(seen, self.weight, None if self.bias is None else self.bias.float())


class Stack(torch.nn.Module):
    """Packed matrices below each other, as one."""

    def __init__(self, parts) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def native(self):
        return kernels.NativeMatrix.stacked([part.native() for part in self.parts])

    def forward(self, inputs):
        return torch.cat([part(inputs) for part in self.parts], dim=-1)


def shard_of(config, scheme, cache=CacheType.FULL, context=32):
    torch.manual_seed(1)
    layers = [random_layer(config, n, get_scheme(scheme), torch.device("cpu")) for n in (1, 2, 3)]
    for layer in layers:
        for name, parameter in layer.named_parameters():
            around = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.data = (around + 0.2 * torch.randn(parameter.shape)).to(parameter.dtype)
    return Shard(config, 1, layers, slots=3, context=context, cache=cache)


def exact(matrix):
    """What the kernels should compute, in float32."""
    if isinstance(matrix, Stack):
        return Stack([exact(part) for part in matrix.parts])
    return (Rounded if isinstance(matrix, PackedLinear) else InFull)(matrix)


def expected_of(config, shard, context=32):
    """The same blocks in torch, in float32 throughout."""
    other = random_shard(config, 1, 4, "fp32", device="cpu", slots=3, context=context)
    other.blocks.parts = [dataclasses.replace(part, most_tokens=0) for part in other.blocks.parts]
    for mine, theirs in zip(other.layers, shard.layers, strict=True):
        for name in ("qkv", "out", "up", "down"):
            setattr(mine, name, exact(getattr(theirs, name)))
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                mine.get_parameter(name).data = parameter.float()
    return other


@pytest.mark.parametrize(
    "scheme", ["q4g32", "q3g64a", "q8g128", "q6g16d", "q4g32ad", "q4g32ds", "bf16", "fp16", "fp32"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_equal_torch(shape, scheme):
    config = SHAPES[shape]
    shard = shard_of(config, scheme)
    assert len(shard.blocks.parts) == 1 and len(shard.blocks.parts[0].native) == 3
    exact = expected_of(config, shard)
    for segments in STEPS:
        states = torch.randn(sum(s.length for s in segments), config.hidden_size)
        before = states.clone()
        outputs, expected = shard.forward(states, segments), exact.forward(states, segments)
        assert torch.equal(states, before)
        # Keys and values are cached in bf16 here, in float32 there.
        error = (outputs - expected).norm() / (expected - states).norm()
        assert error < (1e-5 if scheme == "fp32" else 0.02)


def by_torch(shard):
    """The same shard with nothing left to the kernels."""
    shard.blocks.parts = [dataclasses.replace(part, most_tokens=0) for part in shard.blocks.parts]
    for layer in shard.layers:
        for name in ("qkv", "out", "up", "down"):
            matrix = getattr(layer, name)
            matrix.native = lambda: None
    return shard


@pytest.mark.parametrize("shape", ["llama", "windows"])
def test_blocks_of_parts_in_different_schemes_equal_torch(shape):
    config = SHAPES[shape]
    shard = shard_of(config, "q4g32a")
    for layer in shard.layers:
        for name, schemes in (("qkv", ("q4g32a", "q4g32", "q6g16d")), ("up", ("q3g64", "q8g32"))):
            rows = {"qkv": (64, 32, 32), "up": (150, 150)}[name]
            weights = getattr(layer, name).packed.dequantized().split(rows)
            parts = zip(weights, schemes, strict=True)
            stack = [PackedLinear(quantize_matrix(x, get_scheme(scheme))) for x, scheme in parts]
            setattr(layer, name, Stack(stack))
    shard = Shard(config, 1, list(shard.layers), slots=3, context=32)
    assert len(shard.blocks.parts) == 1 and len(shard.blocks.parts[0].native) == 3
    exact = expected_of(config, shard)
    for segments in STEPS:
        states = torch.randn(sum(s.length for s in segments), config.hidden_size)
        outputs, expected = shard.forward(states, segments), exact.forward(states, segments)
        assert (outputs - expected).norm() / (expected - states).norm() < 0.02


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "q4g64"])
@pytest.mark.parametrize("shape", ["llama", "wide heads", "windows", "opt"])
def test_a_cache_in_8_bits_holds_what_torch_puts_there(shape, scheme):
    """The kernels read and go on with what torch's path wrote, and the other way round."""
    config = SHAPES[shape]
    first, second = (shard_of(config, scheme, CacheType.INT8) for _ in range(2))
    by_torch(second)
    assert len(first.blocks.parts[0].native) == 3
    full, codes = shard_of(config, scheme), first.cache.stored(0).codes
    assert codes.dtype == torch.int8 and first.cache.bytes < 0.75 * full.cache.bytes
    for number, segments in enumerate(STEPS):
        states = torch.randn(sum(s.length for s in segments), config.hidden_size)
        mine, theirs, whole = (x.forward(states, segments) for x in (first, second, full))
        size = (whole - states).norm()
        assert (mine - theirs).norm() / size < (2e-3 if scheme == "fp32" else 0.03)
        assert (mine - whole).norm() / size < 0.03
        if number == 1:  # and each with the other's cache
            for a, b in zip(*(x.cache._blocks.values() for x in (first, second)), strict=True):
                for one, other in ((a.codes, b.codes), (a.scale, b.scale)):
                    kept = one.clone()
                    one.copy_(other), other.copy_(kept)


def test_the_number_of_threads_changes_nothing():
    shard, states = shard_of(LLAMA, "q4g64"), torch.randn(9, 64)
    outputs, before = [], torch.get_num_threads()
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        outputs.append(shard.forward(states, STEPS[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(other, outputs[0]) for other in outputs)


def test_lanes_do_not_see_each_other():
    shard, states = shard_of(LLAMA, "q4g64"), torch.randn(12, 64)
    together = shard.forward(states, [Segment(1, 0, 5), Segment(2, 0, 7)])
    shard.drop(1), shard.drop(2)
    alone = [
        shard.forward(states[:5], [Segment(1, 0, 5)]),
        shard.forward(states[5:], [Segment(2, 0, 7)]),
    ]
    assert torch.equal(together, torch.cat(alone))


def test_what_the_kernels_do_not_know_torch_runs():
    for config, scheme in (
        (dataclasses.replace(LLAMA, head_dim=8), "q4g64"),
        (dataclasses.replace(LLAMA, norm_first=False), "q4g64"),
        (LLAMA, "t8"),
    ):
        shard = random_shard(config, 1, 4, scheme, device="cpu", slots=1, context=8)
        assert not shard.blocks.parts[0].native
        assert shard.forward(torch.randn(2, 64), [Segment(1, 0, 2)]).shape == (2, 64)


@pytest.mark.parametrize("lane", [(4, 0, 1), (-1, 0, 1), (0, 63, 2), (0, -1, 1), (0, 0, 2)])
def test_positions_outside_the_cache_are_refused(lane):
    """Slots 0 to 3 of 64 positions, one token."""
    shard = random_shard(LLAMA, 1, 2, "q4g32ad", device="cpu", slots=4, context=64)
    (part,) = shard.blocks.parts
    turn = (torch.ones(1, 16), torch.zeros(1, 16))
    with pytest.raises(ValueError, match="outside a cache"):
        run_blocks(part.native, torch.zeros(1, 64), [lane], turn)


def test_two_lanes_of_one_slot_are_refused():
    """They would read what the other one may not have written yet."""
    shard = random_shard(LLAMA, 1, 2, "q4g32ad", device="cpu", slots=4, context=64)
    (part,) = shard.blocks.parts
    turn = (torch.ones(8, 16), torch.zeros(8, 16))
    with pytest.raises(ValueError, match="two lanes of one slot"):
        run_blocks(part.native, torch.zeros(8, 64), [(0, 0, 5), (0, 5, 3)], turn)


def test_a_block_that_the_kernels_do_not_know_is_refused():
    shard = random_shard(LLAMA, 1, 2, "q4g32ad", device="cpu", slots=1, context=64)
    (part,) = shard.blocks.parts
    part.native[0].struct.head_dim = 24
    turn = (torch.ones(1, 24), torch.zeros(1, 24))
    with pytest.raises(ValueError, match="a shape or type that they do not know"):
        run_blocks(part.native, torch.zeros(1, 64), [(0, 0, 1)], turn)
