"""Against torch's own, on the matrix made whole."""

import pytest
import torch
import torch.nn.functional as F

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.schemes import get_scheme
from edgewise.tuning.cross_entropy import head_cross_entropy
from edgewise.tuning.frozen import tiles


def against_torch(matrix, dtype, hidden, vocabulary, scale):
    generator = torch.Generator().manual_seed(1)
    inputs = (torch.randn(7, hidden, generator=generator) * scale).requires_grad_()
    targets = torch.randint(vocabulary, (7,), generator=generator)
    whole = torch.cat([tile for _, tile in tiles(matrix, dtype)]).float()
    theirs = inputs.detach().clone().requires_grad_()
    truth = F.cross_entropy(F.linear(theirs, whole, matrix.bias), targets)
    ours = head_cross_entropy(inputs, targets, matrix, dtype)
    (3 * ours).backward()
    (3 * truth).backward()
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inputs.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])  # 100: one word has all
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocabulary", [5, 1024, 2500])  # less than a tile, one, and more
def test_a_plain_matrix(vocabulary, bias, scale):
    matrix = torch.nn.Linear(16, vocabulary, bias=bias).requires_grad_(False)
    against_torch(matrix, torch.float32, 16, vocabulary, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["q4g32ad", "q8g32"])
def test_a_packed_head(real_model, scheme, dtype):
    opened = open_checkpoint(str(real_model))
    head = Loader(opened, torch.device("cpu")).layer(31, get_scheme(scheme))
    against_torch(head.out, dtype, 576, 49152, 1.0)
