"""A corpus is reviewed in a real browser: twenty edits by keyboard, on the page of the server and
on the one that is a file; then what may happen in between: a killed server, a second person, a
full disk, another site."""

import http.client
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from browser import Browser, chromium

from xtts_ka.core.audio import write_audio
from xtts_ka.core.manifest import Row, read_manifest, write_manifest
from xtts_ka.curate.edits import CorpusFolder, read_edits
from xtts_ka.pipeline.cli import main

ODD = 'O\'Neil "<&>" \u202eabc'  # A name with an override of direction
TEXTS = ("დილა <b>მშვიდობისა</b> &amp; “ია”", "שלום, עולם", "25 გრადუსია. " * 150)


def make(folder, clips=24):
    "A corpus with checks: the later a clip, the worse."
    tone = 0.3 * np.sin(np.arange(2400) / 5).astype(np.float32)
    rows, checks = [], []
    for n in range(clips):
        text = TEXTS[n] if n < len(TEXTS) else f"წინადადება {n}"
        rows.append(Row(f"wavs/ანა/{n}.wav", text, ODD if n == 3 else "ანა"))
        write_audio(folder / rows[-1].audio_file, tone, 8000)
        flags = {"noise": f"<b>{n}</b> dB & less"} if n % 2 else {}
        checks.append({"clip": rows[-1].audio_file, "values": {}, "flags": flags})
        checks[-1]["badness"] = float(n)
    write_manifest(folder / "metadata.csv", rows)
    lines = "".join(json.dumps(c, ensure_ascii=False) + "\n" for c in checks)
    (folder / "curation").mkdir()
    (folder / "curation/checks.jsonl").write_text(lines, encoding="utf-8")
    return folder


class Server:
    "`xtts-ka corpus review` as a process of its own."

    def __init__(self, corpus, port=0, **more):
        self.corpus, self.port = corpus, port
        words = ["corpus", "review", str(corpus), "--port", str(port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xtts_ka.pipeline.cli", *words],
            stdout=subprocess.PIPE,
            text=True,
            **more,
        )
        told = ""
        while not (found := re.search(r"http://\S+:(\d+)/", told)):
            told += (line := self.process.stdout.readline())
            assert line, told
        self.told, self.url, self.port = told, found[0], int(found[1])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, method, path, body=None, **headers):
        "(status, bytes)."
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if method == "POST":
            headers.setdefault("Content-Type", "application/json")
        line.request(method, path, body if body is None else json.dumps(body), headers)
        answer = line.getresponse()
        found = answer.status, answer.read()
        line.close()
        return found


@pytest.fixture
def serve():
    "Starts servers, and ends them."
    made = []

    def start(*args, **more):
        made.append(Server(*args, **more))
        return made[-1]

    yield start
    for server in made:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium here")
    with Browser() as b:
        yield b


class Page:
    "The page under two hands on a keyboard."

    def __init__(self, browser, url):
        self.b = browser
        browser.call("Page.navigate", url="about:blank")  # The page before is quiet now
        browser.wait("location.href === 'about:blank' && document.readyState === 'complete'", 30)
        browser.events.clear()
        self.go(url)

    def go(self, url):
        self.b.call("Page.navigate", url=url)
        self.b.wait("document.documentElement?.dataset.ready", 60)

    def reload(self):
        self.b.run("delete document.documentElement.dataset.ready")
        self.b.call("Page.reload")
        self.b.wait("document.documentElement?.dataset.ready", 60)

    def key(self, *keys, code=None):
        codes = {" ": "Space", "/": "Slash", "?": "Slash", "|": "Backslash"}
        for k in keys:
            plain = k[0].upper() if len(k) == 1 else k
            where = code or codes.get(k) or (f"Digit{k}" if k.isdigit() else f"Key{plain}")
            shift = 8 * (len(k) == 1 and k in "U?|")
            call = dict(key=k, code=where if len(k) == 1 else k, modifiers=shift)
            text = {"text": "\r" if k == "Enter" else k} if len(k) == 1 or k == "Enter" else {}
            self.b.call("Input.dispatchKeyEvent", type="keyDown", **call, **text)
            self.b.call("Input.dispatchKeyEvent", type="keyUp", **call)

    def type(self, text):
        "In place of what the field holds."
        self.b.run("document.activeElement.select()")
        self.b.call("Input.insertText", text=text)

    def text(self, value):
        self.key("e")
        self.type(value)
        self.key("Enter")

    def answer(self, key, value):
        "Type the answer to a question."
        self.key(key)
        self.type(value)
        self.key("Enter")

    def saved(self):
        self.b.wait("document.querySelector('#kept').dataset.pending === '0'", 30)

    def state(self):
        "Every clip as the page has it."
        return self.b.run(
            "Object.fromEntries(clips.map((c, n) => [c.f, (s => [s.v.text, s.v.speaker_name,"
            " s.v.split, s.v.reviewed || '', s.drop])(stateOf(n))]))"
        )

    def shown(self, where):
        return self.b.run(f"document.querySelector({json.dumps(where)}).textContent")


