"""Exits of windows, which lie beside the adapters: of each window "FIRST-END.scale" [H] and ".turn"
[H, H], float32; the window is the blocks [FIRST, END)."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from edgewise.adapters.files import EXITS, read_if_there
from edgewise.adapters.matrices import check_tunable
from edgewise.errors import InputError
from edgewise.models.config import DecoderConfig
from edgewise.models.exits import ExitMatrices
from edgewise.models.finite import all_finite

Stretch = tuple[int, int]  # [first, end)


def read_exits(folder: Path, config: DecoderConfig) -> dict[Stretch, ExitMatrices]:
    """By window, in the order of the blocks; empty where there are none. Raises InputError where
    they are not of windows that make up the model, or not of its shapes, and ModelError where it
    can have none."""
    path = folder / EXITS
    _, tensors = read_if_there(path)
    if not tensors:
        return {}
    check_tunable(config)
    windows = sorted({_window(name, path) for name in tensors})
    firsts, ends = [first for first, _ in windows], [end for _, end in windows]
    if firsts != [0, *ends[:-1]] or ends[-1] != config.num_blocks or firsts[-1] >= ends[-1]:
        raise InputError(f"{path}: windows {windows} do not make up {config.num_blocks} blocks")
    return {window: _matrices(window, tensors, config.hidden_size, path) for window in windows}


def _window(name: str, path: Path) -> Stretch:
    blocks, _, own = name.partition(".")
    first, _, end = blocks.partition("-")
    if own not in ("scale", "turn") or not (first.isdecimal() and end.isdecimal()):
        raise InputError(f"{path}: {name} is nothing of an exit")
    return int(first), int(end)


def _matrices(
    window: Stretch, tensors: Mapping[str, Tensor], hidden: int, path: Path
) -> ExitMatrices:
    read = []
    for own, shape in (("scale", (hidden,)), ("turn", (hidden, hidden))):
        name = f"{window[0]}-{window[1]}.{own}"
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            found = "missing" if tensor is None else list(tensor.shape)
            raise InputError(f"{path}: {name} is {found}, but this model needs {list(shape)}")
        if not all_finite(tensor):
            raise InputError(f"{path}: {name} holds what is no finite number")
        read.append(tensor.float())
    scale, turn = read
    return ExitMatrices(scale, turn / hidden**0.5)
