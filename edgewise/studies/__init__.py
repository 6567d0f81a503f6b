"""Studies: the papers' tables and figures, ours beside the published values.

Each writes Markdown, JSON, and figures. Only the weights of the DILEMMA study need torch.
"""

from collections.abc import Callable
from pathlib import Path

from edgewise.errors import InputError
from edgewise.studies.dilemma import dilemma_page
from edgewise.studies.edgeshard import edgeshard_page
from edgewise.studies.llm_pq import llm_pq_page
from edgewise.studies.page import Page

STUDIES: dict[str, Callable[[str], Page]] = {
    "edgeshard": lambda model: edgeshard_page(),
    "dilemma": dilemma_page,
    "llm-pq": lambda model: llm_pq_page(),
}


def write_study(name: str, folder: Path, model: str = "demo") -> tuple[Page, list[Path]]:
    """Run a study and write it into `folder`; `model` is the checkpoint whose weights the DILEMMA
    study quantizes. Raises InputError for an unknown study."""
    if name not in STUDIES:
        raise InputError(f"unknown study '{name}'; known studies: {', '.join(STUDIES)}")
    page = STUDIES[name](model)
    return page, page.write(folder)
