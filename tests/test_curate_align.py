"""A recording and its text become clips (`xtts-ka corpus align`): on the command line, resumed,
in noise, with texts that do not fit."""

import json
import shutil

import numpy as np
import pytest
from calls import called

from xtts_ka.core.audio import read_audio, write_audio
from xtts_ka.core.errors import ConfigError, ManifestError
from xtts_ka.core.manifest import read_rejects
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
from xtts_ka.curate.align import AlignConfig, align_recordings
from xtts_ka.curate.edits import CorpusFolder
from xtts_ka.curate.formats import FORMATS, read_cues
from xtts_ka.evaluate.scorers import open_scorer

SAID = [
    "დილით ბებიამ პური გამოაცხო.",
    "მეზობელმა ლამაზი ვარდები დარგო.",
    "მატარებელი სადგურზე ხუთ საათზე მოვიდა.",
    "ბავშვები ეზოში ბურთს თამაშობდნენ.",
    "ხვალ ქალაქში თბილი ამინდი იქნება.",
]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    "A folder with a recording of a speaker, and the times of its sentences."
    folder = tmp_path_factory.mktemp("raw")
    sound, times, at = [np.zeros(SAMPLE_RATE // 2, np.float32)], [], SAMPLE_RATE // 2
    for text in SAID:
        wav = Synthesizer().speak(text, "nino").wav
        times.append((at / SAMPLE_RATE, (at + len(wav)) / SAMPLE_RATE))
        sound += [wav, np.zeros(8000, np.float32)]
        at += len(wav) + 8000
    write_audio(folder / "ana/book.wav", np.concatenate(sound), SAMPLE_RATE)
    (folder / "ana/book.txt").write_text("\n".join(SAID), encoding="utf-8")
    return folder, times


@pytest.fixture(scope="module")
def builtin():
    return open_scorer("builtin")


def command(*words):
    return called("corpus", "align", *words)


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_command_makes_a_corpus(spoken, tmp_path):
    raw, times = spoken
    out = tmp_path / "corpus"
    words = (raw, "--out", out, "--recogniser", "builtin", "--formats", "srt,vtt,textgrid,eaf")
    run = command(*words, "pad_seconds=0.2")
    assert run.returncode == 0, run.stderr
    assert "5 sentences" in run.stdout
    rows = CorpusFolder(out).read(check_audio=True).rows
    assert [r.text for r in rows] == SAID and {r.speaker_name for r in rows} == {"ana"}
    for r, (start, end) in zip(rows, times):
        assert abs(float(r.extra["start"]) - start) < 0.12
        assert abs(float(r.extra["end"]) - end) < 0.12
        assert abs(r.duration - (float(r.extra["end"]) - float(r.extra["start"])) - 0.4) < 0.01
    for suffix in FORMATS.values():
        assert [c.text for c in read_cues(out / f"curation/ana-book{suffix}")] == SAID
    assert json.loads((out / "curation/align.json").read_text())["totals"]["clips"] == 5
    help_text = command("--help").stdout
    assert "min_score=0.06" in help_text and "--recogniser NAME" in help_text


def test_the_same_bits_after_a_kill(spoken, builtin, tmp_path):
    raw, _ = spoken
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    align_recordings(raw, None, whole, builtin)
    shutil.copytree(whole, cut)
    for name in ("metadata.csv", "rejects.csv", "wavs/ana/book@0002.wav"):
        (cut / name).unlink()
    (cut / "wavs/ana/book@0009.wav").write_bytes(b"of another alignment")
    heard = list((cut / "curation/emissions").iterdir())
    ages = [p.stat().st_mtime_ns for p in heard]
    align_recordings(raw, None, cut, builtin)
    assert files(cut) == files(whole)
    assert [p.stat().st_mtime_ns for p in heard] == ages  # nothing was heard again


def test_gaps_changes_and_noise(spoken, builtin, tmp_path):
    raw, times = spoken
    wav, rate = read_audio(raw / "ana/book.wav")
    noise = 0.006 * rng(1, "noise").standard_normal(len(wav), dtype=np.float32)
    write_audio(tmp_path / "a/noisy.flac", wav + noise, rate)
    text = [
        "ეს წინასიტყვაობა არავის წაუკითხავს.",
        SAID[0],
        SAID[2].replace("მატარებელი", "თვითმფრინავი"),
        "აქ ერთი წინადადება გამოტოვეს.",
        *SAID[3:],
    ]
    (tmp_path / "text.txt").write_text(" ".join(text), encoding="utf-8")
    made = align_recordings(tmp_path / "a", tmp_path / "text.txt", tmp_path / "out", builtin)
    assert [r.text for r in made.rows] == [SAID[0], *SAID[3:]]
    for r, n in zip(made.rows, (0, 3, 4)):
        assert abs(float(r.extra["start"]) - times[n][0]) < 0.12
        assert abs(float(r.extra["end"]) - times[n][1]) < 0.12
    reasons = [r.reason for r in read_rejects(tmp_path / "out/rejects.csv")]
    assert sorted(r.split(":")[0] for r in reasons) == ["changed", "missing", "missing"]
    assert any("doubtful: თვითმფრინავი" in r for r in reasons)


def test_half_a_sentence_is_refused(spoken, builtin, tmp_path):
    "What is not in the text goes on without a pause into what is."
    raw, _ = spoken
    text = tmp_path / "text.txt"
    text.write_text(f"ბურთს თამაშობდნენ. {SAID[4]}", encoding="utf-8")
    made = align_recordings(raw, text, tmp_path / "out", builtin)
    assert [r.text for r in made.rows] == [SAID[4]]
    assert [r.reason.split(":")[0] for r in made.rejects] == ["touching"]


def test_a_long_sentence_is_cut_between_words(spoken, builtin, tmp_path):
    raw, _ = spoken
    text = ", ".join(s.rstrip(".") for s in SAID) + "."
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    cfg = AlignConfig(max_seconds=5.0)
    made = align_recordings(raw, tmp_path / "one.txt", tmp_path / "out", builtin, cfg)
    assert len(made.rows) >= 3 and max(r.duration for r in made.rows) < 5.3
    assert " ".join(r.text for r in made.rows) == text


def test_a_book_for_several_chapters(spoken, builtin, tmp_path):
    "A sentence is missing only where no recording of the text has it."
    raw, times = spoken
    wav, rate = read_audio(raw / "ana/book.wav")
    cut = round((times[2][1] + 0.1) * rate)
    write_audio(tmp_path / "raw/ana/1.wav", wav[:cut], rate)
    write_audio(tmp_path / "raw/ana/2.wav", wav[cut:], rate)
    book = tmp_path / "book.txt"
    book.write_text("\n".join([*SAID, "ეს აღარავის წაუკითხავს."]), encoding="utf-8")
    made = align_recordings(tmp_path / "raw", book, tmp_path / "out", builtin)
    assert [(r.extra["source"][-5], r.text) for r in made.rows] == list(zip("11122", SAID))
    assert [(r.line, r.reason.split(":")[0]) for r in made.rejects] == [(6, "missing")]


def test_what_is_refused(spoken, builtin, tmp_path):
    raw, _ = spoken
    out, text = tmp_path / "out", tmp_path / "text.srt"
    text.write_text("1\n00:00:01,000 --> nine\nა\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"text.srt:2: not a time"):
        align_recordings(raw, text, out, builtin)
    text = text.with_suffix(".txt")
    text.write_text("\n".join(s[::-1] for s in SAID), encoding="utf-8")
    with pytest.raises(ManifestError, match="text of another recording"):
        align_recordings(raw, text, out, builtin)
    text.write_text("The captain watched the wind.", encoding="utf-8")
    with pytest.raises(ConfigError, match="lacks .* letters of the text"):
        align_recordings(raw, text, out, builtin, AlignConfig(language="en"))
    with pytest.raises(ConfigError, match="only CTC models"):
        align_recordings(raw, None, out, open_scorer("prosody"))
    assert not (out / "metadata.csv").exists() and not (out / "wavs").exists()
    write_audio(tmp_path / "held/wavs/a.wav", np.zeros(100, np.float32), 16000)
    with pytest.raises(ConfigError, match="did not make"):
        align_recordings(raw, None, tmp_path / "held", builtin)
