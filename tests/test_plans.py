"""Plans: one that does not tile its model cannot exist, and files survive or say what is wrong."""

import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.clusters import Cluster, Device
from edgewise.errors import PlanError, SchemeError
from edgewise.plans import Plan, Stage
from edgewise.schemes import KNOWN, SCHEMES, CacheType, Wire
from edgewise.specs import LayerKind, LayerSpec, ModelSpec

quickly = settings(max_examples=200, derandomize=True, deadline=None)


def stage(device: str, start: int, end: int, scheme: str = "fp32") -> Stage:
    return Stage(device, start, end, (scheme,) * (end - start))


def plan(*stages: Stage, num_layers: int = 6) -> Plan:
    return Plan("tiny", "abc123", num_layers, stages)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan: cuts anywhere, devices in any order and again, schemes mixed."""
    num_layers = draw(st.integers(1, 12))
    cuts = draw(st.sets(st.integers(1, num_layers - 1))) if num_layers > 1 else set()
    bounds = [0, *sorted(cuts), num_layers]
    schemes = st.sampled_from(list(SCHEMES))
    stages = [
        Stage(
            draw(st.sampled_from(["a", "b", "Küche 1"])),
            start,
            end,
            tuple(draw(st.lists(schemes, min_size=end - start, max_size=end - start))),
            tuple(x for x in range(max(start, 1), min(end, num_layers - 1)) if draw(st.booleans())),
        )
        for start, end in pairwise(bounds)
    ]
    return plan(*stages, num_layers=num_layers)


class TestTiling:
    def test_stages_that_tile_the_model_are_a_plan(self) -> None:
        made = plan(stage("a", 0, 1), stage("b", 1, 5, "bf16"), stage("a", 5, 6))
        assert made.schemes == ("fp32", "bf16", "bf16", "bf16", "bf16", "fp32")
        assert made.devices == ("a", "b")
        assert str(made) == (
            "a: layers 0-0 (fp32 x1); b: layers 1-4 (bf16 x4); a: layers 5-5 (fp32 x1)"
        )

    def test_a_stage_says_how_many_layers_are_on_disk(self) -> None:
        mixed = Stage("a", 0, 6, ("fp32",) * 6, (1, 3, 4))
        assert str(mixed) == "a: layers 0-5 (fp32 x6), 3 of them from disk"
        assert plan(mixed).stages == (mixed,)

    @pytest.mark.parametrize(
        ("streamed", "why"),
        [
            ((0,), "layer 0 from disk is none of its blocks"),
            ((1, 5), "layer 5 from disk is none of its blocks"),
            ((2, 1), "must ascend"),
            ((2, 2), "must ascend"),
            ((-1,), "layer -1 from disk"),
        ],
    )
    def test_only_blocks_are_on_disk(self, streamed: tuple[int, ...], why: str) -> None:
        with pytest.raises(PlanError, match=why):
            plan(Stage("a", 0, 6, ("fp32",) * 6, streamed))

    @pytest.mark.parametrize("streamed", ["1", [True], [1.0], ["1"], None])
    def test_a_files_layers_on_disk_are_numbers(self, streamed: object) -> None:
        document = json.loads(plan(Stage("a", 0, 6, ("fp32",) * 6, (1, 3))).to_json())
        assert document["stages"][0]["streamed"] == [1, 3]
        document["stages"][0]["streamed"] = streamed
        with pytest.raises(PlanError, match=r"^here: .*'streamed'"):
            Plan.from_json(json.dumps(document), "here")

    def test_a_stage_shows_its_schemes_in_order(self) -> None:
        mixed = Stage("a", 2, 6, ("bf16", "fp32", "fp32", "bf16"))
        assert str(mixed) == "a: layers 2-5 (bf16 x1, fp32 x2, bf16 x1)"

    @pytest.mark.parametrize(
        ("stages", "message"),
        [
            pytest.param(
                [stage("a", 0, 2), stage("b", 3, 6)],
                "layer 2 is not assigned: stage 1 on 'b' starts at layer 3",
                id="a gap",
            ),
            pytest.param(
                [stage("a", 1, 6)],
                "layer 0 is not assigned: stage 0 on 'a' starts at layer 1",
                id="a gap at the start",
            ),
            pytest.param(
                [stage("a", 0, 5)],
                "the stages end at layer 5, the model at layer 6",
                id="a gap at the end",
            ),
            pytest.param([], "the stages end at layer 0, the model at layer 6", id="no stage"),
            pytest.param(
                [stage("a", 0, 3), stage("b", 2, 6)],
                "layer 2 is assigned twice: stage 1 on 'b' starts at layer 2",
                id="an overlap",
            ),
            pytest.param(
                [stage("b", 3, 6), stage("a", 0, 3)],
                "layer 0 is not assigned: stage 0 on 'b' starts at layer 3",
                id="the wrong order",
            ),
            pytest.param(
                [stage("a", 0, 7)],
                "the stages end at layer 7, the model at layer 6",
                id="a layer too many",
            ),
            pytest.param(
                [stage("a", 0, 3), stage("b", 3, 3), stage("c", 3, 6)],
                "stage 1 on 'b' holds no layer: [3, 3)",
                id="an empty stage",
            ),
            pytest.param(
                [stage("a", 0, 3), stage("b", 3, 1)],
                "stage 1 on 'b' holds no layer: [3, 1)",
                id="a stage that ends before it starts",
            ),
            pytest.param(
                [Stage("a", 0, 6, ("fp32",) * 5)],
                "stage 0 on 'a' has 5 schemes for 6 layers",
                id="a scheme too few",
            ),
            pytest.param(
                [Stage("a", 0, 6, ("fp32",) * 7)],
                "stage 0 on 'a' has 7 schemes for 6 layers",
                id="a scheme too many",
            ),
        ],
    )
    def test_stages_that_do_not_tile_the_model_are_refused(
        self, stages: list[Stage], message: str
    ) -> None:
        with pytest.raises(PlanError) as caught:
            plan(*stages)
        assert str(caught.value) == message

    def test_an_unknown_scheme_is_refused(self) -> None:
        with pytest.raises(SchemeError) as caught:
            plan(stage("a", 0, 5), stage("b", 5, 6, "int3"))
        assert str(caught.value) == f"unknown scheme 'int3'; known schemes: {KNOWN}"

    @quickly
    @given(plans())
    def test_every_layer_is_in_exactly_one_stage(self, made: Plan) -> None:
        held = [layer for s in made.stages for layer in range(s.start, s.end)]
        assert held == list(range(made.num_layers))
        assert len(made.schemes) == made.num_layers
        assert set(made.devices) == {s.device for s in made.stages}
        assert len(made.devices) == len(set(made.devices))

    @quickly
    @given(plans(), st.data())
    def test_moving_any_one_bound_breaks_it(self, made: Plan, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(made.stages) - 1))
        bound = data.draw(st.sampled_from(["start", "end"]))
        moved = data.draw(st.integers(-1, made.num_layers + 1))
        old = made.stages[number]
        changed = dataclasses.replace(old, **{bound: moved})
        changed = dataclasses.replace(changed, schemes=("fp32",) * (changed.end - changed.start))
        stages = (*made.stages[:number], changed, *made.stages[number + 1 :])
        if getattr(old, bound) == moved:
            dataclasses.replace(made, stages=stages)
        else:
            with pytest.raises(PlanError):
                dataclasses.replace(made, stages=stages)


class TestCheck:
    block = LayerSpec(LayerKind.BLOCK, ((4, 4),), 0)
    ends = tuple(LayerSpec(kind, ((9, 4),), 0) for kind in (LayerKind.EMBEDDING, LayerKind.HEAD))
    model = ModelSpec("tiny", (ends[0], block, ends[1]), 4, 9, 32, tied=False)
    larger = ModelSpec("large", (ends[0], block, block, ends[1]), 4, 9, 32, tied=False)
    cluster = Cluster((Device("a", 1), Device("b", 1)), (), "a")

    def plan(self, *devices: str) -> Plan:
        stages = tuple(stage(device, i, i + 1) for i, device in enumerate(devices))
        return Plan("tiny", self.model.digest, 3, stages)

    def test_the_model_and_devices_it_was_made_for_pass(self) -> None:
        self.plan("a", "b", "a").check(self.model, self.cluster)

    def test_the_models_name_does_not_matter(self) -> None:
        renamed = dataclasses.replace(self.model, name="same shape, other weights")
        self.plan("a", "b", "a").check(renamed, self.cluster)

    def test_another_model_is_refused(self) -> None:
        with pytest.raises(PlanError) as caught:
            self.plan("a", "b", "a").check(self.larger, self.cluster)
        assert str(caught.value) == (
            f"this plan is for model 'tiny' (3 layers, shape {self.model.digest}), not for "
            f"'large' (4 layers, shape {self.larger.digest}); make a new plan"
        )

    def test_other_devices_are_refused(self) -> None:
        with pytest.raises(PlanError) as caught:
            self.plan("a", "c", "b").check(self.model, self.cluster)
        assert str(caught.value) == (
            "this plan is for other devices: unknown device 'c'; devices: a, b"
        )

    def test_a_plan_of_another_length_is_refused_though_its_digest_is_right(self) -> None:
        short = Plan("tiny", self.model.digest, 2, (stage("a", 0, 2),))
        with pytest.raises(PlanError):
            short.check(self.model, self.cluster)


GOOD: dict[str, Any] = {
    "version": 2,
    "model": "tiny",
    "digest": "abc123",
    "num_layers": 2,
    "stages": [
        {"device": "a", "start": 0, "end": 1, "schemes": ["fp32"]},
        {"device": "b", "start": 1, "end": 2, "schemes": ["bf16"]},
    ],
}
KEYS = "version, model, digest, num_layers, stages, rounding, cache, wire"
Edit = Callable[[dict[str, Any]], object]


class TestFile:
    def edited(self, edit: Edit) -> str:
        document = json.loads(json.dumps(GOOD))
        edit(document)
        return json.dumps(document)

    def message(self, text: str) -> str:
        with pytest.raises(PlanError) as caught:
            Plan.from_json(text, "p.json")
        assert caught.value.exit_code == 2
        return str(caught.value)

    @quickly
    @given(plans())
    def test_a_plan_survives_json(self, made: Plan) -> None:
        assert Plan.from_json(made.to_json()) == made

    def test_a_plan_survives_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(GOOD), encoding="utf-8")
        assert Plan.load(path) == plan(stage("a", 0, 1), stage("b", 1, 2, "bf16"), num_layers=2)

    def test_a_cache_in_8_bits_is_kept_in_the_file(self) -> None:
        text = self.edited(lambda d: d.update(cache="int8"))
        made = Plan.from_json(text)
        assert made.cache is CacheType.INT8
        assert Plan.from_json(made.to_json()) == made
        assert json.loads(made.to_json())["cache"] == "int8"

    def test_what_links_carry_is_kept_in_the_file(self) -> None:
        assert Plan.from_json(json.dumps(GOOD)).wire is Wire.FP32
        made = Plan.from_json(self.edited(lambda d: d.update(wire="bf16")))
        assert made.wire is Wire.BF16
        assert Plan.from_json(made.to_json()) == made
        assert "unknown wire 'int3'" in self.message(self.edited(lambda d: d.update(wire="int3")))

    def test_inputs_are_rounded_where_another_device_goes_on(self) -> None:
        stages = [stage("a", 0, 2), stage("a", 2, 3), stage("b", 3, 4), stage("a", 4, 5)]
        made = plan(*stages, num_layers=5)
        assert made.rounded == {}
        rounding = dataclasses.replace(made, wire=Wire.INT8)
        assert rounding.rounded == {3: Wire.INT8, 4: Wire.INT8}

    def test_the_format_is_the_documented_one(self) -> None:
        made = plan(stage("a", 0, 1), stage("b", 1, 2, "bf16"), num_layers=2)
        assert json.loads(made.to_json()) == GOOD

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            pytest.param(
                lambda d: d.update(author="me"),
                f"p.json: unknown key 'author'; known keys: {KEYS}",
                id="an unknown key",
            ),
            pytest.param(
                lambda d: d.pop("digest"), "p.json: key 'digest' is missing", id="a missing key"
            ),
            pytest.param(
                lambda d: d.update(version=1),
                "p.json: version 1, but this Edgewise reads 2; "
                "make a new plan with `edgewise plan`",
                id="another version",
            ),
            pytest.param(
                lambda d: d["stages"][1].update(start=0),
                "p.json: layer 0 is assigned twice: stage 1 on 'b' starts at layer 0",
                id="an overlap",
            ),
            pytest.param(
                lambda d: d["stages"][1].update(schemes=["int3"]),
                f"p.json: unknown scheme 'int3'; known schemes: {KNOWN}",
                id="an unknown scheme",
            ),
            pytest.param(
                lambda d: d.update(cache="int3"),
                "p.json: unknown cache 'int3'; known caches: full, int8",
                id="an unknown cache",
            ),
            pytest.param(
                lambda d: d.update(num_layers=3),
                "p.json: the stages end at layer 2, the model at layer 3",
                id="another number of layers",
            ),
        ],
    )
    def test_a_bad_file_is_refused_with_its_name_and_the_reason(
        self, edit: Edit, message: str
    ) -> None:
        assert self.message(self.edited(edit)) == message

    @pytest.mark.parametrize(
        "edit",
        [
            lambda d: d.update(stages=5),
            lambda d: d.update(stages=[5]),
            lambda d: d.update(stages=None),
            lambda d: d.update(num_layers="2"),
            lambda d: d["stages"][0].update(start="0"),
            lambda d: d["stages"][0].update(schemes=1),
            lambda d: d["stages"][0].update(schemes=[["fp32"]]),
            lambda d: d["stages"][0].update(schemes="fp32"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_refused_with_the_files_name(self, edit: Edit) -> None:
        assert self.message(self.edited(edit)).startswith("p.json: ")

    @pytest.mark.parametrize(
        "edit",
        [
            pytest.param(lambda d: d["stages"][0].update(device=["a"]), id="a list for a device"),
            pytest.param(lambda d: d["stages"][0].update(start=0.0), id="a fraction for a layer"),
            pytest.param(lambda d: d.update(model=5), id="a number for a model"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_refused_at_once(self, edit: Edit) -> None:
        assert self.message(self.edited(edit)).startswith("p.json: ")

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            (
                "schemas",
                "stage: unknown key 'schemas'; known keys: device, start, end, schemes, streamed",
            ),
            ("", "stage: key 'end' is missing"),
        ],
    )
    def test_a_bad_stage_is_refused_with_the_files_name_once(self, key: str, message: str) -> None:
        def edit(document: dict[str, Any]) -> None:
            if key:
                document["stages"][0][key] = 1
            else:
                del document["stages"][0]["end"]

        assert self.message(self.edited(edit)) == f"p.json: {message}"

    def test_text_that_is_not_json_is_refused_with_the_place(self) -> None:
        assert self.message('{"version": 1') == (
            "p.json: not JSON: Expecting ',' delimiter: line 1 column 14 (char 13)"
        )

    def test_json_that_is_no_object_is_refused(self) -> None:
        assert self.message("[1]") == "p.json is not a JSON object"

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        with pytest.raises(PlanError) as caught:
            Plan.load(path)
        assert str(caught.value) == f"cannot read plan {path}: No such file or directory"

    def test_a_file_that_is_not_text_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "plan.json"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(PlanError, match=r"plan\.json"):
            Plan.load(path)
