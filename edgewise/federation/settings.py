"""What all who learn together must agree on."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from edgewise.adapters import AdapterConfig, Kind
from edgewise.errors import InputError
from edgewise.federating.algorithms import Algorithm
from edgewise.federating.exchanges import Clients, FederatedRound
from edgewise.federating.privacy import classic_noise, gaussian_delta
from edgewise.federating.rounds import Merge, Merging, averaging, elected
from edgewise.federating.swarming import fed_pso, model_swarms
from edgewise.federating.updates import Arrays
from edgewise.schemes import STORED

MERGES = {
    Algorithm.FED_AVG: Merge.MEAN,
    Algorithm.FED_PROX: Merge.MEAN,
    Algorithm.EXACT: Merge.EXACT,
    Algorithm.MEDIAN: Merge.MEDIAN,
    Algorithm.TRIMMED: Merge.TRIMMED,
    Algorithm.CLIPPED: Merge.CLIPPED,
    Algorithm.NEAR: Merge.NEAR,
}


@dataclass(frozen=True, slots=True)
class FederatedSettings:
    """`blocks` are the last ones, which get adapters, all where it is 0; `steps` a client takes a
    round; `rate` falls evenly from round to round, to a share of `rate_falls_to` in the last one
    (clients whose data is unlike do not settle otherwise: Li et al., 1907.02189); `proximal` is
    FedProx's mu, `momentum` FedAvgM's beta. With `epsilon` > 0 what a client sends is
    differentially private: clipped to `clip` and noised. Raises InputError where they contradict
    each other."""

    model: str
    scheme: str = STORED
    algorithm: Algorithm = Algorithm.EXACT
    kind: Kind = Kind.PRIVATE
    rank: int = 8
    alpha: float = 16.0
    blocks: int = 0
    rounds: int = 5
    steps: int = 4
    batch: int = 8
    rate: float = 1e-3
    rate_falls_to: float = 1.0
    longest: int = 512
    held_out: float = 0.1
    proximal: float = 0.01
    momentum: float = 0.0
    trim: int = 1
    leaders: bool = False
    epsilon: float = 0.0
    delta: float = 1e-5
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, x in asdict(self).items():
            if isinstance(x, float) and not math.isfinite(x):
                raise InputError(f"--{name.replace('_', '-')} is {x}, which is no number")
        if self.algorithm is Algorithm.EXACT and self.kind is not Kind.PRIVATE:
            raise InputError(
                "LoRA's matrices have no exact mean: give --algorithm fedavg, or no --lora"
            )
        if self.leaders and self.algorithm not in MERGES:
            raise InputError(f"--leaders: {self.algorithm} has nothing that a leader could merge")
        if self.epsilon > 0 and self.algorithm not in MERGES:
            raise InputError(f"--epsilon is of what is merged, not of {self.algorithm}")
        if self.epsilon > 0 and not (self.clip > 0 and 0 < self.delta < 1):
            raise InputError("--epsilon needs a --clip above 0, and a --delta between 0 and 1")
        if self.epsilon > 0:
            really = gaussian_delta(self.epsilon, classic_noise(self.epsilon, self.delta))
            if really > self.delta:
                raise InputError(
                    f"--epsilon {self.epsilon:g}: the noise for it and --delta {self.delta:g} "
                    f"really gives a delta of {really:.1e}; give a smaller --epsilon"
                )

    @property
    def adapter(self) -> AdapterConfig:
        return AdapterConfig(self.kind, self.rank, self.alpha, seed=self.seed)

    @property
    def merging(self) -> Merging:
        return Merging(MERGES[self.algorithm], self.trim)

    def rate_in(self, number: int) -> float:
        """The rate of a round; rounds count from 1."""
        gone = (number - 1) / max(self.rounds - 1, 1)
        return self.rate * (1 - gone * (1 - self.rate_falls_to))

    def to_config(self) -> dict[str, bool | int | float | str]:
        """As Flower hands it to all."""
        values = asdict(self).items()
        return {name: str(x) if isinstance(x, StrEnum) else x for name, x in values}

    @classmethod
    def from_config(cls, config: Any) -> "FederatedSettings":
        """Raises InputError where something is missing or no such value."""
        try:
            values = {x.name: config[x.name] for x in fields(cls)}
            values["algorithm"] = Algorithm(values["algorithm"])
            values["kind"] = Kind(values["kind"])
            return cls(**values)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"no settings of a federation: {error}") from None


def rounds_of(
    settings: FederatedSettings, clients: Clients, start: Arrays
) -> Iterator[FederatedRound]:
    """The rounds of the algorithm that was chosen."""
    if settings.algorithm is Algorithm.FED_PSO:
        return fed_pso(clients, start, settings.rounds)
    if settings.algorithm is Algorithm.SWARMS:
        return model_swarms(clients, start, settings.rounds, settings.seed)
    proximal = settings.proximal if settings.algorithm is Algorithm.FED_PROX else 0.0
    common = settings.rounds, settings.merging, proximal, settings.momentum
    if settings.leaders:
        return elected(clients, start, *common, settings.seed)
    return averaging(clients, start, *common)
