"""Profiles: look-ups between and beyond what was measured, files, and figures that cannot be."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.errors import ProfileError
from edgewise.profiles import LayerTiming, LinkTiming, Profile, StepTiming
from edgewise.specs import LayerKind

BLOCK, HEAD = LayerKind.BLOCK, LayerKind.HEAD
quickly = settings(max_examples=200, derandomize=True, deadline=None)


def profile(*layers: LayerTiming) -> Profile:
    return Profile("abc123", layers, (), ())


def decoding(*points: tuple[int, float]) -> Profile:
    """A block on 'a' that takes y seconds per token after x cached ones."""
    return profile(*(LayerTiming("a", BLOCK, "fp32", 1, x, y) for x, y in points))


def prefilling(*points: tuple[int, float]) -> Profile:
    """A block on 'a' that takes y seconds for a prompt of x tokens."""
    return profile(*(LayerTiming("a", BLOCK, "fp32", x, 0, y) for x, y in points))


class TestLookUp:
    def test_a_measured_point_is_given_back(self) -> None:
        measured = decoding((10, 1.0), (20, 3.0), (40, 4.0))
        assert [measured.decode_seconds("a", BLOCK, "fp32", x) for x in (10, 20, 40)] == [1, 3, 4]

    @pytest.mark.parametrize(("context", "seconds"), [(15, 2.0), (11, 1.2), (30, 3.5), (36, 3.8)])
    def test_between_points_it_is_linear(self, context: int, seconds: float) -> None:
        measured = decoding((10, 1.0), (20, 3.0), (40, 4.0))
        found = measured.decode_seconds("a", BLOCK, "fp32", context)
        assert found == pytest.approx(seconds, rel=1e-12)

    def test_beyond_the_last_point_its_slope_goes_on(self) -> None:
        measured = decoding((10, 1.0), (20, 3.0), (40, 4.0))
        assert measured.decode_seconds("a", BLOCK, "fp32", 100) == pytest.approx(4 + 60 / 20)

    def test_beyond_the_last_point_noise_does_not_make_more_tokens_cheaper(self) -> None:
        measured = prefilling((10, 1.0), (20, 0.9))
        assert measured.prefill_seconds("a", BLOCK, "fp32", 1000) == 0.9

    def test_before_the_first_point_it_is_flat(self) -> None:
        measured = prefilling((10, 1.0), (20, 3.0))
        assert measured.prefill_seconds("a", BLOCK, "fp32", 2) == 1.0

    def test_a_single_point_holds_everywhere(self) -> None:
        measured = decoding((10, 1.5))
        assert [measured.decode_seconds("a", BLOCK, "fp32", x) for x in (0, 10, 99)] == [1.5] * 3

    def test_the_order_of_measurements_does_not_matter(self) -> None:
        one, other = decoding((10, 1.0), (100, 3.0)), decoding((100, 3.0), (10, 1.0))
        for context in (5, 10, 64, 100, 200):
            seconds = one.decode_seconds("a", BLOCK, "fp32", context)
            assert other.decode_seconds("a", BLOCK, "fp32", context) == seconds

    def test_decoding_goes_by_the_cached_tokens_and_a_prompt_by_its_own(self) -> None:
        both = Profile(
            "abc123",
            (
                LayerTiming("a", BLOCK, "fp32", 1, 10, 1.0),
                LayerTiming("a", BLOCK, "fp32", 1, 20, 2.0),
                LayerTiming("a", BLOCK, "fp32", 10, 0, 5.0),
                LayerTiming("a", BLOCK, "fp32", 20, 0, 7.0),
            ),
            (),
            (),
        )
        assert both.decode_seconds("a", BLOCK, "fp32", 15) == pytest.approx(1.5)
        assert both.prefill_seconds("a", BLOCK, "fp32", 15) == pytest.approx(6.0)

    def test_devices_kinds_and_schemes_are_kept_apart(self) -> None:
        measured = profile(
            LayerTiming("a", BLOCK, "fp32", 1, 10, 1.0),
            LayerTiming("b", BLOCK, "fp32", 1, 10, 2.0),
            LayerTiming("a", HEAD, "fp32", 1, 10, 3.0),
            LayerTiming("a", BLOCK, "bf16", 1, 10, 4.0),
        )
        assert measured.decode_seconds("a", BLOCK, "fp32", 10) == 1.0
        assert measured.decode_seconds("b", BLOCK, "fp32", 10) == 2.0
        assert measured.decode_seconds("a", HEAD, "fp32", 10) == 3.0
        assert measured.decode_seconds("a", BLOCK, "bf16", 10) == 4.0

    @quickly
    @given(
        st.dictionaries(st.integers(0, 2000), st.floats(0, 10), min_size=2, max_size=6),
        st.integers(0, 4000),
    )
    def test_it_is_what_numpy_says_of_the_line_through_the_points(
        self, points: dict[int, float], at: int
    ) -> None:
        xs = sorted(points)
        ys = [points[x] for x in xs]
        if at <= xs[-1]:
            expected = np.interp(at, xs, ys)
        else:
            rise = np.diff(ys)[-1] / np.diff(xs)[-1]
            expected = ys[-1] + max(rise, 0) * (at - xs[-1])
        found = decoding(*points.items()).decode_seconds("a", BLOCK, "fp32", at)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert found >= 0

    def test_a_link_has_a_direction(self) -> None:
        link = LinkTiming("a", "b", 0.5, 100.0)
        linked = Profile("abc123", (), (), (link,))
        assert linked.link("a", "b") == link
        assert linked.link("b", "a") is None
        assert link.seconds(50) == 1.0

    def test_a_step_belongs_to_its_device(self) -> None:
        stepped = Profile("abc123", (), (StepTiming("a", 0.25), StepTiming("b", 0.5)), ())
        assert stepped.step_seconds("a") == 0.25
        assert stepped.step_seconds("b") == 0.5


class TestMissing:
    measured = decoding((10, 1.0))

    @pytest.mark.parametrize(
        ("device", "kind", "scheme", "message"),
        [
            ("b", BLOCK, "fp32", "profile: no decode time of block in fp32 on 'b'"),
            ("a", HEAD, "fp32", "profile: no decode time of head in fp32 on 'a'"),
            ("a", BLOCK, "bf16", "profile: no decode time of block in bf16 on 'a'"),
        ],
    )
    def test_a_layer_that_was_not_measured_is_named(
        self, device: str, kind: LayerKind, scheme: str, message: str
    ) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.decode_seconds(device, kind, scheme, 10)
        assert str(caught.value) == message

    def test_decoding_says_nothing_about_prompts(self) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.prefill_seconds("a", BLOCK, "fp32", 10)
        assert str(caught.value) == "profile: no prefill time of block in fp32 on 'a'"

    def test_a_device_without_a_step_was_not_measured(self) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.step_seconds("a")
        assert str(caught.value) == "profile: device 'a' was not measured"


class TestImpossibleFigures:
    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -1e-9])
    def test_of_a_layer_are_refused(self, seconds: float) -> None:
        with pytest.raises(ProfileError) as caught:
            decoding((10, 1.0), (20, seconds))
        assert str(caught.value) == f"profile: block in fp32 on 'a' takes {seconds} seconds"

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -1e-9])
    def test_of_a_step_are_refused(self, seconds: float) -> None:
        with pytest.raises(ProfileError) as caught:
            Profile("abc123", (), (StepTiming("a", seconds),), ())
        assert str(caught.value) == f"profile: a step on 'a' takes {seconds} seconds"

    @pytest.mark.parametrize(
        ("latency", "rate"),
        [
            (math.nan, 1.0),
            (math.inf, 1.0),
            (0.0, 0.0),
            (0.0, -1.0),
            (0.0, math.nan),
            pytest.param(
                -1.0, 1.0, marks=pytest.mark.xfail(reason="a negative latency is not refused")
            ),
        ],
    )
    def test_of_a_link_are_refused(self, latency: float, rate: float) -> None:
        with pytest.raises(ProfileError) as caught:
            Profile("abc123", (), (), (LinkTiming("a", "b", latency, rate),))
        assert str(caught.value) == "profile: link a -> b is unusable"


COMPLETE = Profile(
    "abc123",
    (
        LayerTiming("a", LayerKind.EMBEDDING, "fp32", 1, 10, 1e-6),
        LayerTiming("a", BLOCK, "bf16", 16, 0, 0.1 + 0.2),
        LayerTiming("Küche 1", HEAD, "fp32", 1, 10, 0.0),
    ),
    (StepTiming("a", 1e-4),),
    (LinkTiming("a", "b", 1e-3, 1e6), LinkTiming("b", "a", 2e-3, 1 / 3)),
)
Edit = Callable[[dict[str, Any]], object]


class TestFile:
    def edited(self, edit: Edit) -> str:
        document = json.loads(COMPLETE.to_json())
        edit(document)
        return json.dumps(document)

    def message(self, text: str) -> str:
        with pytest.raises(ProfileError) as caught:
            Profile.from_json(text, "p.json")
        assert caught.value.exit_code == 2
        return str(caught.value)

    def test_a_profile_survives_json(self) -> None:
        again = Profile.from_json(COMPLETE.to_json())
        assert again == COMPLETE
        assert again.prefill_seconds("a", BLOCK, "bf16", 16) == 0.1 + 0.2
        assert again.link("b", "a") == COMPLETE.links[1]

    def test_a_profile_survives_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        path.write_text(COMPLETE.to_json(), encoding="utf-8")
        assert Profile.load(path) == COMPLETE

    @pytest.mark.parametrize("version", [2, "1", None])
    def test_another_version_is_refused(self, version: object) -> None:
        assert self.message(self.edited(lambda d: d.update(version=version))) == (
            f"p.json: version {version}, but this Edgewise reads 1"
        )

    @pytest.mark.parametrize(
        ("edit", "reason"),
        [
            pytest.param(lambda d: d.pop("links"), "KeyError('links')", id="no links"),
            pytest.param(lambda d: d.pop("model"), "KeyError('model')", id="no model"),
            pytest.param(
                lambda d: d["layers"][0].pop("kind"), "KeyError('kind')", id="no kind of layer"
            ),
            pytest.param(
                lambda d: d["layers"][0].update(kind="tail"),
                "ValueError(\"'tail' is not a valid LayerKind\")",
                id="an unknown kind of layer",
            ),
            pytest.param(lambda d: d["layers"][0].pop("seconds"), "'seconds'", id="no seconds"),
            pytest.param(lambda d: d["steps"][0].update(x=1), "'x'", id="an unknown key"),
            pytest.param(
                lambda d: d["steps"][0].update(seconds="1"), "TypeError", id="seconds in words"
            ),
            pytest.param(lambda d: d.update(layers=5), "TypeError", id="layers that are no list"),
        ],
    )
    def test_what_is_no_profile_is_refused_with_the_reason(self, edit: Edit, reason: str) -> None:
        message = self.message(self.edited(edit))
        assert message.startswith("p.json: not a profile: ")
        assert reason in message

    @pytest.mark.parametrize("text", ["", "{", "[]", "5", "null"])
    def test_other_text_is_refused(self, text: str) -> None:
        assert self.message(text).startswith("p.json: not a profile: ")

    def test_a_figure_that_is_no_number_is_refused(self) -> None:
        text = self.edited(lambda d: d["layers"][0].update(seconds=math.nan))
        assert "embedding in fp32 on 'a' takes nan seconds" in self.message(text)

    @pytest.mark.xfail(reason="errors of Profile itself say 'profile:' instead of the file's name")
    def test_a_figure_that_is_no_number_is_refused_with_the_files_name(self) -> None:
        text = self.edited(lambda d: d["layers"][0].update(seconds=math.nan))
        assert self.message(text).startswith("p.json: ")

    @pytest.mark.xfail(reason="tokens and context in quotes are taken and sorted as text")
    def test_tokens_in_words_are_refused(self) -> None:
        self.message(self.edited(lambda d: d["layers"][0].update(context="10")))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        with pytest.raises(ProfileError) as caught:
            Profile.load(path)
        assert str(caught.value) == f"cannot read profile {path}: No such file or directory"

    @pytest.mark.xfail(raises=UnicodeDecodeError, reason="only OSError is caught when reading")
    def test_a_file_that_is_not_text_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ProfileError, match=r"profile\.json"):
            Profile.load(path)
