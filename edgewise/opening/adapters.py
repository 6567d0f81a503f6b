"""Adapters that whoever opens a model gives by name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgewise.adapters.private import PrivateAdapter
from edgewise.adapters.served import Adapter, open_adapter
from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.specs import NO_EXTRA, Vote, Workload

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_adapter_name(name: str) -> str:
    """The name itself. Raises InputError for what does not go well with others in a text."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} cannot be an adapter's name: letters, digits, '.', '_' and '-', at "
            "most 64"
        )
    return name


def open_adapters(
    folders: Mapping[str, str | Path], checkpoint: Checkpoint, vote: Vote = Vote.CONFIDENCE
) -> dict[str, Adapter]:
    """Where they are of windows, their exits `vote`. Raises InputError for names and folders that
    will not do."""
    config, digest = checkpoint.config, checkpoint.spec.digest
    return {
        check_adapter_name(name): open_adapter(Path(folder), config, digest, vote)
        for name, folder in folders.items()
    }


def with_room(workload: Workload, adapters: Iterable[Adapter]) -> Workload:
    """The workload with what they need in every block, and in the head; and with the work of that
    among them which has the most exits, as if all requests named it."""
    held = list(adapters)
    in_blocks, in_head = (sum(x.block_bytes for x in held), sum(x.exit_bytes for x in held))
    work = max((x.work for x in held), key=lambda x: x.exits, default=NO_EXTRA)
    extra = replace(work, private=workload.extra.private)
    return replace(workload, adapter_bytes=in_blocks, exit_bytes=in_head, extra=extra)


def with_private(
    workload: Workload, private: PrivateAdapter | None, config: DecoderConfig
) -> Workload:
    """The workload with what blocks ask the source for."""
    asked = None if private is None else private.asked(config)
    return replace(workload, extra=replace(workload.extra, private=asked))
