"""The demo model that ships with Edgewise, and the questions it was trained to answer."""

from pathlib import Path
from typing import Final

MODEL_FOLDER: Final[Path] = Path(__file__).parent / "model"
REAL_CLUSTER_FILE: Final[Path] = Path(__file__).parent / "real.toml"
CLUSTER_FILE: Final[Path] = Path(__file__).parent / "cluster.toml"
