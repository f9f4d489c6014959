"""The page to try the filter: its server asked by programs, and the page in a real browser, with a tiny random classifier."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.browser import chromium as browser  # noqa: F401  (a fixture, by the name that tests know)
from tests.support import ROOT, chapter

FOLDER = ROOT / "ch06" / "04_user_interface"
ATTACK = 'Hello <script>document.title = "taken"</script> <img src=x onerror="document.title=1"> & <b>bye</b>'


@pytest.fixture(scope="module")
def serve_page():
    return chapter_module()


def chapter_module():
    """serve_page.py with the chapter's main folder in reach."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        return chapter("ch06", "serve_page")
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory, serve_page):
    """A classifier of one layer with random weights, whose verdicts go both ways, saved as the chapter saves one."""
    ch06, ch05 = chapter("ch06"), chapter("ch05")
    torch.manual_seed(6)
    tokenizer = ch05.load_tokenizer(ROOT / "models" / "tokenizer")
    gpt = ch05.GPTModel(ch05.GPTConfig(tokenizer.n_vocab, context_length=256, n_channels=32, n_heads=2, n_layers=1))
    classifier = ch06.SequenceClassifier(gpt)
    torch.nn.init.normal_(classifier.head.weight, std=0.2)
    reader = ch06.TextClassifier(classifier.eval(), tokenizer)
    reader.threshold = reader.probabilities(TEXTS).sort().values[2:4].mean().item()
    place = tmp_path_factory.mktemp("a folder with spaces") / "filter"
    ch06.save_classifier(place, reader)
    return place


TEXTS = ["Lunch at noon?", "You WON, claim now", "call me", "the red kite flew over the barn", "0800 000 000 text STOP", "ok"]


@pytest.fixture(scope="module")
def reader(serve_page, folder):
    return serve_page.load_classifier(folder)


