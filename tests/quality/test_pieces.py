"""A whole text in pieces."""

import pytest
import torch

from edgewise.errors import InputError
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quality import calibration
from edgewise.quality.calibration import Calibration, sequences, text_pieces

TEXT = "The bridge is closed. The library opens at nine and closes at six. " * 20


@pytest.fixture
def file(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def test_all_of_a_file_but_the_last_piece(file):
    ids = load_tokenizer("demo").encode(TEXT)
    pieces = text_pieces("demo", file, 16)
    assert pieces.shape == (len(ids) // 16, 16)
    assert pieces.flatten().tolist() == ids[: pieces.numel()]
    assert torch.equal(pieces[:3], sequences("demo", Calibration(file, 3, 16)))


def test_of_a_long_text_the_beginning(file, monkeypatch):
    whole = text_pieces("demo", file, 16)
    monkeypatch.setattr(calibration, "MOST_TOKENS", 50)
    assert torch.equal(text_pieces("demo", file, 16), whole[:3])


def test_no_such_text():
    with pytest.raises(InputError, match="nowhere: no such"):
        text_pieces("demo", "nowhere", 16)
