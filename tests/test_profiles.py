"""Profiles: look-ups at and beyond what was measured, files, and figures that cannot be."""

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.clusters import Link
from edgewise.errors import ClusterError, ProfileError
from edgewise.profiles import VERSION, DeviceReading, LayerMemory, LayerTiming, Profile
from edgewise.specs import LayerKind

BLOCK, HEAD = LayerKind.BLOCK, LayerKind.HEAD
AGAIN = "; measure again with `edgewise profile`"
quickly = settings(max_examples=200, derandomize=True, deadline=None)


def profile(*layers: LayerTiming) -> Profile:
    return Profile("abc123", layers, (), ())


def decoding(*points: tuple[int, float], sequences: int = 1) -> Profile:
    """A block on 'a' that takes y seconds per token after x cached ones."""
    return profile(*(LayerTiming("a", BLOCK, "fp32", sequences, 1, x, y) for x, y in points))


def prefilling(*points: tuple[int, float], sequences: int = 1) -> Profile:
    """A block on 'a' that takes y seconds for a prompt of x tokens."""
    return profile(*(LayerTiming("a", BLOCK, "fp32", sequences, x, 0, y) for x, y in points))


def by_law(law: Callable[[int, int], float], *, decode: bool, noise: float = 0.0) -> Profile:
    """A block on 'a' that takes law(sequences, cached tokens or tokens), on a grid of shapes."""
    rng = np.random.default_rng(1)
    return profile(
        *(
            LayerTiming(
                "a",
                BLOCK,
                "fp32",
                b,
                1 if decode else x,
                x if decode else 0,
                law(b, x) * float(1 + noise * rng.uniform(-1, 1)),
            )
            for b, x in product((1, 2, 4), (2, 16, 64, 256))
        )
    )


def decode_law(b: int, i: int) -> float:
    return 0.001 * b * (1 + i) + 0.25 * b + 0.002 * i + 0.5


def prompt_law(b: int, s: int) -> float:
    return 0.25 * b + 0.002 * s + 0.01 * b * s + 0.0001 * b * s * s + 0.5


