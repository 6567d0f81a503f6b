"""Named testbeds: a cluster and a synthetic profile for any model shape.

Each is two files in testbeds/: NAME.toml, an ordinary cluster file, and NAME.kinds.toml, what each
kind of device can do (rooflines.py), with the source of every figure.

- `edgeshard`: the 15 devices of EdgeShard (arXiv 2405.14371) with its measured times per layer
- `home`: a laptop, a desktop with a GPU, two Raspberry Pi 5, a Jetson Orin Nano
- `campus`: a thousand devices of ten kinds in three networks
"""

from dataclasses import replace
from pathlib import Path

from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster, Link
from edgewise.errors import InputError
from edgewise.profiles import Profile
from edgewise.schemes import DEFAULT
from edgewise.simulation.rooflines import load_rooflines, make_profile
from edgewise.specs import LayerKind, LayerSpec, ModelSpec

TESTBEDS = ("edgeshard", "home", "campus")
_FOLDER = Path(__file__).with_name("testbeds")


def _llama2(name: str, hidden: int, ffn: int, blocks: int, kv_size: int) -> ModelSpec:
    """A Llama 2 shape (Touvron et al. 2023, and the published config.json files)."""
    vocabulary = 32_000
    block = LayerSpec(
        LayerKind.BLOCK,
        ((hidden + 2 * kv_size, hidden), (hidden, hidden), (2 * ffn, hidden), (hidden, ffn)),
        2 * hidden,
        kv_width=2 * kv_size,
        kv_heads=kv_size // 128,
    )
    return ModelSpec(
        name=name,
        layers=(
            LayerSpec(LayerKind.EMBEDDING, ((vocabulary, hidden),), 0),
            *[block] * blocks,
            LayerSpec(LayerKind.HEAD, ((vocabulary, hidden),), hidden),
        ),
        hidden_size=hidden,
        vocab_size=vocabulary,
        max_context=4096,
        tied=False,
    )


LLAMA2_7B = _llama2("Llama-2-7b", 4096, 11_008, 32, 4096)
LLAMA2_13B = _llama2("Llama-2-13b", 5120, 13_824, 40, 5120)
LLAMA2_70B = _llama2("Llama-2-70b", 8192, 28_672, 80, 1024)
SHAPES = (LLAMA2_7B, LLAMA2_13B, LLAMA2_70B)


def load_testbed(
    name: str,
    model: ModelSpec,
    *,
    source: str | None = None,
    source_bytes_per_second: float | None = None,
    schemes: tuple[str, ...] = (DEFAULT,),
) -> tuple[Cluster, Profile]:
    """A testbed's cluster, and a profile of `model` in `schemes`.

    With another `source`, the links that the file gives the source move with it;
    `source_bytes_per_second` changes the rate of those links (`edgeshard`: the one to the cloud).
    Raises InputError for an unknown testbed, source or scheme.
    """
    if name not in TESTBEDS:
        raise InputError(f"unknown testbed '{name}'; known testbeds: {', '.join(TESTBEDS)}")
    cluster = load_cluster(_FOLDER / f"{name}.toml")
    kinds = load_rooflines(_FOLDER / f"{name}.kinds.toml")
    profile = make_profile(model, kinds, schemes, reference=LLAMA2_7B)
    return _with_source(cluster, source or cluster.source, source_bytes_per_second), profile


def _with_source(cluster: Cluster, source: str, bytes_per_second: float | None) -> Cluster:
    cluster.device(source)
    links = []
    for link in cluster.links:
        ends = [source if end == cluster.source else end for end in (link.source, link.target)]
        if ends[0] == ends[1]:
            continue
        rate = link.bytes_per_second
        if bytes_per_second is not None and source in ends:
            rate = bytes_per_second
        links.append(Link(ends[0], ends[1], rate, link.latency_seconds))
    return replace(cluster, links=tuple(links), source=source)
