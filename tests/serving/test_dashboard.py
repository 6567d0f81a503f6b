"""The page in a real browser, over a cluster of three processes.

EDGEWISE_PICTURES=FOLDER keeps pictures of it there, as docs/images/ has them.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from edgewise.demo.questions import draw_questions, prompt
from tests.hosting.clusters import commands

QUESTION = draw_questions(3, 1)[0]
TEXT = prompt(QUESTION.context, QUESTION.question)
SMALL = ("--prompt-tokens", "64", "--new-tokens", "64")
MEMORY = ("--memory", "8.5 MB")  # in bf16 for three devices, in 8 bits for two
HERE = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "laptop")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (  # nothing but this page; root may not have a sandbox
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SERVING = 60_000  # milliseconds at most
SIZES = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three devices, each of which must hold layers; and what lends one of them."""
    with commands(tmp_path_factory.mktemp("cluster")) as started:
        up = started.start("up", "demo", *HERE, *SMALL, *MEMORY)
        lent = [started.join(up, "--name", x, *MEMORY) for x in ("jetson", "pi")]
        yield str(up.wait_for("url")["url"]).removesuffix("/v1"), lent


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, cluster):
    """Open the page; fails at the end where the browser complained."""
    complaints, contexts = [], []

    def open_page(size=(1280, 900), scheme="light"):
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.route("**/v1/chat/completions", greedily)
        page.goto(cluster[0])
        # Until all three are in, there may be a plan in fewer bits without them.
        expect(page.locator("#graph .used")).to_have_count(3, timeout=SERVING)
        expect(page.locator("#status.serving")).to_be_visible(timeout=SERVING)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def greedily(route):
    """The page leaves temperatures to the server, where answers are drawn."""
    body = {**route.request.post_data_json, "temperature": 0}
    route.continue_(post_data=json.dumps(body))


def ask(page, text):
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Stop")).to_be_disabled(timeout=SERVING)
    return page.locator("#turns li.assistant").last


@pytest.mark.parametrize("look", SIZES)
def test_it_shows_the_cluster_and_chats(opened, look):
    page = opened(SIZES[look], "dark" if look == "dark" else "light")
    assert QUESTION.answer in ask(page, TEXT).inner_text()
    expect(page.locator("#finished tr").first).to_contain_text("stop")
    expect(page.locator("#ribbon i")).to_have_count(14)
    expect(page.locator("#join-line")).to_contain_text("edgewise join 127.0.0.1:")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    if folder := os.environ.get("EDGEWISE_PICTURES"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"dashboard-{look}.png", full_page=True)


def test_an_answer_is_stopped_and_what_a_model_writes_cannot_run(opened):
    page = opened()
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body='data: {"choices":[{"delta":{"content":"**bold** <iframe src=/></iframe>'
            '<script>alert(2)</script>"}}]}\n\ndata: [DONE]\n\n',
        ),
    )
    answer = ask(page, "anything")
    html = answer.inner_html()
    assert "<strong>bold</strong>" in html and "iframe" not in html and "script" not in html
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: None)  # takes its time
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#turns li")).to_have_count(0)
    page.get_by_label("Message").fill("Tell me a long story.")
    page.keyboard.press("Enter")  # Send is reached by the keyboard, and so is Stop
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_a_lost_device_turns_red_and_the_plan_is_drawn_anew(opened, cluster):
    page = opened()
    cluster[1][1].process.kill()
    limit = 5_000 * (1 + os.getloadavg()[0] / 2)
    expect(page.locator("#graph .lost", has_text="pi")).to_have_count(1, timeout=limit)
    expect(page.locator("#graph .used")).to_have_count(2, timeout=limit)
    expect(page.locator("#status.serving")).to_be_visible(timeout=limit)
    expect(page.locator("#events li").first).to_contain_text("without pi")
    assert QUESTION.answer in ask(page, TEXT).inner_text()
