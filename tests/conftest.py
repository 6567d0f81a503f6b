"""Tiny random checkpoints of every family, written by `transformers`: the independent truth."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch
import transformers
from transformers.utils import logging

from edgewise.errors import InputError, ModelError
from edgewise.models.named import named_file
from edgewise.studies.testbed.machines import check_possible

logging.disable_progress_bar()
torch.set_num_threads(1)

VOCABULARY = 97
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROTARY = {**_SIZES, "intermediate_size": 56, "num_key_value_heads": 2}
_OPT = {**_SIZES, "ffn_dim": 56, "word_embed_proj_dim": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_SLIDE = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("Llama", _ROTARY),
    "llama-tied": ("Llama", {**_ROTARY, "tie_word_embeddings": True}),
    "llama-biases": ("Llama", {**_ROTARY, "attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("Llama", {**_ROTARY, "head_dim": 16, "num_key_value_heads": 4}),
    "llama3-rope": ("Llama", {**_ROTARY, "rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {**_ROTARY, "sliding_window": None}),
    "mistral-window": ("Mistral", {**_ROTARY, "sliding_window": 5}),
    "qwen2": ("Qwen2", _ROTARY),
    "qwen2-window": ("Qwen2", {**_ROTARY, **_SLIDE}),
    "qwen3": ("Qwen3", {**_ROTARY, "head_dim": 12}),
    "qwen3-wide-heads": ("Qwen3", {**_ROTARY, "head_dim": 16}),
    "mistral-window-wide-heads": ("Mistral", {**_ROTARY, "sliding_window": 5, "head_dim": 16}),
    "opt": ("OPT", _OPT),
    "opt-wide-heads": ("OPT", {**_OPT, "num_attention_heads": 2}),
    "opt-350m": ("OPT", {**_OPT, "word_embed_proj_dim": 20, "do_layer_norm_before": False}),
    "opt-no-final-norm": ("OPT", {**_OPT, "_remove_final_layer_norm": True}),
    "opt-no-bias": ("OPT", {**_OPT, "enable_bias": False}),
}


def random_model(family: str) -> transformers.PreTrainedModel:
    """A Hugging Face model of a family with random weights, biases and norms included."""
    name, sizes = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Profiles that tests measure stay out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's random checkpoint, written on first use."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            random_model(family).save_pretrained(made[family])
        return made[family]

    return get


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A GGUF file with trained weights, SmolLM2-135M-Instruct in Q4_1, from a Python package; the
    environment variable EDGEWISE_REAL_MODEL gives its path instead. Tests fail without it."""
    if given := os.environ.get("EDGEWISE_REAL_MODEL"):
        return Path(given)
    try:
        return named_file("smollm2")
    except ModelError as error:
        pytest.fail(str(error))


@pytest.fixture
def files_end_at() -> Callable[[int], AbstractContextManager[None]]:
    """While it is entered, the operating system writes no file beyond so many bytes: as on a disk
    that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(most_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where this machine lets nobody make namespaces and mounts: not Linux, not root, or a
    container without the right to; the reason is what users of the testbed are told."""
    try:
        check_possible()
    except InputError as error:
        pytest.skip(str(error))