class Running:
    """serve_page.py as a reader starts it, on a free port."""

    def __init__(self, folder, port="0"):
        command = [sys.executable, str(FOLDER / "serve_page.py"), "--model", str(folder), "--port", port]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(command, cwd=folder.parent, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + self.process.stdout.read()
        self.address, self.port = found[0], int(found[1])

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of one answer, JSON parsed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            is_json = data and "json" in answer.headers["Content-Type"]
            return answer.status, answer.headers, json.loads(data) if is_json else data
        finally:
            connection.close()

    def classify(self, **request):
        status, _, answer = self.ask("POST", "/classify", json.dumps(request))
        return status, answer

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server(folder):
    running = Running(folder)
    yield running
    running.stop()


# ------------------------------------------------------------------------------------------------------------ the functions


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab \n\t\u00a0\ufeff", max_size=60), st.integers(1, 7))
def test_pieces_are_few_and_together_the_text(text, most):
    pieces = chapter_pieces()(text, most)
    words = len(re.findall(r"\S+", text))
    assert len(pieces) <= most and (len(pieces) == words or words > most) and ("".join(pieces) == text or not words)


def chapter_pieces():
    if not hasattr(chapter_pieces, "kept"):
        chapter_pieces.kept = chapter_module().pieces_of
    return chapter_pieces.kept


def test_leaving_out_is_what_the_classifier_says_without(serve_page, reader):
    text = "Claim  your prize\nnow, friend"
    answer = serve_page.judge(text, reader, explain=True)
    assert [piece["text"] for piece in answer["pieces"]] == ["Claim", "  your", " prize", "\nnow,", " friend"]
    alone = reader.probabilities([text, "your prize\nnow, friend", "Claim prize\nnow, friend"]).tolist()
    assert answer["probability"] == pytest.approx(alone[0], abs=1e-6)
    assert [piece["without"] for piece in answer["pieces"][:2]] == pytest.approx(alone[1:], abs=1e-6)
    for piece in answer["pieces"]:
        assert (piece["moved"] > 0) == (answer["probability"] > piece["without"])
    assert "pieces" not in serve_page.judge(text, reader)


def test_certainty_has_finite_log_odds(serve_page):
    assert serve_page.log_odds(0.5) == 0 and serve_page.log_odds(0.0) == pytest.approx(-serve_page.log_odds(1.0), rel=1e-6)
    assert 10 < serve_page.log_odds(1.0) < 20


# --------------------------------------------------------------------------------------------------------- the server


def test_verdicts_are_the_classifiers(server, reader):
    seen = set()
    for text in TEXTS:
        status, answer = server.classify(text=text)
        p = reader.probabilities([text]).item()
        assert status == 200 and answer["probability"] == pytest.approx(p, abs=1e-6)
        assert answer["label"] == reader.labels[p >= reader.threshold] and answer["threshold"] == reader.threshold
        assert "pieces" not in answer
        seen.add(answer["label"])
    assert seen == {"ham", "spam"}


@pytest.mark.parametrize(("body", "sentence"), [
    (b"text=hello", "the body isn't JSON; send something like"), (b"", "isn't JSON"), (b"\xff\xfe", "isn't JSON"),
    (b"[" * 60_000, "isn't JSON"), (b'["text"]', "the body has no text"), (b"{}", "the body has no text"),
    (b'{"text": 7}', "the body has no text"), (b'{"text": null}', "the body has no text"),
    (b'{"text": ""}', "the text is empty; write a message"), (b'{"text": " \\n "}', "the text is empty"),
    (b'{"text": "a", "explain": "yes"}', "explain must be true or false"),
    (json.dumps({"text": "ab" * 1_001}).encode(), "has 2,002 characters, this page takes 2,000; shorten it"),
])
def test_what_cannot_be_answered_gets_a_sentence(server, body, sentence):
    status, _, answer = server.ask("POST", "/classify", body)
    assert status == 400 and sentence in answer["error"] and list(answer) == ["error"]


STRANGE = ["\ud800 half a character", "\0 zero", "€ ü 漢字 🎉" * 20, "a" * 2_000, "x\u2028y", "<|endoftext|>"]


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_is_text(server, text):
    status, answer = server.classify(text=text, explain=True)
    assert status == 200 and 0 <= answer["probability"] <= 1
    assert "".join(piece["text"] for piece in answer["pieces"]) == text


def test_a_long_message_is_explained_in_at_most_forty_pieces(server):
    text = "pay now " * 240 + "please"
    status, answer = server.classify(text=text, explain=True)
    assert status == 200 and 35 <= len(answer["pieces"]) <= 40
    assert "".join(piece["text"] for piece in answer["pieces"]) == text


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_wrong_method_is_told_the_right_one(server, method):
    status, headers, answer = server.ask(method, "/classify")
    assert (status, headers["Allow"], answer["error"]) == (405, "POST", f"/classify takes POST, not {method}")


def test_other_addresses(server):
    status, headers, answer = server.ask("POST", "/", b"{}")
    assert (status, headers["Allow"]) == (405, "GET, HEAD") and answer["error"] == "/ takes GET, not POST"
    for path in ("/nothing", "/../serve_page.py", "/page.html", "/%2e%2e/page.html"):
        status, _, answer = server.ask("GET", path)
        assert status == 404 and "the page is at /" in answer["error"]
    status, headers, data = server.ask("GET", "/?from=here")
    assert status == 200 and data == (FOLDER / "page.html").read_bytes()
    status, headers, data = server.ask("HEAD", "/")
    assert status == 200 and data == b"" and int(headers["Content-Length"]) == (FOLDER / "page.html").stat().st_size


def test_ten_megabytes_are_refused_and_not_kept(server):
    before = memory(server.process.pid)
    status, _, answer = server.ask("POST", "/classify", b'{"text": "' + b"a" * 10_000_000 + b'"}')
    assert status == 413 and "10,000,012 bytes, this server reads 65,536" in answer["error"]
    assert memory(server.process.pid) - before < 5e6
    assert server.classify(text="still there?")[0] == 200


def memory(pid):
    """The most bytes that a process ever held, where Linux tells; 0 elsewhere."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read())[1])
    return 0


@pytest.mark.parametrize("header", [b"", b"Content-Length: many\r\n", b"Content-Length: -5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_of_unknown_length_is_refused(server, header):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
        answer = connection.makefile("rb").read()
    assert b" 411 " in answer.split(b"\r\n")[0] and b"say how long the body is, with a Content-Length" in answer


def test_a_client_that_leaves_or_talks_nonsense_stops_nobody(server):
    for data in (b"POST /classify HTTP/1.1\r\nContent-Length: 500\r\n\r\n{", b"\x16\x03\x01 what?\r\n\r\n", b"GET", b""):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(data)
    assert server.classify(text="still there?")[0] == 200


def test_many_at_once_get_their_own_answers(server, reader):
    answers = {}
    threads = [threading.Thread(target=lambda t=text: answers.update({t: server.classify(text=t)})) for text in TEXTS * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for text in TEXTS:
        assert answers[text][0] == 200
        assert answers[text][1]["probability"] == pytest.approx(reader.probabilities([text]).item(), abs=1e-6)


# --------------------------------------------------------------------------------------------------- starting and stopping


def start(*arguments):
    command = [sys.executable, str(FOLDER / "serve_page.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"})


def test_a_port_that_is_taken_is_one_sentence(server, folder):
    done = start("--model", folder, "--port", server.port)
    assert done.returncode == 2 and f"port {server.port} can't be used" in done.stderr and "Traceback" not in done.stderr
    assert "choose another with --port" in done.stderr
    assert "port 99999 can't be used" in start("--model", folder, "--port", 99_999).stderr


def test_no_classifier_says_what_trains_one(tmp_path):
    done = start("--model", tmp_path / "none")
    assert done.returncode == 2 and "no classifier in" in done.stderr and "Traceback" not in done.stderr
    assert "this trains one: python ch06/01_main-chapter-code/gpt_class_finetune.py --out" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could answer")
def test_sigterm_ends_it_and_it_said_nothing_about_messages(folder):
    running = Running(folder)
    assert running.classify(text="nobody's business")[0] == 200
    running.process.terminate()
    rest, _ = running.process.communicate(timeout=20)
    assert running.process.returncode == 0 and rest == ""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", running.port), timeout=5).close()


# ------------------------------------------------------------------------------------------------------------------ the page


def test_the_page_names_no_address_outside():
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page) and "innerHTML" not in page
    assert len(re.findall(r"<script>", page)) == len(re.findall(r"<style>", page)) == 1  # the policy knows one of each


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
    assert [error for error in errors if "400 (Bad Request)" not in error] == []


def check(page, text):
    """Type a message and press Enter, as a reader does."""
    page.fill("#text", text)
    page.locator("#text").press("Enter")
    page.wait_for_selector("#result:not([aria-busy])", state="visible")


def listed(page):
    return [page.locator("#rows tr").nth(i).locator("td").all_inner_texts() for i in range(page.locator("#rows tr").count())]


def wait_for_text(page, selector, text):
    """Wait until an element's text is `text`, or matches it; a predicate of our own would be refused by the page's policy."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text, timeout=30_000)


class TestInABrowser:
    pytestmark = [pytest.mark.slow, pytest.mark.browser]

    def test_a_message_gets_its_verdict(self, page, server, reader):
        for text in TEXTS[:4]:
            check(page, text)
            wait_for_text(page, "#pieces", text)
            p = reader.probabilities([text]).item()
            assert page.inner_text("#verdict")[2:] == reader.labels[p >= reader.threshold]
            assert f"Probability of spam: {100 * p:.1f} %" == page.inner_text("#caption")
            bar, fill, mark = (page.locator(name).bounding_box() for name in ("#bar", "#fill", "#mark"))
            assert fill["width"] / bar["width"] == pytest.approx(p, abs=0.01)
            assert (mark["x"] + 1.5 - bar["x"]) / bar["width"] == pytest.approx(reader.threshold, abs=0.01)
            assert ("over" in page.get_attribute("#fill", "class")) == (p >= reader.threshold)

    def test_the_words_are_marked_by_what_they_did(self, page, server):
        text = TEXTS[3]
        check(page, text)
        _, answer = server.classify(text=text, explain=True)
        most = max(answer["pieces"], key=lambda piece: abs(piece["moved"]))
        assert listed(page)[0] == [most["text"].strip(), f"{100 * most['without']:.1f} %",
                                   "for spam" if most["moved"] > 0 else "for ham"]
        marks = {mark.inner_text(): mark.get_attribute("class") for mark in page.locator("#pieces mark").all()}
        assert list(marks) == ["the", "red", "kite", "flew", "over", "barn"]  # the second "the" is the same key
        assert marks[most["text"].strip()] == ("for" if most["moved"] > 0 else "against")

    def test_markup_in_a_message_stays_text(self, page):
        check(page, ATTACK)
        page.wait_for_timeout(300)
        assert page.title() == "Try the filter" and page.inner_text("#pieces") == ATTACK
        assert page.locator("#result script, #result img, #result b").count() == 0

    def test_an_empty_message_and_a_long_one_are_told_what_to_do(self, page):
        page.click("#check")
        assert page.inner_text("#problem") == "Write a message first." and not page.locator("#result").is_visible()
        page.fill("#text", "word " * 401)
        page.locator("#text").press("Enter")
        wait_for_text(page, "#problem", re.compile("2,005 characters"))
        assert not page.locator("#result").is_visible()
        check(page, "Lunch at noon?")
        assert not page.locator("#problem").is_visible()

    def test_it_works_from_the_keyboard_alone(self, page):
        assert page.evaluate("document.activeElement.id") == "text"
        page.keyboard.type("first line")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("second line")
        assert page.input_value("#text") == "first line\nsecond line" and not page.locator("#result").is_visible()
        page.keyboard.press("Enter")
        page.wait_for_selector("#result", state="visible")
        assert page.input_value("#text") == "first line\nsecond line" and page.inner_text("#pieces") == "first line\nsecond line"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "check"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Tab")
        example = page.evaluate("document.activeElement.textContent")
        page.keyboard.press("Enter")
        wait_for_text(page, "#pieces", example)

    def test_a_screen_reader_is_told(self, page):
        check(page, "Lunch at noon?")
        tree = page.locator("main").aria_snapshot()
        for said in ('textbox "Message"', 'button "Check"', "status:", "table", 'columnheader "Left out"'):
            assert said in tree, tree
        assert re.search(r'img "[\d.]+ %, where [\d.]+ % makes it spam"', tree), tree

    @pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}, "color_scheme": scheme} for scheme in (
        "light", "dark")], indirect=True, ids=["light", "dark"])
    def test_a_phone_by_day_and_by_night(self, page, request):
        check(page, "W" * 300 + " and then some words, of which none may push the page out of its width")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ink, paper = (luminance(page, name) for name in ("color", "backgroundColor"))
        assert (ink > paper) == ("dark" in request.node.name) and contrast(ink, paper) > 7
        for selector in ("#caption", "#legend", "#mark-text", "#keys"):
            assert contrast(luminance(page, "color", selector), paper) > 4.5
        card = luminance(page, "backgroundColor", "#pieces")
        assert contrast(luminance(page, "color", "#pieces"), card) > 7
        for box in (page.locator(name).bounding_box() for name in ("#check", "#text", "#bar", "#pieces", "#mark-text")):
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360
        (ROOT / "runs").mkdir(exist_ok=True)
        page.screenshot(path=str(ROOT / "runs" / f"filter-{'dark' if ink > paper else 'light'}.png"), full_page=True)

    def test_a_server_that_has_gone_is_said(self, browser, folder):  # noqa: F811
        running = Running(folder)
        page = browser.new_page()
        page.goto(running.address)
        assert running.stop() == 0 or os.name == "nt"
        page.fill("#text", "anybody there?")
        page.locator("#text").press("Enter")
        wait_for_text(page, "#problem", re.compile("still running"))
        page.close()

    def test_the_last_message_wins(self, page):
        def delayed(route):
            if "slow" in route.request.post_data:
                time.sleep(1)
            route.continue_()

        page.route("**/classify", delayed)
        page.fill("#text", "slow message")
        page.locator("#text").press("Enter")
        page.fill("#text", "quick one")
        page.locator("#text").press("Enter")
        wait_for_text(page, "#pieces", "quick one")
        page.wait_for_timeout(1_500)
        assert page.inner_text("#pieces") == "quick one"


def luminance(page, which, selector="body"):
    """The relative luminance of a computed color, as WCAG defines it."""
    color = page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).{which}")
    channels = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
