"""Files of a checkpoint that contradict each other, against transformers; and changed ones."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgewise.errors import ModelError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.models.shard import load_shard
from tests.conftest import VOCABULARY

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A Llama of its own, whose configuration and tensors a test may change."""

    def make(tied, change=lambda tensors: None):
        path = tmp_path / "model"
        shutil.copytree(checkpoint("llama"), path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return make


def difference(path):
    """Between our logits and transformers', at most."""
    ids = torch.arange(12) % VOCABULARY
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
    return float((load_shard(path).forward(ids, [Segment(0, 0, 12)]) - expected).abs().max())


def test_a_head_of_its_own_is_not_tied(folder):
    path = folder(tied=True)
    assert not open_checkpoint(path).config.tied
    assert difference(path) < 1e-4


def test_an_equal_head_is_tied(folder):
    path = folder(tied=True, change=lambda t: t.update({HEAD: t[TABLE].clone()}))
    assert open_checkpoint(path).config.tied
    assert difference(path) < 1e-4


def test_of_tied_matrices_the_head_is_enough(folder):
    path = folder(tied=True, change=lambda t: t.pop(TABLE))
    assert open_checkpoint(path).config.tied
    assert difference(path) < 1e-4


def test_a_head_that_is_neither_there_nor_tied_is_missing(folder):
    path = folder(tied=False, change=lambda t: t.pop(HEAD))
    with pytest.raises(ModelError, match=r"tensor 'lm_head.weight' is missing from the checkpoint"):
        load_shard(path)


def test_a_single_file_is_preferred_to_an_index(folder):
    path = folder(tied=False)
    tensors = load_file(path / "model.safetensors")
    name = "model-00001-of-00001.safetensors"
    old = {key: value * 0.5 for key, value in tensors.items()}
    save_file(old, path / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert difference(path) < 1e-4
    (path / "model.safetensors").unlink()  # now the index counts
    assert difference(path) < 1e-4
    assert torch.equal(open_checkpoint(path).read(TABLE), old[TABLE])


@pytest.mark.parametrize("bad", [b"[" * 100_000, b'{"x": ' + b"1" * 5000 + b"}", b"\xff{}"])
def test_json_that_python_cannot_read_is_refused(folder, bad):
    path = folder(tied=False)
    (path / "config.json").write_bytes(bad)
    with pytest.raises(ModelError, match=r"config.json: not readable as JSON: "):
        open_checkpoint(path)


@pytest.mark.parametrize("way", ["written over", "another file in its place"])
def test_other_weights_of_the_same_size_and_time_have_other_digests(folder, monkeypatch, way):
    path = folder(tied=False)
    file = path / "model.safetensors"
    os.utime(file, (1, 1))
    before = tensor_digests(open_checkpoint(path), [TABLE, HEAD])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # in the middle of what samples may miss, or not
    if way == "written over":
        file.write_bytes(content)
    else:
        (path / "new").write_bytes(content)
        (path / "new").replace(file)
    os.utime(file, (1, 1))
    names = list(open_checkpoint(path).files)
    changed = tensor_digests(open_checkpoint(path), names)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # nothing remembered
    assert changed == tensor_digests(open_checkpoint(path), names)
    assert before == tensor_digests(open_checkpoint(path), [TABLE, HEAD])
