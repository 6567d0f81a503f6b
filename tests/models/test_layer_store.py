"""Files of layers on their way: made once, sent in pieces, received whole or not at all."""

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import DiskError, ModelError
from edgewise.models import layer_store
from edgewise.models.checkpoint import SafetensorsCheckpoint, open_checkpoint
from edgewise.models.download import Download
from edgewise.models.layer_files import LayerFile, content_key
from edgewise.models.layer_store import LayerFiles
from edgewise.models.pieces import CODING, PIECE_BYTES, compressed, decompressed, zstd
from edgewise.plans import Stage
from tests.conftest import random_model

SIZE = 700  # of pieces here: every file has several
SLOW = 1e6  # bytes a second, over which everything that gets smaller pays


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def files(checkpoint, tmp_path) -> LayerFiles:
    return LayerFiles(open_checkpoint(checkpoint("llama")), folder=tmp_path / "source")


@pytest.fixture
def there(tmp_path):
    """The receiving side's folder."""
    return tmp_path / "there"


@pytest.fixture(scope="module")
def block(checkpoint, tmp_path_factory) -> tuple[LayerFiles, LayerFile]:
    """A source with one file, for many examples."""
    folder = tmp_path_factory.mktemp("source")
    files = LayerFiles(open_checkpoint(checkpoint("llama")), folder=folder)
    return files, files.file(1, "q4g64")


def pieces(files, file, download, size=SIZE) -> Iterator[None]:
    """Send one piece after the other."""
    while not download.done:
        piece, packed = files.piece(file.key, download.offset, size, bytes_per_second=SLOW)
        download.write(download.offset, piece, packed)
        yield


class TestSource:
    def test_nothing_is_made_twice(self, checkpoint, files, monkeypatch):
        first = files.file(1, "q4g64")
        reads, read = Counter(), SafetensorsCheckpoint.read
        monkeypatch.setattr(
            SafetensorsCheckpoint, "read", lambda self, t: reads.update([t]) or read(self, t)
        )
        monkeypatch.setattr("edgewise.models.layer_store.content_key", None)
        assert files.file(1, "q4g64") == first
        again = LayerFiles(open_checkpoint(checkpoint("llama")), folder=files.folder)
        assert again.file(1, "q4g64") == first
        assert not reads

    def test_a_lost_or_damaged_file_is_made_again_the_same(self, files):
        first = files.file(1, "q4g64")
        path = files.folder / f"{first.key}.safetensors"
        whole = path.read_bytes()
        for damage in (b"", whole[:-1], whole[:-1] + b"\0"):
            path.write_bytes(damage)
            assert files.file(1, "q4g64") == first
            assert path.read_bytes() == whole
        path.unlink()
        assert files.file(1, "q4g64") == first

    def test_what_differs_is_kept_apart(self, checkpoint, files):
        other = LayerFiles(files.checkpoint, "gptq:no", files.folder)
        names = {files.file(n, s).key for n in (1, 2) for s in ("q4g64", "q4g32", "bf16", "fp16")}
        assert len(names) == 8
        assert other.file(1, "bf16") == files.file(1, "bf16")
        assert files.file(0, "4bit") == files.file(0, "q6g16d")

    def test_changed_weights_are_another_file(self, tmp_path, files):
        model, keys = random_model("llama"), set()
        for scale in (1.0, 2.0):
            with torch.no_grad():
                model.model.layers[0].input_layernorm.weight.mul_(scale)
            model.save_pretrained(tmp_path / "model")
            source = LayerFiles(open_checkpoint(tmp_path / "model"), folder=files.folder)
            keys.add(source.file(1, "q8g64").key)
        assert len(keys) == 2

    def test_processes_of_one_number_make_files_of_their_own(self, files, monkeypatch):
        """As in containers that share a folder: another layer 1 is written in the middle."""
        other = LayerFiles(files.checkpoint, folder=files.folder)
        whole = layer_store.content_key

        def interrupted(path):
            monkeypatch.setattr(layer_store, "content_key", whole)
            other.file(1, "bf16")
            return whole(path)

        monkeypatch.setattr(layer_store, "content_key", interrupted)
        file = files.file(1, "q4g64")
        assert file == other.file(1, "q4g64")
        assert file != other.file(1, "bf16")

    def test_unknown_keys_and_offsets_are_refused(self, files):
        file = files.file(1, "q4g64")
        for key in ("0" * 64, "../../etc/passwd", "", file.key.upper()):
            with pytest.raises(ModelError, match="was handed out"):
                files.piece(key, 0, bytes_per_second=SLOW)
        for offset, size in ((-1, 10), (file.size, 10), (0, 0), (0, -1), (2**70, 1)):
            with pytest.raises(ModelError, match="only"):
                files.piece(file.key, offset, size, bytes_per_second=SLOW)
        piece, packed = files.piece(file.key, 0, 2**40, bytes_per_second=SLOW)
        assert len(decompressed(piece, packed)) == min(file.size, PIECE_BYTES)

    def test_the_oldest_make_room(self, checkpoint, files):
        old = LayerFiles(files.checkpoint, folder=files.folder).file(1, "q4g64")
        small = LayerFiles(files.checkpoint, folder=files.folder, most_bytes=1)
        mine = [small.file(n, "q4g64") for n in (2, 3)]  # which stay, as they may be asked for
        left = {path.stem for path in files.folder.glob("*.safetensors")}
        assert left == {file.key for file in mine}
        assert old.key not in left


