"""A cluster's profile for a model: measured once, kept, measured again when something changed."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgewise.caches import cache_folder, cache_key, read_cached, remove, write_text_atomically
from edgewise.clusters import Cluster
from edgewise.errors import ClusterError
from edgewise.profiles import VERSION, Profile
from edgewise.profiling import Grid, measure, num_measurements, read_memory
from edgewise.quality.rounding import Show, unseen
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.local import start_local
from edgewise.runtime.machine import code_name, free_bytes, machine_name
from edgewise.schemes import get_scheme
from edgewise.specs import NO_EXTRA, ExtraWork, ModelSpec

WIDE_CONTEXT = 1024


def cached_profile(
    model: str,
    spec: ModelSpec,
    cluster: Cluster,
    schemes: Sequence[str],
    *,
    fresh: bool = False,
    show: Show = unseen,
    extra: ExtraWork = NO_EXTRA,
) -> tuple[Profile, Path | None, bool]:
    """A wide profile of layers with `extra` work, where it is kept (None: nowhere), and whether it
    was there already.

    It is measured again when the model's shape, the schemes, the cluster, this machine, torch,
    Edgewise, its kernels or the profile format change. Raises ClusterError where a device cannot
    take part.
    """
    for scheme in schemes:
        get_scheme(scheme)
    check_reachable(cluster)
    grid = wide_grid(spec, extra)
    path = profile_path(spec, cluster, schemes, grid)
    if fresh:
        _forget(path)
    elif (kept := read_cached(path, load_profile)) is not None:
        return kept, path, True
    with start_local(cluster) as workers:
        profile = measure_cluster(workers, model, spec, schemes, grid, show)
    return profile, write_text_atomically(path, profile.to_json() + "\n"), False


def profile_of_running(
    workers: Workers,
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    show: Show = unseen,
) -> Profile:
    """Just what `grid` asks, of devices that `start_local` started: as it is kept, with the memory
    that is free now, or measured and kept. `cached_profile(fresh=True)` forgets it."""
    path = profile_path(spec, workers.cluster, schemes, grid)
    if (profile := read_cached(path, Profile.load)) is not None:
        for reading in read_memory(workers):
            profile = profile.with_free_memory(reading.machine, reading.free_bytes)
        return profile
    profile = measure_cluster(workers, model, spec, schemes, grid, show)
    write_text_atomically(path, profile.to_json() + "\n")
    return profile


def kept_profile(spec: ModelSpec, cluster: Cluster, schemes: Sequence[str]) -> Profile | None:
    """What was measured of exactly these schemes, if it still holds; nothing is measured."""
    return read_cached(profile_path(spec, cluster, schemes, wide_grid(spec)), load_profile)


def wide_grid(spec: ModelSpec, extra: ExtraWork = NO_EXTRA) -> Grid:
    """What `cached_profile` times."""
    return Grid.wide(min(spec.max_context, WIDE_CONTEXT), extra)


def load_profile(path: Path) -> Profile:
    """A profile from a file, with the memory that this machine has free now, where it was measured
    here."""
    return Profile.load(path).with_free_memory(machine_name(), free_bytes())


def check_reachable(cluster: Cluster) -> None:
    """Raise ClusterError where no path of links leads from the source to some device."""
    if lonely := cluster.unreachable():
        raise ClusterError(
            f"nothing links to device '{lonely[0]}' from the source '{cluster.source}'; "
            "add a [[link]] or a [[network]], or leave the device out"
        )


def profile_path(
    spec: ModelSpec, cluster: Cluster, schemes: Sequence[str], grid: Grid
) -> Path | None:
    """Where a profile is kept: in a folder named by all that its seconds depend on, which is not
    how much memory there is, under a name made of what was asked."""
    cluster = replace(cluster, devices=tuple(replace(x, memory_bytes=1) for x in cluster.devices))
    # EDGEWISE_KERNELS turns the kernels off, or picks an instruction set: the code's name says so.
    machine = (machine_name(), os.cpu_count(), code_name())
    timed, asked = (VERSION, spec.digest, cluster, *machine), (tuple(schemes), grid)
    folder = cache_folder("profiles")
    return folder and folder / cache_key(*timed) / f"{cache_key(*asked)}.json"


def _forget(path: Path | None) -> None:
    """Everything that is kept of the same model on the same cluster."""
    if path is not None:
        with contextlib.suppress(OSError):  # there is none
            for kept in path.parent.iterdir():
                remove(kept)


def measure_cluster(
    workers: Workers,
    model: str,
    spec: ModelSpec,
    schemes: Sequence[str],
    grid: Grid,
    show: Show = unseen,
) -> Profile:
    """Profile a model on running devices."""
    total = num_measurements(spec, workers.cluster, schemes, grid)
    with show("measuring", total) as advance:
        return measure(workers, model, spec, schemes, grid, on_progress=advance)
