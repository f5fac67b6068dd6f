"""The report of a run: whole, escaped, without an address outside of its folder, for finished and
for failed runs."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import soundfile
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from xtts_ka.core.errors import PathError
from xtts_ka.pipeline import report as R
from xtts_ka.pipeline.report import AUDIO_MIME, Player, Table, write_report

EVIL = '<img src=x onerror="alert(1)">'
SENTENCES = ["გამარჯობა, როგორ ხარ?", "დღეს კარგი ამინდია.", f"ცუდი {EVIL} ტექსტი"]


def plot(tmp_path):
    "PNG of a real figure, as the inline backend stores it."
    import base64

    from xtts_ka.pipeline.figures import plot_wave

    plot_wave(np.sin(np.arange(2000) / 20), 1000, SENTENCES[0]).savefig(tmp_path / "plot.png")
    return base64.b64encode((tmp_path / "plot.png").read_bytes()).decode()


def shown(*bundles):
    return [new_output("display_data", data=b) for b in bundles]


def write_notebook(path, *cells, parameters=None):
    nb = new_notebook(cells=list(cells))
    nb.metadata["papermill"] = {"parameters": parameters or {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    "A run whose second stage failed, with HTML wherever a name or a text can be."
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # the folder one stands in comes first
    folder = tmp_path / "outputs/demo"
    (folder / "evaluate").mkdir(parents=True)
    lines = []
    for i, text in enumerate(SENTENCES):
        wav = folder / "evaluate" / f"{i}_<b>ნინო</b>.wav".replace("/", "_")
        soundfile.write(wav, 0.4 * np.sin(np.arange(22050) * 0.05 * (i + 1)), 22050)
        lines.append(f"outputs/demo/evaluate/{wav.name}\t{text}\t<i>ნინო</i>\tgpt")
    (folder / "spoken.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "rejects.csv").write_text(
        f"stage|file|line|item|reason\ncorpus|metadata.csv|7|{EVIL}.wav|truncated\n",
        encoding="utf-8",
    )
    (folder / "config.yaml").write_text(
        "run: demo\nseed: 3\nlanguage: ka\ncorpus: {source: synthetic, voices: 8}\n",
        encoding="utf-8",
    )
    states = {
        "corpus": {"status": "done", "seconds": 61.4, "started": "2026-11-20T20:40:11+00:00"},
        "full_pretrain": {
            "status": "failed",
            "seconds": 12.0,
            "error": f"TrainingDiverged: loss is nan {EVIL}",
        },
        "evaluate": {"status": "blocked"},
    }
    (folder / "pretrain_progress.json").write_text(
        json.dumps({"schema": 1, "run": "demo", "stages": states}), encoding="utf-8"
    )
    (folder / "corpus").mkdir()
    (folder / "corpus/metrics.json").write_text(
        json.dumps({"clips": 12345, "voice": "ნინო"}), encoding="utf-8"
    )
    sound = Player(folder / "evaluate" / Path(lines[0].split("\t")[0]).name, EVIL, SENTENCES[0])
    write_notebook(
        folder / "notebooks/10_corpus.ipynb",
        new_markdown_cell(
            "# Corpus\n> Recordings.\n\nSee [the paper](https://example.org/a) and"
            f" [segments](20_segments.ipynb). {EVIL}"
        ),
        new_code_cell("voices = 2", metadata={"tags": ["parameters"]}),
        new_code_cell(
            "show(1)  # <b>",
            outputs=shown(
                sound._repr_mimebundle_(),
                Table([{"speaker": EVIL, "n": 3}])._repr_mimebundle_(),
                {"image/png": plot(tmp_path), "text/plain": "<Figure>"},
                {
                    "text/html": "<script src='https://evil.example/x.js'></script>",
                    "text/plain": "<Widget>",
                },
            ),
        ),
        parameters={"voices": 8, "name": EVIL},
    )
    write_notebook(
        folder / "notebooks/80_full_pretrain.ipynb",
        new_markdown_cell("# Training"),
        new_code_cell(
            "train()",
            outputs=[
                new_output("stream", name="stderr", text="\x1b[32m 1%\r99%\x1b[0m\n"),
                new_output(
                    "error",
                    ename="TrainingDiverged",
                    evalue="loss is nan at step 812",
                    traceback=[
                        "\x1b[31mcell 2\x1b[0m",
                        "TrainingDiverged: loss is nan at step 812",
                    ],
                ),
            ],
        ),
    )
    return folder


class Page(HTMLParser):
    "Text, tags and addresses of a page as a browser's parser sees them."

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.addresses, self.attributes, self.inside = [], [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.addresses += [
            v for k, v in attrs if k in ("src", "href", "srcset", "poster", "action", "data")
        ]
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)

    @property
    def words(self):
        return "".join(self.text)


def pages(index):
    return {p.name: Page(p) for p in index.parent.glob("*.html")}


def test_pages_and_media(run):
    index = write_report("outputs/demo")
    assert index == run / "report/index.html"
    assert {p.name for p in index.parent.iterdir()} == {
        "index.html",
        "corpus.html",
        "full_pretrain.html",
        "evaluate.html",
        "style.css",
        "media",
    }
    assert (
        len(list((index.parent / "media").glob("*.wav"))) == 3
        and len(list((index.parent / "media").glob("*.png"))) == 1
    )
    first, corpus = pages(index)["index.html"], pages(index)["corpus.html"]
    for text in SENTENCES:
        assert text in first.words
    assert (
        "1 of 3 stages are done; full_pretrain failed." in first.words
        and "1 min 01 s" in first.words
    )
    assert (
        first.tags.count("audio") == 3
        and corpus.tags.count("audio") == 1
        and corpus.tags.count("img") == 1
    )
    assert (
        "12\u202f345" in corpus.words and "<Widget>" in corpus.words and "show(1)" in corpus.words
    )
    assert "voices = 2" not in corpus.words  # parameters are a table, not code


def test_copied_sound_is_the_sound(run):
    index = write_report(run)
    source = next((run / "evaluate").glob("0_*.wav")).read_bytes()
    assert source in [p.read_bytes() for p in (index.parent / "media").glob("*.wav")]


def test_nothing_is_html_but_ours(run):
    for name, page in pages(write_report(run)).items():
        assert not [k for k, _ in page.attributes if k.startswith("on")], name
        assert page.tags.count("script") == 1 and not {"b", "i", "iframe", "object", "embed"} & set(
            page.tags
        ), name
    first = pages(run / "report/index.html")["index.html"]
    assert first.words.count(EVIL) == 3  # a sentence, a reject, an error: all as text
    assert "<i>ნინო</i>" in first.words


def test_no_address_leaves_the_folder(run):
    for name in ("11_ხმები <b>", "12_index"):
        write_notebook(run / f"notebooks/{name}.ipynb", new_markdown_cell("# ხმები"))
    report = write_report(run).parent
    for name, page in pages(report / "index.html").items():
        for address in page.addresses:
            assert not re.match(r"[a-z]+:|//|/", address), (name, address)
            target = (report / unquote(address.split("#")[0])).resolve()
            assert target.is_relative_to(report) and target.exists(), (name, address)
        assert not [v for _, v in page.attributes if v and "://" in v], name
        source = (report / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s<)]*", source)) <= {
            "https://example.org/a"
        }  # the link of the prose, as text
    assert (
        "Run report" in Page(report / "index.html").words and len(list(report.glob("*.html"))) == 6
    )  # `index` is a stage too
    css = (report / "style.css").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", css)
    assert not re.search(
        r"text-transform|small-caps", re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    )  # would make Mtavruli of Mkhedruli


def test_failed_stage(run):
    page = pages(write_report(run))["full_pretrain.html"]
    assert "TrainingDiverged: loss is nan at step 812" in page.words and "cell 2" in page.words
    assert "99%" in page.words and " 1%" not in page.words and "\x1b" not in page.words
    assert "This stage has not run." in pages(run / "report/index.html")["evaluate.html"].words


def test_second_report_is_the_same(run):
    def content():
        return {
            p.relative_to(run): p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()
        }

    write_report(run)
    once = content()
    write_report(run)
    assert content() == once and len(once) > 6
    assert not [p.name for p in run.iterdir() if "tmp" in p.name]


def test_old_report_stays_when_the_new_one_fails(run, monkeypatch):
    old = write_report(run).read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(R, "_headlines", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(run)
    assert (run / "report/index.html").read_bytes() == old


def test_empty_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    with pytest.raises(PathError, match="not a folder"):
        write_report("outputs/none")
    (tmp_path / "outputs/new").mkdir(parents=True)
    page = Page(write_report("outputs/new"))
    assert (
        "Nothing has been run here yet." in page.words and "Nothing has been spoken" in page.words
    )


def test_models_stand_in_the_order_in_which_they_are_understood(run):
    "Sentences of two models, stages that ran at the same time, in the order in which they ended."
    (run / "sovits2").mkdir()
    wav = (run / "spoken.tsv").read_text(encoding="utf-8").split("\t")[0]
    (run / "spoken.tsv").write_text(f"{wav}\tდილა\tნინო\txtts\n", encoding="utf-8")
    (run / "sovits2/spoken.tsv").write_text(
        f"{wav}\tმზე\tნინო\tsovits2\nhalf a line\n", encoding="utf-8"
    )
    states = {
        n: {"status": "done", "seconds": s, "started": f"2026-11-20T20:4{m}:00+00:00"}
        for n, m, s in (("evaluate", 5, 30.0), ("sovits2", 0, 300.0), ("corpus", 0, 60.0))
    }
    (run / "pretrain_progress.json").write_text(
        json.dumps({"schema": 1, "stages": states}), encoding="utf-8"
    )
    for rates, order in (((0.5, 0.1), ["მზე", "დილა"]), ((0.1, 0.5), ["დილა", "მზე"])):
        (run / "evaluate/metrics.json").write_text(
            json.dumps(dict(zip(("CER, XTTS", "CER, sovits2"), rates))), encoding="utf-8"
        )
        said = R.read_spoken(run, R.Media(run / "media", [run.parents[1], run]))
        assert (
            [i["text"] for i in said["sounds"]] == order
            and "recogniser: 10.0%" in said["note"]
            and said["problems"]
            == ["sovits2/spoken.tsv:2: 1 fields instead of 4 (path, text, speaker, made by)"]
        )
    stages = R.read_stages(run)
    assert (
        [s.name for s in stages][:1] == ["corpus"]
        and stages[-1].name == "evaluate"
        and "5 min 30 s" in R._about(run, stages, said, {})["facts"]
    )


@pytest.mark.parametrize("damage", ["notebook", "spoken", "metrics", "config", "audio"])
def test_damaged_parts_are_shown_and_cost_nothing_else(run, damage):
    broken, name, words = {
        "notebook": ("notebooks/10_corpus.ipynb", "corpus.html", "10_corpus.ipynb cannot be read"),
        "spoken": ("spoken.tsv", "index.html", "spoken.tsv:1: 1 fields instead of 4"),
        "metrics": ("corpus/metrics.json", "corpus.html", "not valid JSON"),
        "config": ("config.yaml", "index.html", "config.yaml cannot be read"),
        "audio": (
            next((run / "evaluate").glob("1_*.wav")).relative_to(run),
            "index.html",
            "unreadable",
        ),
    }[damage]
    (run / broken).write_text('{"cells": [', encoding="utf-8")
    page = pages(write_report(run))[name]
    assert words in page.words
    assert "Run report" in Page(run / "report/index.html").words


def test_sounds_from_elsewhere_are_not_copied(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "secret.wav"
    soundfile.write(other, np.zeros(100), 8000)
    (run / "link.wav").symlink_to(other)
    write_notebook(
        run / "notebooks/10_corpus.ipynb",
        new_code_cell(
            "x",
            outputs=shown(
                *(
                    {AUDIO_MIME: {"path": p, "caption": "", "text": ""}}
                    for p in (str(other), "outputs/demo/link.wav", "/etc/hostname")
                )
            ),
        ),
    )
    page = pages(write_report(run))["corpus.html"]
    assert "audio" not in page.tags and page.words.count("outside of the repository") == 2
    assert not [
        p for p in (run / "report/media").iterdir() if "secret" in p.name or "hostname" in p.name
    ]


def test_live_notebook_carries_both_forms(run):
    from execnb.shell import CaptureShell

    wav = next((run / "evaluate").glob("0_*.wav"))
    code = (
        f"from xtts_ka.pipeline.report import *\nplayer({str(wav)!r}, 'nino',"
        f" 'მზე')\nplayers([{str(wav)!r}]*2)\ntable([[1]], ['n'])"
    )
    one, two, rows = [
        o["data"] for o in CaptureShell(run).run(code) if o["output_type"] == "display_data"
    ]
    assert one[AUDIO_MIME] == {
        "path": f"outputs/demo/evaluate/{wav.name}",
        "caption": "nino",
        "text": "მზე",
    }
    assert "".join(one["text/html"]).count("data:audio/flac;base64,") == 1
    assert len(two[AUDIO_MIME]["items"]) == 2 and rows[R.TABLE_MIME]["rows"] == [[1]]


@pytest.mark.slow
def test_in_a_browser(run, tmp_path):
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip("no chromium to look at the pages with")
    index = write_report(run)
    common = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
    ]
    dom = subprocess.run(
        [*common, "--dump-dom", index.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert dom.count('class="player live"') == 3  # the script ran and took over all three players
    picture = tmp_path / "page.png"
    subprocess.run(
        [*common, "--window-size=1000,1400", f"--screenshot={picture}", index.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    ink = (np.abs(pixels - np.median(pixels)) > 60).mean()
    assert pixels.shape == (1400, 1000) and 0.005 < ink < 0.4  # something is written on it
