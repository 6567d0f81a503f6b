"""What entropy coding makes of quantized weights (arXiv 2403.01384), and where that pays.

Their cells: published/compressibility.toml; how to read the page: docs/studies/compressibility.md.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import Block
from edgewise.models.loading import Loader, matrix_modules
from edgewise.models.pieces import PIECE_BYTES, compressed, decompressed
from edgewise.plots import save_lines
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.packed import Packed, unpack_codes
from edgewise.schemes import get_scheme
from edgewise.studies.page import Comparison, Figure, OnStep, Page, Section, comparison_section
from edgewise.studies.published import load_published

SCHEMES = ("bf16", "8bit", "6bit", "5bit", "4bit", "q4g32ad", "3bit", "2bit")
COARSE = {"int8, one scale a tensor": (8, False), "int8, one scale a row": (8, True),
          "int4, one scale a tensor": (4, False), "int4, one scale a row": (4, True)}  # fmt: skip
BY_BLOCK = ("int8, one scale a tensor", "int8, one scale a row", "8bit", "4bit", "2bit")
LINK = 50e6 / 8  # bytes a second
ALWAYS = 1.0  # bytes a second of a link over which everything that gets smaller pays
TEXT = (
    "Of the paper summaries were read, not its body. Ours are measured on the blocks of {model}. "
    "Coding is what shards travel in: zstd at level 1, in pieces of 1 MB, by one core of this "
    "machine."
)


@dataclass(frozen=True)
class Coded:
    """Blocks in one format: `bits` and order-0 entropy of a code, by block; bytes of all, and what
    is left of them; seconds to compress and to decompress them."""

    name: str
    bits: int
    entropies: tuple[float, ...]
    size: int
    left: int
    compressing: float
    decompressing: float

    @property
    def entropy(self) -> float:
        """Bits of a code that its frequency needs, on average over blocks."""
        return float(np.mean(self.entropies))

    @property
    def share(self) -> float:
        return self.left / self.size

    @property
    def pays_below(self) -> float:
        """Bytes a second of a link, (1 - r) / (1 / C + 1 / D): see models/pieces.py."""
        return (self.size - self.left) / (self.compressing + self.decompressing)

    def seconds(self, bytes_per_second: float) -> float:
        """To bring all of it over such a link: coded, where that pays."""
        raw = self.size / bytes_per_second
        coded = self.left / bytes_per_second + self.compressing + self.decompressing
        return min(raw, coded)


def compressibility_page(model: str, on_step: OnStep) -> Page:
    """Quantizes and codes the blocks of `model`."""
    formats = []
    for name in (*COARSE, *SCHEMES):
        formats.append(coded(model, name))
        on_step(name)
    found = {x.name: x for x in formats}
    sections = (formats_section(formats), pays_section(formats), layers_section(formats),
                believed_section(found))  # fmt: skip
    name = open_checkpoint(model).spec.name
    title = "On the compressibility of quantized models (arXiv 2403.01384)"
    return Page("compressibility", title, TEXT.format(model=name), sections)


def coded(model: str, name: str) -> Coded:
    """All blocks in one format, each coded and decoded again."""
    entropies, size, left, seconds = list[float](), 0, 0, [0.0, 0.0]
    for codes, stored in blocks(model, name):
        entropies.append(entropy(codes))
        size += len(stored)
        for start in range(0, len(stored), PIECE_BYTES):
            piece, began = stored[start : start + PIECE_BYTES], time.perf_counter()
            sent, packed = compressed(piece, ALWAYS)
            between = time.perf_counter()
            decompressed(sent, packed)
            left += len(sent)
            seconds[0] += between - began
            seconds[1] += time.perf_counter() - between
    bits = COARSE[name][0] if name in COARSE else get_scheme(name).bits or 16
    return Coded(name, bits, tuple(entropies), size, left, *seconds)


def blocks(model: str, name: str) -> Iterator[tuple[Tensor, bytes]]:
    """Of every block in a format: the codes of its matrices [n], and what is stored."""
    checkpoint = open_checkpoint(model)
    loader = Loader(checkpoint, torch.device("cpu"))
    scheme = get_scheme("bf16" if name in COARSE else name)
    for number in range(1, checkpoint.config.num_layers - 1):
        block = loader.layer(number, scheme)
        assert isinstance(block, Block)
        if name in COARSE:
            bits, by_row = COARSE[name]
            wholes = [x.weight.detach().float() for _, x in matrix_modules(block)]
            codes = torch.cat([rounded(x, bits, by_row=by_row).flatten() for x in wholes])
            yield codes, stored_codes(codes, bits)
            continue
        stored = b"".join(as_bytes(x) for x in block.state_dict().values())
        matrices = [x.packed for x in block.children() if isinstance(x, PackedLinear)]
        floats = [x.weight.detach() for _, x in matrix_modules(block)]
        codes = torch.cat([codes_of(x) for x in matrices] or [x.flatten() for x in floats])
        yield codes, stored


def rounded(matrix: Tensor, bits: int, *, by_row: bool) -> Tensor:
    """Symmetric codes int8 [rows, columns] at one scale, or one a row: the largest number is the
    largest code, as in INT8 weights (arXiv 2208.07339, section 2)."""
    most = 2 ** (bits - 1) - 1
    scale = (matrix.abs().amax(1, keepdim=True) if by_row else matrix.abs().max()) / most
    codes: Tensor = (matrix / scale).round().to(torch.int8)
    return codes


def stored_codes(codes: Tensor, bits: int) -> bytes:
    """A byte for each, or two in one."""
    if bits == 4:
        pairs = (codes.view(torch.uint8) & 15)[: len(codes) // 2 * 2].view(-1, 2)
        codes = pairs[:, 0] | (pairs[:, 1] << 4)
    return as_bytes(codes)


def codes_of(packed: Packed) -> Tensor:
    """[n], without what fills tiles up."""
    rows, columns = packed.shape
    return unpack_codes(packed.codes, packed.scheme)[:rows, :columns].flatten()


def as_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def entropy(codes: Tensor) -> float:
    """Order-0, in bits: - sum of p log2 p over the values' frequencies p."""
    whole = codes.view(torch.int16) if codes.dtype is torch.bfloat16 else codes
    counts = torch.unique(whole, return_counts=True)[1].double()
    p = counts / counts.sum()
    return float(-(p * p.log2()).sum())


