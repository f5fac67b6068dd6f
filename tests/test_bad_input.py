"""Bad input: a mistake in a file costs one row or names its file and line, and never ends in a
traceback.

The list is the one of the README: each case says what the user would have to read."""

import os
import re

import numpy as np
import pytest
import soundfile as sf

from xtts_ka.core.audio import AudioError, read_audio, write_audio
from xtts_ka.core.config import build, config, load
from xtts_ka.core.errors import ConfigError, ManifestError, PathError, XttsKaError
from xtts_ka.core.manifest import Row, read_manifest, read_rejects, write_manifest, write_rejects
from xtts_ka.core.paths import inside

HEAD = "audio_file|text|speaker_name"
RATE = 22050
TONE = (0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)).astype(np.float32)  # one second


@config
class Optim:
    "How to step."

    lr: float = 1e-3  # Learning rate


@config
class Train:
    "A training."

    steps: int = 300  # Optimiser steps
    name: str = "demo"  # Of the run
    optim: Optim = Optim()  # How to step


@pytest.fixture
def corpus(tmp_path):
    "A folder with one good recording, and a function that writes its manifest."
    write_audio(tmp_path / "wavs/good.wav", TONE, RATE)

    def manifest(*lines, head=HEAD, newline="\n", encoding="utf-8"):
        path = tmp_path / "metadata.csv"
        path.write_bytes(newline.join([head, *lines, ""]).encode(encoding))
        return path

    manifest.folder = tmp_path
    return manifest


def only_reject(path, **options):
    "The one reject of a manifest whose line 2 is good and line 3 is bad."
    m = read_manifest(path, **options)
    assert [r.line for r in m.rows] == [2] and [r.line for r in m.rejects] == [3]
    return m.rejects[0]


# ---- the manifest as a whole


@pytest.mark.parametrize(
    "content, said",
    [
        (
            "",
            (
                r"metadata\.csv: the file is empty; the first line must be"
                r" audio_file\|text\|speaker_name"
            ),
        ),
        ("\n \n", r"metadata\.csv: the file is empty"),
        (HEAD + "\n", r"metadata\.csv: no rows after the header"),
        (
            "file,words,who\na.wav,ა,b\n",
            r"metadata\.csv:1: the columns are separated by commas; use `\|`",
        ),
        (
            "file;words;who\na.wav;ა;b\n",
            r"metadata\.csv:1: the columns are separated by semicolons; use `\|`",
        ),
        (
            "file\twords\twho\na.wav\tა\tb\n",
            r"metadata\.csv:1: the columns are separated by tabs; use `\|`",
        ),
        (
            "LJ001-0001|Printing|Printing\n",
            r"metadata\.csv:1: no column audio_file, text, speaker_name in the header",
        ),
        (HEAD.replace("|", "\r") + "\r", r"metadata\.csv:1: .*CR alone"),
        (HEAD + "|text\na|b|c|d\n", r"metadata\.csv:1: column 'text' is empty or given twice"),
    ],
)
def test_whole_manifest(tmp_path, content, said):
    (tmp_path / "metadata.csv").write_text(content, encoding="utf-8", newline="")
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path):
    with pytest.raises(
        ManifestError, match=r"metadata\.csv: no such file.*audio_file\|text\|speaker_name"
    ):
        read_manifest(tmp_path / "metadata.csv")


def test_utf16(corpus):
    with pytest.raises(ManifestError, match="metadata.csv:1: the file is UTF-16; save it as UTF-8"):
        read_manifest(corpus("wavs/good.wav|ა|nino", encoding="utf-16"))


