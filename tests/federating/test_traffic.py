"""Bytes a round by hand, for SmolLM2-135M: 30 blocks of width 576, keys 192, 1536 inside."""

import numpy as np
import pytest

from edgewise.federating.traffic import (
    RoundTraffic,
    averaging_traffic,
    fed_pso_traffic,
    lora_numbers,
)

BLOCK = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
NUMBERS = 134_515_008


def test_exact_middles_are_far_less_than_lora_and_that_than_the_model() -> None:
    lora = lora_numbers(BLOCK * 30, rank=8)
    private = 7 * 30 * 8**2  # M of 8 by 8 beside each of 7 matrices
    assert lora == 30 * 8 * (1152 + 768 + 768 + 1152 + 2112 + 2112 + 2112) == 2_442_240
    both = [averaging_traffic(x, clients=4).both_bytes for x in (NUMBERS, lora, private)]
    assert both == [4_304_480_256, 78_151_680, 430_080]


def test_numbers_are_those_that_arrays_hold() -> None:
    generator = np.random.default_rng(0)
    for rank in (1, 3, 8):
        factors = [(generator.random((r, rank)), generator.random((rank, c))) for r, c in BLOCK]
        assert lora_numbers(BLOCK, rank) == sum(u.size + d.size for u, d in factors)


@pytest.mark.parametrize("clients", [2, 10])
def test_fed_pso_sends_one_client_s_arrays_up(clients: int) -> None:
    averaging, pso = averaging_traffic(1000, clients, 2), fed_pso_traffic(1000, clients, 2)
    assert averaging == RoundTraffic(2000 * clients, 2000 * clients)
    assert pso == RoundTraffic(2000 * clients, 2000 + 8 * clients)
    assert pso.up_bytes < averaging.up_bytes
