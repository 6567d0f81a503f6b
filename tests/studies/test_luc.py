"""The page of LUC: its arithmetic by hand, and a small model's page; the real model in full."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgewise.compression.policies import uniform_compression
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Block
from edgewise.models.loading import Loader
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.quality.streaming import cross_entropy, run_in_parts, run_layer
from edgewise.schemes import get_scheme
from edgewise.studies import write_study
from edgewise.studies.luc import (
    CompressedTrial,
    Texts,
    compression_page,
    table_2_section,
    text_losses,
    try_out,
)
from edgewise.studies.published import load_published
from tests.conftest import VOCABULARY
from tests.seeds import THOROUGH

thorough = pytest.mark.skipif(not THOROUGH, reason="minutes on the real model: make test-slow")


def trial(policy: str, losses: list[float]) -> CompressedTrial:
    chosen = uniform_compression(2, 4, 0.5)
    return CompressedTrial(policy, chosen, torch.tensor(losses, dtype=torch.float64), 100, 50)


def test_losses_beyond_another_are_taken_sequence_by_sequence() -> None:
    one, other = trial("uniform", [1.0, 2.0, 3.0]), trial("LUC", [0.9, 1.7, 3.1])
    more = [0.1, 0.3, -0.1]
    mean = sum(more) / 3
    spread = math.sqrt(sum((x - mean) ** 2 for x in more) / 2)
    assert one.beyond(other) == pytest.approx((mean, spread / math.sqrt(3)))
    assert one.perplexity == pytest.approx(math.exp(2.0))


def test_beside_table_2_stand_ratios() -> None:
    tried = [trial("uniform", [2.0, 2.0]), trial("random", [1.0, 1.0]), trial("random", [2.0, 2.0]),
             trial("LUC", [1.5, 1.5])]  # fmt: skip
    section = table_2_section({4: tried}, load_published("luc")["perplexity"])
    random, luc = (dict(zip(section.columns, row, strict=True)) for row in section.rows)
    assert random["ours"] == pytest.approx((math.exp(-1) + 1) / 2)
    assert luc["ours"] == pytest.approx(math.exp(-0.5))
    assert luc["believed"] == pytest.approx(18.58 / 19.86, abs=1e-3)


def test_the_page_of_a_small_model(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (12, 16), generator=generator)
    texts = Texts("chance", ids[:8], ids[:4], ids[8:])
    folder = str(checkpoint("llama"))
    page = compression_page(folder, texts, lambda step: None, widths=(4, 3), seeds=2)
    document = json.loads(page.write(tmp_path)[1].read_text())
    perplexity, believed, sizes, blocks = (x["rows"] for x in document["sections"])
    assert [row["policy"] for row in perplexity] == ["uniform", "random", "random", "LUC"] * 2
    uniform, *others = perplexity[:4]
    assert uniform["average bits"] == 4 < others[0]["average bits"]
    assert len({row["average bits"] for row in others}) == 1
    assert {row["zeros"] for row in perplexity} == {"50%"}
    dense, anywhere, pattern = sizes
    assert dense["MB"] == anywhere["MB"]
    full, sparse = get_scheme("q4g32d"), get_scheme("q4g32ds")
    tensors = load_file(f"{folder}/model.safetensors")
    matrices = [x.shape for name, x in tensors.items() if ".layers." in name and x.ndim == 2]
    saved = sum(full.matrix_bytes(*x) - sparse.matrix_bytes(*x) for x in matrices)
    headers = 256e-6 * len(blocks)
    assert dense["MB"] - pattern["MB"] == pytest.approx(saved / 1e6, abs=headers)
    assert dense["left"] > anywhere["left"]
    assert len(blocks) == open_checkpoint(folder).config.num_blocks
    assert len(believed) == 4


def test_texts_are_for_studies_that_read_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study 'dftsp' reads no text; studies that do: luc"):
        write_study("dftsp", tmp_path, text="some.txt")


@thorough
def test_on_the_real_model_sparsegpt_beats_dropping_what_is_small(real_model: Path) -> None:
    """Half of all weights of the blocks, 4 bits; against transformers-free magnitude pruning."""
    model = str(real_model)
    ids = sequences(model, Calibration(ENGLISH, 40))
    texts = Texts("text", ids[:16], ids[:8], ids[16:])
    blocks = open_checkpoint(model).config.num_blocks
    dense = try_out(model, texts, "dense", uniform_compression(blocks, 4, 0.0))
    pruned = try_out(model, texts, "pruned", uniform_compression(blocks, 4, 0.5))
    assert dense.perplexity < pruned.perplexity < by_magnitude(model, texts.measured)
    assert float(text_losses(model, texts.measured).mean().exp()) < dense.perplexity
    assert pruned.left < 0.8 * pruned.size


def by_magnitude(model: str, ids: torch.Tensor) -> float:
    """Perplexity with the smaller half of every matrix zero, in full precision otherwise."""
    checkpoint = open_checkpoint(model)
    config, states = checkpoint.config, ids
    loader, full = Loader(checkpoint, torch.device("cpu")), get_scheme("fp32")
    for number in range(config.num_layers - 1):
        layer = loader.layer(number, full)
        if isinstance(layer, Block):
            for parameter in layer.parameters():
                if parameter.ndim == 2:
                    half = parameter.abs().flatten().median()
                    parameter.masked_fill_(parameter.abs() <= half, 0.0)
        states = run_in_parts(config, number, layer, states)
    head = loader.layer(config.num_layers - 1, full)
    last = config.num_layers - 1
    return math.exp(cross_entropy(lambda x: run_layer(config, last, head, x), states, ids))
