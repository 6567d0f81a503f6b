"""A model's shape as a text: the same model on the other side, or a ModelError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import ModelError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.shape import ModelShape
from edgewise.models.shard import random_shard
from tests.conftest import FAMILIES
from tests.models.gguf_files import small_model, write_gguf
from tests.models.test_gguf import mixed


@pytest.fixture(params=[*FAMILIES, "gguf"])
def model(request, checkpoint, tmp_path):
    if request.param == "gguf":
        return open_checkpoint(write_gguf(tmp_path / "m.gguf", small_model(), mixed))
    return open_checkpoint(checkpoint(request.param))


def test_the_text_says_all(model):
    shape = ModelShape.from_json(ModelShape.of(model).to_json())
    assert shape.config == model.config
    assert shape.spec == model.spec
    assert shape.spec.digest == model.spec.digest


def test_layers_of_the_shape_can_be_timed(tmp_path):
    model = open_checkpoint(write_gguf(tmp_path / "m.gguf", small_model(), mixed))
    shape = ModelShape.from_json(ModelShape.of(model).to_json())
    room = {"device": "cpu", "slots": 1, "context": 8}
    made = random_shard(shape.config, 1, 4, "stored", spec=shape.spec, **room)
    wanted = random_shard(model.config, 1, 4, "stored", spec=model.spec, **room)
    assert made.weight_bytes == wanted.weight_bytes


TEXT = ModelShape(
    "m",
    DecoderConfig.from_dict(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 97,
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        }
    ),
    "bf16",
).to_json()
KEYS = json.loads(TEXT)["config"]


CHANGES = [(key, change) for key in KEYS for change in ("left out", [], {"no": 1}, -1.5)]


@pytest.mark.parametrize(("key", "change"), [x for x in CHANGES if x != ("mlp_blocks", [])])
def test_every_key_is_asked_for_and_checked(key, change):
    document = json.loads(TEXT)
    if change == "left out":
        del document["config"][key]
    else:
        document["config"][key] = change
    with pytest.raises(ModelError, match="a model's shape: "):
        ModelShape.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("where", "key", "setting"),
    [
        ("config", "more", 1),
        ("config", "tied", 1),
        ("config", "vocab_size", 0),
        ("config", "vocab_size", True),
        ("config", "num_heads", 3),
        ("config", "norm", "batch"),
        ("config", "activation", "exec"),
        ("config", "names", "../llama"),
        ("config", "windows", [None]),
        ("config", "windows", [None, 0]),
        ("config", "mlp_blocks", [2]),
        ("config", "mlp_blocks", [0, 0]),
        ("config", "mlp_blocks", [True]),
        ("config", "embed_size", 0),
        ("config", "position_offset", -1),
        ("", "more", 1),
        ("", "compute", "q4g64"),
        ("", "stored", [[]]),
        ("", "stored", [[[[97, "q4g64"]]], *[[[]] * 4] * 2, [[[97, "q4g64"]]]]),
        ("", "stored", [[[[97, "stored"]]]] * 4),
    ],
)
def test_what_cannot_be_is_refused(where, key, setting):
    document = json.loads(TEXT)
    (document[where] if where else document)[key] = setting
    with pytest.raises(ModelError, match="a model's shape: "):
        ModelShape.from_json(json.dumps(document))


@given(st.text(max_size=30) | st.integers(0, len(TEXT) - 1).map(lambda n: TEXT[:n]))
def test_other_texts_are_refused(text):
    with pytest.raises(ModelError, match="a model's shape: "):
        ModelShape.from_json(text)


def test_long_texts_are_refused():
    with pytest.raises(ModelError, match="refused"):
        ModelShape.from_json(TEXT + " " * 2**20)