class TestPieces:
    @given(st.binary(min_size=1, max_size=4000), st.integers(1, 50))
    def test_there_and_back(self, data, times):
        sent, packed = compressed(data * times, SLOW)
        assert decompressed(sent, packed) == data * times
        assert not packed or len(sent) < len(data) * times

    def test_only_what_gets_smaller_is_compressed(self):
        assert not compressed(os.urandom(PIECE_BYTES), SLOW)[1]
        assert compressed(bytes(PIECE_BYTES), SLOW)[1]

    def test_what_saves_less_than_coding_takes_is_not(self):
        half = os.urandom(PIECE_BYTES // 2) + bytes(PIECE_BYTES // 2)
        apart = bytes(x for pair in zip(half[::2], half[1::2], strict=True) for x in pair)
        assert compressed(apart, CODING * 0.4)[1]
        assert not compressed(apart, CODING * 0.6)[1]

    @given(st.binary(max_size=200))
    def test_damaged_ones_are_refused(self, data):
        sent, _ = compressed(bytes(5000), SLOW)
        for piece in (data, sent[: len(data) % len(sent)], sent + b"x" + data):
            with pytest.raises(ModelError, match="a piece of a layer"):
                decompressed(piece, True)

    def test_bombs_are_refused(self):
        with pytest.raises(ModelError, match=f"has {PIECE_BYTES + 1} bytes"):
            decompressed(zstd.compress(bytes(2**28)), True)
        far_back = {zstd.CompressionParameter.window_log: 27}  # 128 MB of memory
        parts = zstd.ZstdCompressor(options=far_back)
        with pytest.raises(ModelError, match="too much memory"):
            decompressed(parts.compress(bytes(2**28)) + parts.flush(), True)
        for size in (0, PIECE_BYTES + 1):
            with pytest.raises(ModelError, match=f"has {size} bytes"):
                decompressed(bytes(size), False)


def download_some(folder, file, source, count) -> None:
    """Receive so many pieces, and end without a word."""
    download = Download(folder, file)
    for _ in range(count):
        if download.done:
            break
        piece = source.read_bytes()[download.offset : download.offset + SIZE]
        download.write(download.offset, piece, False)
    os._exit(0)


class TestDownload:
    def test_the_same_bytes_arrive(self, files, there):
        for scheme in ("q4g64", "fp32"):
            file = files.file(1, scheme)
            download = Download(there, file)
            assert len(list(pieces(files, file, download))) > 5
            assert content_key(download.path) == file.key
        assert {path.suffix for path in there.iterdir()} == {".safetensors"}
        assert Download(there, file).done

    @pytest.mark.parametrize("how", ["same process", "another process"])
    def test_it_goes_on_where_it_was(self, files, there, how):
        file = files.file(1, "q4g64")
        source = files.folder / f"{file.key}.safetensors"
        if how == "same process":
            sending = pieces(files, file, Download(there, file))
            for _ in range(3):
                next(sending)
        else:
            fork = multiprocessing.get_context("fork")
            other = fork.Process(target=download_some, args=(there, file, source, 3))
            other.start()
            other.join()
            assert other.exitcode == 0
        assert len(list(there.iterdir())) == 1
        download = Download(there, file)
        assert download.offset == 3 * SIZE
        list(pieces(files, file, download))
        assert content_key(download.path) == file.key
        assert list(there.iterdir()) == [download.path]

    def test_a_whole_part_is_finished(self, files, there):
        file = files.file(1, "q4g64")
        part = there / Download(there, file)._part.name
        shutil.copy(files.folder / f"{file.key}.safetensors", part)
        assert Download(there, file).done
        assert not part.exists()

    @pytest.mark.parametrize("left", [b"other", b"x" * 100000])
    def test_a_part_that_is_something_else_costs_one_try(self, files, there, left):
        file = files.file(1, "q4g64")
        Download(there, file)._part.write_bytes(left)
        download = Download(there, file)
        if len(left) < file.size:
            with pytest.raises(ModelError, match="something else"):
                list(pieces(files, file, download))
            assert not list(there.iterdir())
            download = Download(there, file)
        assert download.offset == 0
        list(pieces(files, file, download))
        assert content_key(download.path) == file.key

    @given(st.data())
    def test_a_damaged_piece_is_noticed(self, block, tmp_path_factory, data):
        files, file = block
        there = tmp_path_factory.mktemp("there")
        download = Download(there, file)
        wrong = data.draw(st.integers(0, file.size - 1))
        with pytest.raises(ModelError, match=file.key):
            while True:
                piece = bytearray(
                    decompressed(
                        *files.piece(file.key, download.offset, SIZE, bytes_per_second=SLOW)
                    )
                )
                if 0 <= (at := wrong - download.offset) < len(piece):
                    piece[at] ^= data.draw(st.integers(1, 255))
                download.write(download.offset, bytes(piece), False)
        assert not download.done
        assert not list(there.iterdir())

    def test_pieces_out_of_turn_are_refused(self, files, there):
        file = files.file(1, "q4g64")
        download = Download(there, file)
        for offset in (-1, 1, SIZE, file.size):
            with pytest.raises(ModelError, match="from 0 on were wanted"):
                download.write(offset, b"x", False)
        download.write(0, *files.piece(file.key, 0, SIZE, bytes_per_second=SLOW))
        with pytest.raises(ModelError, match=f"from {SIZE} on were wanted"):
            download.write(0, *files.piece(file.key, 0, SIZE, bytes_per_second=SLOW))
        with pytest.raises(ModelError, match="were wanted"):
            download.write(SIZE, bytes(file.size), False)
        list(pieces(files, file, download))
        with pytest.raises(ModelError, match="were wanted"):
            download.write(file.size, b"x", False)
        assert content_key(download.path) == file.key

    def test_two_processes_do_no_harm(self, files, there):
        """The other one is alive, and holds what it has."""
        file = files.file(1, "q4g64")
        first = Download(there, file)
        others = first._part.with_name(first._part.name.replace(str(os.getpid()), "1"))
        first._part.rename(others)
        others.write_bytes(b"theirs")
        mine = Download(there, file)
        assert mine.offset == 0
        list(pieces(files, file, mine))
        assert content_key(mine.path) == file.key
        assert others.read_bytes() == b"theirs"

    def test_many_at_once_do_no_harm(self, files, there):
        file = files.file(1, "q4g64")
        source = files.folder / f"{file.key}.safetensors"
        fork = multiprocessing.get_context("fork")
        asked = (there, file, source, file.size)
        others = [fork.Process(target=download_some, args=asked) for _ in range(4)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert [other.exitcode for other in others] == [0] * 4
        (path,) = there.iterdir()
        assert content_key(path) == file.key

    @pytest.mark.parametrize("key", ["../x", "0" * 63, "G" * 64, "0" * 64 + "\n"])
    def test_names_that_are_none_are_refused(self, there, key):
        with pytest.raises(ModelError, match="no name of a layer's file"):
            Download(there, LayerFile(1, key, 10))

    @pytest.mark.parametrize("size", [0, -1, 1001])
    def test_sizes_that_cannot_be_are_refused(self, there, size):
        with pytest.raises(ModelError, match=f"{size} bytes for a layer"):
            Download(there, LayerFile(1, "0" * 64, size), most_bytes=1000)

    def test_a_full_disk_is_named(self, there, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
        with pytest.raises(DiskError, match="1 kB are to come, but the disk has 9 B free"):
            Download(there, LayerFile(1, "0" * 64, 1000))

    def test_the_oldest_make_room(self, files, there):
        stage = Stage("far", 1, 4, ("q4g64",) * 3)
        for file in files.of_stage(stage):
            download = Download(there, file, most_bytes=file.size)
            list(pieces(files, file, download))
            assert list(there.iterdir()) == [download.path]
