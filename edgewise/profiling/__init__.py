"""Measure a model's layers on every device, through its worker, and every directed link."""

from collections.abc import Callable
from statistics import median

from edgewise.profiles import LayerTiming, LinkTiming, Profile
from edgewise.runtime.local import LocalDevices
from edgewise.specs import ACTIVATION_BYTES, LayerKind, ModelSpec, Workload

TIME_SECONDS = 300.0
REPEATS = 15
PROBE_REPEATS = 15
FASTEST = 1e-12  # seconds per byte: below this the slope is noise


def measure(
    devices: LocalDevices,
    model: str,
    spec: ModelSpec,
    workload: Workload,
    scheme: str,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Profile:
    """Time one layer of each kind on each device, one device at a time, and all links.

    `model` names the checkpoint whose configuration the workers read; weights are random.
    """
    layers: list[LayerTiming] = []
    for device in devices.cluster.devices:
        for kind, layer in _layer_of_each_kind(spec).items():
            on_progress(f"{device.name}: {kind}")
            shapes = _shapes(kind, workload)
            body = {"model": model, "layer": layer, "scheme": scheme, "shapes": shapes}
            message = devices.call(
                device.name, "time", {**body, "repeats": REPEATS}, "timed", TIME_SECONDS
            )
            for (tokens, context), seconds in zip(shapes, message.body["seconds"], strict=True):
                layers.append(LayerTiming(device.name, kind, scheme, tokens, context, seconds))
    return Profile(spec.digest, tuple(layers), tuple(_links(devices, spec, on_progress)))


def _layer_of_each_kind(spec: ModelSpec) -> dict[LayerKind, int]:
    return {layer.kind: number for number, layer in reversed(list(enumerate(spec.layers)))}


def _shapes(kind: LayerKind, workload: Workload) -> list[tuple[int, int]]:
    """(new tokens, cached tokens) to time: decoding at both ends of the answer, and two prompts."""
    decode = [(1, workload.prompt_tokens), (1, workload.context - 1)]
    if kind is LayerKind.HEAD:
        return decode
    prompt = workload.prompt_tokens
    return decode + [(tokens, 0) for tokens in sorted({max(prompt // 2, 2), max(prompt, 2)})]


def _links(
    devices: LocalDevices, spec: ModelSpec, on_progress: Callable[[str], None]
) -> list[LinkTiming]:
    """Every link that has a way back, and the way from the coordinator into the source's worker."""
    cluster = devices.cluster
    sizes = [0, 64 * spec.hidden_size * ACTIVATION_BYTES]
    on_progress(f"link into {cluster.source}")
    within = [[devices.round_trip(cluster.source) for _ in range(PROBE_REPEATS)]]
    found = [_fit(cluster.source, cluster.source, sizes[:1], within)]
    for link in cluster.links:
        if cluster.link(link.target, link.source) is None or link.source == link.target:
            continue
        on_progress(f"link {link.source} -> {link.target}")
        body = {"target": link.target, "sizes": sizes, "repeats": PROBE_REPEATS}
        message = devices.call(link.source, "probe", body, "probed", TIME_SECONDS)
        found.append(_fit(link.source, link.target, sizes, message.body["seconds"]))
    return found


def _fit(source: str, target: str, sizes: list[int], seconds: list[list[float]]) -> LinkTiming:
    """Latency and bandwidth from round trips of `size` bytes there and an empty answer back.

    Without synchronised clocks a round trip cannot be split, so each direction gets half of it;
    the bandwidth, from the larger message, is the link's own.
    """
    trips = [median(found) for found in seconds]
    slope = (trips[-1] - trips[0]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else 0.0
    return LinkTiming(source, target, trips[0] / 2, 1 / max(slope, FASTEST))
