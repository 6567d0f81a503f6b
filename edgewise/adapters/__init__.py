"""Low-rank adapters: what is added to a frozen model's matrices, and how it is kept."""

from edgewise.adapters.low_rank import Adapted, AdapterConfig, Kind, LowRank
from edgewise.adapters.matrices import attach, parts_of

__all__ = ["Adapted", "AdapterConfig", "Kind", "LowRank", "attach", "parts_of"]
