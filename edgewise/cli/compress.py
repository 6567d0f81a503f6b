"""`edgewise compress`: write a smaller model."""

from edgewise.cli.compressing import CompressOptions
from edgewise.cli.luc import run_luc
from edgewise.cli.shortening import run_shortening
from edgewise.errors import InputError


def run_compress(options: CompressOptions) -> None:
    """Hand the options to what they ask for. Raises InputError where that is nothing, or both."""
    zeros = options.luc or options.sparsity is not None or options.pattern is not None
    if options.drop_layers is not None and (options.bits is not None or zeros):
        raise InputError(
            "--drop-layers or --bits, with its zeros: drop first, then compress what that has made"
        )
    if options.replace is not None and options.drop_layers is None:
        raise InputError("--replace says what takes the place of dropped blocks: add --drop-layers")
    if options.drop_layers is not None:
        run_shortening(options, options.drop_layers)
    elif options.bits is not None:
        run_luc(options, options.bits)
    else:
        raise InputError(
            "say how to make it smaller: --drop-layers 4, or --bits 4, with --sparsity 0.5 and "
            "--luc or not"
        )
