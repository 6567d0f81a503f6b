"""The names of the algorithms."""

from enum import StrEnum


class Algorithm(StrEnum):
    """`fedavg`: the mean by samples. `fedprox`: the same, clients drawn to where a round began.
    `exact`: the mean of private adapters. `median`, `trimmed`, `clipped`, `near`: around
    liars. `fedpso`, `swarms`: swarms."""

    FED_AVG = "fedavg"
    FED_PROX = "fedprox"
    EXACT = "exact"
    MEDIAN = "median"
    TRIMMED = "trimmed"
    CLIPPED = "clipped"
    NEAR = "near"
    FED_PSO = "fedpso"
    SWARMS = "swarms"