class TestLookUp:
    def test_a_measured_point_is_given_back(self) -> None:
        measured = decoding((10, 1.0), (20, 2.0), (40, 4.0))
        looked_up = [measured.decode_seconds("a", BLOCK, "fp32", x) for x in (10, 20, 40)]
        assert looked_up == pytest.approx([1, 2, 4], rel=1e-9)

    @pytest.mark.parametrize(("context", "seconds"), [(15, 2.0), (11, 1.2 + 0.4), (40, 4.5)])
    def test_between_points_and_beyond_them_decoding_is_linear(
        self, context: int, seconds: float
    ) -> None:
        measured = decoding((10, 1.5), (20, 2.5), (30, 3.5))
        looked_up = measured.decode_seconds("a", BLOCK, "fp32", context)
        assert looked_up == pytest.approx(seconds, rel=1e-9)

    def test_a_prompt_grows_with_the_square_of_its_tokens(self) -> None:
        measured = prefilling((10, 1.0), (20, 4.0), (40, 16.0))
        looked_up = measured.prefill_seconds("a", BLOCK, "fp32", 100)
        assert looked_up == pytest.approx(100, rel=1e-9)

    def test_noise_does_not_make_more_tokens_cheaper(self) -> None:
        measured = prefilling((10, 1.0), (20, 0.9))
        constant = (1 + 1 / 0.9) / (1 + 1 / 0.81)  # the least relative error
        for tokens in (1, 10, 20, 1000):
            looked_up = measured.prefill_seconds("a", BLOCK, "fp32", tokens)
            assert looked_up == pytest.approx(constant, rel=1e-9)

    def test_a_steep_rise_does_not_make_few_tokens_take_less_than_nothing(self) -> None:
        measured = decoding((10, 1.0), (20, 3.0))
        assert measured.decode_seconds("a", BLOCK, "fp32", 0) == pytest.approx(0, abs=1e-12)
        slope = (10 + 20 / 3) / (10**2 + (20 / 3) ** 2)
        assert measured.decode_seconds("a", BLOCK, "fp32", 60) == pytest.approx(60 * slope)

    def test_a_single_point_is_given_back(self) -> None:
        measured = decoding((10, 1.5))
        assert measured.decode_seconds("a", BLOCK, "fp32", 10) == pytest.approx(1.5, rel=1e-9)
        batched = prefilling((10, 1.5), sequences=3)
        assert batched.prefill_seconds("a", BLOCK, "fp32", 10, 3) == pytest.approx(1.5, rel=1e-9)

    @pytest.mark.parametrize("sequences", [1, 2, 3, 8])
    @pytest.mark.parametrize("size", [0, 2, 100, 1000])
    def test_any_batch_can_be_asked_for(self, sequences: int, size: int) -> None:
        decode, prompts = by_law(decode_law, decode=True), by_law(prompt_law, decode=False)
        looked_up = decode.decode_seconds("a", BLOCK, "fp32", size, sequences)
        assert looked_up == pytest.approx(decode_law(sequences, size), rel=1e-6)
        looked_up = prompts.prefill_seconds("a", BLOCK, "fp32", size, sequences)
        assert looked_up == pytest.approx(prompt_law(sequences, size), rel=1e-6)

    def test_one_sequence_is_what_is_asked_for_unless_said(self) -> None:
        decode, prompts = by_law(decode_law, decode=True), by_law(prompt_law, decode=False)
        one = decode.decode_seconds("a", BLOCK, "fp32", 50, 1)
        assert decode.decode_seconds("a", BLOCK, "fp32", 50) == one
        one = prompts.prefill_seconds("a", BLOCK, "fp32", 50, 1)
        assert prompts.prefill_seconds("a", BLOCK, "fp32", 50) == one

    def test_the_order_of_measurements_does_not_matter(self) -> None:
        one = by_law(decode_law, decode=True, noise=0.1)
        other = profile(*reversed(one.layers))
        for context in (5, 10, 64, 100, 200):
            seconds = one.decode_seconds("a", BLOCK, "fp32", context)
            again = other.decode_seconds("a", BLOCK, "fp32", context)
            assert again == pytest.approx(seconds, rel=1e-9)

    def test_decoding_goes_by_the_cached_tokens_and_a_prompt_by_its_own(self) -> None:
        decode, prompts = by_law(decode_law, decode=True), by_law(prompt_law, decode=False)
        both = profile(*decode.layers, *prompts.layers)
        looked_up = both.decode_seconds("a", BLOCK, "fp32", 15)
        assert looked_up == pytest.approx(decode_law(1, 15), rel=1e-6)
        looked_up = both.prefill_seconds("a", BLOCK, "fp32", 15)
        assert looked_up == pytest.approx(prompt_law(1, 15), rel=1e-6)

    def test_devices_kinds_and_schemes_are_kept_apart(self) -> None:
        measured = profile(
            LayerTiming("a", BLOCK, "fp32", 1, 1, 10, 1.0),
            LayerTiming("b", BLOCK, "fp32", 1, 1, 10, 2.0),
            LayerTiming("a", HEAD, "fp32", 1, 1, 10, 3.0),
            LayerTiming("a", BLOCK, "bf16", 1, 1, 10, 4.0),
        )
        asked = (("a", BLOCK, "fp32"), ("b", BLOCK, "fp32"), ("a", HEAD, "fp32"))
        looked_up = [
            measured.decode_seconds(*where, 10) for where in (*asked, ("a", BLOCK, "bf16"))
        ]
        assert looked_up == pytest.approx([1, 2, 3, 4], rel=1e-9)

    @quickly
    @given(
        st.dictionaries(
            st.tuples(st.integers(1, 4), st.integers(2, 2000)),
            st.floats(0, 10),
            min_size=1,
            max_size=5,
        ),
        st.integers(0, 4000),
        st.integers(0, 4000),
        st.integers(1, 8),
    )
    def test_whatever_was_measured_more_work_never_takes_less(
        self, points: dict[tuple[int, int], float], one: int, other: int, sequences: int
    ) -> None:
        less, more = sorted((one, other))
        layers = [
            timing
            for (b, x), y in points.items()
            for timing in (
                LayerTiming("a", BLOCK, "fp32", b, 1, x, y),
                LayerTiming("a", BLOCK, "fp32", b, x, 0, y),
            )
        ]
        measured, most = profile(*layers), 1 + 1e-12  # too few shapes for two laws
        for look_up in (measured.decode_seconds, measured.prefill_seconds):
            seconds = look_up("a", BLOCK, "fp32", less, sequences)
            assert 0 <= seconds <= look_up("a", BLOCK, "fp32", more, sequences) * most
            assert seconds <= look_up("a", BLOCK, "fp32", less, sequences + 1) * most

    @quickly
    @given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 4000))
    def test_it_is_what_numpy_says_where_that_has_no_negative_coefficient(
        self, seed: int, sequences: int, context: int
    ) -> None:
        rng = np.random.default_rng(seed)
        law = rng.uniform(0.5, 2, 4) * (1e-3, 0.2, 1e-3, 0.5)
        grid = np.array(list(product((1, 2, 4), (2, 16, 64, 256))))
        rows = np.array([(b * (1 + i), b, i, 1) for b, i in grid])
        seconds = rows @ law * rng.uniform(0.999, 1.001, len(rows))
        plain = np.linalg.lstsq(rows / seconds[:, None], np.ones(len(rows)), rcond=None)[0]
        assert plain.min() > 0
        measured = profile(
            *(
                LayerTiming("a", BLOCK, "fp32", int(b), 1, int(i), float(y))
                for (b, i), y in zip(grid, seconds, strict=True)
            )
        )
        expected = plain @ (sequences * (1 + context), sequences, context, 1)
        looked_up = measured.decode_seconds("a", BLOCK, "fp32", context, sequences)
        assert looked_up == pytest.approx(expected, rel=1e-8)

    def test_the_schemes_are_those_measured_in_their_order(self) -> None:
        names = ("fp16", "fp32", "fp16", "bf16")
        measured = profile(*(LayerTiming("a", BLOCK, x, 1, 1, 10, 1.0) for x in names))
        assert measured.schemes == ("fp16", "fp32", "bf16")

    def test_the_classes_are_those_measured_in_their_order(self) -> None:
        names = ("embedding", "block 1", "block 2", "block 1", "head")
        measured = profile(*(LayerTiming("a", x, "fp32", 1, 1, 10, 1.0) for x in names))
        assert measured.classes == ("embedding", "block 1", "block 2", "head")

    def test_a_link_has_a_direction(self) -> None:
        link = Link("a", "b", 100.0, 0.5)
        linked = Profile("abc123", (), (), (link,))
        assert linked.link("a", "b") == link
        assert linked.link("b", "a") is None
        assert link.seconds(50) == 1.0

    def test_a_reading_belongs_to_its_device(self) -> None:
        one, other = DeviceReading("a", 0.25, 100, "a laptop"), DeviceReading("b", 0.5)
        read = Profile("abc123", (), (one, other), ())
        assert read.reading("a") == one
        assert read.reading("b") == other
        assert (other.free_bytes, other.machine, other.process_bytes) == (0, "", 0)

    def test_free_memory_read_again_is_of_one_machine(self) -> None:
        readings = tuple(DeviceReading(x, 0.5, 100, y, 7) for x, y in ("a1", "b2", "c1"))
        again = Profile("abc123", (), readings, ()).with_free_memory("1", 50)
        assert [x.free_bytes for x in again.devices] == [50, 100, 50]
        assert all(x.process_bytes == 7 for x in again.devices)