def formats_section(formats: list[Coded]) -> Section:
    columns = ("format", "bits", "entropy", "bits / entropy", "MB", "left by zstd",
               "in, MB/s", "out, MB/s")  # fmt: skip
    rows = tuple(
        (x.name, x.bits, x.entropy, x.bits / x.entropy, x.size / 1e6, x.share, *speeds(x))
        for x in formats
    )  # fmt: skip
    caption = (
        "Bits of a code, and those that its frequency needs. MB and what is left are of all that "
        "blocks store, scales among it. One scale for a whole tensor leaves most codes near zero: "
        "what is easy to code is what was rounded badly."
    )
    return Section("What is left", caption, columns, rows)


def speeds(coded: Coded) -> tuple[float | None, float | None]:
    """MB a second into the code and out of it, where it is coded."""
    if coded.left == coded.size:
        return None, None
    return coded.size / coded.compressing / 1e6, coded.size / coded.decompressing / 1e6


def pays_section(formats: list[Coded]) -> Section:
    columns = ("format", "pays below, Mbps", "raw, s", "the sooner way, s", "saved")
    rows = []
    for x in formats:
        raw, sent = x.size / LINK, x.seconds(LINK)
        rows.append((x.name, x.pays_below * 8 / 1e6, raw, sent, 1 - sent / raw))
    caption = (
        f"By the formula of models/pieces.py: over which links coding pays, and what all blocks "
        f"take over {LINK * 8 / 1e6:g} Mbps. `benchmarks/entropy_coding.py` holds it against a "
        "link."
    )
    return Section("Where it pays", caption, columns, tuple(rows))


def layers_section(formats: list[Coded]) -> Section:
    shown = [x for x in formats if x.name in BY_BLOCK]
    numbers = range(1, len(shown[0].entropies) + 1)
    series = {x.name: (list(numbers), [h / x.bits for h in x.entropies]) for x in shown}
    columns = zip(*(x.entropies for x in shown), strict=True)
    rows = tuple((str(n), *values) for n, values in zip(numbers, columns, strict=True))
    draw = partial(save_lines, series, title="Entropy of codes", x="block", y="entropy / bits")
    caption = "Entropy of a code, by block."
    return Section("By block", caption, ("block", *(x.name for x in shown)), rows,
                   Figure("compressibility-blocks", draw))  # fmt: skip


def believed_section(found: dict[str, Coded]) -> Section:
    tables = load_published("compressibility")
    paper, others, reports = tables["paper"], tables["entrollm"], tables["reports"]
    comparisons = [
        Comparison(f"{name}, times smaller", 1 / found[name].share, paper[name]["times"])
        for name in ("int8, one scale a tensor", "int4, one scale a row")
    ]
    whole = found["int8, one scale a tensor"]
    saved = 1 - whole.seconds(LINK) / (whole.size / LINK)
    loading = "loading, int8, one scale a tensor"
    comparisons.append(Comparison(f"{loading}, saved at 50 Mbps", saved, paper[loading]["saved"]))
    comparisons += [
        Comparison(f"EntroLLM: {name}, saved at most", 1 - found[name].share, row["saved"])
        for name, row in others.items()
    ]
    ours = {"6 bits in groups (Q6_K)": "6bit", "4 bits in groups": "q4g32ad"}
    comparisons += [
        Comparison(f"{name}, saved", 1 - found[scheme].share, reports[name]["saved"])
        for name, scheme in ours.items()
    ]
    caption = "What we measured beside what others say of the paper, and of other systems."
    return comparison_section("Beside the believed values", caption, comparisons)
