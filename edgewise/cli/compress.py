"""`edgewise compress`: write a smaller model."""

from edgewise.cli.compressing import CompressOptions
from edgewise.cli.shortening import run_shortening
from edgewise.errors import InputError


def run_compress(options: CompressOptions) -> None:
    """Hand the options to what they ask for. Raises InputError where that is nothing."""
    if options.drop_layers is None:
        raise InputError("say how to make it smaller: --drop-layers 4")
    run_shortening(options, options.drop_layers)
