"""Collect what a model's matrices are multiplied with, on text that the model wrote itself: first
tokens, whose activations are massive, included. Kept in the cache, and known by a key that is part
of rounding methods' full names ("nearest:KEY"): so plans, workers and the store know which.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewise.caches import cache_key
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality.calibration import Calibration, text_key
from edgewise.quality.streaming import run_observed
from edgewise.quantization.statistics import Statistics
from edgewise.schemes import get_scheme

VERSION = 1  # of how statistics are collected
PRECISION = get_scheme("bf16")  # ample for moments
LOOKED_AT = Calibration(count=32, length=128, seed=1)  # other text than losses are measured on


def statistics_key(model: str, text: Calibration = LOOKED_AT) -> str:
    """A name made of all that statistics depend on: the weights, the text. Raises ModelError."""
    return cache_key(VERSION, text_key(model, text))[:12]


def collect_statistics(
    model: str, ids: Tensor, on_step: Callable[[str], None] = lambda step: None
) -> Statistics:
    """Second moments of the inputs of every matrix on sequences ids [B, T], one layer in memory at
    a time.

    Looking rows up is no product, so a table has none; but one that is the head's matrix too takes
    the head's, or the two would become different matrices.
    """
    checkpoint = open_checkpoint(model)
    loader, states = Loader(checkpoint, torch.device("cpu")), ids
    moments: dict[str, Tensor] = {}
    last = checkpoint.config.num_layers - 1
    for number in range(last + 1):
        layer = loader.layer(number, PRECISION)
        states, observed = run_observed(checkpoint.config, number, layer, states)
        moments |= {f"{number}.{name}": moment for name, moment in observed.items()}
        on_step(f"layer {number}")
    if checkpoint.config.tied:
        moments["0.tokens"] = moments[f"{last}.out"].clone()
    return Statistics(moments)
