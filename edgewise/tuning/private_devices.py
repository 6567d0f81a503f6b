"""A training whose records, head and M are on the source, and whose blocks are on other devices."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from edgewise.clusters import Cluster
from edgewise.errors import DeviceError, Infeasible
from edgewise.planning.proportional import away_from_source
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.messages import Message
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec
from edgewise.tuning import messages
from edgewise.tuning.devices import TrainingOnDevices
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.placing import WindowPlace
from edgewise.tuning.recipe import Recipe
from edgewise.units import format_bytes


class PrivateTraining(TrainingOnDevices):
    """As on one device; a device with blocks that is lost is gone on without, from the last
    `state`."""

    def __init__(
        self,
        workers: Workers,
        spec: ModelSpec,
        model: str,
        scheme: str,
        recipe: Recipe,
        lessons: Sequence[Lesson],
        on_loss: Callable[[DeviceError], None] = lambda lost: None,
    ) -> None:
        self._spec, self._stored_in = spec, scheme
        self.blocks: dict[str, range] = {}  # by device, in their order
        windows = recipe.windows(spec.num_blocks)
        super().__init__(workers, self._place, model, scheme, recipe, windows, lessons, on_loss)

    def _place(self, workers: Workers) -> Sequence[WindowPlace]:
        self.blocks = block_places(self._spec, self._stored_in, workers.cluster)
        return (WindowPlace(workers.cluster.source, 0, 1),)

    def _told(self, epoch: int) -> dict[str, Message]:
        source, names = self._workers.cluster.source, list(self.blocks)
        way, ends = [source, *names, source], (0, self._spec.num_layers - 1)
        there = self._weights.of(source, ends)
        told: dict[str, Message] = {
            source: messages.HoldMiddles(epoch, there, self.recipe, names[0], names[-1])
        }
        for before, (name, after) in zip(way, pairwise(way[1:]), strict=False):
            blocks = self.blocks[name]
            there = self._weights.of(name, range(blocks.start + 1, blocks.stop + 1))
            told[name] = messages.HoldBlocks(
                epoch, there, self.recipe.adapter, source, blocks.start, blocks.stop, before, after
            )
        return told


def block_places(spec: ModelSpec, scheme: str, cluster: Cluster) -> dict[str, range]:
    """All blocks on the devices that are not the source, in proportion to their memory. Raises
    Infeasible where there is none, or where weights alone do not fit."""
    devices, places = away_from_source(cluster, spec.num_blocks), dict[str, range]()
    for name in dict.fromkeys(devices):
        first, count = devices.index(name), devices.count(name)
        layers = spec.layers[first + 1 : first + count + 1]
        size = sum(layer.weight_bytes(get_scheme(scheme)) for layer in layers)
        memory = cluster.device(name).memory_bytes
        if size > memory:
            raise Infeasible(
                f"{count} blocks take {format_bytes(size)} of '{name}', which has "
                f"{format_bytes(memory)}: use fewer bits, or more devices"
            )
        places[name] = range(first, first + count)
    return places
