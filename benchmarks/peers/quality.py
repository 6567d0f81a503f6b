"""Claim: with the same original weights, Edgewise loses less than llama.cpp at equal size.

Both quantize the same checkpoints and see the same token ids: nine windows of 512 tokens from three
English texts. Against the original in float32: KL divergence of the next token (mean, and 99 %
quantile over positions), agreement of the likeliest token, perplexity. Two axes:

    weights  bits per weight and rounding alone: every matrix, embedding and head included, through
             one scheme or type, then torch in float32
    file     bytes of all weights, as run: Edgewise with its kernels, llama.cpp's own logits of what
             llama_model_quantize makes, with its mixtures and fallbacks; no tokenizer counted

Each type of llama.cpp's is measured without and with an importance matrix: mean squares of the
columns' inputs over the text that our own methods see, which the model wrote itself; `imatrix`
leaves the first token of each sequence out, as llama.cpp's users have it, `imatrix-first` does not.

    python benchmarks/peers/quality.py --peer PYTHON --copies FOLDER,... [--schemes q4g64a,...]

PYTHON is of an environment with llama-cpp-python (see llama_cpp.py); the project's own needs
`gguf`. Each copy is a Llama-like Hugging Face folder, best one whose weights lie on no quantizer's
grid. Rows are kept in --folder, so that another run measures only what is new; delete
`rows.json` there for a fresh start.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import llama_files
import numpy as np
import quality_models as models
import torch
from ggml import Ggml
from quality_copies import Copy, digest
from quality_joint import chosen
from quality_report import Row, print_tables, ratios, save_plot
from quality_texts import LENGTH, TEXTS, windows
from torch import Tensor

import edgewise
from edgewise.kernels.library import instruction_set

# Types of matrices, and the whole files that carry them.
TYPES = {
    "Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q4_0": "Q4_0",
    "Q4_1": "Q4_1", "IQ4_NL": "IQ4_NL", "Q3_K": "Q3_K_M", "Q2_K": "Q2_K",
}  # fmt: skip
METHODS = ("none", "imatrix", "imatrix-first")
SCHEMES = "q8g32,q6g64,q5g64a,q4g64a,q4g32a"
THREADS = 2


def code_digest() -> str:
    """Of what decides about our figures."""
    root = Path(edgewise.__file__).parent
    folders = ("quantization", "kernels", "models")
    files = [root / "schemes.py", *(x for f in folders for x in (root / f).rglob("*.[pch]*"))]
    return digest(x.read_bytes() for x in sorted(files) if x.suffix in (".py", ".cpp", ".h"))


def compared(reference: np.ndarray, ids: np.ndarray, logits: Iterable[Tensor]) -> Row:
    """Measures of logits, window by window [T, V], beside the reference's [N, T, V]."""
    losses, divergence, same = [], [], []
    for full, window, approximate in zip(reference, ids, logits, strict=True):
        p, q = torch.from_numpy(full.copy()).log_softmax(-1), approximate.float().log_softmax(-1)
        divergence.append((p.exp() * (p - q)).sum(-1, dtype=torch.float64))
        same.append(p.argmax(-1) == q.argmax(-1))
        losses.append(-q[:-1].gather(-1, torch.from_numpy(window[1:, None])).double())
    kl = torch.cat(divergence)
    return {
        "kl": float(kl.mean()),
        "kl_99": float(kl.quantile(0.99)),
        "top1": float(torch.cat(same).double().mean()),
        "perplexity": float(torch.cat(losses).mean().exp()),
    }


@dataclass
class Rows:
    """Measured rows, kept in a file as soon as they are there; read anew each time, since another
    run may add its own."""

    file: Path

    @property
    def all(self) -> list[Row]:
        return json.loads(self.file.read_text()) if self.file.exists() else []

    def has(self, key: Row) -> bool:
        return any(key.items() <= row.items() for row in self.all)

    def add(self, key: Row, values: Row) -> None:
        kept = [row for row in self.all if not key.items() <= row.items()]
        partial = self.file.with_suffix(".new")
        partial.write_text(json.dumps([*kept, key | values], indent=1))
        partial.replace(self.file)
        print(
            f"{key['copy']:8} {key['axis']:7} {key['name']:14} {key['method']:13} "
            f"{values['bits']:6.3f} bits  KL {values['kl']:.4f}",
            flush=True,
        )


def key(copy: Copy, side: str, axis: str, name: str, method: str) -> Row:
    about = {"copy": copy.name, "model": copy.digest, "windows": digest([copy.ids.tobytes()])}
    return about | {"side": side, "axis": axis, "name": name, "method": method}


def measure_ours(copy: Copy, rows: Rows, entry: str, method: str, again: bool) -> None:
    """Both axes of what Edgewise makes of an entry: a scheme, a recipe, "BLOCKS/ENDS", or
    "joint:SCHEME", the bits of each layer chosen by `joint` within that scheme's bytes."""
    weights, file = (key(copy, "edgewise", axis, entry, method) for axis in ("weights", "file"))
    if rows.has(weights) and rows.has(file) and not again:
        return
    uniform = entry.removeprefix("joint:")
    if uniform == entry:
        schemes = models.layer_schemes(entry, copy.spec)
    else:
        schemes = chosen(copy.spec, uniform, copy.sensitivity)
    matrices, total, count = models.sizes(copy.spec, schemes)
    began = time.perf_counter()
    shard = models.load_ours(copy.source, schemes, method, copy.text, LENGTH)
    about = {"seconds": time.perf_counter() - began, "code": code_digest()}
    figures = compared(copy.reference, copy.ids, (models.as_run(shard, x) for x in copy.ids))
    rows.add(file, figures | about | {"bits": total * 8 / count, "bytes": total})
    copy.whole.restore()
    models.take_weights(copy.whole, shard)
    del shard
    figures = compared(copy.reference, copy.ids, map(copy.whole.logits, copy.ids))
    rows.add(weights, figures | about | {"bits": matrices * 8 / count, "bytes": matrices})


