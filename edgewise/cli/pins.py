"""Which layers lie where: `--pin` and `--private`."""

from collections.abc import Sequence

from edgewise.errors import PlanError
from edgewise.specs import ModelSpec


def all_pins(
    texts: Sequence[str], private: int | None, spec: ModelSpec, source: str
) -> dict[int, str]:
    """The embedding on the source unless it is pinned elsewhere, what is private there, and the
    pins asked for. Raises PlanError where one is about a private layer."""
    pins = parse_pins(texts, spec.num_layers)
    if private is None:
        return {0: source, **pins}
    most, last = spec.num_blocks, spec.num_layers - 1
    if private > most:
        raise PlanError(f"--private {private}: the model has {most} blocks")
    ends = (*range(private + 1), *range(last - private, last + 1))
    if pinned := [layer for layer in ends if pins.get(layer, source) != source]:
        raise PlanError(f"layer {pinned[0]} is private and stays on '{source}', but is pinned")
    return pins | dict.fromkeys(ends, source)


def parse_pins(texts: Sequence[str], num_layers: int) -> dict[int, str]:
    """Pins such as '0=laptop', '0-3=laptop' or 'head=laptop'. Raises PlanError."""
    pins: dict[int, str] = {}
    for text in texts:
        layers, _, device = text.partition("=")
        layers = {"embedding": "0", "head": str(num_layers - 1)}.get(layers, layers)
        first, _, last = layers.partition("-")
        if not device or not first.isdigit() or not (last or first).isdigit():
            raise PlanError(f"pin '{text}' is not like '0=laptop', '0-3=laptop' or 'head=laptop'")
        if last and int(last) < int(first):
            raise PlanError(f"pin '{text}': {first} comes after {last}")
        for layer in range(int(first), int(last or first) + 1):
            if layer >= num_layers:
                raise PlanError(f"pin '{text}': the model has layers 0 to {num_layers - 1}")
            if layer in pins:
                raise PlanError(f"pin '{text}': layer {layer} is pinned to '{pins[layer]}' already")
            pins[layer] = device
    return pins
