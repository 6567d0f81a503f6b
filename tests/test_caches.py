"""Caches are optional, and name what they keep by everything that it depends on."""

import os
from pathlib import Path

import pytest

from edgewise.caches import cache_folder, cache_key, is_cached, write_atomically
from edgewise.caches import write_text_atomically as write_text


def test_the_folder_follows_the_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("layers") == tmp_path / "edgewise" / "layers"
    monkeypatch.setenv("HOME", "/home/someone")
    for nothing in ("", "relative/path"):  # which would lie in the working directory
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache_folder("layers") == Path("/home/someone/.cache/edgewise/layers")


def test_without_a_home_there_is_no_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for an unknown user
    assert cache_folder("layers") is None
    assert write_text(None, "text") is None


def test_keys_tell_all_parts_apart():
    assert cache_key("a", 1) == cache_key("a", 1)
    assert len({cache_key("a", 1), cache_key("a", "1"), cache_key("a1"), cache_key(("a", 1))}) == 4


def test_what_cannot_be_written_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    assert write_text(tmp_path / "file" / "below", "text") is None  # a file in a folder's place
    assert write_text(Path("/dev/null/edgewise/x"), "text") is None
    assert not is_cached(Path("/dev/null/edgewise/x"))
    (tmp_path / "folder").mkdir()
    assert write_text(tmp_path / "folder", "text") is None  # a folder in the file's place
    assert sorted(x.name for x in tmp_path.iterdir()) == ["file", "folder"]


def test_processes_of_one_number_write_files_of_their_own(tmp_path):
    """As in containers that share a folder."""
    path = tmp_path / "kept.json"

    def write(partial: Path) -> None:
        partial.write_text("mine")
        assert write_text(path, "theirs") == path
        assert partial.read_text() == "mine"

    assert write_atomically(path, write)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_half_a_file_is_never_there(tmp_path, error):
    path = tmp_path / "kept.json"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("ha")
        raise error

    if isinstance(error, OSError):
        assert not write_atomically(path, fail)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, fail)
    assert [x.name for x in tmp_path.iterdir()] == ["kept.json"]
    assert path.read_text() == "old"
