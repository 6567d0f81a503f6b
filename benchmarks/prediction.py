"""Claim: on the demo cluster, decoding takes within 15 % of the predicted time per token.

Runs `edgewise demo --json` five times in processes of their own and compares.
"""

import json
import platform
import subprocess
import sys
from statistics import median

import torch

RUNS = 5


def main() -> None:
    rows = []
    for run in range(RUNS):
        command = [sys.executable, "-m", "edgewise", "demo", "--json", "--question", str(run)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        predicted = found["predicted_seconds_per_token"]
        measured = found["measured_seconds_per_token"]
        rows.append((predicted, measured, measured / predicted))
        print(
            f"predicted {predicted * 1e3:.2f} ms, measured {measured * 1e3:.2f} ms per token, "
            f"ratio {measured / predicted:.3f}, answer right: "
            f"{found['answer'] == found['expected_answer']}"
        )
    result = {
        "benchmark": "prediction",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "ratios": [round(ratio, 4) for *_, ratio in rows],
        "median_ratio": round(median(ratio for *_, ratio in rows), 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
