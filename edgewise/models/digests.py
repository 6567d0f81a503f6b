"""What a checkpoint's tensors contain, as digests: computed once per file and remembered."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from edgewise.models.checkpoint import Checkpoint
from edgewise.quantization.store import cache_folder


def tensor_digests(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """A digest per tensor of its type, shape and bytes. Raises ModelError."""
    found, memories = [], {}
    for name in names:
        path = checkpoint.path(name)
        if path not in memories:
            memories[path] = _Memory(path)
        found.append(memories[path].digest(checkpoint, name))
    for memory in memories.values():
        memory.save()
    return found


class _Memory:
    """The digests known of one file, as long as it does not change."""

    def __init__(self, path: Path) -> None:
        stat = path.stat()
        self.stamp = [stat.st_size, stat.st_mtime_ns]
        place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
        self.file = cache_folder() / "digests" / f"{place}.json"
        self.known: dict[str, str] = {}
        self.changed = False
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            if document["stamp"] == self.stamp:
                self.known = dict(document["tensors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing remembered, or nothing readable: compute

    def digest(self, checkpoint: Checkpoint, name: str) -> str:
        if name not in self.known:
            tensor = checkpoint.read(name)
            found = hashlib.blake2b(repr((tensor.dtype, tuple(tensor.shape))).encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
            self.known[name] = found.hexdigest()[:32]
            self.changed = True
        return self.known[name]

    def save(self) -> None:
        if not self.changed:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"stamp": self.stamp, "tensors": self.known}))
        partial.replace(self.file)
