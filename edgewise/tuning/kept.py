"""What a step keeps in memory."""

from bisect import bisect_left

import torch
from torch import Tensor, nn

from edgewise.tuning.lessons import LessonBatch
from edgewise.tuning.model import Tunable, Window
from edgewise.tuning.training import loss_of


def kept_by(
    model: Tunable, window: Window, batch: LessonBatch, states: Tensor, again: int = 0
) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, each storage once, without
    the model's own, and what blocks got that run again."""
    modules = [model.exits, *model.blocks.values()]
    own = {x.untyped_storage().data_ptr() for module in modules for x in _tensors_of(module)}
    sizes = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a step that kept its own result would never be let go of

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss_of(model, window, batch, states, again)
    return sum(sizes.values()) + again * states.nbytes


def fewest_again(
    model: Tunable, window: Window, batch: LessonBatch, states: Tensor, most_bytes: int
) -> int | None:
    """How many blocks have to run again so that no more than `most_bytes` are kept, measured; None
    where all of them are not enough. Each costs the seconds of its forward pass: the fewest are the
    quickest schedule that fits (Edge-LLM's Eq. 3 with one level of memory)."""
    count = window.end - window.first

    def fits(again: int) -> bool:
        return kept_by(model, window, batch, states, again) <= most_bytes

    return bisect_left(range(count + 1), True, key=fits) if fits(count) else None


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's numbers, those that it shares with others too."""
    return sum({x.data_ptr(): x.nbytes for x in _tensors_of(module)}.values())


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