def measure_type(copy: Copy, rows: Rows, ggml: Ggml, kind: str, method: str) -> None:
    """One of ggml's types on every matrix."""
    about = key(copy, "llama.cpp", "weights", kind, method)
    if rows.has(about):
        return
    copy.whole.restore()
    began = time.perf_counter()
    size, count = models.round_with_ggml(copy.whole, ggml, kind, copy.importance(method), THREADS)
    sizes = {"seconds": time.perf_counter() - began, "bits": size * 8 / count, "bytes": size}
    rows.add(about, compared(copy.reference, copy.ids, map(copy.whole.logits, copy.ids)) | sizes)


def measure_file(copy: Copy, rows: Rows, peer: str, kind: str, method: str) -> None:
    """One of llama.cpp's files, as it runs there; "F32" is the original."""
    about = key(copy, "llama.cpp", "file", kind, method)
    if rows.has(about):
        return
    count = models.sizes(copy.spec, ["fp32"] * copy.spec.num_layers)[2]
    with tempfile.TemporaryDirectory(dir=copy.work) as folder:
        ids, out, target = (Path(folder) / x for x in ("ids.npy", "logits", "quantized.gguf"))
        np.save(ids, copy.ids)
        values: Row = {"seconds": 0.0}
        if kind == "F32":
            target = copy.f32_file
        else:
            given, vectors = [], copy.importance(method)
            if vectors is not None:
                given = [Path(folder) / "importance.npz"]
                named = {llama_files.gguf_name(k): v for k, v in vectors.items()}
                np.savez(given[0], allow_pickle=False, **named)
            command = ("quantize", copy.f32_file, target, kind, THREADS, *given)
            values["seconds"] = llama_files.call(peer, *command)
        size, values["types"] = llama_files.contents(target)
        exact = ["exact"] if kind == "F32" and method == "exact" else []
        llama_files.call(peer, "logits", target, ids, out, THREADS, *exact)
        logits = np.memmap(out, np.float32, "r", shape=copy.reference.shape)
        values |= compared(copy.reference, copy.ids, (torch.from_numpy(x.copy()) for x in logits))
        if kind == "F32":
            values["largest_difference"] = max(
                float(np.abs(a - b).max()) for a, b in zip(logits, copy.reference, strict=True)
            )
        values |= {"bytes": size, "bits": size * 8 / count, "file_bytes": target.stat().st_size}
    rows.add(about, values)


def measure_peer(copies: list[Copy], rows: Rows, peer: str, ggml: Ggml, kinds: list[str]) -> None:
    """Every type on both axes, the usual ways first. Q8_0 takes no importance matrix."""
    for copy in copies:
        for method in ("none", "exact"):
            measure_file(copy, rows, peer, "F32", method)
    for method in METHODS:
        for copy in copies:
            for kind in kinds:
                if kind == "Q8_0" and method != "none":
                    continue
                measure_file(copy, rows, peer, TYPES[kind], method)
                measure_type(copy, rows, ggml, kind, method)


def listed(text: str) -> list[str]:
    return [x for x in text.split(",") if x]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="Python that has llama-cpp-python")
    parser.add_argument("--copies", required=True, type=listed, help="folders of checkpoints")
    parser.add_argument("--schemes", type=listed, default=listed(SCHEMES), help="SCHEME, "
                        "RECIPE, BLOCKS/ENDS (ends: embedding and head) or joint:SCHEME "
                        "(its bytes, the bits of each layer chosen); '' for none")  # fmt: skip
    parser.add_argument("--method", default="nearest", help="our rounding method, "
                        "with statistics; 'plain' is nearest without")  # fmt: skip
    parser.add_argument("--types", type=listed, default=list(TYPES), help="'' for none")
    parser.add_argument("--texts", type=listed, default=list(TEXTS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "quality")
    parser.add_argument("--again", action="store_true", help="measure our rows afresh")
    parser.add_argument("--plot", type=Path, help="write a picture, FILE.png")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(args.folder.resolve())  # the library's: texts, statistics
    torch.set_num_threads(THREADS)
    about = llama_files.call(args.peer, "describe")
    ids = windows(Path(args.copies[0]), [Path(x) for x in args.texts])
    copies = [Copy(Path(x), args.folder, ids) for x in args.copies]
    rows = Rows(args.folder / "rows.json")
    for copy in copies:
        for entry in args.schemes:
            measure_ours(copy, rows, entry, args.method, args.again)
    measure_peer(copies, rows, args.peer, Ggml(Path(about.pop("library"))), args.types)
    wanted = {(copy.name, copy.digest, digest([ids.tobytes()])) for copy in copies}
    shown = [x for x in rows.all if (x["copy"], x["model"], x["windows"]) in wanted]
    print_tables(shown, code_digest())
    if args.plot:
        save_plot(shown, args.plot)
    print(json.dumps({
        "benchmark": "quality",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {instruction_set()}",
        "threads": THREADS, "torch": torch.__version__, "edgewise": edgewise.__version__,
        "peer": about, "texts": args.texts, "tokens": list(ids.shape),
        "ratios": ratios(shown), "rows": shown,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
