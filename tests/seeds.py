"""How many random cases a sweep goes through: a few by default, all of them in `make test-slow`."""

import os
from collections.abc import Sequence

THOROUGH = bool(os.environ.get("EDGEWISE_THOROUGH"))


def seeds(few: int, every: int) -> range:
    """The first `few` seeds, or `every` one where the sweep is to be thorough."""
    return range(every if THOROUGH else few)


def cases(few: Sequence[object], every: Sequence[object]) -> Sequence[object]:
    """The same of cases that are named."""
    return every if THOROUGH else few
