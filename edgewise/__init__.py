"""Run one large language model across the devices you already have.

`load` is the way in; the rest is what it takes, gives back and raises. Each name is imported when
it is first used, for most of them need torch.
"""

import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Cluster", "EdgewiseError", "LoadedModel", "Plan", "__version__", "load"]

# torch's own threads would go on spinning for milliseconds after every parallel operation, on cores
# that our kernels' threads need: twice the time per token (dev/LOG.md). Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from edgewise.clusters import Cluster
    from edgewise.errors import EdgewiseError
    from edgewise.opening.loaded import LoadedModel, load
    from edgewise.plans import Plan
else:  # not seen by type checkers, to which every attribute would exist

    def __getattr__(name):
        from importlib import import_module

        places = {
            "Cluster": "edgewise.clusters",
            "EdgewiseError": "edgewise.errors",
            "LoadedModel": "edgewise.opening.loaded",
            "Plan": "edgewise.plans",
            "load": "edgewise.opening.loaded",
        }
        if name not in places:
            raise AttributeError(f"module 'edgewise' has no attribute '{name}'")
        return getattr(import_module(places[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
