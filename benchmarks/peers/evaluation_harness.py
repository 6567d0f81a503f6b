"""Claim: lm-evaluation-harness gets the same log-likelihoods, within 0.001, from `edgewise serve`
on three devices as from transformers.

The harness itself (`local-completions`, and `hf` on the same GGUF file, whose weights both compute
with in fp32) on a multiple-choice task made here, 40 questions of four answers. It lives in an
environment of its own: `pip install torch==2.13.0 lm-eval[api,hf] gguf`, the CPU's torch.

`python benchmarks/peers/evaluation_harness.py --peer PYTHON`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

MODEL, TASK, MOST = "smollm2", "edgewise_choices", 1e-3
CLUSTER = """
source = "a"
[[device]]
name = "a"
memory = "400 MB"
[[device]]
name = "b"
memory = "400 MB"
[[device]]
name = "c"
memory = "400 MB"
[[network]]
devices = ["a", "b", "c"]
bandwidth = "1 Gbps"
latency = "0.2 ms"
"""
CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo",
    "Peru": "Lima", "Norway": "Oslo", "Cuba": "Havana", "Kenya": "Nairobi", "Greece": "Athens",
}  # fmt: skip
FORMS = ("What is the capital of {}?", "The capital of {} is", "Name the seat of {}'s government.",
         "Which city governs {}?")  # fmt: skip


def write_task(folder: Path) -> None:
    names, rows = list(CAPITALS.values()), []
    for form in FORMS:
        for number, country in enumerate(CAPITALS):
            choices = [names[(number + step) % len(names)] for step in range(4)]
            rows.append({"text": form.format(country), "choices": choices, "gold": 0})
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": TASK, "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / f"{TASK}.yaml").write_text(json.dumps(task))  # JSON is YAML


def evaluate(folder: str, kind: str, url: str) -> None:
    """In the harness' environment: prints the log-likelihood of every answer."""
    sys.path[:] = [x for x in sys.path if x != str(Path(__file__).parent)]
    import lm_eval
    from lm_eval.tasks import TaskManager

    model: dict[str, Any] = {"pretrained": f"{folder}/model", "dtype": "float32", "device": "cpu"}
    if kind != "hf":
        model = {"model": MODEL, "base_url": url, "tokenizer": f"{folder}/model",
                 "tokenizer_backend": "huggingface", "num_concurrent": 4}  # fmt: skip
    told = lm_eval.simple_evaluate(
        model=kind, model_args=model, tasks=[TASK], batch_size=8, log_samples=True,
        task_manager=TaskManager(include_path=folder, include_defaults=False),
    )  # fmt: skip
    samples = sorted(told["samples"][TASK], key=lambda sample: sample["doc_id"])
    values = [[float(x[0]) for x in sample["filtered_resps"]] for sample in samples]
    accuracy = told["results"][TASK]["acc,none"]
    print("\n" + json.dumps({"values": values, "accuracy": accuracy}), flush=True)


def unpack(folder: str, file: str) -> None:
    """In the harness' environment: the file as transformers reads it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, name = str(Path(file).parent), Path(file).name
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype="float32")
    del model.config.quantization_config  # the weights are whole: let them be saved
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(f"{folder}/model")
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(f"{folder}/model")


def in_harness(peer: str, *arguments: str) -> dict[str, Any]:
    command = [peer, __file__, *arguments]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    offline.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=offline)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {}


def main() -> None:
    from claims import finish
    from served import serving

    from edgewise.models.named import named_file

    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_task(folder)
        in_harness(args.peer, "--unpack", temporary, str(named_file(MODEL)))
        theirs = in_harness(args.peer, "--evaluate", temporary, "hf", "")
        (folder / "cluster.toml").write_text(CLUSTER)
        options = ("--cluster", str(folder / "cluster.toml"), "--scheme", "fp32",
                   "--prompt-tokens", "64", "--new-tokens", "64")  # fmt: skip
        with serving("serve", MODEL, *options) as server:
            url = f"http://127.0.0.1:{server.port}/v1/completions"
            ours = in_harness(args.peer, "--evaluate", temporary, "local-completions", url)
    questions = zip(ours["values"], theirs["values"], strict=True)
    worst = max(abs(a - b) for row in questions for a, b in zip(*row, strict=True))
    answers = sum(map(len, ours["values"]))
    print(f"{answers} answers, at most {worst:.2g} apart; right: {ours['accuracy']:.3f} and "
          f"{theirs['accuracy']:.3f}")  # fmt: skip
    failed = [f"{worst:.2g} apart"] if worst > MOST else []
    finish("evaluation_harness", {
        "answers": answers, "worst": worst, "accuracy": ours["accuracy"],
        "accuracy_of_transformers": theirs["accuracy"],
    }, failed)  # fmt: skip


if __name__ == "__main__":
    sides: dict[str, Callable[..., None]] = {"--evaluate": evaluate, "--unpack": unpack}
    if len(sys.argv) > 1 and sys.argv[1] in sides:
        sides[sys.argv[1]](*sys.argv[2:])
    else:
        main()
