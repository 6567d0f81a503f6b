"""Train the demo model on generated questions, on a CPU, and write it into the package.

The learning rate falls to zero as the given minutes pass, so training ends when you say. A run
that was cut goes on from its scratch folder with the same command.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch
import transformers
from demo_batches import draw_batch
from demo_evaluation import exact_share, own_greedy, quick_exact_share, transformers_greedy
from demo_optimizer import Optimizer, batch_losses, rate_factor
from demo_tokenizer import save_tokenizer, train_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgewise.demo import MODEL_FOLDER
from edgewise.demo.questions import draw_questions
from edgewise.models.checkpoint import save_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Decoder
from edgewise.models.safetensors_checkpoint import SINGLE as WEIGHTS

MAX_CONTEXT: Final = 512
EVALUATION_SEED: Final = 2_026
EVALUATION_QUESTIONS: Final = 500
LOG_STEPS: Final = 20
CHECK_STEPS: Final = 200
SAVE_SECONDS: Final = 120.0
MASTERS, PROGRESS, LOG = "masters.safetensors", "progress.json", "training_log.jsonl"


@dataclass
class Progress:
    """How far a run is; `answer_loss` is a running mean."""

    step: int = 0
    seconds: float = 0.0
    answer_loss: float = 6.0

    def note(self, answer_loss: float) -> None:
        """Count a step."""
        self.step += 1
        self.answer_loss += 0.05 * (answer_loss - self.answer_loss)


def model_config(vocab_size: int) -> dict[str, Any]:
    """The demo model's `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_CONTEXT,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "bfloat16",
    }


def load_or_train_tokenizer(scratch: Path, seed: int) -> Tokenizer:
    """The tokenizer of the run that is continued, or a new one."""
    path = scratch / "tokenizer.json"
    if not path.exists():
        train_tokenizer(seed).save(str(path))
    return Tokenizer.from_file(str(path))


def save_progress(scratch: Path, optimizer: Optimizer, progress: Progress) -> None:
    """Write what a later run needs to go on."""
    save_file(optimizer.state(), scratch / f"{MASTERS}.new")
    os.replace(scratch / f"{MASTERS}.new", scratch / MASTERS)
    (scratch / PROGRESS).write_text(json.dumps(asdict(progress)))


def load_progress(scratch: Path, optimizer: Optimizer) -> Progress:
    """Go on from an earlier run, if there was one."""
    if not (scratch / MASTERS).exists():
        return Progress()
    optimizer.restore(load_file(scratch / MASTERS))
    progress = Progress(**json.loads((scratch / PROGRESS).read_text()))
    lines = (scratch / LOG).read_text().splitlines(keepends=True)
    kept = (line for line in lines if json.loads(line)["step"] <= progress.step)
    (scratch / LOG).write_text("".join(kept))
    return progress


def append_log(scratch: Path, entry: dict[str, float]) -> None:
    """Add a line to the training log, and show it."""
    line = json.dumps(entry)
    print(line, flush=True)
    with (scratch / LOG).open("a") as log:
        log.write(line + "\n")


def train(
    decoder: Decoder, tokenizer: Tokenizer, options: argparse.Namespace, scratch: Path
) -> Progress:
    """Train until the minutes are over."""
    optimizer = Optimizer(decoder)
    progress = load_progress(scratch, optimizer)
    rng = random.Random(f"{options.seed}/{progress.step}")
    validation = draw_questions(options.seed + 1, 200)
    total = options.minutes * 60
    began = time.monotonic() - progress.seconds
    saved = progress.seconds
    while progress.seconds < total:
        done = progress.seconds / total
        batch = draw_batch(rng, tokenizer, done, options.tokens)
        loss, answer_loss = batch_losses(decoder, batch)
        torch.autograd.backward(loss)
        optimizer.step(rate_factor(done))
        progress.seconds = time.monotonic() - began
        progress.note(float(answer_loss))
        if progress.step % LOG_STEPS == 0:
            entry = {
                "step": progress.step,
                "loss": round(loss.item(), 4),
                "lr_factor": round(rate_factor(done), 4),
                "answer_loss": round(progress.answer_loss, 5),
                "seconds": round(progress.seconds, 1),
            }
            if progress.step % CHECK_STEPS == 0:
                entry["held_out_exact"] = round(
                    quick_exact_share(decoder, tokenizer, validation), 3
                )
            append_log(scratch, entry)
        if progress.seconds - saved > SAVE_SECONDS:
            save_progress(scratch, optimizer, progress)
            saved = progress.seconds
    save_progress(scratch, optimizer, progress)
    return progress


def write_model(decoder: Decoder, config: dict[str, Any], scratch: Path, folder: Path) -> None:
    """Write configuration, bf16 weights and the log; the tokenizer is already there."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": 0, "pad_token_id": 0, "do_sample": False, "max_new_tokens": 64}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_checkpoint(decoder, folder, torch.bfloat16)
    (folder / WEIGHTS).chmod(0o644)
    (folder / LOG).write_text((scratch / LOG).read_text())


def evaluate(folder: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """Exact match of the files as written, by Edgewise and by transformers."""
    questions = draw_questions(EVALUATION_SEED, EVALUATION_QUESTIONS)
    deciders = {
        "Edgewise, bf16": own_greedy(folder, "bf16"),
        "transformers, bf16": transformers_greedy(folder),
    }
    return {name: exact_share(greedy, tokenizer, questions) for name, greedy in deciders.items()}


def report(options: argparse.Namespace, progress: Progress, scores: dict[str, float]) -> str:
    """The text of TRAINING.md."""
    settings = f"--minutes {options.minutes:g} --tokens {options.tokens} --seed {options.seed}"
    rows = "\n".join(f"| {name} | {score:.1%} |" for name, score in scores.items())
    return f"""# How the demo model was trained

```
python scripts/train_demo_model.py {settings}
```

{progress.step} steps in {progress.seconds:.0f} s on {os.cpu_count()} {platform.machine()} CPU
cores ({torch.get_num_threads()} threads, other work beside it), Python
{platform.python_version()}, torch {torch.__version__}, tokenizers {tokenizers.__version__},
transformers {transformers.__version__}. Seed {options.seed}; because the learning rate follows the
clock, a second run gives other weights of like quality.

Answer loss at the end (running mean over training batches): {progress.answer_loss:.4f}.

Exact match of whole sentences, greedy, on {EVALUATION_QUESTIONS} held-out questions
(`draw_questions({EVALUATION_SEED}, {EVALUATION_QUESTIONS})`), from the stored bf16 weights:

| by | exact |
|---|---|
{rows}
"""


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in all")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per step, about")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    scratch = Path(tempfile.gettempdir()) / "edgewise_demo_training"
    parser.add_argument("--scratch", type=Path, default=scratch, help="folder for checkpoints")
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    return parser.parse_args()


def main() -> None:
    """Tokenizer, training, files, evaluation."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = load_or_train_tokenizer(options.scratch, options.seed)
    save_tokenizer(tokenizer, options.output, MAX_CONTEXT)
    config = model_config(tokenizer.get_vocab_size())
    decoder = Decoder(DecoderConfig.from_dict(config))
    decoder.init_weights(seed=options.seed)
    decoder.bfloat16()
    progress = train(decoder, tokenizer, options, options.scratch)
    write_model(decoder, config, options.scratch, options.output)
    scores = evaluate(options.output, tokenizer)
    print(json.dumps(scores))
    (options.output / "TRAINING.md").write_text(report(options, progress, scores))


if __name__ == "__main__":
    main()
