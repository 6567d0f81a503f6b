"""Edge-LLM's layer-wise unified compression (arXiv 2406.15758, Table 2) on a real model: LUC beside
the same bits and zeros by lot, and beside all blocks alike.

Their cells: published/luc.toml; how to read the page: docs/studies/luc.md.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edgewise.compression.errors import SPARSITIES, BlockErrors, measure_block_errors
from edgewise.compression.policies import (
    Compression,
    luc_compression,
    shuffled_compression,
    uniform_compression,
)
from edgewise.compression.writing import write_compressed
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.pieces import PIECE_BYTES, compressed
from edgewise.models.shard import load_shard
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.quality.running import run_sequences
from edgewise.quantization.rounding.sparsegpt import SEMI_STRUCTURED
from edgewise.schemes import STORED
from edgewise.studies.page import Comparison, OnStep, Page, Section, Value, comparison_section
from edgewise.studies.published import Cell, Table, load_published

WIDTHS, SPARSITY, SEEDS = (5, 4, 3), 0.5, 3
LENGTH = 128  # tokens of a sequence, as in the paper
CALIBRATED_ON, CHOSEN_ON, MEASURED_ON = 16, 8, 48  # sequences
ALWAYS = 1.0  # bytes a second of a link over which everything that gets smaller pays
UNIFORM, RANDOM, LUC = "uniform", "random", "LUC"
TEXT = (
    "Of the paper Table 2 was read, on a slide, not its body. {model}: perplexity of {tokens} "
    "tokens of {text}, in sequences of {length}, by the kernels that answer; {seen} others were "
    "what SparseGPT and GPTQ looked at. Embedding and head stay as they are; the model's own "
    "perplexity here is {own:.2f}."
)


@dataclass(frozen=True)
class Texts:
    """Sequences [B, T] of a text: what matrices are made by, what LUC chooses by, what is measured
    on."""

    name: str
    calibration: Tensor
    choosing: Tensor
    measured: Tensor


@dataclass(frozen=True)
class CompressedTrial:
    """What a compressed model loses: `losses` float64 [B] of every sequence, nats per token; bytes
    of its blocks, and what zstd leaves of them."""

    policy: str
    chosen: Compression
    losses: Tensor
    size: int
    left: int

    @property
    def perplexity(self) -> float:
        return math.exp(float(self.losses.mean()))

    def beyond(self, other: "CompressedTrial") -> tuple[float, float]:
        """How much more it loses than another, sequence by sequence: mean and standard error."""
        more = self.losses - other.losses
        return float(more.mean()), float(more.std() / len(more) ** 0.5)


def luc_page(model: str, on_step: OnStep, *, text: str = ENGLISH) -> Page:
    """Compresses `model` in every way, and measures each. Raises InputError, ModelError."""
    ids = sequences(model, Calibration(text, CALIBRATED_ON + MEASURED_ON, LENGTH))
    calibration, measured = ids[:CALIBRATED_ON], ids[CALIBRATED_ON:]
    name = "Python's documentation" if text == ENGLISH else Path(text).name
    texts = Texts(name, calibration, calibration[:CHOSEN_ON], measured)
    return compression_page(model, texts, on_step)


def compression_page(
    model: str,
    texts: Texts,
    on_step: OnStep,
    *,
    widths: Sequence[int] = WIDTHS,
    seeds: int = SEEDS,
) -> Page:
    """The same on texts that are there already."""
    errors = measure_block_errors(model, texts.choosing, widths, SPARSITIES, on_step)
    trials = {bits: trials_of(model, texts, errors, bits, seeds, on_step) for bits in widths}
    own, middle = text_losses(model, texts.measured), widths[len(widths) // 2]
    sections = (
        perplexity_section(trials),
        table_2_section(trials, load_published("luc")["perplexity"]),
        size_section(model, texts, middle, trials[middle][0], on_step),
        errors_section(errors, trials),
    )
    words = TEXT.format(
        model=open_checkpoint(model).spec.name,
        tokens=texts.measured.numel(),
        text=texts.name,
        length=texts.measured.shape[1],
        seen=texts.calibration.numel(),
        own=math.exp(float(own.mean())),
    )
    return Page("luc", "Layer-wise unified compression (arXiv 2406.15758)", words, sections)


def trials_of(
    model: str, texts: Texts, errors: BlockErrors, bits: int, seeds: int, on_step: OnStep
) -> list[CompressedTrial]:
    """All blocks alike, LUC, and LUC's bits and zeros by lot, so many times."""
    chosen = luc_compression(errors.by_bits[bits], errors.of_pruning, bits, SPARSITY)
    ways = [
        (UNIFORM, uniform_compression(len(chosen.bits), bits, SPARSITY)),
        *((RANDOM, shuffled_compression(chosen, seed)) for seed in range(seeds)),
        (LUC, chosen),
    ]
    trials = []
    for policy, way in ways:
        trials.append(try_out(model, texts, policy, way))
        on_step(f"{bits} bits, {policy}")
    return trials


def try_out(
    model: str, texts: Texts, policy: str, chosen: Compression, among: int = 0
) -> CompressedTrial:
    """Write a model, and measure what was written."""
    with tempfile.TemporaryDirectory(prefix="edgewise-luc-") as parent:
        folder = Path(parent) / "model"
        write_compressed(model, chosen, texts.calibration, folder, among=among)
        losses = text_losses(str(folder), texts.measured)
        size, left = 0, 0
        for file in sorted(folder.glob("layer-*.safetensors"))[1:-1]:
            stored = file.read_bytes()
            size += len(stored)
            for start in range(0, len(stored), PIECE_BYTES):
                left += len(compressed(stored[start : start + PIECE_BYTES], ALWAYS)[0])
    return CompressedTrial(policy, chosen, losses, size, left)