def twenty(page):
    """Twenty edits, from the worst clip on: {clip: row as a person would write it down}; of a clip
    that is left out None."""
    wanted = {}

    def now(text=None, who="ანა", part="", seen="", gone=False):
        n = 23 - len(wanted)
        text = text if text is not None else TEXTS[n] if n < 3 else f"წინადადება {n}"
        file = f"wavs/ანა/{n}.wav"
        row = Row(file, text, who, part, extra={"reviewed": seen} if seen else {})
        wanted[file] = None if gone else row
        page.key("j")

    for text in ("გამარჯობა", "<b>&amp;</b> “ა” 'ბ'", "שלום 25", "ა " * 900 + "ბ"):  # 4
        page.text(text)
        now(text)
    for name in ("ნინო", "<i>&", "a/b c"):  # 7
        page.answer("s", name)
        now(who=name)
    page.key("t", "2")  # 8
    now(part="val")
    page.key("d", "1")  # 9
    now(gone=True)
    page.answer("d", "a door, slammed")  # 10
    now(gone=True)
    page.key("d", "2", "r")  # 12
    now()
    page.text("ერთი")  # 15: written, written again, taken back
    page.text("ორი")
    page.key("u")
    now("ერთი")
    page.answer("s", "გია")  # 18: taken back, and that taken back
    page.key("u", "U")
    now(who="გია")
    n = 23 - len(wanted)
    page.key("Enter")  # 19: right, next
    wanted[f"wavs/ანა/{n}.wav"] = Row(
        f"wavs/ანა/{n}.wav", f"წინადადება {n}", "ანა", extra={"reviewed": "review"}
    )
    page.key("ს", code="KeyS")  # 20: on a Georgian keyboard
    page.type("ანა ბ")
    page.key("Enter")
    now(who="ანა ბ")
    return wanted


def expected(corpus, wanted, to):
    "The corpus as it should be, written without a replay."
    given = read_manifest(corpus / "metadata.csv", check_audio=False).rows
    rows = [row for r in given if (row := wanted.get(r.audio_file, r))]
    columns = ("audio_file", "text", "speaker_name", "split", "reviewed")
    return write_manifest(to, rows, columns).read_bytes()


def curated(corpus, to):
    now = CorpusFolder(corpus).read()
    assert now.remarks == []
    columns = ("audio_file", "text", "speaker_name", "split", "reviewed")
    return write_manifest(to, now.rows, columns).read_bytes()


def originals(corpus):
    return {p: p.read_bytes() for p in [corpus / "metadata.csv", *corpus.rglob("*.wav")]}


def test_twenty_edits_by_keyboard_with_a_server(browser, serve, tmp_path):
    corpus = make(tmp_path / "readers")
    before, server = originals(corpus), serve(corpus)
    page = Page(browser, server.url)
    assert page.shown("#nth") == "1 / 24"
    assert page.shown("#flags").endswith("<b>23</b> dB & less")
    wanted = twenty(page)
    page.saved()
    assert len(read_edits(corpus / "curation/edits.jsonl")) == 20
    state = page.state()
    page.reload()
    assert page.state() == state and page.shown("#count").startswith("15 of 24")
    page.key("End")  # Texts are texts
    assert page.shown("#text") == TEXTS[0] and browser.run("!document.querySelector('#text *')")
    assert curated(corpus, tmp_path / "a.csv") == expected(corpus, wanted, tmp_path / "b.csv")
    assert originals(corpus) == before
    assert browser.errors == [] and [a for a in browser.asked if not a.startswith(server.url)] == []


