"""Sensitivities: files, good and bad, and losses that cannot be."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise.errors import ProfileError
from edgewise.sensitivities import VERSION, Sensitivity

COMPLETE = Sensitivity(
    "abc123", "nats per token", 2.5, {"fp32": (0.0, 0.0, 0.0), "bf16": (0.1 + 0.2, 0.0, 1e-9)}
)
Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("loss", [-1e-9, math.nan, math.inf, -math.inf])
def test_a_loss_that_cannot_be_is_refused_with_its_layer(loss: float) -> None:
    with pytest.raises(ProfileError) as caught:
        Sensitivity("abc123", "nats", 2.5, {"fp32": (0.0, 0.0), "bf16": (0.0, loss)})
    assert str(caught.value) == (
        f"sensitivity: layer 1 in bf16 loses {loss}; losses must be zero or more"
    )
    assert caught.value.exit_code == 2


class TestFile:
    def edited(self, edit: Edit) -> str:
        document = json.loads(COMPLETE.to_json())
        edit(document)
        return json.dumps(document)

    def message(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "sensitivity.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ProfileError) as caught:
            Sensitivity.load(path)
        message = str(caught.value)
        assert message.count(str(path)) == 1
        return message.replace(str(path), "s.json")

    def test_a_sensitivity_survives_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "sensitivity.json"
        path.write_text(COMPLETE.to_json(), encoding="utf-8")
        again = Sensitivity.load(path)
        assert again == COMPLETE
        assert isinstance(again.losses["bf16"], tuple)

    def test_the_file_says_its_version(self) -> None:
        assert json.loads(COMPLETE.to_json())["version"] == VERSION == 2

    @pytest.mark.parametrize("version", [1, 3, "2", None])
    def test_another_version_is_refused(self, tmp_path: Path, version: object) -> None:
        text = self.edited(lambda d: d.update(version=version))
        assert self.message(tmp_path, text) == (
            f"s.json: version {version}, but this Edgewise reads 2; measure again with "
            "`edgewise sensitivity`"
        )

    @pytest.mark.parametrize("key", ["version", "model", "metric", "reference", "losses"])
    def test_a_key_that_is_missing_is_named(self, tmp_path: Path, key: str) -> None:
        message = self.message(tmp_path, self.edited(lambda d: d.pop(key)))
        assert message == f"s.json: not a sensitivity file: KeyError('{key}')"

    @pytest.mark.parametrize(
        "edit",
        [
            lambda d: d.update(losses=[0.1]),
            lambda d: d.update(losses=5),
            lambda d: d["losses"].update(bf16=5),
            lambda d: d["losses"].update(bf16=["0.1"]),
            lambda d: d["losses"].update(bf16=[None]),
        ],
    )
    def test_losses_of_the_wrong_type_are_refused(self, tmp_path: Path, edit: Edit) -> None:
        message = self.message(tmp_path, self.edited(edit))
        assert message.startswith("s.json: not a sensitivity file: ")

    @pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"text"'])
    def test_other_text_is_refused(self, tmp_path: Path, text: str) -> None:
        assert self.message(tmp_path, text).startswith("s.json: not a sensitivity file: ")

    @pytest.mark.parametrize("loss", [-1.0, math.nan, math.inf])
    def test_a_loss_that_cannot_be_is_refused(self, tmp_path: Path, loss: float) -> None:
        path = tmp_path / "sensitivity.json"
        path.write_text(self.edited(lambda d: d["losses"]["bf16"].append(loss)), encoding="utf-8")
        with pytest.raises(ProfileError, match=f"layer 3 in bf16 loses {loss}"):
            Sensitivity.load(path)

    def test_a_loss_that_cannot_be_is_refused_with_the_files_name(self, tmp_path: Path) -> None:
        text = self.edited(lambda d: d["losses"]["bf16"].append(-1.0))
        assert self.message(tmp_path, text) == (
            "s.json: layer 3 in bf16 loses -1.0; losses must be zero or more"
        )

    @pytest.mark.parametrize("reference", [None, "2.5", math.nan])
    def test_a_reference_that_is_no_number_is_refused(
        self, tmp_path: Path, reference: object
    ) -> None:
        self.message(tmp_path, self.edited(lambda d: d.update(reference=reference)))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "nothing.json"
        with pytest.raises(ProfileError) as caught:
            Sensitivity.load(path)
        assert str(caught.value) == f"cannot read sensitivity {path}: No such file or directory"

    def test_a_file_that_is_not_text_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "sensitivity.json"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ProfileError, match=r"sensitivity\.json: not a sensitivity file"):
            Sensitivity.load(path)
