"""Promises are verified on fresh text, and what was measured is kept."""

import pytest
import torch

from edgewise.errors import InputError
from edgewise.quality import verification
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.quality.plan_loss import Loss
from edgewise.quality.verification import text_of, verify
from edgewise.schemes import Wire


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What is measured, by the first of a text's ids."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(verification, "SEQUENCES", 2)
    monkeypatch.setattr(verification, "LENGTH", 4)
    seen = []

    def measure(model, plans, ids, **named):
        seen.append((tuple(plans[0]), tuple(ids.flatten().tolist()), named["method"]))
        return [Loss(0.1 * len(seen), 0.01, len(ids))]

    monkeypatch.setattr(verification, "plan_losses", measure)
    return seen


def test_what_was_measured_is_kept(measured):
    first = verify("demo", ("q4g64",) * 14, 0, method="nearest:a")
    assert verify("demo", ("q4g64",) * 14, 0, method="nearest:a") == first == Loss(0.1, 0.01, 2)
    assert len(measured) == 1
    assert verify("demo", ("q4g64",) * 14, 0, method="nearest:b") != first
    assert verify("demo", ("q8g64",) * 14, 0, method="nearest:a") != first
    assert len(measured) == 3
    verify("demo", ("q4g64",) * 14, 0, method="nearest:a", rounded={3: Wire.BF16})
    verify("demo", ("q4g64",) * 14, 0, method="nearest:a", rounded={4: Wire.BF16})
    assert len(measured) == 5


def test_every_attempt_has_a_text_of_its_own(measured):
    for attempt in range(3):
        verify("demo", ("q4g64",) * 14, attempt)
    assert len({ids for _, ids, _ in measured}) == 3
    assert len({text_of("demo", attempt).seed for attempt in range(8)}) == 8


def test_what_is_damaged_is_measured_again(measured, tmp_path):
    verify("demo", ("q4g64",) * 14, 0)
    (path,) = (tmp_path / "edgewise" / "losses").iterdir()
    path.write_text("[1")
    assert verify("demo", ("q4g64",) * 14, 0).mean == pytest.approx(0.2)


def test_english_pieces_differ_by_seed():
    pytest.importorskip("pydoc_data.topics")
    texts = [sequences("demo", Calibration(ENGLISH, 20, 32, seed)) for seed in range(3)]
    pieces = {tuple(row.tolist()) for text in texts for row in text}
    assert len(pieces) == 60
    assert torch.equal(texts[1], sequences("demo", Calibration(ENGLISH, 20, 32, 1)))
    with pytest.raises(InputError, match=r"english: .* pieces of text, not 1000000"):
        sequences("demo", Calibration(ENGLISH, 1_000_000, 32))