class TestErrors:
    def test_are_of_each_regression(self) -> None:
        both = profile(
            *by_law(decode_law, decode=True, noise=0.1).layers,
            *by_law(prompt_law, decode=False).layers,
        )
        decoding, prompts = ("a", BLOCK, "fp32", True), ("a", BLOCK, "fp32", False)
        assert set(both.errors) == {decoding, prompts}
        assert 0.01 < both.errors[decoding] < 0.15
        assert both.errors[prompts] < 1e-6
        assert both.error(decoding) == both.errors[decoding]

    def test_are_of_layers_that_were_measured_often_enough(self) -> None:
        block = by_law(decode_law, decode=True).layers
        few = profile(*block[:2])
        assert few.errors == {}
        assert few.error(("a", BLOCK, "fp32", True)) is None
        with pytest.raises(ProfileError, match="no prefill time of block in fp32 on 'a'"):
            few.error(("a", BLOCK, "fp32", False))


class TestMissing:
    measured = decoding((10, 1.0))

    @pytest.mark.parametrize(
        ("device", "layer", "scheme", "message"),
        [
            ("b", BLOCK, "fp32", "profile: no decode time of block in fp32 on 'b'" + AGAIN),
            ("a", HEAD, "fp32", "profile: no decode time of head in fp32 on 'a'" + AGAIN),
            ("a", BLOCK, "bf16", "profile: no decode time of block in bf16 on 'a'" + AGAIN),
        ],
    )
    def test_a_layer_that_was_not_measured_is_named(
        self, device: str, layer: str, scheme: str, message: str
    ) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.decode_seconds(device, layer, scheme, 10)
        assert str(caught.value) == message

    def test_decoding_says_nothing_about_prompts(self) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.prefill_seconds("a", BLOCK, "fp32", 10)
        assert str(caught.value) == "profile: no prefill time of block in fp32 on 'a'" + AGAIN

    def test_a_device_without_a_reading_was_not_measured(self) -> None:
        with pytest.raises(ProfileError) as caught:
            self.measured.reading("a")
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
            Profile("abc123", (), (DeviceReading("a", seconds),), ())
        assert str(caught.value) == f"profile: a step on 'a' takes {seconds} seconds"

    @pytest.mark.parametrize(
        ("latency", "rate"),
        [
            (math.nan, 1.0),
            (math.inf, 1.0),
            (0.0, 0.0),
            (0.0, -1.0),
            (0.0, math.nan),
            (-1.0, 1.0),
        ],
    )
    def test_of_a_link_are_refused(self, latency: float, rate: float) -> None:
        with pytest.raises(ClusterError, match=r"link a -> b: (bandwidth|latency) must be"):
            Link("a", "b", rate, latency)


