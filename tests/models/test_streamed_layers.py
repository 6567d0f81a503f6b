"""Layers that live on disk compute what they do in memory; a disk that fails says so."""

import math
import os
import shutil
import threading
import time

import pytest
import torch

from edgewise.errors import DiskError, ModelError
from edgewise.memory import device_bytes, workspace_bytes
from edgewise.models import layer_stream
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.direct_reads import DirectFile, disk_rate
from edgewise.models.layer_files import layer_path
from edgewise.models.layer_store import LayerFiles
from edgewise.models.layer_stream import LayerStream
from edgewise.models.shape import ModelShape
from edgewise.models.shard import load_shard
from edgewise.models.streamed_layers import streamed_layers
from edgewise.plans import Stage
from edgewise.specs import Workload

PROMPT, ANSWER = [1, 30, 7, 66, 2, 2, 45, 19, 3, 50], [11, 4, 90, 8, 17]
FAMILIES = ["llama-tied", "llama-biases", "qwen3", "mistral-window", "opt", "opt-350m"]
SCHEMES = ["fp32", "bf16", "fp16", "stored", "4bit", "q4g64", "q3g32a", "q4g32ad", "q4g32ds", "t6"]
ALL = (1, 2, 3, 4)


@pytest.fixture
def opened(checkpoint, tmp_path):
    """A shard of a whole model with some layers on disk, and where their files are."""
    shards = []

    def get(family="llama", scheme="fp32", layers=ALL, rate=math.inf):
        opened = open_checkpoint(checkpoint(family))
        files = LayerFiles(opened, folder=tmp_path)
        mine = [files.file(number, scheme) for number in layers]
        schemes = dict.fromkeys(layers, scheme)
        streamed = streamed_layers(ModelShape.of(opened), schemes, mine, tmp_path, rate)
        shards.append(load_shard(opened, schemes=scheme, slots=2, streamed=streamed))
        return shards[-1], [layer_path(tmp_path, file.key) for file in mine]

    yield get
    for shard in shards:
        shard.close()
    assert not [x for x in threading.enumerate() if x.name == "layers from disk"]


def answer(shard):
    """Logits of two sequences: prompts together, then token by token."""
    parts = [shard.forward(torch.tensor(PROMPT * 2), [Segment(0, 0, 10), Segment(1, 0, 10)])]
    for at, token in enumerate(ANSWER, start=len(PROMPT)):
        segments = [Segment(0, at, 1), Segment(1, at, 1)]
        parts.append(shard.forward(torch.tensor([token, token + 1]), segments))
    return torch.cat(parts)


@pytest.mark.parametrize("layers", [ALL, (1, 2, 4), (2, 3), (3,)], ids=str)
@pytest.mark.parametrize("scheme", ["fp32", "4bit"])
def test_some_on_disk_are_all_in_memory(checkpoint, opened, scheme, layers):
    wanted = load_shard(checkpoint("llama"), schemes=scheme, slots=2)
    assert torch.equal(answer(opened("llama", scheme, layers)[0]), answer(wanted))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_family_and_scheme(checkpoint, opened, family, scheme):
    wanted = load_shard(checkpoint(family), schemes=scheme, slots=2)
    assert torch.equal(answer(opened(family, scheme)[0]), answer(wanted))


def test_the_real_model(real_model, tmp_path):
    opened, layers = open_checkpoint(real_model), range(1, 31, 3)
    files = LayerFiles(opened, folder=tmp_path)
    mine = [files.file(number, "bf16") for number in layers]
    shape, schemes = ModelShape.of(opened), dict.fromkeys(layers, "bf16")
    streamed = streamed_layers(shape, schemes, mine, tmp_path, math.inf)
    shard = load_shard(opened, schemes="bf16", slots=2, context=64, streamed=streamed)
    wanted = load_shard(opened, schemes="bf16", slots=2, context=64)
    assert torch.equal(answer(shard), answer(wanted))
    assert shard.weight_bytes < wanted.weight_bytes - 7 * mine[0].size
    shard.close()


def test_layers_in_any_order(checkpoint, opened):
    """Windows that vote go through some blocks twice; a step that failed leaves others behind."""
    shard, _ = opened()
    wanted = load_shard(checkpoint("llama"), slots=2)
    states = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for first, end in [(2, 4), (2, 4), (0, 1), (3, 4), (0, 4), (1, 3), (1, 2), (0, 4)]:
        ran = (x.blocks.run(states, [Segment(0, 0, 3)], first, end) for x in (shard, wanted))
        assert torch.equal(*ran)


