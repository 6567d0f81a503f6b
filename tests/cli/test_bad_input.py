"""Bad input: the exact message and the exit code, before any process starts."""

import json

import pytest

from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage

TWO = """
source = "a"
[[device]]
name = "a"
memory = {memory}
{extra}
[[device]]
name = "b"
memory = "1 GB"
[[link]]
between = ["a", "b"]
"""


@pytest.fixture
def fails(command):
    """Call a command that must fail with exit code 2 and return its message."""

    def call(*arguments):
        result = command(*arguments)
        assert result.code == 2
        assert result.out == ""
        assert result.err.startswith("error: ")
        return result.err.removeprefix("error: ").rstrip("\n")

    return call


@pytest.fixture
def cluster_file(tmp_path):
    def write(memory='"1 GB"', extra=""):
        path = tmp_path / "cluster.toml"
        path.write_text(TWO.format(memory=memory, extra=extra))
        return path

    return write


def test_missing_folder(fails, tmp_path):
    folder = tmp_path / "nothing" / "here"
    assert fails("run", folder, "hello") == f"{folder}: no such folder"


def test_not_a_checkpoint(fails, tmp_path):
    assert fails("run", tmp_path, "hello") == (
        f"{tmp_path}: not a model folder: config.json is missing"
    )


def test_a_file_instead_of_a_folder(fails, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert fails("run", file, "hello") == (
        f"{file}: is a file, and no .gguf one; give the folder that holds config.json"
    )


def test_unsupported_architecture(fails, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert fails("run", tmp_path, "hello") == (
        f"{tmp_path}/config.json: unsupported architecture BertModel; supported: LlamaForCausalLM, "
        "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, OPTForCausalLM"
    )


def test_corrupt_safetensors(fails, tmp_path, checkpoint):
    (tmp_path / "config.json").write_bytes((checkpoint("llama") / "config.json").read_bytes())
    weights = (checkpoint("llama") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    message = fails("run", tmp_path, "hello")
    assert message == (
        f"{tmp_path}/model.safetensors: corrupt or truncated safetensors file: "
        "Error while deserializing header: incomplete metadata, file not fully covered"
    )


def test_unknown_scheme(fails):
    message = (
        "unknown scheme 'q17'; known schemes: fp32, bf16, fp16, q4g64 (2, 3, 4, 5, 6 or 8 bits, "
        "groups of 16, 32, 64 or 128; q4g64a is asymmetric, q4g32d has its scales quantized too, "
        "q4g32ds keeps two of every four weights), "
        "4bit (a recipe; 2, 3, 5, 6, 8 too), stored (as the checkpoint has it), "
        "t8 (truncated: 4, 6, ... 16 bits)"
    )
    assert fails("run", "demo", "hello", "--scheme", "q17") == message


def test_cluster_file_with_an_unknown_key(fails, cluster_file):
    path = cluster_file(extra="memmory = 3")
    assert fails("run", "demo", "hello", "--cluster", path) == (
        f"{path}: device 1: unknown key 'memmory'; "
        "known keys: name, memory, threads, slowdown, processor, interface, disk, count"
    )


def test_negative_memory(fails, cluster_file):
    path = cluster_file(memory='"-1 GB"')
    assert fails("run", "demo", "hello", "--cluster", path) == (
        f"{path}: device 'a': memory must be positive, not -1000000000 bytes"
    )


def test_missing_cluster_file(fails, tmp_path):
    path = tmp_path / "none.toml"
    assert fails("devices", "--cluster", path) == (
        f"cannot read cluster file {path}: No such file or directory"
    )


def test_a_plan_for_another_model(fails, tmp_path, checkpoint):
    other = open_checkpoint(checkpoint("llama")).spec
    stage = Stage("local", 0, other.num_layers, ("fp32",) * other.num_layers)
    path = tmp_path / "plan.json"
    path.write_text(Plan("tiny", other.digest, other.num_layers, (stage,)).to_json())
    demo = open_checkpoint("demo").spec
    assert fails("run", "demo", "hello", "--plan", path) == (
        f"this plan is for model 'tiny' (6 layers, shape {other.digest}), not for 'demo' "
        f"({demo.num_layers} layers, shape {demo.digest}); make a new plan"
    )


def test_a_plan_for_other_devices(fails, tmp_path):
    spec = open_checkpoint("demo").spec
    stage = Stage("nas", 0, spec.num_layers, ("fp32",) * spec.num_layers)
    path = tmp_path / "plan.json"
    path.write_text(Plan("demo", spec.digest, spec.num_layers, (stage,)).to_json())
    assert fails("run", "demo", "hello", "--plan", path) == (
        "this plan is for other devices: unknown device 'nas'; devices: local"
    )


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(fails, prompt):
    assert fails("run", "demo", prompt) == "the prompt is empty"


def test_a_prompt_longer_than_the_context(fails):
    message = fails("run", "demo", "7" * 600, "--raw")
    assert message == (
        "the prompt has 600 tokens, but 'demo' has a context of 512, answer included; "
        "shorten it by at least 89"
    )


def test_more_tokens_than_the_context_has_room_for(fails):
    assert fails("run", "demo", "7" * 500, "--raw", "--max-tokens", 20) == (
        "prompt and answer need 500 + 20 tokens, but 'demo' has a context of 512; "
        "ask for at most 12"
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperature", "-1", "temperature must be zero or more, not -1.0"),
        ("--top-p", "1.5", "top-p must be above 0 and at most 1, not 1.5"),
        ("--max-tokens", "0", "max tokens must be at least 1, not 0"),
    ],
)
def test_sampling_out_of_range(fails, option, value, message):
    assert fails("run", "demo", "hello", option, value) == message


def test_an_unknown_option_and_command(fails):
    assert fails("run", "demo", "hello", "--tempreature", "1").startswith("No such option: --temp")
    assert fails("demoo").startswith("No such command 'demoo'")


def test_json_errors_are_json(command, tmp_path):
    result = command("run", tmp_path, "hello", "--json")
    assert result.code == 2
    assert json.loads(result.out) == {
        "error": {
            "type": "ModelError",
            "message": f"{tmp_path}: not a model folder: config.json is missing",
            "exit_code": 2,
        }
    }


def test_a_model_that_fits_nowhere(command, cluster_file):
    path = cluster_file(memory='"1 MB"')
    path.write_text(path.read_text().replace('"1 GB"', '"1 MB"'))
    result = command("run", "demo", "hello", "--cluster", path)
    assert result.code == 3
    assert "in 2bit, but the devices have 2 MB" in result.err
    result = command("run", "demo", "hello", "--cluster", path, "--scheme", "fp32")
    assert result.code == 3
    assert "in fp32, but the devices have 2 MB" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scheme", "4bit", "--quality", "1%"), "give one of them"),
        (("--quality", "a lot"), "neither like '1%' nor like '0.02'"),
        (("--scheme", "7bit"), "7bit"),
        (("--quality", "1%", "--wire", "int8"), "--quality cannot be promised with it"),
    ],
)
@pytest.mark.parametrize("how", ["serve", "up"])
def test_what_serves_is_decided_once(fails, how, options, words):
    assert words in fails(how, "demo", *options)


def test_devices_are_named_once(fails, cluster_file):
    named = ("--cluster", cluster_file(), "--address", "127.0.0.1:6379")
    assert "--cluster and --address" in fails("serve", "demo", *named)


@pytest.mark.parametrize("address", ["nonsense", "local", "auto"])
def test_a_ray_cluster_is_at_an_address(fails, address):
    assert f"--address: '{address}'" in fails("serve", "demo", "--address", address)


def test_a_token_may_come_from_the_environment(fails, monkeypatch):
    """Where no other user of the machine can read it."""
    assert "--token" in fails("join", "127.0.0.1:1")
    monkeypatch.setenv("EDGEWISE_TOKEN", "short")
    assert "this is not a token" in fails("join", "127.0.0.1:1")
