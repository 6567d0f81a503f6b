"""Checkpoints that `quality.py` compares on, and what is kept about each in a work folder."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import llama_files
import numpy as np
import quality_models as models
import torch
from quality_joint import sensitivity_of
from torch import Tensor

from edgewise.quality.calibration import Calibration, sequences
from edgewise.quality.statistics import LOOKED_AT
from edgewise.quantization.rounding import calibrated
from edgewise.sensitivities import Sensitivity
from edgewise.specs import ModelSpec

MOST_DIFFERENCE = 1e-3  # of logits, from what transformers computes


def digest(parts: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()[:12]


@dataclass
class Copy:
    """One checkpoint, and what is kept about it in a work folder."""

    source: Path
    work: Path
    ids: np.ndarray

    @property
    def name(self) -> str:
        return self.source.name

    @cached_property
    def digest(self) -> str:
        return digest(x.read_bytes() for x in sorted(self.source.glob("*.safetensors")))

    def kept(self, what: str, make: Callable[[Path], object]) -> Path:
        """A file about this copy, made where it is missing."""
        file = self.work / f"{self.name}-{self.digest}-{what}"
        if not file.exists():
            print(f"{self.name}: making {what}", flush=True)
            partial = file.with_name(f"new-{file.name}")
            make(partial)
            partial.replace(file)
        return file

    @cached_property
    def whole(self) -> models.Whole:
        return models.Whole(self.source)

    @cached_property
    def spec(self) -> ModelSpec:
        return self.whole.config.spec(self.name)

    @cached_property
    def calibration(self) -> Tensor:
        """The text that statistics are taken on, ours and the peer's: int64 [B, T]."""

        def make(file: Path) -> None:
            np.save(file, sequences(str(self.source), LOOKED_AT).numpy())

        return torch.from_numpy(np.load(self.kept("calibration.npy", make)))

    @property
    def text(self) -> tuple[str, Tensor]:
        """A name of what this model does on that text, and the text."""
        ids = self.calibration
        return digest([self.digest.encode(), ids.numpy().tobytes()]), ids

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Of layers rounded by the default method, on other text than that of the statistics."""
        models.keep_statistics(self.source, self.text)
        ids = sequences(str(self.source), Calibration())
        method = calibrated("nearest", self.text[0])
        return sensitivity_of(self.source, ids, method)

    @cached_property
    def reference(self) -> np.ndarray:
        """Logits of the original in float32 [N, T, V], on disk."""

        def make(file: Path) -> None:
            self.whole.restore()
            logits = [self.whole.logits(window).numpy() for window in self.ids]
            self._check_reference(logits[0])
            np.save(file, np.stack(logits))

        name = f"reference-{digest([self.ids.tobytes()])}.npy"
        logits: np.ndarray = np.load(self.kept(name, make), mmap_mode="r")
        return logits

    def _check_reference(self, logits: np.ndarray) -> None:
        """transformers is the truth about the original."""
        from transformers import AutoModelForCausalLM

        truth = AutoModelForCausalLM.from_pretrained(self.source, dtype=torch.float32)
        with torch.inference_mode():
            difference = truth(torch.from_numpy(self.ids[:1])).logits[0].numpy() - logits
        print(f"{self.name}: transformers' logits differ by {abs(difference).max():.1e}")
        if abs(difference).max() > MOST_DIFFERENCE:
            raise SystemExit("the reference is not what transformers computes")

    @cached_property
    def importances(self) -> dict[bool, dict[str, np.ndarray]]:
        self.whole.restore()
        return models.importance(self.whole, self.calibration)

    @cached_property
    def f32_file(self) -> Path:
        """The original as llama.cpp's quantizer reads it."""
        return self.kept("F32.gguf", lambda file: llama_files.write_f32(self.source, file))

    def importance(self, method: str) -> dict[str, np.ndarray] | None:
        return None if method == "none" else self.importances[method == "imatrix-first"]
