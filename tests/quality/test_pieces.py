"""A whole text in pieces."""

import sys
from types import ModuleType

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


def test_an_empty_file_is_too_little(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    name = str(tmp_path / "empty.txt")
    assert text_pieces("demo", name, 16).shape == (0, 16)
    with pytest.raises(InputError, match=f"^{name}: 0 tokens of text"):
        sequences("demo", Calibration(name, 1, 16))


class TestDataSet:
    @pytest.fixture
    def rows(self, monkeypatch):
        """What a data set holds: the library is optional, and would ask the network."""
        rows = list[dict[str, object]]()
        library = ModuleType("datasets")
        library.load_dataset = lambda *name, **how: rows
        monkeypatch.setitem(sys.modules, "datasets", library)
        return rows

    def test_empty_rows_are_skipped(self, rows, file):
        rows += [{"text": ""}, {"text": TEXT}, {"text": ""}]
        assert torch.equal(text_pieces("demo", "some:set", 16), text_pieces("demo", file, 16))
        some = Calibration("some:set", 3, 16)
        assert torch.equal(sequences("demo", some), text_pieces("demo", file, 16)[:3])

    @pytest.mark.parametrize("text", [None, 5, ["words"]])
    def test_rows_of_no_text_are_refused(self, rows, text):
        rows.append({"text": text})
        with pytest.raises(InputError, match=r"^some:set: no text file, and not readable as"):
            text_pieces("demo", "some:set", 16)


def test_no_such_text():
    with pytest.raises(InputError, match="nowhere: no such"):
        text_pieces("demo", "nowhere", 16)
