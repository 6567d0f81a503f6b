"""Commands under bad luck: no cache, no UTF-8, contradictory wishes, files of other kinds."""

import contextlib
import io
import json
import sys
from dataclasses import replace

import pytest

from edgewise import caches, kernels
from edgewise.cli.pins import parse_pins
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster, Device
from edgewise.costs import CostModel
from edgewise.errors import ClusterError, InputError, PlanError, ProfileError
from edgewise.kernels.library import VARIABLE, library
from edgewise.memory import HEADROOM
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.default_scheme import needed_bytes
from edgewise.opening.profile import cached_profile
from edgewise.plans import Plan
from edgewise.profiles import DeviceReading, Profile
from edgewise.quality.calibration import Calibration
from edgewise.quality.examples import load_examples
from edgewise.quality.statistics import statistics_key
from edgewise.runtime.machine import machine_name
from edgewise.sensitivities import Sensitivity
from edgewise.simulation.rooflines import Roofline, load_rooflines, make_profile
from edgewise.specs import Workload
from tests.seeds import cases

FEW = ("--sequences", "1", "--length", "16")
ONE = 'source = "a"\n[[device]]\nname = "a"\nmemory = "1 GB"\n'


UNKEPT = [("sensitivity", *FEW, "--schemes", "q4g64"), ("profile",)]


@pytest.mark.parametrize("wanted", cases(UNKEPT[:1], UNKEPT))
def test_a_measurement_that_cannot_be_kept_is_made(command, monkeypatch, tmp_path, wanted):
    (tmp_path / "one.toml").write_text(ONE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    name, *options = wanted
    if name == "profile":
        options = ["--cluster", tmp_path / "one.toml", "--schemes", "bf16"]
    result = command(name, "demo", *options, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert (document["cached"], document["path"]) == (False, None)


def test_quantizing_for_later_needs_a_place(command, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    result = command("quantize", "demo", *FEW, "--schemes", "q2g64")
    assert result.code == 2
    assert "no folder to keep layers by gptq in: set XDG_CACHE_HOME" in result.err


@pytest.mark.parametrize("asked", [("run", "demo", "-"), ("chat", "demo")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_standard_input_that_is_no_text(command, monkeypatch, encoding, asked):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding))
    result = command(*asked)
    assert result.code == 2
    assert "error: standard input is not text in the terminal's encoding: " in result.err


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c"])
def test_only_newlines_end_lines(tmp_path, character):
    path = tmp_path / "data.jsonl"
    row = {"prompt": f"a{character}b", "answer": "c"}
    escaped = character in "\x0c\x1c"  # which JSON wants escaped
    path.write_text("\n".join([json.dumps(row, ensure_ascii=escaped)] * 2) + "\r\n", "utf-8")
    assert [x.prompt for x in load_examples(path, 9)] == [row["prompt"]] * 2


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (("1=a", "1=b"), "pin '1=b': layer 1 is pinned to 'a' already"),
        (("0-3=a", "2-5=b"), "pin '2-5=b': layer 2 is pinned to 'a' already"),
        (("head=b", "9=a"), "pin '9=a': layer 9 is pinned to 'b' already"),
    ],
)
def test_contradictory_pins(pins, message):
    with pytest.raises(PlanError) as error:
        parse_pins(pins, 10)
    assert str(error.value) == message


def test_a_layer_is_pinned_once_even_to_the_same_device():
    with pytest.raises(PlanError, match="layer 2 is pinned to 'a' already"):
        parse_pins(("0-3=a", "2=a"), 10)


@pytest.mark.parametrize(
    ("source", "key"),
    [('["a"]', "source"), ("{}", "source"), ("true", "source"), ("1979-05-27", "source")],
)
def test_a_source_of_another_type_is_named(tmp_path, source, key):
    path = tmp_path / "c.toml"
    path.write_text(ONE.replace('"a"', source, 1))
    with pytest.raises(ClusterError, match=f"key '{key}' has the wrong type"):
        load_cluster(path)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 5000,
        b"source = '\xff'",
        "x = " + "1" * 5000,
        'source = "a"\n[[device]]\nname = [1]',
    ],
)
def test_toml_that_cannot_be_read_is_named(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClusterError, match=r"c\.toml: "):
        load_cluster(path)
    with pytest.raises(ProfileError, match=r"c\.toml: "):
        load_rooflines(path)


