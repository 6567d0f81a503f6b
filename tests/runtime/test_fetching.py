"""Layers' files, asked for one after the other, until a worker has all that it wants."""

from functools import partial

import pytest
import torch

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.download import Download
from edgewise.models.layer_files import LayerFile, layer_folder, layers_from_files
from edgewise.models.layer_store import LayerFiles
from edgewise.models.shape import ModelShape
from edgewise.models.shard import load_shard
from edgewise.plans import Stage
from edgewise.runtime import messages
from edgewise.runtime.worker.fetching import Fetching
from tests.conftest import random_model

STAGE = Stage("far", 1, 4, ("q4g64",) * 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fetched(files: list[LayerFile], source: LayerFiles, most: int) -> bool:
    """Whether all files came, with at most so many pieces sent."""
    asked, there = list[messages.Fetch](), list[bool]()
    fetching = Fetching(asked.append)
    fetching.begin(files, lambda: there.append(True))
    for _ in range(most):
        if not asked:
            break
        ask = asked.pop()
        content, packed = source.piece(ask.key, ask.offset, 700, bytes_per_second=1e9)
        piece = messages.Piece(ask.key, ask.offset, packed)
        fetching.receive(piece, torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return there == [True]


def test_what_is_wanted_together_stays_together(checkpoint, tmp_path, monkeypatch):
    source = LayerFiles(open_checkpoint(checkpoint("llama")), folder=tmp_path / "source")
    files = source.of_stage(STAGE)
    limited = partial(Download, most_bytes=files[0].size)
    monkeypatch.setattr("edgewise.runtime.worker.fetching.Download", limited)
    old = source.file(5, "q4g64")
    assert old.size <= files[0].size
    assert fetched([old], source, most=1000)
    assert fetched(files, source, most=1000)
    left = {path.name for path in layer_folder().iterdir()}
    assert left == {f"{file.key}.safetensors" for file in files}


def test_equal_layers_are_fetched_once(tmp_path):
    model = random_model("llama")
    model.model.layers[1].load_state_dict(model.model.layers[0].state_dict())
    model.save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    source = LayerFiles(checkpoint, folder=tmp_path / "source")
    files = source.of_stage(STAGE)
    assert files[0].key == files[1].key != files[2].key
    assert fetched(files, source, most=1000)
    shape = ModelShape.of(checkpoint)
    layers = layers_from_files(shape, STAGE.start, STAGE.schemes, files, layer_folder())
    expected = load_shard(tmp_path / "model", 1, 4, "q4g64").layers
    for layer, other in zip(layers, expected, strict=True):
        assert torch.equal(layer.qkv.codes, other.qkv.codes)