COMPLETE = Profile(
    "abc123",
    (
        LayerTiming("a", LayerKind.EMBEDDING, "fp32", 1, 1, 10, 1e-6),
        LayerTiming("a", BLOCK, "bf16", 4, 16, 0, 0.1 + 0.2),
        LayerTiming("Küche 1", HEAD, "fp32", 1, 1, 10, 0.0),
    ),
    (DeviceReading("a", 1e-4, 10**9, "Küche"), DeviceReading("b", 0.0)),
    (Link("a", "b", 1e6, 1e-3), Link("b", "a", 1 / 3, 2e-3)),
    (LayerMemory("a", BLOCK, "bf16", 4096),),
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
        assert again.layers[1].seconds == 0.1 + 0.2
        looked_up = again.prefill_seconds("a", BLOCK, "bf16", 16, 4)
        assert looked_up == COMPLETE.prefill_seconds("a", BLOCK, "bf16", 16, 4)
        assert again.reading("a") == COMPLETE.devices[0]
        assert again.link("b", "a") == COMPLETE.links[1]

    def test_a_profile_survives_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        path.write_text(COMPLETE.to_json(), encoding="utf-8")
        assert Profile.load(path) == COMPLETE

    def test_the_file_says_its_version(self) -> None:
        assert json.loads(COMPLETE.to_json())["version"] == VERSION == 4

    @pytest.mark.parametrize("version", [3, 5, "4", None])
    def test_another_version_is_refused(self, version: object) -> None:
        assert self.message(self.edited(lambda d: d.update(version=version))) == (
            f"p.json: version {version}, but this Edgewise reads 4" + AGAIN
        )

    @pytest.mark.parametrize(
        ("edit", "reason"),
        [
            pytest.param(lambda d: d.pop("links"), "KeyError('links')", id="no links"),
            pytest.param(lambda d: d.pop("model"), "KeyError('model')", id="no model"),
            pytest.param(lambda d: d["layers"][0].pop("layer"), "'layer'", id="no class of layer"),
            pytest.param(
                lambda d: d["layers"][0].update(layer=["block"]),
                "unhashable",
                id="a class of layers that is no name",
            ),
            pytest.param(lambda d: d["layers"][0].pop("seconds"), "'seconds'", id="no seconds"),
            pytest.param(lambda d: d["devices"][0].update(x=1), "'x'", id="an unknown key"),
            pytest.param(
                lambda d: d["devices"][0].update(step_seconds="1"),
                "TypeError",
                id="seconds in words",
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

    def test_a_figure_that_is_no_number_is_refused_with_the_files_name(self) -> None:
        text = self.edited(lambda d: d["layers"][0].update(seconds=math.nan))
        assert self.message(text).startswith("p.json: ")

    @pytest.mark.parametrize("key", ["sequences", "tokens", "context"])
    @pytest.mark.parametrize("value", ["10", 1.5, None])
    def test_sizes_that_are_no_whole_numbers_are_refused(self, key: str, value: object) -> None:
        message = self.message(self.edited(lambda d: d["layers"][0].update({key: value})))
        assert message.startswith("p.json: ")
        assert "sizes must be whole numbers" in message

    @pytest.mark.parametrize(("key", "value"), [("sequences", 0), ("tokens", 0), ("context", -1)])
    def test_sizes_of_no_work_are_refused(self, key: str, value: int) -> None:
        self.message(self.edited(lambda d: d["layers"][0].update({key: value})))

    @pytest.mark.parametrize("key", ["free_bytes", "process_bytes"])
    @pytest.mark.parametrize("count", ["8 GB", -1, None])
    def test_memory_that_cannot_be_is_refused(self, key: str, count: object) -> None:
        message = self.message(self.edited(lambda d: d["devices"][0].update({key: count})))
        assert message.startswith("p.json: 'a' has ")
        assert repr(count) in message

    @pytest.mark.parametrize("ratio", [0, -0.5, float("inf"), float("nan"), "0.9", None])
    def test_a_busy_ratio_that_cannot_be_is_refused(self, ratio: object) -> None:
        message = self.message(self.edited(lambda d: d["devices"][0].update(busy_ratio=ratio)))
        assert message.startswith("p.json: ")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        with pytest.raises(ProfileError) as caught:
            Profile.load(path)
        assert str(caught.value) == f"cannot read profile {path}: No such file or directory"

    def test_a_file_that_is_not_text_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "profile.json"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ProfileError, match=r"profile\.json"):
            Profile.load(path)
