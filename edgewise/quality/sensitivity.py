"""How much each layer loses in each scheme, in one pass over the layers.

    kl         KL(full || changed) of the next token, nats, when only that layer changes
    weights    DILEMMA (arXiv 2503.01704): squared differences of weights, over all weights of the
               model; the row (5) of its program that fits its Table 1 (section 2.3 of the notes)
    variance   LLM-PQ (arXiv 2403.01136): sum over matrices of S^2 Var[X], S the widest row's range
               over 2^(b-1) - 1, X the matrix's inputs; matrices of the MLP count four times, as in
               its published code (section 3.3 of the notes)

Only `kl` is a loss that can be compared with a model's own; the others rank.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.decoder import Layer
from edgewise.models.loading import Loader, matrix_modules
from edgewise.quality.streaming import Head, cross_entropy, divergences, run_layer, watched
from edgewise.quantization.stacked import numbers_of
from edgewise.quantization.store import Store
from edgewise.schemes import Scheme, get_scheme
from edgewise.sensitivities import Sensitivity

METRICS = ("kl", "weights", "variance")
FULL = get_scheme("fp32")
MLP_WEIGHT = 4.0
MOST_IN_MEMORY = 2 * 2**30  # bytes of hidden states; beyond that they are kept in a file

OnStep = Callable[[str], None]


def measure_sensitivity(
    model: str,
    schemes: Sequence[str],
    ids: Tensor,
    metric: str = "kl",
    *,
    method: str | None = None,
    store: Store | None = None,
    on_step: OnStep = lambda what: None,
) -> Sensitivity:
    """What every layer of a model loses in every scheme, on sequences ids [B, T]. Raises
    InputError, SchemeError, ModelError."""
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}'; known metrics: {', '.join(METRICS)}")
    checkpoint = open_checkpoint(model)
    stored = tuple(map(get_scheme, schemes))
    measured = _Pass(checkpoint, stored, ids, method, store, on_step)
    if metric == "kl":
        losses, reference = measured.divergences()
    else:
        losses, reference = measured.ranks(_squares if metric == "weights" else _variances)
    if metric == "weights":
        count = sum(r * c for x in checkpoint.spec.layers for r, c in x.matrices)
        losses = {name: [x / count for x in values] for name, values in losses.items()}
    found = {name: tuple(values) for name, values in losses.items()}
    return Sensitivity(checkpoint.spec.digest, metric, reference, found)


def num_steps(model: str) -> int:
    """How many times `measure_sensitivity` reports progress."""
    return open_checkpoint(model).config.num_layers


@dataclass(frozen=True)
class _Pass:
    """One pass over a model's layers on some sequences [B, T]."""

    checkpoint: Checkpoint
    schemes: tuple[Scheme, ...]
    ids: Tensor
    method: str | None
    store: Store | None
    on_step: OnStep

    def load(self, number: int, scheme: Scheme) -> Layer:
        loader = Loader(self.checkpoint, torch.device("cpu"), self.method, self.store)
        return loader.layer(number, scheme)

    def run(self, number: int, layer: Layer, x: Tensor) -> Tensor:
        return run_layer(self.checkpoint.config, number, layer, x)

    def head(self, scheme: Scheme) -> Head:
        number = self.checkpoint.config.num_layers - 1
        layer = self.load(number, scheme)
        return lambda x: self.run(number, layer, x)

    def divergences(self) -> tuple[dict[str, list[float]], float]:
        """Losses per scheme and layer, and the model's own loss. A variant, one layer in one
        scheme, travels beside the reference from its layer to the head."""
        config, changing = self.checkpoint.config, [s for s in self.schemes if s != FULL]
        last, reference, done = config.num_layers - 1, self.ids, 0
        with _states(last * len(changing), self.ids, config.hidden_size) as variants:
            for number in range(last):
                full = self.load(number, FULL)
                for index in range(done):
                    variants[index] = self.run(number, full, variants[index])
                for scheme in changing:
                    changed = self.load(number, scheme)
                    variants[done] = self.run(number, changed, reference)
                    done += 1
                    del changed  # before the next is loaded
                reference = self.run(number, full, reference)
                del full
                self.on_step(f"layer {number}")
            head = self.head(FULL)
            losses = {s.name: [0.0] * config.num_layers for s in self.schemes}
            for index in range(done):
                number, which = divmod(index, len(changing))
                found = float(divergences(head, reference, head, variants[index]).mean())
                losses[changing[which].name][number] = found
        for scheme in changing:
            found = float(divergences(head, reference, self.head(scheme), reference).mean())
            losses[scheme.name][last] = found
        loss = cross_entropy(head, reference, self.ids)
        self.on_step("head")
        return losses, loss

    def ranks(
        self, rank: "Callable[[Layer, Layer, Scheme, dict[str, list[Tensor]]], float]"
    ) -> tuple[dict[str, list[float]], float]:
        """What `rank` makes of every layer at full precision, in a scheme, and of its inputs."""
        x = self.ids
        losses: dict[str, list[float]] = {s.name: [] for s in self.schemes}
        last = self.checkpoint.config.num_layers - 1
        for number in range(last + 1):
            full, before = self.load(number, FULL), x
            with watched(full) as seen:
                x = self.run(number, full, x)
            for scheme in self.schemes:
                changed = full if scheme == FULL else self.load(number, scheme)
                losses[scheme.name].append(rank(full, changed, scheme, seen))
            self.on_step(f"layer {number}")
        return losses, cross_entropy(lambda y: self.run(last, full, y), before, self.ids)


def _squares(full: Layer, changed: Layer, scheme: Scheme, seen: dict[str, list[Tensor]]) -> float:
    """Sum of squared differences of weights."""
    total = 0.0
    for name, module in matrix_modules(full):
        other = getattr(changed, name)
        total += float((numbers_of(other) - module.weight).double().square().sum())
    return total


def _variances(full: Layer, changed: Layer, scheme: Scheme, seen: dict[str, list[Tensor]]) -> float:
    """Sum over matrices of S^2 times the summed variance of the inputs' columns."""
    total = 0.0
    for name, module in matrix_modules(full):
        inputs = seen.get(name)
        if scheme == FULL or not inputs:
            continue
        spread = float((module.weight.amax(1) - module.weight.amin(1)).max())
        step = spread / (2 ** (scheme.bits - 1) - 1)
        weight = MLP_WEIGHT if name in ("up", "down") else 1.0
        total += weight * step**2 * float(torch.cat(inputs).double().var(0, correction=0).sum())
    return total


@contextmanager
def _states(count: int, ids: Tensor, hidden_size: int) -> Iterator[Tensor]:
    """Room for `count` sets of hidden states [count, B, T, H]: in memory, or where that would be
    too much in a temporary file."""
    shape = (count, *ids.shape, hidden_size)
    size = math.prod(shape)
    if size * 4 <= MOST_IN_MEMORY:
        yield torch.empty(shape)
        return
    with tempfile.NamedTemporaryFile(prefix="edgewise-states-") as file:
        yield torch.from_file(file.name, shared=True, size=size).view(shape)
