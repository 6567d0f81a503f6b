"""What is to be opened, and what was decided about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgewise.adapters.served import Adapter
from edgewise.clusters import Cluster
from edgewise.errors import InputError
from edgewise.planning import Problem
from edgewise.plans import Plan
from edgewise.schemes import get_scheme
from edgewise.sensitivities import parse_quality
from edgewise.specs import Workload


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model on a cluster, for some work. One of a plan, a scheme and a loss (`quality`) may
    decide how; without any, the most bits that fit do, beside `adapters`, which requests name. Of
    adapters in a folder `private`, M stays on the source. Raises InputError."""

    model: str
    cluster: Cluster
    workload: Workload
    plan: Plan | None = None
    scheme: str | None = None
    quality: str | None = None
    private: Path | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_wish(self.plan, self.scheme, self.quality)
        if self.private is not None:
            check_private(self.quality)


def check_wish(plan: Plan | None, scheme: str | None, quality: str | None) -> None:
    """Raises InputError where they mean nothing, or more than one decides."""
    if scheme is not None:
        get_scheme(scheme)
    if quality is not None:
        parse_quality(quality)
    if sum(x is not None for x in (plan, scheme, quality)) > 1:
        raise InputError("a plan file, a scheme and a quality decide alike: give one of them")


def check_private(quality: str | None) -> None:
    """Raises InputError where more is promised than is known of private adapters."""
    if quality is not None:
        raise InputError("what private adapters lose is not measured: leave the quality out")


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan and the problem that it solves, which another plan would have to solve if a device
    were lost; None where nobody here made the plan."""

    plan: Plan
    problem: Problem | None
