import pytest
import torch
from torch import nn

from edgewise.adapters import Adapted, AdapterConfig, Kind, LowRank


def trained(kind, name="0.q", rows=6, columns=10, seed=0):
    """One that adds something."""
    low = LowRank(AdapterConfig(kind, 4, seed=seed), name, rows, columns)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in low.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return low


@pytest.mark.parametrize("kind", Kind)
def test_it_begins_with_nothing_added(kind):
    low = LowRank(AdapterConfig(kind, 4), "0.q", 6, 10)
    assert not low(torch.randn(3, 10)).any()


@pytest.mark.parametrize("kind", Kind)
def test_it_adds_what_the_whole_matrix_would(kind):
    low, inputs = trained(kind), torch.randn(2, 3, 10)
    torch.testing.assert_close(low(inputs), inputs @ low.whole().T)


def test_a_private_one_trains_nothing_but_its_middle():
    low = trained(Kind.PRIVATE)
    assert [name for name, x in low.named_parameters() if x.requires_grad] == ["middle"]


def test_what_is_drawn_depends_on_seed_and_place_alone():
    one, same = (LowRank(AdapterConfig(Kind.PRIVATE, 4), "3.q", 6, 10) for _ in range(2))
    other = LowRank(AdapterConfig(Kind.PRIVATE, 4), "3.k", 6, 10)
    reseeded = LowRank(AdapterConfig(Kind.PRIVATE, 4, seed=1), "3.q", 6, 10)
    assert torch.equal(one.down, same.down) and torch.equal(one.up, same.up)
    assert not torch.equal(one.down, other.down) and not torch.equal(one.down, reseeded.down)


def test_the_mean_of_middles_is_the_mean_of_products():
    lows = [trained(Kind.PRIVATE) for _ in range(3)]
    for number, low in enumerate(lows):
        low.middle.data += number
    mean = trained(Kind.PRIVATE)
    mean.middle.data = torch.stack([low.middle.data for low in lows]).mean(0)
    products = torch.stack([low.whole() for low in lows]).mean(0)
    assert (mean.whole() - products).abs().max() < 1e-6 * products.abs().max()


def test_parts_of_a_fused_matrix_get_their_own():
    base, inputs = nn.Linear(10, 9, bias=False), torch.randn(4, 10)
    low = trained(Kind.LORA, "0.k", rows=3)
    adapted = Adapted(base, (("q", 0, 4), ("k", 4, 3), ("v", 7, 2)), {"k": low})
    expected = base(inputs)
    expected[:, 4:7] += low(inputs)
    torch.testing.assert_close(adapted(inputs), expected)
    adapted.is_off = True
    assert torch.equal(adapted(inputs), base(inputs))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"matrices": ("q", "head")}])
def test_what_makes_no_adapter_is_refused(wrong):
    with pytest.raises(ValueError):
        AdapterConfig(**wrong)
