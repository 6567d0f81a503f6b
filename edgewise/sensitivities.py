"""Sensitivity: how much quality a model loses when one layer takes one scheme."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgewise.errors import ProfileError

VERSION = 1


@dataclass(frozen=True)
class Sensitivity:
    """`losses[scheme][layer]` is added to the model's `reference` loss (both in `metric`); a plan's
    predicted loss is the sum over its layers. Belongs to a model shape, like a profile."""

    model: str
    metric: str
    reference: float
    losses: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not math.isfinite(self.reference):
            raise ProfileError(f"sensitivity: the reference loss is {self.reference}")
        for scheme, values in self.losses.items():
            for layer, value in enumerate(values):
                if not (math.isfinite(value) and value >= 0):
                    raise ProfileError(
                        f"sensitivity: layer {layer} in {scheme} loses {value}; losses must be "
                        "zero or more"
                    )

    @staticmethod
    def load(path: Path) -> "Sensitivity":
        """Raises ProfileError, which names the file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise ProfileError(f"{path}: version {document['version']}, not {VERSION}")
            losses = {scheme: tuple(values) for scheme, values in document["losses"].items()}
            return Sensitivity(document["model"], document["metric"], document["reference"], losses)
        except OSError as error:
            raise ProfileError(f"cannot read sensitivity {path}: {error.strerror}") from None
        except ProfileError as error:
            raise ProfileError(str(error).replace("sensitivity: ", f"{path}: ", 1)) from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ProfileError(f"{path}: not a sensitivity file: {error!r}") from None

    def to_json(self) -> str:
        document = {
            "version": VERSION,
            "model": self.model,
            "metric": self.metric,
            "reference": self.reference,
            "losses": self.losses,
        }
        return json.dumps(document, indent=1, allow_nan=False)