def text_losses(model: str, ids: Tensor) -> Tensor:
    """Mean loss in nats per token of sequences ids [B, T], float64 [B], as the model is stored and
    answers."""
    shard = load_shard(model, schemes=STORED, slots=1, context=ids.shape[1])
    losses = []
    for row, logits in zip(ids, run_sequences(shard, ids), strict=True):
        known = logits[:-1].double().log_softmax(-1)
        losses.append(-known.gather(-1, row[1:, None]).mean())
    return torch.stack(losses)


def perplexity_section(trials: dict[int, list[CompressedTrial]]) -> Section:
    rows: list[tuple[Value, ...]] = []
    for bits, tried in trials.items():
        best = tried[-1]
        for trial in tried:
            more, error = trial.beyond(best)
            beyond = "" if trial is best else f"{more:+.4f} ± {error:.4f}"
            rows.append(
                (f"{bits} bits", trial.policy, trial.chosen.average_bits,
                 f"{trial.chosen.average_sparsity:.0%}", trial.perplexity, beyond, trial.size / 1e6)
            )  # fmt: skip
    columns = ("width", "policy", "average bits", "zeros", "perplexity", "loss beyond LUC's", "MB")
    caption = (
        "Perplexity, and how many nats a token loses more than by LUC: mean over sequences and its "
        "standard error. Random: LUC's bits and shares of zeros, at blocks drawn by lot. MB of "
        "blocks: scattered zeros take as much as others."
    )
    return Section("Perplexity", caption, columns, tuple(rows))


def table_2_section(trials: dict[int, list[CompressedTrial]], theirs: Table) -> Section:
    """Perplexities over that of all blocks alike: the models are not the same."""
    comparisons = []
    for bits, tried in trials.items():
        row = theirs.get(f"{bits} bits", {})
        for policy in (RANDOM, LUC) if row else ():
            ours = [x.perplexity for x in tried if x.policy == policy]
            ratio = sum(ours) / len(ours) / tried[0].perplexity
            comparisons.append(
                Comparison(f"{bits} bits, {policy} over uniform", ratio, _ratio(row, policy))
            )
    caption = (
        "Perplexity as a multiple of that of all blocks alike (which have fewer bits: LUC's extra "
        "ones are not in it, in the paper neither). Theirs are of LLaMA-7B. Random: the mean over "
        "all lots."
    )
    return comparison_section("Beside Table 2", caption, comparisons)


def _ratio(row: Mapping[str, Cell], policy: str) -> Cell:
    """A cell of theirs over the row's uniform one."""
    cell, uniform = row[policy], row[UNIFORM]
    value = round(float(cell.value) / float(uniform.value), 3)
    return replace(cell, value=value, remark=f"{cell.value} / {uniform.value}")


def size_section(
    model: str, texts: Texts, bits: int, anywhere: CompressedTrial, on_step: OnStep
) -> Section:
    """Dense, pruned `anywhere`, pruned two of four: what is lost, and what is left to store."""
    blocks, among = open_checkpoint(model).config.num_blocks, SEMI_STRUCTURED.among
    dense = try_out(model, texts, "none", uniform_compression(blocks, bits, 0.0))
    on_step(f"{bits} bits, no zeros")
    pattern = try_out(model, texts, "2:4", uniform_compression(blocks, bits, SPARSITY), among)
    on_step(f"{bits} bits, 2:4")
    ways = {"none": dense, "50 %, anywhere": anywhere, "2:4": pattern}
    rows = tuple(
        (name, x.perplexity, x.size / 1e6, x.left / 1e6, x.left / x.size)
        for name, x in ways.items()
    )
    caption = (
        f"All blocks in {bits} bits. Scattered zeros take as many bits as other codes: they make "
        "what is shipped or kept smaller, by zstd, and nothing quicker. 2:4: the others are "
        "stored, and where they are."
    )
    columns = ("zeros", "perplexity", "MB", "MB by zstd", "left")
    return Section("What zeros save", caption, columns, rows)


def errors_section(errors: BlockErrors, trials: dict[int, list[CompressedTrial]]) -> Section:
    """By which LUC chose, and what."""
    widths = tuple(trials)
    chosen = {bits: tried[-1].chosen for bits, tried in trials.items()}
    rows = []
    for block, pruning in enumerate(errors.of_pruning):
        row: list[Value] = [str(block)]
        row += [errors.by_bits[bits][block] for bits in widths]
        row.append(pruning)
        row += [f"{chosen[bits].bits[block]}" for bits in widths]
        row.append(f"{chosen[widths[0]].sparsities[block]:.1%}")
        rows.append(tuple(row))
    columns = (
        "block", *(f"error, {bits} bits" for bits in widths), "error, pruned",
        *(f"of {bits}" for bits in widths), "zeros",
    )  # fmt: skip
    shares = ", ".join(f"{x:.0%}" for x in errors.by_sparsity)
    caption = (
        "Squared error of a block's output over its square, with it alone in few bits, or pruned "
        f"(mean over {shares}); and the bits and zeros that LUC gives it."
    )
    return Section("By block", caption, columns, tuple(rows))
