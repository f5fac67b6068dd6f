"""The page of all runs: whole and escaped whatever a run is called or says, broken runs included;
and in a browser, from a file, asking nobody."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser, chromium
from test_runner import shelf, toys  # noqa: F401, fixtures

from xtts_ka.core.audio import write_audio
from xtts_ka.pipeline import cli, run_index
from xtts_ka.pipeline.run_index import read_runs, write_index
from xtts_ka.pipeline.state import Progress

EVIL = "</script><script>window.bad=1</script><img src=x onerror='window.bad=1'>&\u2028"
SENTENCE = "გამარჯობა, როგორ ხარ?"


def make_run(outputs, name, seed, loss, evil=""):
    run = outputs / name
    Progress(run).update(
        "corpus",
        status="done",
        started=f"2026-11-0{seed}T10:00:00+00:00",
        seconds=61.4,
        cpu_seconds=50.0,
        metrics={"clips": 12345, f"voice{evil}": f"ნინო{evil}"},
    )
    Progress(run).update(
        "gpt",
        status="failed" if evil else "done",
        started=f"2026-11-0{seed}T10:02:00+00:00",
        seconds=2.0,
        error=evil or None,
        metrics={"loss": loss},
    )
    (run / "config.yaml").write_text(
        f"run: {name}\nseed: {seed}\ncorpus:\n  voices: 2\n  title: {json.dumps('t' + evil)}\n",
        encoding="utf-8",
    )
    write_audio(
        run / "evaluate/wavs/0 #%.wav", np.sin(np.arange(11025) / 20).astype(np.float32), 22050
    )
    (run / "spoken.tsv").write_text(
        f"outputs/{name}/evaluate/wavs/0 #%.wav\t{SENTENCE}\tნინო\txtts\n"
        + (
            f"outputs/{name}/gone.wav\t{evil}\t{evil}\t{evil}\nthree\tfields\tonly\n"
            if evil
            else ""
        ),
        encoding="utf-8",
    )
    (run / "report").mkdir()
    (run / "report/index.html").write_text("report")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    "Two whole runs, one with markup wherever a word can be, and broken ones."
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # the folder one stands in comes first
    folder = tmp_path / "outputs"
    make_run(folder, "one", 1, 2.5)
    make_run(folder, "two", 2, 2.25)
    make_run(folder, "<b>evil & co", 3, 2.5, EVIL)
    for name, text in {
        "torn": "{",
        "other version": '{"schema": 99}',
        "odd": (
            '{"schema": 1, "run": "odd", "stages": {"gpt": {"status": 7, "seconds": "x", "metrics":'
            " 3}}}"
        ),
    }.items():
        (folder / name).mkdir()
        (folder / name / Progress.FILE).write_text(text)
    (folder / "odd/config.yaml").write_text("a: [")
    (folder / "odd/spoken.tsv").mkdir()
    (folder / "no run").mkdir()
    return folder


class Page(HTMLParser):
    "Tags and addresses as a browser's parser sees them."

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]


def data_of(page):
    return json.loads(
        re.search(
            r'<script type="application/json" id="data">(.*?)</script>',
            page.read_text(encoding="utf-8"),
            re.S,
        )[1]
    )


def test_every_word_is_data_and_no_markup(outputs):
    page = write_index(outputs)
    found = Page(page.read_text(encoding="utf-8"))
    assert (
        found.tags.count("script") == 2
        and not {"img", "b"} & set(found.tags)
        and found.addresses == []
    )
    evil = next(r for r in data_of(page)["runs"] if "evil" in r["name"])
    assert (
        evil["stages"][0]["metrics"][f"voice{EVIL}"] == f"ნინო{EVIL}"
        and evil["parameters"]["corpus.title"] == f"t{EVIL}"
        and evil["stages"][1]["error"] == EVIL
    )
    text = page.read_text(encoding="utf-8")
    assert "://" not in text and SENTENCE in text and "text-transform:" not in text


def test_links_lead_to_the_files(outputs):
    from urllib.parse import unquote

    for page in (
        write_index(outputs),
        write_index(outputs, ["two", "<b>evil & co"], "sweeps/s.html"),
    ):
        runs = [r for r in data_of(page)["runs"] if r["report"]]
        hrefs = [r["report"] for r in runs] + [
            s["href"] for r in runs for s in r["spoken"] if s["href"]
        ]
        assert hrefs and all((page.parent / unquote(h)).is_file() for h in hrefs), hrefs
    assert (
        [r["name"] for r in data_of(page)["runs"]]
        == data_of(page)["chosen"]
        == ["two", "<b>evil & co"]
    )


def test_broken_runs_are_listed_with_the_reason(outputs):
    runs = {r["name"]: r for r in read_runs(outputs)}
    assert set(runs) == {"one", "two", "<b>evil & co", "torn", "other version", "odd"} and list(
        runs
    )[:3] == ["<b>evil & co", "two", "one"]
    assert (
        "not valid JSON" in runs["torn"]["problems"][0]
        and "No configuration" in runs["torn"]["problems"][1]
    )
    assert "schema 99" in runs["other version"]["problems"][0]
    assert (
        "`stages.gpt.status` is a whole number" in runs["odd"]["problems"][0]
        and any("config.yaml" in p for p in runs["odd"]["problems"])
        and runs["one"]["problems"] == []
    )


def test_a_run_that_was_renamed_keeps_its_sounds(outputs):
    (outputs / "one").rename(outputs / "renamed")
    assert (
        next(r for r in read_runs(outputs) if r["name"] == "renamed")["spoken"][0]["href"]
        == "renamed/evaluate/wavs/0%20%23%25.wav"
    )


def test_command(outputs, capsys):
    assert (
        cli.main(["index"]) == 0
        and capsys.readouterr().out == "outputs/index.html\n"
        and (outputs / "index.html").exists()
    )
    assert (
        cli.main(["index", "nowhere"]) == 2 and "nowhere is not a folder" in capsys.readouterr().err
    )


def test_a_run_renews_the_page_and_does_not_fail_with_it(toys, monkeypatch, capsys):  # noqa: F811
    assert toys.run(to="first") == 0
    assert [
        (r["name"], r["stages"][0]["metrics"])
        for r in data_of(toys.root / "outputs/index.html")["runs"]
    ] == [("t", {"n": 3})]
    (toys.dir / "report").mkdir()
    (toys.dir / "report/index.html").touch()
    before = (toys.root / "outputs/index.html").stat().st_mtime_ns
    assert (
        toys.run(to="first") == 0
        and (toys.root / "outputs/index.html").stat().st_mtime_ns == before
    )  # Nothing ran

    def full(*_):
        raise OSError(28, "No space left on device", "index.html")

    monkeypatch.setattr(run_index, "write_index", full)
    (toys.dir / "report/index.html").unlink()
    capsys.readouterr()
    assert toys.run(to="first") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "page of all runs" in line]
    assert len(said) == 1 and "disk" in said[0] and "xtts-ka index outputs" in said[0]


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_in_a_browser(outputs):
    page = write_index(outputs)
    with Browser() as b:
        b.open(page)

        def text(name):
            return b.run(f"document.getElementById('{name}').innerText")

        def tick(name):
            return b.run(
                "[...document.querySelectorAll('#runs input')].find(i => i.value ==="
                f" {json.dumps(name)}).click()"
            )

        assert b.run("document.querySelectorAll('#runs tbody tr').length") == 6 and b.run(
            "document.getElementById('compared').hidden"
        )
        assert "not valid JSON" in text("runs") and "1 of 2 done; failed: gpt" in text("runs")
        tick("one")
        tick("two")
        assert (
            text("parameters").split() == ["one", "two", "seed", "1", "2"]
            and "−0.25" in text("metrics")
            and "clips" not in text("metrics")
        )
        b.run("document.getElementById('equal').click(); document.getElementById('same').click()")
        assert "corpus.voices" in text("parameters") and "12\u202f345" in text("metrics")
        tick("<b>evil & co")
        assert (
            "<img src=x" in text("metrics")
            and "the sound is missing" in text("sounds")
            and b.run("window.bad === undefined && !document.querySelector('img, b')")
        )
        assert (
            b.run(
                "[...document.querySelectorAll('#sounds th')].find(e =>"
                " e.textContent.startsWith('გამარჯობა')).lang"
            )
            == "ka"
        )
        assert b.run("document.querySelectorAll('#sounds audio').length") == 3
        x, y = b.run(
            "(() => { const a = document.querySelector('audio'); a.scrollIntoView(); const r ="
            " a.getBoundingClientRect(); return [r.x + 20, r.y + r.height/2] })()"
        )
        b.click(x, y)
        b.wait("document.querySelector('audio').currentTime > 0")
        kept = b.run("location.hash")
        b.run("document.getElementById('none').click()")
        assert b.run("location.hash") == "" and b.run("document.getElementById('compared').hidden")
        b.run(f"location.hash = {json.dumps(kept)}")
        b.wait("document.querySelectorAll('#runs input:checked').length === 3")
        assert b.errors == [] and b.asked == []
        b.open(write_index(outputs, ["one", "two"], "sweeps/s.html", "Sweep s"))
        assert (
            b.run("document.querySelectorAll('#runs input:checked').length") == 2
            and b.run("document.querySelectorAll('#sounds audio').length") == 2
        )
