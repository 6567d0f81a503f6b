"""Adapters at the front door: by name, beside each other, coming and going under load, refused."""

import concurrent.futures
import json
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import openai
import pytest
import safetensors.torch
from openai import OpenAI

from edgewise.adapters.files import CONFIG, EXITS, WEIGHTS
from edgewise.models.tokenizer import load_tokenizer
from tests.adapters.made import write_adapter
from tests.adapters.windows import judged_answer, write_windows
from tests.hosting.clusters import EDGEWISE, commands
from tests.hosting.test_up import HERE, SMALL
from tests.serving.test_served import CLUSTER, SERVE, SHORT, TEXTS, state_of, wait_until_ready

MODEL = "demo"
ROOM = ("--sequences", "8")
LARGER = CLUSTER.replace("20 MB", "26 MB")  # still none of them holds the model


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder of adapters, and others outside of it."""
    folder = tmp_path_factory.mktemp("shelf")
    for number, kind in enumerate(("lora", "private", "lora")):
        write_adapter(folder / "shelf" / f"a{number}", MODEL, kind=kind, seed=number, size=1.0)
    write_adapter(folder / "elsewhere", MODEL)
    (folder / "shelf" / "link").symlink_to(folder / "elsewhere")
    return folder / "shelf"


@pytest.fixture(scope="module")
def url(tmp_path_factory, shelf):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "cluster.toml").write_text(LARGER)
    options = ("--adapter", f"one={shelf / 'a0'}", "--adapters-from", str(shelf))
    with commands(folder) as started:
        where = ("--cluster", str(folder / "cluster.toml"), "--adapter-room", "4 MB")
        running = started.start(*SERVE, *SHORT, *ROOM, *where, *options)
        address = str(running.wait_for("url")["url"])
        wait_until_ready(address)
        yield address
        assert running.end(signal.SIGTERM) == 0


@pytest.fixture
def client(url):
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def post(url, path, **body):
    """Status and text."""
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused as error:
            return error.code, json.loads(error.read())["error"]["message"]


def load(url, name, path, **options):
    return post(url, "load_lora_adapter", lora_name=name, lora_path=path, **options)


def unload(url, name):
    return post(url, "unload_lora_adapter", lora_name=name)


def said(client, adapter="", text=TEXTS[0], **options):
    model = f"{MODEL}:{adapter}" if adapter else MODEL
    asked = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore": 0}, **options}
    answer = client.completions.create(model=model, prompt=text, **asked)
    assert answer.model == model
    return answer.choices[0].text


def test_models_are_listed_and_named(client):
    ids = [card.id for card in client.models.list().data]
    assert ids == [MODEL, f"{MODEL}:one"]
    card = client.models.retrieve(f"{MODEL}:one")
    assert (card.id, card.parent) == (f"{MODEL}:one", MODEL)
    for name in ("other", f"{MODEL}:two", "one", f"{MODEL}:"):
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            client.models.retrieve(name)
        with pytest.raises(openai.NotFoundError, match=f"but '{MODEL}', '{MODEL}:one'"):
            client.completions.create(model=name, prompt="a")


def test_an_adapter_is_loaded_replaced_and_removed(client, url):
    plain, one = said(client), said(client, "one")
    assert plain != one
    assert load(url, "two", "a1") == (200, "Success: LoRA adapter 'two' added successfully.")
    two = said(client, "two")
    assert two not in (plain, one)
    assert load(url, "two", "a2") == (
        400,
        "there is an adapter 'two': load_inplace replaces it",
    )
    assert load(url, "two", "a2", load_inplace=True)[0] == 200
    assert said(client, "two") not in (plain, one, two)
    chat = client.chat.completions.create(
        model=f"{MODEL}:two", messages=[{"role": "user", "content": "a"}], max_tokens=2
    )
    assert chat.model == f"{MODEL}:two"
    assert unload(url, "two")[0] == 200
    assert unload(url, "two") == (404, "there is no adapter 'two'")
    with pytest.raises(openai.NotFoundError):
        said(client, "two")
    assert (said(client), said(client, "one")) == (plain, one)


def test_of_two_that_load_one_name_at_a_time_one_is_refused(url):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loads = list(pool.map(lambda _: load(url, "once", "a1"), range(8)))
    assert sorted(status for status, _ in loads) == [200, *[400] * 7]
    assert unload(url, "once")[0] == 200


def test_swaps_under_load_lose_nothing(client, url):
    """Each answer is one of the two that its name may mean; those of others stay as they are."""
    right = {"": {said(client)}, "one": {said(client, "one")}}
    both = set()
    for path in ("a1", "a2"):
        assert load(url, "changing", path, load_inplace=True)[0] == 200
        both.add(said(client, "changing"))
    right["changing"] = both
    swapping, swaps = threading.Event(), []

    def swap():
        while not swapping.is_set():
            path = ("a1", "a2")[len(swaps) % 2]
            swaps.append(load(url, "changing", path, load_inplace=True))

    thread = threading.Thread(target=swap)
    thread.start()
    names = ["", "one", "changing", "changing"] * 10
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: said(client, name), names))
    swapping.set()
    thread.join()
    assert all(answer in right[name] for name, answer in zip(names, answers, strict=True))
    assert len(both) == 2 and len(swaps) > 2 and {status for status, _ in swaps} == {200}
    assert unload(url, "changing")[0] == 200


def test_exits_vote_as_they_were_judged(tmp_path, client, url, shelf):
    """Those given at the start, and, where --vote was given, those that come later; a batch of
    them, too."""
    made = {
        name: write_windows(shelf / name, MODEL, size=0.3, window=window, seed=seed)
        for name, window, seed in (("early", 2, 5), ("later", 5, 2))
    }
    refused = load(url, "later", "later")
    assert refused[0] == 400 and refused[1].endswith("start with --vote")
    tokenizer, right = load_tokenizer(MODEL), {}
    for name, tunable in made.items():
        ids = tokenizer.encode(TEXTS[0])
        right[name] = tokenizer.decode(judged_answer(tunable, ids, 12, "average"))
    options = ("--adapter", f"early={shelf / 'early'}", "--adapters-from", str(shelf))
    with commands(tmp_path) as started:
        running = started.start(*SERVE, *SHORT, *ROOM, *options, "--vote", "average")
        address = str(running.wait_for("url")["url"])
        wait_until_ready(address)
        assert load(address, "later", "later")[0] == 200
        with OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as here:
            names = ["", "early", "later"] * 4
            plain = said(here)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda name: said(here, name), names))
            assert answers == [plain, right["early"], right["later"]] * 4
            assert len({plain, *right.values()}) == 3
            with pytest.raises(openai.BadRequestError, match="is not scored with adapter"):
                said(here, "early", logprobs=1, echo=True)
        assert running.end(signal.SIGTERM) == 0


def broken(shelf, name, change):
    folder = write_adapter(shelf / name, MODEL)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(folder, tensors, next(iter(tensors)))
    return name


def narrower(folder, tensors, name):
    wrong = {**tensors, name: tensors[name][:, 1:].contiguous()}
    safetensors.torch.save_file(wrong, folder / WEIGHTS)


def not_a_number(folder, tensors, name):
    wrong = {**tensors, name: tensors[name] * float("nan")}
    safetensors.torch.save_file(wrong, folder / WEIGHTS)


def pickled(folder, tensors, name):
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")


def of_windows(folder, tensors, name):
    safetensors.torch.save_file({"0-2.scale": tensors[name]}, folder / EXITS)


def with_other_switches(folder, tensors, name):
    document = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(document | {"use_dora": True}))


BROKEN = [
    (narrower, "but this model needs"),
    (not_a_number, "no finite number"),
    (pickled, "is a pickle, which can run any code"),
    (of_windows, "windows [(0, 2)] do not make up 12 blocks"),
    (with_other_switches, "use_dora = True is not supported"),
]


@pytest.mark.parametrize(("change", "says"), BROKEN, ids=[x.__name__ for x, _ in BROKEN])
def test_broken_ones_are_refused(client, url, shelf, change, says):
    path = broken(shelf, change.__name__, change)
    status, message = load(url, "broken", path)
    assert status == 400 and says in message
    assert "broken" not in [card.id for card in client.models.list().data]
    options = ("--adapter", f"x={shelf / path}", "--http", "127.0.0.1:0")
    for command in (("serve", MODEL, *options), ("run", MODEL, "a", "--adapter", shelf / path)):
        done = subprocess.run(
            [*EDGEWISE, *map(str, command)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode and says in " ".join(done.stderr.split()), done.stderr


def test_one_of_another_model_is_refused(url, shelf, checkpoint):
    write_adapter(shelf / "foreign", checkpoint("qwen3"))
    status, message = load(url, "foreign", "foreign")
    assert status == 400 and "whose layers are others than this model's" in message


def test_nothing_is_read_from_elsewhere(url, shelf):
    elsewhere = "adapters come from the folder of --adapters-from only"
    for path in ("../elsewhere", str(shelf.parent / "elsewhere"), "link", "/etc"):
        assert load(url, "x", path) == (403, elsewhere)
    (shelf / "linked").mkdir()
    for name in (CONFIG, WEIGHTS):
        (shelf / "linked" / name).symlink_to(shelf.parent / "elsewhere" / name)
    assert load(url, "x", "linked") == (403, elsewhere)
    assert load(url, "x", str(shelf / "a1"))[0] == 200  # a whole path into it
    assert unload(url, "x")[0] == 200


def test_names_and_room_have_bounds(url, shelf):
    for name in ("", "a:b", "a/b", "x" * 65, "a\nb"):
        status, message = load(url, name, "a1")
        assert status == 400 and "cannot be an adapter's name" in message
    write_adapter(shelf / "large", MODEL, rank=512)
    status, message = load(url, "large", "large")
    assert status == 400 and "more --adapter-room" in message
    status, message = load(url, "none", "there-is-none")
    assert status == 400 and "cannot read" in message


def test_without_a_folder_none_are_loaded(tmp_path, shelf):
    with commands(tmp_path) as started:
        running = started.start(*SERVE, *SHORT, EDGEWISE_API_KEY="secret")
        url = str(running.wait_for("url")["url"])
        wait = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        body = json.dumps({"lora_name": "x", "lora_path": str(shelf / "a0")}).encode()
        for headers, status in ((wait, 403), ({"Content-Type": "application/json"}, 401)):
            request = urllib.request.Request(f"{url}/load_lora_adapter", body, headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)
            with refused.value as error:
                assert error.code == status


def test_machines_that_join_get_their_layers_part(tmp_path, shelf):
    """They have neither the model nor the adapters, of which one comes before they do; answers are
    what one machine alone says."""
    room = ("--adapter-room", "2 MB", "--adapters-from", str(shelf))
    given = ("--adapter", f"one={shelf / 'a0'}")
    with commands(tmp_path) as started:
        whole = started.start(*SERVE, *SHORT, *given, "--adapter", f"two={shelf / 'a1'}")
        wait_until_ready(url := str(whole.wait_for("url")["url"]))
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            expected = [said(client, name) for name in ("", "one", "two")]
        assert len(set(expected)) == 3
        up = started.start("up", MODEL, *HERE, *SMALL, *room, *given)
        up.wait_for("text", "waiting for devices")
        url = str(up.wait_for("url")["url"])
        assert load(url, "two", "a1")[0] == 200
        started.join(up, "--name", "there")
        wait_until_ready(url)
        assert sum(bool(device["layers"]) for device in state_of(url)["devices"]) == 2
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            assert [said(client, name) for name in ("", "one", "two")] == expected