@pytest.mark.parametrize("read", [Plan.load, Profile.load, Sensitivity.load])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"version": ' + b"1" * 5000 + b"}", b"\xff"])
def test_json_that_python_cannot_read_is_named(tmp_path, read, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: "):
        read(path)


def test_plans_use_the_schemes_of_a_sensitivity(command, profiled, tmp_path):
    (tmp_path / "one.toml").write_text(ONE)
    file = tmp_path / "s.json"
    names = ["q8g64", "bf16"]
    asked = ("sensitivity", "demo", *FEW, "--schemes", ",".join(names), "--out", file)
    assert command(*asked).code == 0
    asked = ("plan", "demo", "--cluster", tmp_path / "one.toml", "--sensitivity", file, "--json")
    result = command(*asked, "--profile", profiled(["q4g64", *names], ["a"]))
    assert result.code == 0, result.err
    (chosen,) = json.loads(result.out)["plans"]
    assert set(chosen["stages"][0]["schemes"]) <= set(names)


def test_a_user_without_a_home_can_run(command, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert caches.cache_folder("profiles") is None
    result = command("run", "demo", "hello", "--max-tokens", 2)
    assert result.code == 0, result.err


@pytest.fixture
def profiled_again(monkeypatch, tmp_path):
    """Whether a profile of the demo model on one device of so many bytes is measured, or comes from
    the cache. Nothing is timed: that takes long, and is not what is asked here."""
    spec = open_checkpoint("demo").spec
    profile = make_profile(spec, [Roofline("a", 1e11, 1e9)], ["fp32"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("edgewise.opening.profile.measure_cluster", lambda *_: profile)
    monkeypatch.setattr("edgewise.opening.profile.start_local", contextlib.nullcontext)

    def call(schemes=("fp32",), memory_bytes=10**9, **how):
        cluster = Cluster((Device("a", memory_bytes),), (), "a")
        return not cached_profile("demo", spec, cluster, schemes, **how)[2]

    return call


def test_a_profile_is_of_the_code_that_was_timed(profiled_again, monkeypatch):
    assert profiled_again()
    assert not profiled_again()
    monkeypatch.setattr(kernels, "library_digest", lambda: "built anew")
    assert profiled_again()
    monkeypatch.setattr("edgewise.runtime.machine.__version__", "9.9")
    assert profiled_again()
    assert profiled_again(schemes=("fp32", "bf16"))
    assert not profiled_again(memory_bytes=10**8)  # seconds do not depend on it


def test_a_fresh_profile_forgets_what_runs_measured(profiled_again, tmp_path):
    assert profiled_again()
    (kept,) = (tmp_path / "edgewise" / "profiles").rglob("*.json")
    (others := kept.with_name("a run's.json")).write_text("{}")
    assert not profiled_again() and others.exists()
    assert profiled_again(fresh=True)
    assert kept.exists() and not others.exists()


@pytest.mark.parametrize("wanted", ["off", "portable"])
def test_other_kernels_are_measured_by_themselves(profiled_again, monkeypatch, wanted):
    used = kernels.instruction_set()
    if used in (None, wanted):
        pytest.skip("there are no other kernels to choose from")
    assert profiled_again()
    try:
        monkeypatch.setenv(VARIABLE, wanted)
        library.cache_clear()
        assert kernels.instruction_set() == (None if wanted == "off" else wanted)
        assert profiled_again()
        assert not profiled_again()
    finally:
        monkeypatch.delenv(VARIABLE)
        library.cache_clear()
        kernels.use(used)
    assert not profiled_again()


def test_free_memory_is_read_when_a_kept_profile_is_used(profiled_again, monkeypatch, tmp_path):
    spec, cluster = open_checkpoint("demo").spec, Cluster((Device("a", 10**9),), (), "a")
    asked = "demo", spec, cluster, ("fp32",)
    here = DeviceReading("a", 0.0, 10**8, machine_name(), 10**7)
    profile = replace(make_profile(spec, [Roofline("a", 1e11, 1e9)], ["fp32"]), devices=(here,))
    monkeypatch.setattr("edgewise.opening.profile.measure_cluster", lambda *_: profile)
    cached_profile(*asked)
    monkeypatch.setattr("edgewise.opening.profile.free_bytes", lambda: 3 * 10**7)
    again, path, cached = cached_profile(*asked)
    assert cached
    limit = CostModel(spec, cluster, again, Workload()).memory_limit("a")
    assert limit == round(2 * 10**7 * (1 - HEADROOM))
    path.write_text(replace(profile, devices=(replace(here, machine="other"),)).to_json())
    assert cached_profile(*asked)[0].devices[0].free_bytes == 10**8


def test_a_run_on_this_machine_leaves_a_tenth_of_its_memory_free(command, monkeypatch):
    """With memory for something between 4 bits and all of the file's, less what a worker takes."""
    spec, work = open_checkpoint("demo").spec, Workload(16, 8)
    all_bits, few = (needed_bytes(spec, name, work, 1) for name in ("stored", "4bit"))
    process = 10**8
    free = round((all_bits + few) / 2 / (1 - HEADROOM)) + process
    reading = DeviceReading("local", 0.0, free, "here", process)
    monkeypatch.setattr("edgewise.opening.by_fit.read_memory", lambda devices: (reading,))
    asked = ("run", "demo", "Hello", "--max-tokens", "2", "--json")
    result = command(*asked, "--scheme", "stored")
    assert result.code == 3
    assert "for weights, cache and workspace but would need" in result.err
    result = command(*asked)
    assert result.code == 0, result.err
    schemes = json.loads(result.out)["plan"]["stages"][0]["schemes"]
    assert set(schemes) not in ({"stored"}, {"fp32"})


def test_what_gptq_looked_at_is_in_its_name(command, tmp_path, monkeypatch):
    """Layers quantized on other text are others, and each is asked for by its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = tmp_path / "text.txt"
    names = {}
    for content in ("one two three " * 99, "four five six  " * 99):
        text.write_text(content)
        asked = ("quantize", "demo", *FEW, "--text", text, "--schemes", "q2g64", "--json")
        first, second = (json.loads(command(*asked).out) for _ in range(2))
        assert (first["made"] > 0, second["made"]) == (True, 0)
        names[content] = first["rounding"]
        key = statistics_key("demo", Calibration(str(text), 1, 16, 1))
        assert first["rounding"] == f"gptq:{key}"
    assert len(set(names.values())) == 2
    result = command("evaluate", "demo", "--scheme", "q2g64", "--limit", "1", "--json",
                     "--rounding", names.popitem()[1])  # fmt: skip
    assert result.code == 0, result.err
