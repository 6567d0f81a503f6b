"""What a checkpoint's tensors contain, as digests: computed once per file and remembered.

A digest reads the whole tensor (BLAKE2b: about 1 GB a second), so digests are remembered as long as
their file is the same one. Size and time of modification do not tell that: both can be set, and
copying tools do. So a file is also known by its inode and the time of its last change of any kind,
which nobody can set, and, for file systems that keep neither, by its header and samples of its
content, 256 KiB in all.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from edgewise.caches import cache_folder, cache_key, write_text_atomically
from edgewise.models.checkpoint import Checkpoint

SAMPLES, SAMPLE_BYTES = 64, 4096


def tensor_digests(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """A digest per tensor of its type, shape and bytes. Raises ModelError."""
    digests, memories = [], {}
    for name in names:
        path = checkpoint.path(name)
        if path not in memories:
            memories[path] = _Memory(path)
        digests.append(memories[path].digest(checkpoint, name))
    for memory in memories.values():
        memory.save()
    return digests


def file_stamp(path: Path) -> list[int | str]:
    """What changes when a file's content does, without reading all of it. Raises OSError."""
    with path.open("rb") as file:
        stat, digest = path.stat(), hashlib.blake2b(digest_size=16)
        for number in range(SAMPLES):
            file.seek(number * stat.st_size // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    changed = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return [*changed, digest.hexdigest()]


class _Memory:
    """The digests known of one file, as long as it does not change."""

    def __init__(self, path: Path) -> None:
        self.stamp = file_stamp(path)
        folder = cache_folder("digests")
        self.file = folder and folder / f"{cache_key(str(path.resolve()))}.json"
        self.known: dict[str, str] = {}
        self.changed = False
        if self.file is None:
            return
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            if document["stamp"] == self.stamp:
                self.known = dict(document["tensors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing remembered, or nothing readable: compute

    def digest(self, checkpoint: Checkpoint, name: str) -> str:
        if name not in self.known:
            tensor = checkpoint.read(name)
            digest = hashlib.blake2b(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
            self.known[name] = digest.hexdigest()[:32]
            self.changed = True
        return self.known[name]

    def save(self) -> None:
        if self.changed:
            document = {"stamp": self.stamp, "tensors": self.known}
            write_text_atomically(self.file, json.dumps(document))