@pytest.mark.parametrize(
    "encoding, newline", [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n")]
)
def test_bom_and_crlf_are_no_mistakes(corpus, encoding, newline):
    m = read_manifest(corpus("wavs/good.wav|გამარჯობა|ნინო", encoding=encoding, newline=newline))
    assert m.columns == ("audio_file", "text", "speaker_name") and not m.rejects
    assert m.rows == [Row("wavs/good.wav", "გამარჯობა", "ნინო", duration=1.0)]


# ---- one line

GOOD = "wavs/good.wav|გამარჯობა|ნინო"


@pytest.mark.parametrize(
    "line, item, reason",
    [
        ("wavs/lost.wav|ა|ნინო", "wavs/lost.wav", "missing: no such file"),
        (GOOD, "wavs/good.wav", "duplicate: the same audio file as line 2"),
        ("./wavs/../wavs/good.wav|ა|ნინო", "./wavs/../wavs/good.wav", "path: `..` in the path"),
        ("wavs//good.wav|ა|ნინო", "wavs//good.wav", "duplicate: the same audio file as line 2"),
        ("../secret.wav|ა|ნინო", "../secret.wav", "path: `..` in the path"),
        (r"wavs\..\..\secret.wav|ა|ნინო", r"wavs\..\..\secret.wav", "path: `..` in the path"),
        ("/etc/passwd|ა|ნინო", "/etc/passwd", "path: absolute path"),
        ("|ა|ნინო", "", "path: empty path"),
        (
            "wavs/other.wav|ა | ბ|ნინო",
            "wavs/other.wav",
            "fields: 3 expected, 4 found; a text may not hold `|`",
        ),
        (
            "wavs/other.wav,ა,ნინო",
            "wavs/other.wav,ა,ნინო",
            "fields: 3 expected, 1 found; a text may not hold `|`",
        ),
        ("wavs/other.wav|?! …|ნინო", "wavs/other.wav", "no letters"),
        ("wavs/other.wav||ნინო", "wavs/other.wav", "empty text"),
        ("wavs/other.wav|ა|", "wavs/other.wav", "speaker: no speaker name"),
        ("wavs/other.wav|ა\0ბ|ნინო", "wavs/other.wav", "control character: '\\x00'"),
        ("wavs/other.wav|ა\rბ|ნინო", "wavs/other.wav", "control character: '\\r'"),
    ],
)
def test_one_bad_line(corpus, line, item, reason):
    reject = only_reject(corpus(GOOD, line))
    assert (reject.item, reject.reason) == (item, reason) and reject.file.endswith("metadata.csv")


def test_no_georgian_letters(corpus):
    path = corpus(GOOD, "wavs/good2.wav|Hello|ნინო")
    assert only_reject(path, require_script="georgian").reason == "no Georgian letters"
    write_audio(corpus.folder / "wavs/good2.wav", TONE, RATE)
    assert not read_manifest(path).rejects  # English is refused only where Georgian is asked for


def test_bytes_that_are_no_utf8_cost_their_line(corpus):
    path = corpus(GOOD)
    path.write_bytes(path.read_bytes() + b"wavs/caf\xe9.wav|x|y\n")
    assert only_reject(path).reason == "not UTF-8"


def test_quotes_and_na_are_text(corpus):
    for n, _text in enumerate(['he said "never', "NA", "null", "a\u2028b"]):
        write_audio(corpus.folder / f"wavs/{n}.wav", TONE, RATE)
    texts = ['he said "never', "NA", "null", "a\u2028b"]
    m = read_manifest(corpus(*(f"wavs/{n}.wav|{t}|007" for n, t in enumerate(texts))))
    assert [r.text for r in m.rows] == texts and set(m.speakers) == {"007"}


def test_link_out_of_the_folder(corpus):
    (corpus.folder / "wavs/link.wav").symlink_to("/etc/hostname")
    assert (
        only_reject(corpus(GOOD, "wavs/link.wav|ა|ნინო")).reason
        == "path: a link leads out of the folder"
    )
    with pytest.raises(
        PathError, match="'wavs/link.wav': a link leads out of the folder; give a path inside"
    ):
        inside(corpus.folder, "wavs/link.wav")


# ---- sound


def damaged(folder, kind):
    "Write `bad.wav` (or .mp3, .flac) with one kind of damage and return its name."
    whole = (folder / "wavs/good.wav").read_bytes()
    raw = {
        "zero_length": b"",
        "header_only": whole[:40] + bytes(4),
        "truncated": whole[: len(whole) // 2],
        "text": b"not sound",
        "claims_4gib": whole[:40] + b"\0\xf0\xff\xff" + whole[44:1044],
    }
    if kind in raw:
        (folder / "bad.wav").write_bytes(raw[kind])
        return "bad.wav"
    if kind in ("flac", "mp3", "ogg"):
        sf.write(folder / f"bad.{kind}", np.tile(TONE, 5), RATE)
        (folder / f"bad.{kind}").write_bytes(
            (whole := (folder / f"bad.{kind}").read_bytes())[: len(whole) // 2]
        )
        return f"bad.{kind}"
    if kind == "pipe":
        os.mkfifo(folder / "bad.wav")
        return "bad.wav"
    if kind == "folder":
        (folder / "bad.wav").mkdir()
        return "bad.wav"
    wav = {
        "nan": np.where(np.arange(RATE) == 5, np.nan, TONE),
        "inf": np.where(np.arange(RATE) == 5, np.inf, TONE),
        "loud": TONE * 1e6,
        "one_sample": TONE[:1],
        "long": np.tile(TONE, 700),
    }[kind]
    sf.write(folder / "bad.wav", wav, RATE, subtype="FLOAT")
    return "bad.wav"


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("zero_length", "empty: 0 bytes"),
        ("header_only", "empty: 0 samples"),
        ("truncated", "truncated: the header promises 44100 bytes of sound, the file has 22028"),
        (
            "claims_4gib",
            "truncated: the header promises 4294963200 bytes of sound, the file has 1000",
        ),
        ("text", "unreadable: "),
        ("flac", "truncated: "),
        ("mp3", "truncated: "),
        ("ogg", "truncated: "),
        ("pipe", "not_regular: "),
        ("folder", "not_regular: "),
        ("nan", "non_finite: NaN or infinity"),
        ("inf", "non_finite: NaN or infinity"),
        ("loud", "level: peak 3e+05"),
        ("one_sample", "too_short: 1 samples"),
        ("long", "too_long: 700 s, at most 600 s"),
    ],
)
def test_bad_sound_costs_one_row(corpus, kind, reason):
    name = damaged(corpus.folder, kind)
    reject = only_reject(corpus(GOOD, f"{name}|ა|ნინო"))
    assert reject.item == name and reject.reason.startswith(reason)
    with pytest.raises(AudioError, match=re.escape(name)) as e:
        read_audio(corpus.folder / name)
    assert e.value.reason == reason.split(":")[0]


@pytest.mark.parametrize("kind", ["stereo", "8 bit", "8 kHz", "silence", "float above 1"])
def test_unusual_sound_is_read(corpus, kind):
    path = corpus.folder / "odd.wav"
    wav, rate, subtype = {
        "stereo": (np.stack([TONE * 1.5, TONE * 0.5], 1), RATE, "PCM_16"),
        "8 bit": (TONE, RATE, "PCM_U8"),
        "8 kHz": (TONE, 8000, "PCM_16"),
        "silence": (TONE * 0, RATE, "PCM_16"),
        "float above 1": (TONE * 4, RATE, "FLOAT"),
    }[kind]
    sf.write(path, wav, rate, subtype=subtype)
    got, to = read_audio(path, 16000)
    assert got.dtype == np.float32 and got.ndim == 1 and to == 16000 and abs(got).max() <= 1
    assert len(got) == round(len(wav) * 16000 / rate)
    expected = TONE * {"silence": 0, "float above 1": 4}.get(kind, 1)
    assert abs(np.sqrt(np.mean(got**2)) - np.sqrt(np.mean(np.clip(expected, -1, 1) ** 2))) < 0.01
    assert not read_manifest(corpus(GOOD, "odd.wav|ა|ნინო")).rejects


def test_writing_refuses_nan_and_counts_clipping(tmp_path):
    with pytest.raises(AudioError, match="x.wav: non_finite"):
        write_audio(tmp_path / "x.wav", TONE * np.nan, RATE)
    assert not list(tmp_path.iterdir())
    assert write_audio(tmp_path / "x.wav", np.tile(np.float32([1.0, -1.0, 2.0]), 500), RATE) == 500
    assert (
        read_audio(tmp_path / "x.wav")[0][:3] == np.float32([32767 / 32768, -1, 32767 / 32768])
    ).all()


# ---- the list of rejects


def test_every_line_is_kept_or_listed(corpus):
    path = corpus(GOOD, GOOD, "../x.wav|ა|ბ", "wavs/lost.wav|ა|ბ", "=cmd()|ა", "wavs/a.wav|!|ბ")
    m = read_manifest(path)
    assert (
        len(m.rows) + len(m.rejects) == 6
        and "5 lines rejected" in m.summary()
        and "1 missing" in m.summary()
    )
    out = write_rejects(corpus.folder / "rejects.csv", m.rejects, "10_corpus")
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "stage|file|line|item|reason" and len(lines) == 6
    assert lines[1].startswith("10_corpus|") and lines[1].endswith(
        "metadata.csv|3|wavs/good.wav|duplicate: the same audio file as line 2"
    )
    assert "|6|'=cmd()|" in lines[4]  # no formula for a spreadsheet
    assert [r.line for r in read_rejects(out)] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "row, said",
    [
        (
            Row("a.wav", "a|b", "c"),
            r"row 1 \('a.wav'\) cannot be written: `\|`, a line end or a control character in text",
        ),
        (Row("a.wav", "a\nb", "c"), "a line end or a control character in text"),
        (Row("../a.wav", "a", "c"), r"`\.\.` in the path"),
    ],
)
def test_rows_that_would_not_read_back_are_not_written(tmp_path, row, said):
    with pytest.raises(ManifestError, match=said):
        write_manifest(tmp_path / "metadata.csv", [row])
    assert not list(tmp_path.iterdir())


