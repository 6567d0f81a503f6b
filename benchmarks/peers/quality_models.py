"""Models for `quality.py`: the original in float32, what ours and llama.cpp's quantizers make of
its matrices, and statistics of what those are multiplied with."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ggml import Ggml
from torch import Tensor, nn

from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Layer
from edgewise.models.loading import Loader, matrix_modules
from edgewise.models.names import table_name, tensor_names
from edgewise.models.shard import Shard, load_shard
from edgewise.quality.prepare import prepare
from edgewise.quality.statistics import collect_statistics
from edgewise.quality.streaming import run_layer, watched
from edgewise.quantization.rounding import calibrated, sees_pairs
from edgewise.quantization.stacked import numbers_of
from edgewise.quantization.statistics import statistics_path
from edgewise.quantization.store import Store
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec

FULL = get_scheme("fp32")
PLAIN = "plain"  # our method: each scheme's own, without statistics of inputs


class Whole:
    """A model in float32 whose matrices can be replaced, run by torch: windows are longer than
    what the kernels take of float32."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        self.config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"))
        self.layers: list[Layer] = []
        for number in range(self.config.num_layers):
            self.layers.append(loader.layer(number, FULL, self.layers[0] if number else None))
        self._originals = [
            {name: module.weight.detach() for name, module in matrix_modules(layer)}
            for layer in self.layers
        ]

    def logits(self, ids: np.ndarray) -> Tensor:
        """ids [T] -> logits [T, vocabulary]."""
        x = torch.from_numpy(ids).unsqueeze(0)
        for number, layer in enumerate(self.layers):
            x = run_layer(self.config, number, layer, x)
        return x[0]

    def tensor_names(self, number: int, matrix: str) -> tuple[str, ...]:
        """The checkpoint's tensors that lie below each other in a layer's matrix."""
        last = number == self.config.num_layers - 1
        if last and self.config.tied and matrix == "out":
            return (table_name(self.config.names),)
        kind = self.layers[number].kind
        return tensor_names(self.config.names, kind, f"{matrix}.weight", number - 1)

    def replace(self, number: int, matrix: str, weight: Tensor) -> None:
        module = getattr(self.layers[number], matrix)
        module.weight = nn.Parameter(weight, requires_grad=False)

    def restore(self) -> None:
        for number, originals in enumerate(self._originals):
            for name, weight in originals.items():
                self.replace(number, name, weight)

    def parts(self) -> Iterator[tuple[int, str, dict[str, Tensor]]]:
        """Layer, matrix, and the checkpoint's tensors in it as they were."""
        rows = {"q_proj": self.config.num_heads * self.config.head_dim}
        rows["k_proj"] = rows["v_proj"] = self.config.num_kv_heads * self.config.head_dim
        for number, originals in enumerate(self._originals):
            for matrix, weight in originals.items():
                names = self.tensor_names(number, matrix)
                even = len(weight) // len(names)
                sizes = [rows.get(name.split(".")[-2], even) for name in names]
                sizes = sizes if len(names) > 1 else [len(weight)]
                yield number, matrix, dict(zip(names, weight.split(sizes), strict=True))


def round_with_ggml(
    model: Whole, ggml: Ggml, kind: str, importance: dict[str, np.ndarray] | None, threads: int
) -> tuple[int, int]:
    """Send every matrix of a model through a type of ggml's. Returns bytes and weights, tied
    matrices once."""
    rounded: dict[str, Tensor] = {}
    total = count = 0
    for number, matrix, tensors in model.parts():
        for name, weight in tensors.items():
            if name not in rounded:
                given = None if importance is None else importance.get(name)
                values, size = ggml.rounded(weight.numpy(), kind, given, threads)
                rounded[name] = torch.from_numpy(values)
                total, count = total + size, count + weight.numel()
        parts = [rounded[name] for name in tensors]
        model.replace(number, matrix, parts[0] if len(parts) == 1 else torch.cat(parts))
    return total, count


def importance(model: Whole, ids: Tensor) -> dict[bool, dict[str, np.ndarray]]:
    """Mean squares of the inputs of every tensor's columns on sequences ids [B, T], with (True) and
    without (False) the first token of each, on which some columns grow large. A tied table counts
    as the head's matrix."""
    means: dict[bool, dict[str, np.ndarray]] = {True: {}, False: {}}
    x = ids
    for number, layer in enumerate(model.layers):
        with watched(layer) as seen:
            x = run_layer(model.config, number, layer, x)
        for matrix, inputs in seen.items():
            squares = torch.cat(inputs).view(*ids.shape, -1).double().square()
            for first in (True, False):
                mean = squares[:, 0 if first else 1 :].mean((0, 1)).float().numpy()
                for name in model.tensor_names(number, matrix):
                    means[first][name] = mean
    return means


def layer_schemes(entry: str, spec: ModelSpec) -> list[str]:
    """The scheme of every layer: of an entry such as "q4g64a", of a recipe, or of "BLOCKS/ENDS",
    where ends are embedding and head. Raises SchemeError."""
    blocks, _, ends = entry.partition("/")
    asked = [ends or blocks, *[blocks] * spec.num_blocks, ends or blocks]
    named = zip(spec.layers, map(get_scheme, asked), strict=True)
    return [layer.concrete(scheme).name for layer, scheme in named]


def sizes(spec: ModelSpec, schemes: list[str]) -> tuple[int, int, int]:
    """(bytes of the matrices, bytes of all weights, number of weights in matrices), a tied matrix
    once where embedding and head are in one scheme."""
    stored = [get_scheme(name) for name in schemes]
    head = spec.layers[-1].matrices
    shapes = [(s, m) for s, layer in zip(stored, spec.layers, strict=True) for m in layer.matrices]
    count = sum(rows * columns for _, (rows, columns) in shapes)
    matrices = sum(scheme.matrix_bytes(*shape) for scheme, shape in shapes)
    if spec.tied:
        count -= sum(rows * columns for rows, columns in head)
    return matrices - spec.shared_bytes(schemes), spec.weight_bytes(schemes), count


def load_ours(
    folder: Path, schemes: list[str], method: str, text: tuple[str, Tensor], length: int
) -> Shard:
    """The model as Edgewise runs it, rounded by PLAIN or by a method that looks at statistics of
    inputs on a text (its name, ids [B, T])."""
    if method == PLAIN:
        return load_shard(folder, schemes=schemes, slots=1, context=length)
    keep_statistics(folder, text)
    key, ids = text
    name = calibrated(method, key)
    with tempfile.TemporaryDirectory(prefix="edgewise-quality-") as kept:
        store = Store(Path(kept))
        if sees_pairs(method):
            prepare(str(folder), [[scheme] for scheme in schemes], name, ids, store)
        return load_shard(
            folder, schemes=schemes, method=name, store=store, slots=1, context=length
        )


def keep_statistics(folder: Path, text: tuple[str, Tensor]) -> None:
    """Where rounding methods that name this text look for its statistics."""
    path = statistics_path(text[0])
    if path is None or not path.exists():
        collect_statistics(str(folder), text[1]).keep(path)


def take_weights(model: Whole, shard: Shard) -> None:
    """Give a float32 model the matrices of a shard that holds all its layers."""
    for number, matrix, _ in model.parts():
        model.replace(number, matrix, numbers_of(getattr(shard.layers[number], matrix)))


def as_run(shard: Shard, ids: np.ndarray) -> Tensor:
    """ids [T] -> logits [T, vocabulary], as a prompt through the shard."""
    shard.drop(0)
    return shard.forward(torch.from_numpy(ids), [Segment(0, 0, len(ids))])
