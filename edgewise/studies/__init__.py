"""Studies: the papers' tables and figures, ours beside the published values.

Each writes Markdown, JSON, and figures, if it has any. `quality` is of our own measurements, and
`guidelines` of rules: nothing is published.
"""

from collections.abc import Callable
from pathlib import Path

from edgewise.errors import InputError
from edgewise.studies.compressibility import compressibility_page
from edgewise.studies.dftsp.page import dftsp_page
from edgewise.studies.dilemma import dilemma_page
from edgewise.studies.edge_llm.page import edge_llm_page
from edgewise.studies.edgeshard import edgeshard_page
from edgewise.studies.federated.page import federated_page
from edgewise.studies.guidelines import guidelines_page
from edgewise.studies.llm_pq import llm_pq_page
from edgewise.studies.luc import luc_page
from edgewise.studies.page import OnStep, Page, quietly
from edgewise.studies.private_lora.page import private_lora_page
from edgewise.studies.quality import MODEL, quality_page
from edgewise.studies.streamline.page import streamline_page
from edgewise.studies.testbed.page import testbed_page

STUDIES: dict[str, Callable[[str | None, OnStep], Page]] = {
    "edgeshard": lambda model, on_step: edgeshard_page(on_step),
    "dilemma": lambda model, on_step: dilemma_page(model or "demo", on_step=on_step),
    "quality": lambda model, on_step: quality_page(model or MODEL, on_step),
    "llm-pq": lambda model, on_step: llm_pq_page(),
    "dftsp": lambda model, on_step: dftsp_page(on_step),
    "edge-llm": lambda model, on_step: edge_llm_page(model or MODEL, on_step),
    "compressibility": lambda model, on_step: compressibility_page(model or MODEL, on_step),
    "luc": lambda model, on_step: luc_page(model or MODEL, on_step),
    "streamline": lambda model, on_step: streamline_page(model or MODEL, on_step),
    "guidelines": lambda model, on_step: guidelines_page(),
    "federated": lambda model, on_step: federated_page(model or MODEL, on_step),
    "private-lora": lambda model, on_step: private_lora_page(),
}

# Those that measure on a text of the user's.
TEXTS: dict[str, Callable[[str | None, str, OnStep], Page]] = {
    "luc": lambda model, text, on_step: luc_page(model or MODEL, on_step, text=text),
}

TESTBEDS: dict[str, Callable[[OnStep], Page]] = {"edgeshard": testbed_page}


def write_study(
    name: str,
    folder: Path,
    model: str | None = None,
    on_step: OnStep = quietly,
    *,
    testbed: bool = False,
    text: str | None = None,
) -> tuple[Page, list[Path]]:
    """Run a study and write it into `folder`; `model` is the checkpoint that the studies of
    DILEMMA, of LUC, of quality and of compressibility quantize, and Edge-LLM's tunes, None: the
    usual one; with `testbed` it is asked of real processes, with `text` of that text. Raises
    InputError for an unknown study, and for one without a testbed, or that reads no text."""
    if name not in STUDIES:
        raise InputError(f"unknown study '{name}'; known studies: {', '.join(STUDIES)}")
    if testbed and name not in TESTBEDS:
        raise InputError(f"study '{name}' has no testbed; studies with one: {', '.join(TESTBEDS)}")
    if text is not None and name not in TEXTS:
        raise InputError(f"study '{name}' reads no text; studies that do: {', '.join(TEXTS)}")
    if testbed:
        page = TESTBEDS[name](on_step)
    elif text is not None:
        page = TEXTS[name](model, text, on_step)
    else:
        page = STUDIES[name](model, on_step)
    return page, page.write(folder)
