"""A folder with every kind of broken recording and row, through the real stages `corpus` and
`segments`: what is good is kept,
what is bad is named with its line and reason, and a manifest that is wrong as a whole ends the run
with one clear line."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from calls import called
from smoke import Home
from test_cli import refused
from test_report import pages

HEAD = "audio_file|text|speaker_name"
TEXT = "გამარჯობა, როგორ ხარ?"
HTML = "<b>გამარჯობა</b> <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def speech():
    "[T] float32 at 22,050 Hz."
    from xtts_ka.corpus.synthetic import Synthesizer

    return Synthesizer().speak("გამარჯობა, როგორ ხარ", "nino").wav


def call(home, *words):
    "`xtts-ka` in this process; the stages of a run have their own."
    return called(*words, cwd=home.root, root=home.root)


def run(home, name, folder, *more):
    return call(
        home,
        "run",
        "--config",
        "configs/smoke.yaml",
        f"run={name}",
        "threads=1",
        "corpus.source=folder",
        f"corpus.path={folder}",
        "--to",
        "segments",
        *more,
    )


def manifest(folder, *lines, head=HEAD, newline="\n", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_bytes(newline.join([head, *lines, ""]).encode(encoding))
    return folder


# ---- rows


def sounds(folder, speech):
    "Recordings good and bad, by name."
    from xtts_ka.core.audio import resample

    (folder / "wavs").mkdir(parents=True)

    def write(name, wav, rate=22050, **kw):
        return sf.write(folder / "wavs" / name, wav, rate, **kw)

    write("good.wav", speech)
    write("stereo.wav", np.stack([resample(speech, 22050, 44100)] * 2, 1), 44100)
    write("bytes.wav", resample(speech, 22050, 8000), 8000, subtype="PCM_U8")
    write("good.flac", speech)
    write("good.ogg", speech)
    write("html.wav", speech)
    write("nan.wav", np.where(np.arange(len(speech)) == 5000, np.nan, speech), subtype="FLOAT")
    write("loud.wav", speech * 20000, subtype="FLOAT")
    write("no_samples.wav", speech[:0])
    write("silence.wav", np.zeros(22050))
    write("short.wav", speech[3000:6000])
    (folder / "wavs/truncated.wav").write_bytes((folder / "wavs/good.wav").read_bytes()[:-4000])
    (folder / "wavs/no_bytes.wav").touch()
    (folder / "wavs/text.wav").write_text("this is no sound at all")
    os.mkfifo(folder / "wavs/pipe.wav")  # opening it would wait for ever
    sf.write(folder.parent / "x.wav", speech, 22050)  # there, but outside
    (folder / "wavs/link.wav").symlink_to(folder.parent / "x.wav")


KEPT = {  # file -> speaker
    "wavs/good.wav": "nino",
    "wavs/stereo.wav": "nino",
    "wavs/bytes.wav": "nino",
    "wavs/good.flac": "giorgi",
    "wavs/good.ogg": "giorgi",
    "wavs/html.wav": "<i>დათო</i>",
}
BAD = [  # line, item in rejects.csv, how the reason begins
    (f"wavs/truncated.wav|{TEXT}|nino", "wavs/truncated.wav", "truncated: the header promises"),
    (f"wavs/no_samples.wav|{TEXT}|nino", "wavs/no_samples.wav", "empty: 0 samples"),
    (f"wavs/no_bytes.wav|{TEXT}|nino", "wavs/no_bytes.wav", "empty: 0 bytes"),
    (f"wavs/nan.wav|{TEXT}|nino", "wavs/nan.wav", "non_finite: NaN or infinity"),
    (f"wavs/loud.wav|{TEXT}|nino", "wavs/loud.wav", "level: peak"),
    (f"wavs/text.wav|{TEXT}|nino", "wavs/text.wav", "unreadable"),
    (f"wavs/pipe.wav|{TEXT}|nino", "wavs/pipe.wav", "not_regular"),
    (f"wavs/missing.wav|{TEXT}|nino", "wavs/missing.wav", "missing: no such file"),
    (f"wavs/good.wav|{TEXT}|nino", "wavs/good.wav", "duplicate: the same audio file as line 2"),
    (f"../x.wav|{TEXT}|nino", "../x.wav", "path: `..` in the path"),
    (f"wavs/link.wav|{TEXT}|nino", "wavs/link.wav", "path: a link leads out of the folder"),
    (f"wavs/good2.wav|{TEXT}|nino|again", "wavs/good2.wav", "fields: 3 expected, 4 found"),
    ("wavs/good3.wav|Hello there|nino", "wavs/good3.wav", "no Georgian letters"),
    ("wavs/good4.wav|... !?|nino", "wavs/good4.wav", "no letters"),
    (f"wavs/good5.wav|{TEXT}|", "wavs/good5.wav", "speaker: no speaker name"),
    (f"{HTML}|{TEXT}|nino", HTML, "missing: no such file"),
]
LATER = {
    "wavs/silence.wav": "no_speech",
    "wavs/short.wav": "too_short",
}  # sound enough for the corpus, of no use as a clip


@pytest.fixture(scope="module")
def mixed(home, speech, tmp_path_factory):
    "The run over a folder of good and bad, in a manifest as a spreadsheet on Windows saves it."
    folder = tmp_path_factory.mktemp("given") / "folder"
    sounds(folder, speech)
    good = [
        f"{name}|{HTML if 'html' in name else TEXT}|{speaker}" for name, speaker in KEPT.items()
    ] + [f"{name}|{TEXT}|nino" for name in LATER]
    manifest(folder, *good, *(line for line, *_ in BAD), encoding="utf-8-sig", newline="\r\n")
    with open(folder / "metadata.csv", "ab") as f:
        f.write(b"wavs/good.wav|\xff\xfe|nino\r\n")
    before = {p: p.lstat().st_mtime_ns for p in folder.rglob("*")}
    ended = run(home, "mixed", folder)
    assert {p: p.lstat().st_mtime_ns for p in folder.rglob("*")} == before, (
        "the user's folder was changed"
    )
    ended.folder, ended.dir, ended.lines = (
        folder,
        home.root / "outputs/mixed",
        len(good) + len(BAD) + 1,
    )
    return ended


def test_good_rows_go_on(mixed):
    from xtts_ka.core.manifest import read_manifest

    assert mixed.returncode == 0, mixed.stdout + mixed.stderr
    assert "Traceback" not in mixed.stdout + mixed.stderr
    m = read_manifest(mixed.dir / "segments")  # opens every clip
    assert (
        not m.rejects
        and len(m.rows) == len(KEPT)
        and m.speakers == {"<i>დათო</i>": 1, "giorgi": 2, "nino": 3}
    )
    for row in m.rows:
        info = sf.info(mixed.dir / "segments" / row.audio_file)
        assert (
            (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
            and row.text.startswith("გამარჯობა")
            and "<" not in row.text
        )
    lengths = [r.duration for r in m.rows]
    assert max(lengths) - min(lengths) < 0.1 * min(lengths), (
        "the same sentence, whatever its format"
    )


def test_every_bad_row_is_named(mixed):
    lines = (mixed.dir / "rejects.csv").read_text(encoding="utf-8").splitlines()
    found = [line.split("|") for line in lines[1:]]
    assert lines[0] == "stage|file|line|item|reason" and {len(f) for f in found} == {5}
    corpus, first = [f for f in found if f[0] == "corpus"], 2 + len(KEPT) + len(LATER)
    assert {f[1] for f in corpus} == {str(mixed.folder / "metadata.csv")}
    assert [int(f[2]) for f in corpus] == list(
        range(first, first + len(BAD) + 1)
    )  # in order, each once
    for (_, item, reason), (*_, line, found_item, found_reason) in zip(BAD, corpus):
        assert found_item == item and found_reason.startswith(reason), (
            f"line {line}: {found_item}: {found_reason}"
        )
    assert corpus[-1][4] == "not UTF-8"
    later = [f for f in found if f[0] == "segments"]
    of = {Path(name).stem: reason for name, reason in LATER.items()}
    assert {Path(f[3]).stem: f[4].split()[0].rstrip(":") for f in later} == of and {
        f[1] for f in later
    } == {"outputs/mixed/corpus/metadata.csv"}
    assert len(found) + len(KEPT) == mixed.lines


def test_the_counts_are_said(mixed):
    from xtts_ka.core.files import read_json

    n = len(BAD) + 1
    assert f"{len(KEPT) + len(LATER)} clips" in mixed.stdout and f"{n} rejected" in mixed.stdout
    assert f"{n + len(LATER)} rejected items: outputs/mixed/rejects.csv" in mixed.stdout
    states = read_json(mixed.dir / "pretrain_progress.json")["stages"]
    assert states["corpus"]["metrics"]["rejected"] == n and states["segments"]["metrics"][
        "rejected"
    ] == len(LATER)
    found = pages(mixed.dir / "report/index.html")
    assert HTML in found["index.html"].words, "the report shows the reject"
    for name, page in found.items():
        assert not [k for k, _ in page.attributes if k.startswith("on")] and "b" not in page.tags, (
            f"{name}: text of the manifest became HTML"
        )


# ---- the manifest as a whole


def failed(ended, *words):
    "Status 1, and directly below the line that says which stage failed, one line that says why."
    lines = ended.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("✗"))
    assert (
        ended.returncode == 1
        and "corpus" in lines[at]
        and "Traceback" not in ended.stdout + ended.stderr
    ), ended.stdout + ended.stderr
    for w in words:
        assert w in lines[at + 1], f"{w!r} is not in {lines[at + 1]!r}"
    assert lines[at + 2].strip().startswith("whole story: outputs/")
    return lines[at + 1]


def test_empty_manifest(home, tmp_path):
    (tmp_path / "metadata.csv").touch()
    refused(
        run(home, "empty", tmp_path),
        f"{tmp_path}/metadata.csv: the file is empty",
        HEAD,
    )


def test_wrong_delimiter(home, tmp_path):
    manifest(tmp_path, "a.wav,ა,ბ", head="file,words,who")
    refused(
        run(home, "delimiter", tmp_path),
        f"{tmp_path}/metadata.csv:1: the columns are separated by commas; use `|`",
    )


def test_no_manifest(home, tmp_path):
    refused(
        run(home, "missing", tmp_path),
        f"{tmp_path}: no corpus is recognised here. Looked for metadata.csv",
        HEAD,
    )


def test_all_rows_bad(home, tmp_path, speech):
    (tmp_path / "wavs").mkdir()
    sf.write(tmp_path / "wavs/a.wav", speech, 22050)
    ended = run(
        home,
        "none",
        manifest(
            tmp_path, "wavs/a.wav|Hello|nino", f"wavs/b.wav|{TEXT}|nino", f"wavs/c.wav|{TEXT}|nino"
        ),
    )
    failed(
        ended,
        f"{tmp_path}/metadata.csv: all 3 lines were rejected (2 missing, 1 no Georgian letters)",
        "line 2: wavs/a.wav: no Georgian letters",
    )


def test_wrong_call(home, tmp_path):
    "Refused before anything is made."
    first = refused(
        run(home, "call", tmp_path, "corpus.pahts=x"), "did you mean `corpus.path`"
    ).splitlines()[0]
    assert first.startswith("xtts-ka: ") and "corpus.pahts" in first
    refused(run(home, "call", tmp_path, "corpus.voices=many"), "corpus", "voices", "many")
    refused(
        call(home, "run", "--config", "configs/smoke.yaml", "run=call", "corpus.source=folder"),
        "corpus.source=folder needs corpus.path=FOLDER",
    )
    (home.root / "wrong.yaml").write_text(
        "base: configs/smoke.yaml\nrun: call\ncorpus:\n  source: folder\n  paht: x\n"
    )
    refused(
        call(home, "run", "--config", "wrong.yaml"), "wrong.yaml:5", "did you mean `corpus.path`"
    )
    assert not (home.root / "outputs/call").exists()
