"""Token sequences, and whole models with chosen layers changed: the plain way to measure."""

import pytest
import torch

from edgewise.models.cache import Segment
from edgewise.models.shard import load_shard
from tests.conftest import VOCABULARY

COUNT, LENGTH = 3, 10


@pytest.fixture(scope="session")
def ids():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(VOCABULARY, (COUNT, LENGTH), generator=generator)


@pytest.fixture(scope="session")
def log_probabilities(ids):
    """Next-token distributions [B, T, V] of a model with a scheme per layer, held whole."""

    def run(folder, schemes):
        shard = load_shard(folder, schemes=schemes, slots=COUNT, context=LENGTH)
        rows = [shard.forward(ids[i], [Segment(i, 0, LENGTH)]) for i in range(COUNT)]
        return torch.stack(rows).double().log_softmax(-1)

    return run


@pytest.fixture(scope="session")
def kl():
    """Mean KL(p || q) of distributions given by their logarithms."""
    return lambda p, q: float((p.exp() * (p - q)).sum(-1).mean())