def test_twenty_edits_by_keyboard_on_a_page_that_is_a_file(browser, tmp_path, capsys):
    corpus = make(tmp_path / "readers & others")
    before, file = originals(corpus), tmp_path / "review.html"
    assert main(["corpus", "review", str(corpus), "--static", str(file)]) == 0
    page = Page(browser, file.as_uri())
    wanted = twenty(page)
    state = page.state()
    page.reload()
    assert page.state() == state
    browser.wait("document.querySelector('#audio').readyState > 0", 20)  # The recording is found
    page.key("Home")  # Its text was corrected
    assert "Reading of the text as it was given" in page.shown("#reading .label")
    call = dict(behavior="allow", downloadPath=str(tmp_path / "saved"))
    browser.call("Page.setDownloadBehavior", **call)
    page.key("w")
    saved, until = tmp_path / "saved/edits.jsonl", time.monotonic() + 30
    while not saved.exists():
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)
    assert not (corpus / "curation/edits.jsonl").exists()
    assert main(["corpus", "apply", str(corpus), str(saved)]) == 0
    assert main(["corpus", "apply", str(corpus), str(saved)]) == 0
    assert "20 were there already, 0 not taken over" in capsys.readouterr().out
    assert curated(corpus, tmp_path / "a.csv") == expected(corpus, wanted, tmp_path / "b.csv")
    assert originals(corpus) == before
    assert browser.errors == [] and browser.asked == []
    main(["corpus", "review", str(corpus), "--static", str(file)])  # With the edits in the corpus
    page.reload()
    assert page.state() == state and page.shown("#kept") == "0 in this browser"
    browser.run("Storage.prototype.setItem = () => { throw new Error('full') }, 0")
    page.text("სავსეა")  # The browser's store is full: told, and the edit can still be saved
    assert "can keep no more" in page.shown("#trouble") and page.shown("#text") == "სავსეა"
    saved.unlink()
    page.key("w")
    until = time.monotonic() + 30
    while not (saved.exists() and "სავსეა" in saved.read_text(encoding="utf-8")):
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)


def odd_journal(corpus):
    return [(e.clip, *e.set.values(), e.drop) for e in read_edits(corpus / "curation/edits.jsonl")]


def test_a_killed_server_loses_nothing(browser, serve, tmp_path):
    """Killed between edits and started again: what was acknowledged is there, and what was typed
    meanwhile is sent when the server is back; nothing is there twice."""
    corpus = make(tmp_path / "readers", 8)
    server = serve(corpus)
    page = Page(browser, server.url)
    for n in range(3):
        page.text(f"ტექსტი {n}")
        page.saved()
        assert len(read_edits(corpus / "curation/edits.jsonl")) == 2 * n + 1
        server.kill()
        page.key("j")
        page.answer("d", f"reason {n}")  # Nobody listens
        browser.wait("!document.querySelector('#trouble').hidden", 30)
        assert "does not answer" in page.shown("#trouble")
        if n == 1:  # The page is closed, too
            assert page.b.run("Object.keys(localStorage).some(k => k.includes('edits'))")
        server = serve(corpus, server.port)
        if n == 1:
            page.reload()
        page.saved()
        assert page.b.run("document.querySelector('#trouble').hidden")
        page.key("j")
    found = odd_journal(corpus)
    assert [f[1:] for f in found] == [
        (t, "") if t.startswith("ტ") else (t,)
        for n in range(3)
        for t in (f"ტექსტი {n}", f"reason {n}")
    ]
    assert len({f[0] for f in found}) == 6


def test_two_people_at_once(browser, serve, tmp_path):
    corpus = make(tmp_path / "readers", 6)
    server = serve(corpus)
    with Browser() as second:
        one, two = Page(browser, server.url), Page(second, server.url)
        two.key("e")  # While the second types, the edit of the first arrives
        two.type("ორი")
        one.text("ერთი")
        one.saved()
        second.wait("stateOf(at).v.text === 'ერთი'", 30)
        two.key("Enter")
        second.wait("!document.querySelector('#trouble').hidden", 30)
        assert "is “ერთი” now" in two.shown("#trouble") and "“ორი”" in two.shown("#trouble")
        assert second.run("document.querySelector('#edit').value") == "ორი", "typed text is kept"
        two.key("Enter")  # Now with the first one's text in view
        two.saved()
        one.b.wait("stateOf(at).v.text === 'ორი'", 30)
        two.key("j")
        two.answer("s", "ნინო")
        one.key("u")  # One's own edit: the text on top of it does not fit any more, and is told
        one.saved(), two.saved()
        for page in (one, two):
            page.b.wait("[...byClip.values()].flat().length === 3 && gone.size === 1", 30)
        assert one.state() == two.state()
        assert "does not fit" in one.shown("#history")
    remarks = CorpusFolder(corpus).read().remarks
    assert len(remarks) == 1 and "text is another one" in remarks[0]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process: Linux")
