"""Run every benchmark, and print a table of what each claims and whether it holds.

`python scripts/bench.py [name,...]`; what they print goes to build/benchmarks/NAME.log. Ends with
an error where a claim does not hold.
"""

import ast
import subprocess
import sys
import time
from pathlib import Path

FOLDER, LOGS = Path("benchmarks"), Path("build/benchmarks")


def claim(script: Path) -> str:
    """The first sentence of a script's docstring."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.removeprefix("Claim: ")


def run(script: Path) -> tuple[str, str]:
    """Whether a claim holds, and the last that the script said about it."""
    began, log = time.monotonic(), LOGS / f"{script.stem}.log"
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run([sys.executable, str(script)], stdout=out, stderr=subprocess.STDOUT)
    lines = [x for x in log.read_text(encoding="utf-8").splitlines() if not x.startswith("{")]
    seconds = time.monotonic() - began
    last = lines[-1] if lines else ""
    return ("holds" if done.returncode == 0 else "FAILS"), f"{last} ({seconds:.0f} s)"


def main() -> None:
    scripts = [x for x in sorted(FOLDER.glob("*.py")) if '"""Claim: ' in x.read_text("utf-8")]
    if len(sys.argv) > 1:
        scripts = [x for x in scripts if x.stem in sys.argv[1].split(",")]
    LOGS.mkdir(parents=True, exist_ok=True)
    failed = False
    for script in scripts:
        verdict, figure = run(script)
        failed |= verdict != "holds"
        print(f"{script.stem:14} {verdict}  {claim(script)}\n{'':14}        {figure}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
