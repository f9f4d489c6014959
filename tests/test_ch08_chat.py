"""The chat page of chapter 8's server, in a real browser, with the course's own model behind it."""

import re

import pytest

from tests.browser import chromium as browser  # noqa: F401  (a fixture, by the name that tests know)
from tests.support import ROOT
from tests.test_ch08_server import HELLO, SCRIPT, Running

pytestmark = [pytest.mark.slow, pytest.mark.browser]
PAGE = SCRIPT.with_name("chat.html")
ATTACK = 'Hello <script>document.title = "taken"</script> <img src=x onerror="document.title=1"> & <b>bye</b>'


def test_the_page_names_no_address_outside():
    page = PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page) and "innerHTML" not in page
    assert len(re.findall(r"<script>", page)) == len(re.findall(r"<style>", page)) == 1      # the policy knows one of each


@pytest.fixture(scope="module")
def server():
    running = Running("--slots", 2)
    yield running
    running.stop()


@pytest.fixture
def page(browser, server, request):  # noqa: F811
    """The page just opened; at the end it must have asked nobody else and reported no error."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1000, "height": 900}}))
    page = context.new_page()
    page.set_default_timeout(30_000)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(server.address)
    page.locator("#text:focus").wait_for()                                    # a key typed before that would be lost
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((server.address, "data:"))] == []
    assert [error for error in errors if "400 (Bad Request)" not in error and "ERR_FAILED" not in error] == []


def say(page, text):
    """Type a message and press Enter."""
    page.fill("#text", text)
    page.locator("#text").press("Enter")


def ended(page):
    """Wait until an answer has come to its end."""
    page.locator("#log[aria-busy=false] article.assistant").last.wait_for()
    page.locator("#send").wait_for(state="visible")


def coldest(page):
    """Let the model take the best token always."""
    page.locator("#temperature").fill("0")
    assert page.inner_text("#degrees") == "0.0"


def said(page):
    """What stands in the conversation: who, and what."""
    return [("user" if "user" in article.get_attribute("class") else "model", article.locator(".text").inner_text())
            for article in page.locator("article").all()]


def test_a_chat_streams_what_the_model_says(page, server):
    page.locator("#model", has_text="tales-chat").wait_for()
    coldest(page)
    say(page, HELLO[0]["content"])
    ended(page)
    expected = server.ask("/v1/chat/completions", {"messages": HELLO, "temperature": 0})[2]
    answer = expected["choices"][0]["message"]["content"]
    assert said(page) == [("user", HELLO[0]["content"]), ("model", answer)]
    usage = expected["usage"]
    note = page.locator(".assistant .note").inner_text()
    assert f"{usage['prompt_tokens']} tokens read, {usage['completion_tokens']} written" in note
    say(page, "Who is it about?")
    ended(page)
    turns = [*HELLO, {"role": "assistant", "content": answer}, {"role": "user", "content": "Who is it about?"}]
    expected = server.ask("/v1/chat/completions", {"messages": turns, "temperature": 0})[2]["choices"][0]["message"]["content"]
    assert said(page)[-1] == ("model", expected)


def slowly(page):
    """Let answers come in two parts, the second never, as from a model that takes long."""
    page.add_init_script("""
        const real = window.fetch;
        window.fetch = async (address, options) => {
          if (!address.includes("chat") || !window.slow) return real(address, options);
          const choice = {index: 0, delta: {role: "assistant", content: "Once there was"}, finish_reason: null};
          const begin = "data: " + JSON.stringify({choices: [choice]}) + "\\n\\n";
          return new Response(new ReadableStream({start(control) {
            control.enqueue(new TextEncoder().encode(begin));
            options.signal.addEventListener("abort", () => control.error(new DOMException("stopped", "AbortError")));
          }}));
        };""")
    page.reload()
    page.locator("#text:focus").wait_for()


def test_an_answer_is_stopped_and_asked_again(page):
    slowly(page)
    page.evaluate("window.slow = true")
    for stop in (lambda: page.click("#stop"), lambda: page.keyboard.press("Escape")):
        say(page, "Write a tale about a kind bear.")
        page.get_by_text("Once there was").wait_for()
        assert not page.locator("#send").is_visible() and page.locator("#log").get_attribute("aria-busy") == "true"
        stop()
        ended(page)
        assert said(page)[-1] == ("model", "Once there was") and page.locator(".assistant .note").last.inner_text() == "stopped"
        assert page.evaluate("document.activeElement.id") == "text"
        page.click("#fresh")
        assert said(page) == []
    say(page, "Write a tale about a kind bear.")
    page.get_by_text("Once there was").wait_for()
    page.click("#stop")
    page.evaluate("window.slow = false")
    coldest(page)
    page.get_by_role("button", name="Retry").click()
    ended(page)
    texts = said(page)
    assert len(texts) == 2 and texts[0] == ("user", "Write a tale about a kind bear.") and "bear" in texts[1][1]


def test_a_new_chat_ends_the_answer_on_its_way(page):
    slowly(page)
    page.evaluate("window.slow = true")
    say(page, "first")
    page.get_by_text("Once there was").wait_for()
    page.click("#fresh")
    page.evaluate("window.slow = false")
    coldest(page)
    say(page, "Write a tale about a kind bear.")
    ended(page)
    assert [who for who, _ in said(page)] == ["user", "model"] and "bear" in said(page)[1][1]


def test_a_message_is_edited(page):
    coldest(page)
    say(page, "Write a tale about a kind bear.")
    ended(page)
    say(page, "Who is it about?")
    ended(page)
    page.get_by_role("button", name="Edit").first.click()
    assert page.input_value("#text") == "Write a tale about a kind bear." and page.locator("article.edited").count() == 1
    page.keyboard.press("Escape")
    assert page.input_value("#text") == "" and len(said(page)) == 4
    page.locator("#text").press("ArrowUp")                                    # the newest of one's own
    assert page.input_value("#text") == "Who is it about?"
    page.click("#cancel")
    page.get_by_role("button", name="Edit").first.click()
    say(page, "Write a tale about a brave cat.")
    ended(page)
    texts = said(page)
    assert len(texts) == 2 and texts[0][1] == "Write a tale about a brave cat." and "cat" in texts[1][1]


def test_markup_stays_text(page):
    say(page, ATTACK)
    ended(page)
    assert page.title() == "Bytes to Chat" and said(page)[0] == ("user", ATTACK)
    assert page.locator("#log script, #log img, #log b").count() == 0


def test_an_empty_message_and_a_full_context(page):
    page.click("#send")
    assert page.inner_text("#problem") == "Write a message first."
    say(page, "word " * 600)
    page.locator("#problem", has_text="the model's context is 512; shorten it").wait_for()
    assert [who for who, _ in said(page)] == ["user"]
    page.click("#fresh")
    coldest(page)
    for _ in range(2):
        say(page, "Once there was a bear. " * 38 + "Who is it about?")
        ended(page)
    assert "the first 2 messages didn't fit and were left out" in page.locator(".assistant .note").last.inner_text()


def test_it_works_from_the_keyboard_alone(page):
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    ended(page)
    assert said(page)[0] == ("user", "first line\nsecond line")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "temperature"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#degrees") == "0.6"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_screen_reader_is_told(page):
    say(page, "Write a tale about a kind bear.")
    ended(page)
    tree = page.locator("body").aria_snapshot()
    for name in ('textbox "Your message"', 'button "Send"', 'log "Conversation"', 'slider "Temperature', 'heading "You"',
                 'heading "Model"', 'button "Retry"'):
        assert name in tree, tree


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}, "color_scheme": scheme} for scheme in (
    "light", "dark")], indirect=True, ids=["light", "dark"])
def test_a_phone_by_day_and_by_night(page, request):
    say(page, "W" * 300 + " and then some words, of which none may push the page out of its width")
    ended(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    paper, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    lightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (paper, ink)]
    assert (lightness[1] > lightness[0]) == ("dark" in request.node.name)
    for box in (page.locator(name).bounding_box() for name in ("#send", "#text", "#temperature", "article >> nth=0", "#fresh")):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 740 or box["height"] > 400
    (ROOT / "runs").mkdir(exist_ok=True)
    page.screenshot(path=str(ROOT / "runs" / f"chat-{'dark' if lightness[1] > lightness[0] else 'light'}.png"))


def test_a_server_that_has_gone_is_said(page):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "anybody there?")
    page.locator("#problem", has_text="Is it still running?").wait_for()
    assert said(page) == [("user", "anybody there?")]
