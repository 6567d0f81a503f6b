"""Every family against `transformers`: the whole prompt, chunks, token by token, many sequences."""

import pytest
import torch

from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Decoder
from edgewise.models.names import tensor_names
from edgewise.models.shard import load_shard
from tests.conftest import FAMILIES, VOCABULARY, random_model

TOLERANCE = 1e-4
LENGTH = 23


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def truth(family):
    tokens = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return tokens, random_model(family)(tokens[None]).logits[0]


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < TOLERANCE


def test_prefill_in_one_piece(checkpoint, family, truth):
    tokens, logits = truth
    shard = load_shard(checkpoint(family))
    assert_same(shard.forward(tokens, [Segment(0, 0, LENGTH)]), logits)


@pytest.mark.parametrize("chunk", [1, 7])
def test_token_by_token_and_in_chunks(checkpoint, family, truth, chunk):
    tokens, logits = truth
    shard = load_shard(checkpoint(family))
    pieces = [
        shard.forward(tokens[at : at + chunk], [Segment(0, at, min(chunk, LENGTH - at))])
        for at in range(0, LENGTH, chunk)
    ]
    assert_same(torch.cat(pieces), logits)


def test_sequences_of_different_lengths_share_a_step(checkpoint, family, truth):
    tokens, logits = truth
    shard = load_shard(checkpoint(family), slots=2)
    shard.forward(tokens[:9], [Segment(7, 0, 9)])
    shard.forward(tokens[:4], [Segment(3, 0, 4)])
    both = torch.cat((tokens[9:10], tokens[4:8]))
    actual = shard.forward(both, [Segment(7, 9, 1), Segment(3, 4, 4)])
    assert_same(actual, torch.cat((logits[9:10], logits[4:8])))


def test_a_dropped_sequence_gives_its_slot_back(checkpoint, family, truth):
    tokens, logits = truth
    shard = load_shard(checkpoint(family), slots=1)
    for sequence in range(3):
        actual = shard.forward(tokens, [Segment(sequence, 0, LENGTH)], rows=[LENGTH - 1])
        assert_same(actual, logits[-1:])
        shard.drop(sequence)


def test_the_training_decoder_is_the_same_function(checkpoint, family, truth):
    tokens, logits = truth
    opened = open_checkpoint(checkpoint(family))
    decoder = Decoder(opened.config)
    for number, layer in enumerate(decoder.layers):
        state = {}
        for parameter in layer.state_dict():
            names = tensor_names(opened.config.names, layer.kind, parameter, number - 1)
            if names == ("lm_head.weight",) and opened.config.tied:
                continue
            state[parameter] = torch.cat([opened.read(name) for name in names])
        layer.load_state_dict(state, strict=False)
    assert_same(decoder(tokens[None])[0].detach(), logits)


def test_half_precision_stays_close(checkpoint, family, truth):
    tokens, logits = truth
    shard = load_shard(checkpoint(family), schemes="bf16")
    half = shard.forward(tokens, [Segment(0, 0, LENGTH)])
    assert half.dtype == torch.float32
    assert (half - logits).norm() / logits.norm() < 0.05
