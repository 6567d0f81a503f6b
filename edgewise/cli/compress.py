"""`edgewise compress`: write a smaller model."""

from edgewise.cli.compressing import CompressOptions
from edgewise.cli.luc import run_luc
from edgewise.errors import InputError


def run_compress(options: CompressOptions) -> None:
    """Hand the options to what they ask for. Raises InputError where that is nothing."""
    if options.bits is None:
        raise InputError("say what to compress to: --bits 4, with --sparsity 0.5 and --luc or not")
    run_luc(options, options.bits)