def test_a_full_disk_is_told_and_the_edit_is_kept(browser, serve, tmp_path):
    corpus = make(tmp_path / "readers", 4)
    server = serve(corpus)
    page = Page(browser, server.url)
    page.text("ერთი")
    page.saved()
    journal = corpus / "curation/edits.jsonl"
    held = journal.read_bytes()
    _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    limit = (len(held) + 20, most)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
    page.key("j")
    page.text("ორი")
    browser.wait("!document.querySelector('#trouble').hidden", 30)
    assert "the disk, or your share of it, is full" in page.shown("#trouble")
    assert page.shown("#kept") == "1 not saved yet" and page.shown("#text") == "ორი"
    assert journal.read_bytes()[: len(held)] == held
    page.reload()  # Kept by the browser
    assert page.shown("#text") == "ორი"
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
    page.saved()
    assert [f[1] for f in odd_journal(corpus)] == ["ერთი", "ორი"]
    assert page.b.run("document.querySelector('#trouble').hidden")


def test_what_other_sites_and_other_files_get(serve, tmp_path):
    corpus = make(tmp_path / "readers", 3)
    secret = tmp_path / "secret.wav"
    shutil.copy(corpus / "wavs/ანა/0.wav", secret)
    (corpus / "wavs/ანა/0.wav").unlink()
    (corpus / "wavs/ანა/0.wav").symlink_to(secret)
    server = serve(corpus)
    assert server.told.splitlines()[-1] == f"{server.url}  (Ctrl-C ends it)"
    edit = {"clip": "wavs/ანა/1.wav", "drop": "x", "id": "1"}
    for headers, status in (
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "example.com"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": str(2 << 20)}, 413),
    ):
        assert server.ask("POST", "/edits", {"edit": edit}, **headers)[0] == status
    assert server.ask("GET", "/sound/0", Sec_Fetch_Site="cross-site")[0] == 403
    assert server.ask("GET", "/sound/0")[0] == 200
    (corpus / "wavs/ანა/1.wav").unlink()
    (corpus / "wavs/ანა/1.wav").symlink_to(secret)
    for path in ("/sound/0", "/outline/0"):  # The first that has not led out from the beginning
        status, told = server.ask("GET", path)
        assert status == 400 and b"leads out of the folder" in told
    for path in ("/metadata.csv", "/../secret.wav", "/sound/../metadata.csv", "/sound/9", "/x"):
        assert server.ask("GET", path)[0] in (400, 404), path
    for body in (
        None,
        [],
        {"edit": 3},
        {"edit": edit | {"clip": "b"}},
        {"edit": edit | {"id": ""}},
    ):
        assert server.ask("POST", "/edits", body)[0] in (400, 411), body
    bad = edit | {"set": {"text": "a|b"}, "drop": ""}
    assert server.ask("POST", "/edits", {"edit": bad})[0] == 400
    assert not (corpus / "curation/edits.jsonl").exists()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(120) == 0
    assert "0 edits in" in server.process.stdout.read()
    server.process.stdout.close()


def cpu_seconds(*processes):
    "Of processes and all that they have started, so far: a busy machine does not change it."
    trees = [[p, *p.children(recursive=True)] for p in (psutil.Process(q.pid) for q in processes)]
    return sum(sum(p.cpu_times()[:2]) for tree in trees for p in tree)


def test_twenty_thousand_clips(browser, serve, tmp_path):
    rows = [Row(f"wavs/{n % 7}/{n}.wav", f"წინადადება {n}", f"v{n % 7}") for n in range(20_000)]
    write_manifest(tmp_path / "metadata.csv", rows)
    server = serve(tmp_path)
    page = Page(browser, server.url)
    assert browser.run("document.querySelectorAll('.row').length") < 60
    before = cpu_seconds(browser.process, server.process)
    page.key("End")
    assert page.shown("#nth") == "20,000 / 20,000" and page.shown("#text") == "წინადადება 19999"
    page.answer("d", "noise")
    page.key("/")
    page.type("წინადადება 1777")
    browser.wait("view.length === 11", 30)
    page.key("Enter", "j", "e")
    page.type("ბოლო")
    page.key("Enter")
    page.saved()
    spent = cpu_seconds(browser.process, server.process) - before
    assert spent < 15, f"keys take long: {spent:.1f} s of CPU"
    assert odd_journal(tmp_path) == [
        ("wavs/0/19999.wav".replace("/0/", f"/{19999 % 7}/"), "noise"),
        (f"wavs/{17770 % 7}/17770.wav", "ბოლო", ""),
    ]
