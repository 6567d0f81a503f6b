"""Claim: adapting SmolLM2 in 4 bits takes at most 1.3 times the memory of serving it, and what a
window's step keeps for its backward pass, and what the optimizer remembers.

Anonymous memory (RssAnon; pages of files that the system keeps mapped do not count): of a process
that answered a request, with its worker, and of one that trained windows, two batches through all
of them, the most that it ever had (read every 10 ms). `python benchmarks/tuning_memory.py
[scheme]`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from claims import finish

import edgewise
from edgewise import kernels
from edgewise.adapters import AdapterConfig
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.kept import kept_by
from edgewise.tuning.lessons import batch_of, lessons_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.records import answered
from edgewise.tuning.training import Training

MODEL, SCHEME, BATCH, TIMES = "smollm2", "q4g32ad", 8, 1.3
LEARNED = 4  # numbers for each one learned: itself, its gradient, two moments


def anonymous_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def serve(scheme: str) -> dict[str, int]:
    with edgewise.load(MODEL, scheme=scheme, prompt_tokens=128, new_tokens=32) as model:
        model.generate("The capital of France is", max_tokens=32)
        (pid,) = model.engine.workers.process_ids.values()
        return {"serving": anonymous_bytes(os.getpid()) + anonymous_bytes(pid)}


def tune(scheme: str) -> dict[str, int]:
    most, running = [0], [True]

    def watch() -> None:
        while running[0]:
            most[0] = max(most[0], anonymous_bytes(os.getpid()))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    checkpoint, recipe = open_checkpoint(MODEL), Recipe(batch=BATCH, adapter=AdapterConfig())
    windows = recipe.windows(checkpoint.config.num_blocks)
    records = [
        answered(prompt(x.context, x.question), x.answer)
        for x in draw_questions(1, 2 * BATCH, "train")
    ]
    lessons = lessons_of(records, load_tokenizer(MODEL), 512)
    model = load_tunable(checkpoint, scheme, recipe.adapter, windows)
    training = Training(model, recipe, lessons)
    for _ in range(2 * len(windows)):
        training.step()
    running[0] = False
    batch, kept = batch_of(lessons[:BATCH]), 0
    states = model.entered(batch.tokens)
    for window in windows:
        kept = max(kept, kept_by(model, window, batch, states))
    learned = sum(x.nbytes for window in windows for x in model.trained(window).values())
    return {"tuning": most[0], "kept": kept, "learned": LEARNED * learned}


def main() -> None:
    scheme = sys.argv[1] if len(sys.argv) > 1 else SCHEME
    sizes: dict[str, int] = {}
    for what in ("serve", "tune"):
        command = [sys.executable, __file__, what, scheme]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        sizes |= json.loads(out.stdout.splitlines()[-1])
    allowed = TIMES * sizes["serving"] + sizes["kept"] + sizes["learned"]
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.0f} MB")
    own = sizes["tuning"] - sizes["kept"] - sizes["learned"]
    print(f"tuning without what it keeps and learns / serving: {own / sizes['serving']:.2f}")
    failed = []
    if sizes["tuning"] > allowed:
        failed.append(f"tuning takes {sizes['tuning'] / 1e6:.0f} MB, not {allowed / 1e6:.0f}")
    finish("tuning_memory", {
        "kernels": kernels.instruction_set(), "torch": torch.__version__, "scheme": scheme,
        "load": os.getloadavg()[0], **sizes,
    }, failed)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] in (["serve"], ["tune"]):
        print(json.dumps((serve if sys.argv[1] == "serve" else tune)(sys.argv[2])))
    else:
        main()
