"""Sensitivity: how much quality a model loses when one layer takes one scheme."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgewise.errors import InputError, ProfileError

VERSION = 2


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

    def budget(self, quality: str | None) -> float:
        """Loss that a plan may add: '1%' of the model's own, or '0.02'; None: any. Raises
        InputError."""
        if quality is None:
            return math.inf
        number, is_share = parse_quality(quality)
        return number * self.reference if is_share else number

    @staticmethod
    def load(path: Path) -> "Sensitivity":
        """Raises ProfileError, which names the file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise ProfileError(
                    f"{path}: version {document['version']}, but this Edgewise reads {VERSION}; "
                    "measure again with `edgewise sensitivity`"
                )
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


def parse_quality(text: str) -> tuple[float, bool]:
    """'1%' of a model's own loss, or a loss of '0.02' nats per token: the number, and whether it is
    a share. Raises InputError."""
    is_share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        raise InputError(f"quality '{text}' is neither like '1%' nor like '0.02'") from None
    if not 0 <= number < math.inf:
        raise InputError(
            f"a quality budget must be zero or more, not {text}: no plan loses less than nothing"
        )
    return number, is_share