# ---- configuration


@pytest.mark.parametrize(
    "content, said",
    [
        ("steps: 5\nstpes: 6\n", r"run\.yaml:2: unknown key `stpes`; did you mean `steps`\?"),
        (
            "optim:\n  lrr: 1\n",
            r"run\.yaml:2: unknown key `optim\.lrr`; did you mean `optim\.lr`\?",
        ),
        ("\nzebra: 1\n", r"run\.yaml:2: unknown key `zebra`; known keys: steps, name, optim"),
        ("name: demo\nsteps: many\n", r"run\.yaml:2: `steps` must be int, got 'many' \(str\)"),
        ("steps: true\n", r"run\.yaml:1: `steps` must be int, got True \(bool\)"),
        ("steps: 2.5\n", r"run\.yaml:1: `steps` must be int, got 2\.5 \(float\)"),
        ("name: 007\n", r"run\.yaml:1: `name` must be str, got 7 \(int\); put it in quotes"),
        ("optim:\n\n  lr: .nan\n", r"run\.yaml:3: `optim\.lr` must be a finite number, got nan"),
        ("optim: 5\n", r"run\.yaml:1: `optim` must hold keys \(lr\), got 5"),
        ("steps: 5\nname: a\nsteps: 6\n", r"run\.yaml:3: `steps` is given twice, first on line 1"),
        ("- steps\n", r"run\.yaml: a mapping `key: value` is expected"),
        ("steps: [1,\nname: x\n", r"run\.yaml:[23]: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", r"run\.yaml:1: not valid YAML"),
        ("base: gone.yaml\n", r"gone\.yaml: no such file"),
    ],
)
def test_bad_config(tmp_path, content, said):
    (tmp_path / "run.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load(Train, tmp_path / "run.yaml")


def test_all_mistakes_at_once_and_json(tmp_path):
    (tmp_path / "run.json").write_text(
        '{\n "steps": "many",\n "optim": {"lr": "fast"},\n "nmae": 1\n}\n'
    )
    with pytest.raises(ConfigError) as e:
        load(Train, tmp_path / "run.json", ["optim=[1]"])
    lines = str(e.value).replace(f"{tmp_path}/", "").splitlines()
    assert sorted(lines) == [
        "override 'optim=[1]': `optim` must hold keys (lr), got [1] (list)",
        "run.json:2: `steps` must be int, got 'many' (str)",
        "run.json:4: unknown key `nmae`; did you mean `name`?",
    ]


@pytest.mark.parametrize(
    "override, said",
    [
        ("optim.lr = 1e-4", "write optim.lr=1e-4"),
        ("optim.lr: 1e-4", "write optim.lr=1e-4"),
        ("optim.lr", "write key.subkey=value"),
        (
            "optim.lrr=1",
            r"override 'optim.lrr=1': unknown key `optim.lrr`; did you mean `optim.lr`\?",
        ),
        ("steps=abc", "override 'steps=abc': `steps` must be int"),
    ],
)
def test_bad_override(override, said):
    with pytest.raises(ConfigError, match=said):
        load(Train, None, [override])


def test_good_config(tmp_path):
    (tmp_path / "base.yaml").write_text("steps: 1\noptim: {lr: 1}\n")
    (tmp_path / "run.yaml").write_text("base: base.yaml\nname: 'no'\noptim:\n  lr: 1e-3\n")
    cfg = load(Train, tmp_path / "run.yaml", ["steps=1_000"])
    assert (cfg.steps, cfg.name, cfg.optim.lr) == (1000, "no", 1e-3)
    with pytest.raises(ConfigError, match="run.yml: no such file.*base.yaml, run.yaml"):
        load(Train, tmp_path / "run.yml")


def test_every_error_is_one_a_user_can_mend():
    "The command line prints these without a traceback."
    for kind in (AudioError, ConfigError, ManifestError, PathError):
        assert issubclass(kind, XttsKaError)
    with pytest.raises(ConfigError):
        Train(steps="x")
    with pytest.raises(ConfigError):
        build(Train, dict(optim=dict(lr=float("inf"))))
