"""`edgewise compress --bits --sparsity`: blocks in few bits with zeros among them, by LUC or all
alike."""

from rich.table import Table

from edgewise.cli.compressing import CompressOptions
from edgewise.cli.terminal import bars, console, print_json
from edgewise.compression.errors import SPARSITIES, BlockErrors, measure_block_errors
from edgewise.compression.policies import (
    Compression,
    check_sparsity,
    luc_compression,
    pruned_scheme,
    uniform_compression,
)
from edgewise.compression.writing import write_compressed
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.packed_writing import check_packable
from edgewise.quality.calibration import Calibration
from edgewise.quality.rounding import calibration_text
from edgewise.quantization.rounding.sparsegpt import SEMI_STRUCTURED
from edgewise.units import format_bytes

PATTERNS = {"2:4": SEMI_STRUCTURED}


def run_luc(options: CompressOptions, bits: int) -> None:
    """Choose for every block, write the model, and show what became of it. Raises InputError,
    ModelError."""
    sparsity, among = _zeros(options)
    checkpoint, show = open_checkpoint(options.model), bars(options.as_json)
    check_packable(checkpoint, options.out)
    _check_bits(bits, luc=options.luc)
    text = Calibration(options.text, options.sequences, options.length, options.seed)
    blocks, errors = checkpoint.config.num_blocks, None
    ids = calibration_text(options.model, text, show)
    chosen = uniform_compression(blocks, bits, sparsity)
    if options.luc:
        measured_at = SPARSITIES if sparsity and not among else ()
        with show("measuring errors", blocks) as advance:
            errors = measure_block_errors(options.model, ids, (bits,), measured_at, advance)
        pruning = errors.of_pruning if measured_at else (0.0,) * blocks
        chosen = luc_compression(errors.by_bits[bits], pruning, bits, sparsity)
    with show("compressing", checkpoint.config.num_layers) as advance:
        size = write_compressed(
            options.model, chosen, ids, options.out, among=among, on_step=advance
        )
    screen = console(options.as_json)
    screen.print(_table(chosen, errors))
    screen.print(f"{format_bytes(size)} of weights in {options.out}", markup=False)
    if options.as_json:
        print_json(_document(options, chosen, errors, size))


def _zeros(options: CompressOptions) -> tuple[float, int]:
    """The share of weights that become zero, and among how many neighbours. Raises InputError."""
    if options.pattern is None:
        sparsity = options.sparsity or 0.0
        check_sparsity(sparsity)
        return sparsity, 0
    if options.pattern not in PATTERNS:
        raise InputError(f"--pattern {options.pattern}: known patterns: {', '.join(PATTERNS)}")
    pattern = PATTERNS[options.pattern]
    if options.sparsity not in (None, pattern.share):
        raise InputError(
            f"--pattern {options.pattern} makes {pattern.share:g} of all weights zero, not "
            f"{options.sparsity:g}: leave --sparsity out"
        )
    return pattern.share, pattern.among


def _check_bits(bits: int, *, luc: bool) -> None:
    """Before anything is measured. Raises SchemeError."""
    pruned_scheme(bits)
    if luc:
        pruned_scheme(bits + 1)


def _table(chosen: Compression, errors: BlockErrors | None) -> Table:
    caption = (
        f"on average {chosen.average_bits:.2f} bits and {chosen.average_sparsity:.1%} zeros; "
        "embedding and head as they were"
    )
    measured = ("error in few bits", "error pruned") if errors else ()
    table = Table("block", "bits", "zeros", *measured, title="Blocks", caption=caption)
    for number, (bits, share) in enumerate(zip(chosen.bits, chosen.sparsities, strict=True)):
        row = [str(number), str(bits), f"{share:.1%}"]
        if errors:
            pruning = errors.of_pruning
            row.append(f"{next(iter(errors.by_bits.values()))[number]:.2e}")
            row.append(f"{pruning[number]:.2e}" if pruning else "-")
        table.add_row(*row)
    return table


def _document(
    options: CompressOptions, chosen: Compression, errors: BlockErrors | None, size: int
) -> dict[str, object]:
    return {
        "model": options.model,
        "folder": str(options.out),
        "weight_bytes": size,
        "bits": list(chosen.bits),
        "sparsities": list(chosen.sparsities),
        "average_bits": chosen.average_bits,
        "average_sparsity": chosen.average_sparsity,
        "errors_by_bits": errors and {str(x): list(y) for x, y in errors.by_bits.items()},
        "errors_by_sparsity": errors and {str(x): list(y) for x, y in errors.by_sparsity.items()},
    }
