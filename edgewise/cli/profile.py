"""`edgewise profile`: measure once, keep the result, measure again when something changed."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from edgewise.cli.prepare import measure_cluster
from edgewise.cli.terminal import console, print_text, profile_table
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.errors import ClusterError, ProfileError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.profiles import VERSION, Profile
from edgewise.profiling import Grid
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec

WIDE_CONTEXT = 1024


def run_profile(
    model: str,
    cluster_file: Path,
    *,
    schemes: Sequence[str],
    out: Path | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Measure, or take from the cache, and print."""
    spec = open_checkpoint(model).spec
    cluster = load_cluster(cluster_file)
    profile, path, cached = cached_profile(
        model, spec, cluster, schemes, fresh=fresh, quiet=as_json
    )
    if out is not None:
        out.write_text(profile.to_json() + "\n", encoding="utf-8")
    errors = profile.held_out_errors()
    mean_error = fmean(errors.values()) if errors else 0.0
    screen = console(as_json)
    screen.print(profile_table(profile, min(spec.max_context, WIDE_CONTEXT) // 2))
    source = "from the cache" if cached else "measured now"
    screen.print(f"Held-out error of the regressions: {mean_error:.1%} ({source}: {path})")
    if as_json:
        document = {"profile": json.loads(profile.to_json()), "cached": cached, "path": str(path)}
        print_text(json.dumps({**document, "held_out_error": mean_error}) + "\n")


def cached_profile(
    model: str,
    spec: ModelSpec,
    cluster: Cluster,
    schemes: Sequence[str],
    *,
    fresh: bool = False,
    quiet: bool = False,
) -> tuple[Profile, Path, bool]:
    """A wide profile, where it is kept, and whether it was there already.

    It is measured again when the model's shape, the schemes, the cluster, this machine, torch or
    the profile format change. Raises ClusterError where a device cannot take part.
    """
    for scheme in schemes:
        get_scheme(scheme)
    check_reachable(cluster)
    path = _cache_folder() / f"{_key(spec, cluster, schemes)}.json"
    if not fresh and path.is_file():
        try:
            return Profile.load(path), path, True
        except ProfileError:
            path.unlink()  # written by half, or by hand: measure again
    with LocalDevices(cluster) as devices:
        grid = Grid.wide(min(spec.max_context, WIDE_CONTEXT))
        profile = measure_cluster(devices, model, spec, schemes, grid, quiet)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(profile.to_json() + "\n", encoding="utf-8")
    partial.replace(path)
    return profile, path, False


def check_reachable(cluster: Cluster) -> None:
    """Raise ClusterError where no path of links leads from the source to some device."""
    if lonely := cluster.unreachable():
        raise ClusterError(
            f"nothing links to device '{lonely[0]}' from the source '{cluster.source}'; "
            "add a [[link]] or a [[network]], or leave the device out"
        )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgewise" / "profiles"


def _key(spec: ModelSpec, cluster: Cluster, schemes: Sequence[str]) -> str:
    machine = (platform.node(), platform.machine(), os.cpu_count(), version("torch"))
    what = repr((VERSION, spec.digest, cluster, tuple(schemes), machine))
    return hashlib.sha256(what.encode()).hexdigest()[:24]
