"""Run one large language model across the devices you already have."""

import os

__version__ = "0.1.0"

# torch's own threads would go on spinning for milliseconds after every parallel operation, on cores
# that our kernels' threads need: twice the time per token (dev/LOG.md). Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
