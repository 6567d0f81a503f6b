"""Tokenizers, templates and the hub: whatever they raise, or would run, is ours to say."""

import json
import shutil
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from edgewise.demo import MODEL_FOLDER
from edgewise.errors import EdgewiseError, ModelError, PromptError
from edgewise.models import hub
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def folder(tmp_path):
    """The demo model, with files that a test may change."""
    path = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, path)

    def edit(name, **changes):
        document = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(document | changes))
        return path

    return edit


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('one turn only') }}", "one turn only"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for %}", "Expected"),
        ("{{ messages | nosuchfilter }}", "nosuchfilter"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_a_template_says_why_it_fails(folder, template, words):
    path = folder("tokenizer_config.json", chat_template=template)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(PromptError, match="chat template does not take") as error:
        load_tokenizer(path).encode_chat(HELLO)
    assert words in str(error.value)
    assert "--raw" in str(error.value)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"version": "9"}', b"\xff\xfe", b"", b'{"model": null}']
)
def test_a_damaged_tokenizer_is_named(folder, content):
    path = folder("tokenizer_config.json")
    (path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"the tokenizer in .* does not load: .+"):
        load_tokenizer(path)


@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
def test_code_beside_a_model_does_not_run(folder, monkeypatch, tmp_path, where):
    """Neither the tokenizer's nor the model's, nor is anybody asked."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    mark = tmp_path / "ran"
    code = {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own", "AutoModel": "own.Own"}
    path = folder(where, auto_map=code, tokenizer_class="Own")
    (path / "own.py").write_text(f"open({str(mark)!r}, 'w')\n\nclass Own: pass\n")
    open_checkpoint(path)
    try:
        load_tokenizer(path).encode("hello")
    except EdgewiseError as error:
        assert "Own" in str(error) or "code" in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d alone"])
def test_half_characters_are_refused(text):
    tokenizer = load_tokenizer("demo")
    with pytest.raises(PromptError, match="not UTF-8 text: character"):
        tokenizer.encode(text)
    with pytest.raises(PromptError, match="not UTF-8 text"):
        tokenizer.encode_chat([{"role": "user", "content": text}])


class TestTheHub:
    COMMIT = "a" * 40

    @pytest.fixture
    def cached(self, tmp_path, monkeypatch):
        """The hub's cache with the demo model in it, as a download leaves it, and no network."""
        repository = tmp_path / "models--org--tiny"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(self.COMMIT)
        shutil.copytree(MODEL_FOLDER, repository / "snapshots" / self.COMMIT)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "_unreachable", set())
        calls = []

        def unreachable(url, **kwargs):
            calls.append(url)
            raise ConnectionError("no route to host")

        monkeypatch.setattr(hub.library, "get_hf_file_metadata", unreachable)
        return calls

    def test_what_is_cached_needs_no_network(self, cached):
        began = time.monotonic()
        checkpoint = open_checkpoint("org/tiny")
        checkpoint.read("model.norm.weight")
        load_tokenizer("org/tiny")
        assert len(cached) <= 1  # for a file that the model may not have
        assert time.monotonic() - began < 60

    def test_missing_files_come_from_the_same_revision(self, cached, monkeypatch):
        asked = []
        monkeypatch.setattr(hub.library, "get_hf_file_metadata", lambda url, **kwargs: None)

        def download(model, name, revision):
            asked.append((name, revision))
            raise huggingface_hub.errors.EntryNotFoundError("no such file")

        monkeypatch.setattr(hub.library, "hf_hub_download", download)
        with pytest.raises(FileNotFoundError):
            hub.hub_file("org/tiny", "extra.json")
        assert asked == [("extra.json", self.COMMIT)]

    @pytest.mark.parametrize("error", [RuntimeError("odd"), ConnectionError("down"), OSError(28)])
    def test_whatever_a_download_raises_is_ours(self, cached, monkeypatch, error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr(hub.library, "hf_hub_download", download)
        with pytest.raises(ModelError, match="org/other: no such folder, and not on the hub"):
            open_checkpoint("org/other")
