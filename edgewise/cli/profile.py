"""`edgewise profile`: measure once, keep the result, measure again when something changed."""

import json
from statistics import median

from rich.markup import escape

from edgewise.cli.commands import ProfileOptions
from edgewise.cli.options import split_names
from edgewise.cli.terminal import bars, console, print_json, profile_table
from edgewise.cluster_files import load_cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.engine import this_machine
from edgewise.opening.profile import WIDE_CONTEXT, cached_profile
from edgewise.specs import LayerKind
from edgewise.units import format_bytes


def run_profile(options: ProfileOptions) -> None:
    """Measure, or take from the cache, and print."""
    model, out, as_json = options.model, options.out, options.as_json
    spec = open_checkpoint(model).spec
    cluster = load_cluster(options.cluster) if options.cluster else this_machine()
    profile, path, cached = cached_profile(
        model, spec, cluster, split_names(options.schemes), fresh=options.fresh, show=bars(as_json)
    )
    if out is not None:
        out.write_text(profile.to_json() + "\n", encoding="utf-8")
    kinds = tuple(kind for kind in LayerKind if kind.is_block)
    errors = [x for key, x in profile.errors.items() if key[1].startswith(kinds)]
    error = median(errors) if errors else None
    screen = console(as_json)
    screen.print(profile_table(profile, min(spec.max_context, WIDE_CONTEXT) // 2))
    for reading in profile.devices:
        if rate := reading.disk_bytes_per_second:
            screen.print(f"Disk of '{escape(reading.device)}': {format_bytes(rate)}/s")
    source = "from the cache" if cached else "measured now"
    shown = "-" if error is None else f"{error:.1%} in the median, {max(errors):.1%} at most"
    screen.print(f"Error of the blocks' regressions: {shown} ({source}: {path or 'not kept'})")
    if as_json:
        document = {
            "profile": json.loads(profile.to_json()),
            "cached": cached,
            "path": path and str(path),
        }
        print_json({**document, "error": error})