def test_memory_is_what_plans_count(checkpoint, opened):
    for scheme, layers in [("fp32", ALL), ("4bit", (1, 2, 4)), ("bf16", (2,))]:
        shard, _ = opened("llama", scheme, layers)
        spec, work = open_checkpoint(checkpoint("llama")).spec, Workload(8, 8)
        stage = Stage("a", 0, spec.num_layers, (scheme,) * spec.num_layers, layers)
        cached = 16 * sum(x.kv_width for x in spec.layers) * (4 if scheme == "fp32" else 2)
        counted = device_bytes(spec, [stage], work) - workspace_bytes(spec, work) - cached
        assert shard.weight_bytes <= counted <= shard.weight_bytes + 2 * 2**14


def test_a_removed_file_is_still_read(checkpoint, opened):
    shard, paths = opened()
    for path in paths:
        path.unlink()
    assert torch.equal(answer(shard), answer(load_shard(checkpoint("llama"), slots=2)))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def changed(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    with path.open("r+b") as file:
        file.write(content)


def grown(path):
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("damage", [cut, emptied, changed, grown])
def test_a_file_that_changes_is_an_error(opened, damage):
    shard, paths = opened()
    damage(paths[2])
    with pytest.raises(DiskError, match=f"{paths[2].name}.*load the plan again"):
        answer(shard)
    with pytest.raises(DiskError, match=paths[2].name):  # and stays one
        answer(shard)


def test_a_disk_that_is_gone_is_an_error(opened):
    shard, paths = opened()
    for number in os.listdir("/proc/self/fd"):
        with_name = f"/proc/self/fd/{number}"
        if os.path.exists(with_name) and os.path.realpath(with_name) == str(paths[3].resolve()):
            os.dup2(os.open("/", os.O_RDONLY), int(number))  # a folder cannot be read
    with pytest.raises(DiskError, match=f"{paths[3].name}: cannot be read from byte 0 on"):
        answer(shard)


def test_a_damaged_file_is_found_when_it_is_loaded(checkpoint, tmp_path):
    opened = open_checkpoint(checkpoint("llama"))
    files = [LayerFiles(opened, folder=tmp_path).file(number, "fp32") for number in ALL]
    path = layer_path(tmp_path, files[1].key)
    changed(path)
    with pytest.raises(ModelError, match=f"{path.name}: damaged.*deleted"):
        streamed_layers(
            ModelShape.of(opened), dict.fromkeys(ALL, "fp32"), files, tmp_path, math.inf
        )
    assert not path.exists()


def test_a_slow_disk_is_waited_for(checkpoint, opened):
    _, paths = opened()
    rate = sum(path.stat().st_size for path in paths) / 0.2
    slow, _ = opened(rate=rate)
    began = time.monotonic()
    assert torch.equal(answer(slow), answer(load_shard(checkpoint("llama"), slots=2)))
    # Six steps: of the first one nothing was read, of the others all.
    assert time.monotonic() - began > 6 * 0.2 * 0.9


def test_a_disk_that_does_nothing_is_not_waited_for_long(opened, monkeypatch):
    monkeypatch.setattr(layer_stream, "STILL_SECONDS", 0.3)
    shard, _ = opened(rate=1.0)
    with pytest.raises(DiskError, match=r"nothing could be read for 0\.3 s"):
        answer(shard)


def test_closing_ends_a_wait(opened):
    shard, _ = opened(rate=1.0)
    threading.Timer(0.3, shard.close).start()
    began = time.monotonic()
    with pytest.raises(DiskError):
        answer(shard)
    assert time.monotonic() - began < 20


def test_a_disk_is_timed(tmp_path):
    assert disk_rate(tmp_path / "new") > 1e6
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_is_timed_by_what_fits(tmp_path, monkeypatch):
    """Layers may be there already."""
    for free, timed in ((9, False), (5 * 2**20, True)):
        room = shutil._ntuple_diskusage(free, free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, room=room: room)
        assert (disk_rate(tmp_path / str(free)) > 1e6) is timed


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(DiskError, match="cannot be opened: No such file"):
        LayerStream([DirectFile(tmp_path / "none")], math.inf)
