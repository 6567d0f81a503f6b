"""Every benchmark can be started: it imports, and says its options where it has some."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"
FEDERATED = ["federated.py"]  # needs the extra of that name

# In one process, which has imported torch then: one each would take minutes.
START = """
import contextlib, importlib, inspect, io, json, sys

def start(name):
    module = importlib.import_module(name)
    if "ArgumentParser(" not in inspect.getsource(module):
        return "imported"
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        module.main()
    return said.getvalue().split()[0]

def outcome(name):
    try:
        return start(name)
    except Exception as error:
        return repr(error)

print(json.dumps({name: outcome(name) for name in sys.argv[1:]}))
"""


def test_benchmarks_import_and_say_their_options(tmp_path):
    scripts = [path for path in sorted(FOLDER.rglob("*.py")) if "__pycache__" not in path.parts]
    if not importlib.util.find_spec("cryptography"):
        scripts = [path for path in scripts if path.name not in FEDERATED]
    folders = dict.fromkeys(str(path.parent) for path in scripts)
    command = f"import sys; sys.path[:0] = {list(folders)!r}\n{START}"
    names = [path.stem for path in scripts]
    done = subprocess.run(
        [sys.executable, "-c", command, *names], capture_output=True, text=True, timeout=120,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert list(outcomes) == names and len(names) > 45
    assert {k: v for k, v in outcomes.items() if v not in ("imported", "usage:")} == {}
    assert not list(tmp_path.iterdir())  # importing leaves nothing
