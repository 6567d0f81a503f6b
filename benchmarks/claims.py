"""How benchmarks end: with a line of JSON, and an error where what they claim does not hold."""

import json
import sys
from collections.abc import Mapping, Sequence


def finish(name: str, document: Mapping[str, object], failed: Sequence[str] = ()) -> None:
    """`failed` says of each part of the claim that does not hold what was measured instead."""
    print(json.dumps({"benchmark": name, **document, "failed": list(failed)}))
    if failed:
        sys.exit("does not hold: " + "; ".join(failed))
