"""The page in a real browser, and the speech server beside it: 127.0.0.1 alone, nothing from
outside, nothing of this machine's files."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from browser import Browser, chromium

from xtts_ka.core.audio import read_audio
from xtts_ka.pipeline.cli import main
from xtts_ka.speech.page import make_app
from xtts_ka.speech.server import Limits, open_booth

# Found, not imported: gradio takes seconds, and each worker of pytest reads this file
pytestmark = pytest.mark.skipif(not find_spec("gradio"), reason="the extra `demo` is not installed")
TEXT = "დილა"


@pytest.fixture(scope="module")
def served(smoke):
    "The address of a page over the smoke run."
    import uvicorn

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    booth = open_booth(smoke.dir, Limits(characters=60, waiting=30), "cpu")
    server = uvicorn.Server(
        uvicorn.Config(make_app(booth), host="127.0.0.1", port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 240
    while not server.started and time.monotonic() < until:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    torch.set_num_threads(before)


def ask(address, path, body=None, raw=None):
    "(status, bytes, headers)."
    data = raw if body is None else json.dumps(body).encode()
    call = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=300) as done:
            return done.status, done.read(), dict(done.headers)
    except urllib.error.HTTPError as e:
        return e.code, e.read(), dict(e.headers)


def test_programs_ask_as_openais_clients_do(served):
    voices = json.loads(ask(served, "/v1/audio/voices")[1])["voices"]
    assert list(voices) == ["xtts", "sovits2"] and voices["xtts"] == sorted(voices["xtts"])
    first, last = voices["xtts"]
    assert [m["id"] for m in json.loads(ask(served, "/v1/models")[1])["data"]] == list(voices)
    status, data, headers = ask(
        served,
        "/v1/audio/speech",
        {"model": "xtts", "input": TEXT, "voice": last, "response_format": "wav"},
    )
    assert status == 200 and data[:4] == b"RIFF" and headers["content-type"] == "audio/wav"
    for body, why in (
        ({"input": "ა" * 61}, "at most 60"),
        ({"input": TEXT, "voice": "../../etc/passwd"}, f"has {first}, {last}"),
        ({"input": TEXT, "model": "/etc"}, "there is xtts, sovits2"),
        ({"input": "?!"}, "nothing to s"),
        ({}, "empty"),
    ):
        status, data, _ = ask(served, "/v1/audio/speech", body)
        assert status == 400 and why in json.loads(data)["error"]["message"]
    assert ask(served, "/v1/audio/speech", raw=b"{")[0] == 400


def test_other_sites_and_other_types_are_refused():
    from starlette.testclient import TestClient

    from xtts_ka.speech.server import Booth, speech_routes

    client = TestClient(speech_routes(Booth({}), local=True), "http://127.0.0.1:7860")
    kind = {"Content-Type": "application/json"}
    for body, headers, status, why in (
        ("[" * 200_000, kind, 400, "nested too deeply"),
        ('{"input": 5}', kind, 400, "input: a text is needed"),
        ('{"input": "ა", "seed": 1e999}', kind, 400, "a finite number"),
        ('{"input": "ა", "seed": 1' + "0" * 400 + "}", kind, 400, "a finite number"),
        ('{"input": "ა", "speed": -1' + "0" * 400 + "}", kind, 400, "a finite number"),
        ('{"input": "' + "ა" * 400_000 + '"}', kind, 413, "larger than 1 MiB"),
        ("{}", kind | {"Origin": "http://127.0.0.1:7860"}, 400, "empty"),
        ("{}", kind | {"Origin": "https://example.com"}, 403, "other sites"),
        ("{}", kind | {"Origin": "null"}, 403, "other sites"),
        ("{}", kind | {"Host": "example.com"}, 403, "this machine only"),
        ("{}", {"Content-Type": "text/plain"}, 415, "application/json is needed"),
    ):
        answer = client.post("/v1/audio/speech", content=body, headers=headers)
        assert answer.status_code == status and why in answer.json()["error"]["message"]


def test_a_body_in_parts_has_the_same_limit():
    "It comes without a Content-Length."
    from starlette.testclient import TestClient

    from xtts_ka.speech.server import Booth, speech_routes

    client = TestClient(speech_routes(Booth({}), local=True), "http://127.0.0.1:7860")
    kind = {"Content-Type": "application/json"}

    def parts(count):
        yield b'{"input": "'
        yield from [b"a" * (1 << 16)] * count
        yield b'"}'

    for count, status, why in ((17, 413, "larger than 1 MiB"), (3, 400, "at most 1000")):
        answer = client.post("/v1/audio/speech", content=parts(count), headers=kind)
        assert answer.status_code == status and why in answer.json()["error"]["message"]


def press(address, recording=None):
    "What the page answers a press of its button, asked without a browser."
    data = [TEXT, "xtts", None, recording, None, 1, 0, 1.0, 0.3, 1]
    status, answer, _ = ask(address, "/gradio_api/call/speak", {"data": data})
    if status != 200:
        return answer.decode()
    event = json.loads(answer)["event_id"]
    return ask(address, f"/gradio_api/call/speak/{event}")[1].decode()


def test_twenty_at_once(served):
    body = {"input": TEXT, "response_format": "wav"}
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda _: ask(served, "/v1/audio/speech", body), range(20)))
    assert [status for status, *_ in done] == [200] * 20 and len({d for _, d, _ in done}) == 1
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda _: press(served), range(20)))
    assert all("event: complete" in t and ".wav" in t for t in told), told[0]
    assert ask(served, "/v1/models")[0] == 200


def test_no_file_of_this_machine_is_read(served, smoke):
    here = Path(__file__).resolve()
    for path in ("/etc/passwd", here, smoke.dir / "config.yaml", f"{here.parent}/../README.md"):
        for form in (f"/gradio_api/file={path}", f"/file={path}", f"/gradio_api/file%3D{path}"):
            assert ask(served, form)[0] in (403, 404, 405), form
    for path in (here, f"{os.environ['GRADIO_TEMP_DIR']}/../../{here}"):
        told = press(served, {"path": str(path), "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in told or "must be uploaded on this page" in told
        assert "importorskip" not in told


def test_the_server_fetches_no_address(served):
    "gradio would take a recording from the web: a page for others must not be sent there."
    asked = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.5)
        outside = f"http://127.0.0.1:{other.getsockname()[1]}/a.wav"
        for path in (outside, "https://example.com/a.wav"):
            told = press(served, {"path": path, "meta": {"_type": "gradio.FileData"}})
            assert json.loads(told) == {"error": "a recording must be uploaded on this page"}
        with contextlib.suppress(TimeoutError):
            asked.append(other.accept())
    assert not asked
    data = b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert ask(served, "/gradio_api/call/speak", raw=data)[0] == 400
    long = http.client.HTTPConnection(served.removeprefix("http://"), timeout=60)
    long.putrequest("POST", "/gradio_api/call/speak")
    long.putheader("Content-Length", str(2 << 20))
    long.endheaders()  # Refused before any of it is sent
    assert long.getresponse().status == 413
    long.close()


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["demo", str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port}: " in (told := capsys.readouterr().err) and "--port 0" in told


# in the browser


class Page:
    "The page, by what a person does."

    def __init__(self, browser, address):
        self.b, self.address = browser, address
        browser.events.clear()
        browser.call("Page.navigate", url=address)  # An element, as the page never stops loading
        browser.wait("!!document.querySelector('#speak')", 120)
        browser.wait("!!document.querySelector('#text textarea')", 120)

    def write(self, text):
        "Type a text, and wait for its reading; the page below moves with it."
        box, read = (f"document.querySelector('{w}')" for w in ("#text textarea", "#reading"))
        if self.b.run(f"{box}.value") == text:
            return
        before = self.b.run(f"{read}.innerHTML")
        self.b.fill("#text textarea", text)
        self.b.wait(f"{read}.innerHTML !== {json.dumps(before)}", 60)

    def choose(self, where, name):
        "An entry of a list; it is pressed again where the page was still moving."
        entry = "[...document.querySelectorAll('[role=option]')].find("
        entry += f"o => o.textContent.includes({json.dumps(name)}))"
        until = time.monotonic() + 60
        while not self.b.run(f"!!{entry}"):
            assert time.monotonic() < until, f"{where}: the list does not open"
            self.b.run("document.activeElement.blur()")
            self.b.press(f"#{where} input")
            time.sleep(0.3)
        self.b.run(f"{entry}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")

    def field(self, where, part="text"):
        return f"document.querySelector('#{where} .{part}')?.textContent"

    def speak(self, expected, part="text"):
        "Press the button; what is told once it holds what is expected."
        told = self.field("result", part)
        self.b.press("#speak")
        self.b.wait(f"!!{told}?.includes({json.dumps(expected)})", 120)
        return self.b.run("document.querySelector('#result').textContent")

    def upload(self, where, file):
        field = f"#{where} input[type=file]"
        self.b.wait(f"!!document.querySelector('{field}')", 60)
        document = self.b.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.b.call("DOM.querySelector", nodeId=document, selector=field)["nodeId"]
        self.b.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)
        self.b.wait(f"!document.querySelector('{field}')", 60)

    def save(self, where, folder):
        "Press a link or a button that downloads; the file as it was saved."
        here = Path(folder) / "downloads"
        call = dict(behavior="allow", downloadPath=str(here))
        self.b.call("Page.setDownloadBehavior", **call)
        self.b.wait(f"!!document.querySelector('{where}')", 60)
        self.b.press(where)
        until = time.monotonic() + 60
        while not (found := [p for p in here.glob("*.*") if p.suffix != ".crdownload"]):
            assert time.monotonic() < until, f"{where}: nothing was downloaded"
            time.sleep(0.1)
        return found[0].rename(Path(folder) / found[0].name)


@pytest.fixture(scope="module")
def page(served):
    if chromium() is None:
        pytest.skip("no Chromium here")
    with Browser() as browser:
        yield Page(browser, served)


def test_the_page_speaks_and_gives_sound_and_times(page, tmp_path):
    page.write("დილა 5 <_>")
    page.b.wait(f"{page.field('reading')} === 'დილა ხუთი'", 60)
    assert page.b.run(page.field("reading", "chips")) == "5 ხუთი"
    said = page.speak("დილა ხუთი")
    assert re.search(r"Said ?\d+\.\d\d წმ · s, \w+", said) and "reference" not in said
    wav, rate = read_audio(page.save("#sound a[download]", tmp_path))
    assert rate == 24000 and f"{len(wav) / rate:.2f} წმ" in said
    page.b.wait("document.querySelector('#sound audio').duration > 0", 30)
    words = "[...document.querySelectorAll('#result [data-start]')].map(w => w.innerText)"
    assert page.b.run(words) == ["დილა", "ხუთი"]  # this model has alignment heads
    times = page.save("#times", tmp_path)
    assert times.suffix == ".srt" and "-->" in times.read_text(encoding="utf-8")


def test_the_page_speaks_with_the_other_model_and_voice(page, served):
    page.choose("model", "GPT-SoVITS2")
    voices = json.loads(ask(served, "/v1/audio/voices")[1])["voices"]["sovits2"]
    page.b.wait(f"document.querySelector('#speaker input').value === '{voices[0]}'", 30)
    page.choose("speaker", voices[-1])
    page.write(TEXT)
    assert f"s, {voices[-1]}" in page.speak(f"s, {voices[-1]}", "label b")
    page.choose("model", "XTTS")


def test_the_page_mixes_two_recordings(page, smoke, tmp_path):
    page.write(TEXT)
    page.b.press("#recordings button")
    files = sorted((smoke.dir / "segments/wavs").glob("*/*.wav"))
    longest = sorted(files, key=lambda p: p.stat().st_size)[-2:]
    for n, file in enumerate(longest, 1):
        page.upload(f"reference{n}", file)
    page.speak("s, reference", "label b")
    mixed = page.save("#sound a[download]", tmp_path).read_bytes()
    page.b.fill("#weight1 input[type=number]", "0")
    link = "document.querySelector('#sound a[download]')?.href"
    before = page.b.run(link)
    page.b.press("#speak")
    page.b.wait(f"{link} && {link} !== {json.dumps(before)}", 120)
    assert page.save("#sound a[download]", tmp_path).read_bytes() != mixed, "weights have no effect"


def test_the_page_explains_what_is_wrong(page):
    for text, georgian, english in (
        ("", "ტექსტი ცარიელია", "the text is empty"),
        ("ა" * 61, "ტექსტი ძალიან გრძელია", "at most 60 are spoken"),
        ("?!", "აქ არაფერია სათქმელი", "nothing to s"),
        ("<emphasis>ა</emphasis>", "ასეთი ნიშანი", "<emphasis> is not read"),
    ):
        page.write(text)
        told = page.speak(english, "note")
        assert georgian in told and "Traceback" not in told
        assert page.b.run("document.querySelector('#sound audio')") is None, "of another text"


def test_the_page_fetches_nothing_from_outside(page, served):
    assert len(page.b.asked) > 50, "the page itself"
    assert [a for a in page.b.asked if not a.startswith(served)] == []
    assert page.b.errors == [], "what the policy forbids would be here"
