"""Recordings to clips, and clips to texts: what a person would try with the commands."""

import json
import os
import signal
import subprocess
import sys

import faults
import numpy as np
import pytest
import soundfile as sf
from scipy.signal import butter, sosfilt

from xtts_ka.core.audio import read_audio, write_audio
from xtts_ka.core.errors import ConfigError, ManifestError, MissingError, XttsKaError
from xtts_ka.core.files import tree_digest
from xtts_ka.core.manifest import read_manifest, read_rejects
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.synthetic import Synthesizer
from xtts_ka.curate.edits import EDITS, CorpusFolder, new_edit
from xtts_ka.curate.slices import SliceConfig, quiet_place, slice_recordings
from xtts_ka.pipeline.cli import main

SAID = "დილით ადრე მზე მთებს უკან ამოვიდა და სოფელი გაანათა."


@pytest.fixture(scope="module")
def sentence():
    return Synthesizer().speak(SAID, "nino").wav


def talk(sentence, seconds, seed=0, pause=0.4):
    "One sentence again and again, with pauses: [T] at 22,050 Hz."
    g, parts = rng(seed, "talk"), []
    while sum(map(len, parts)) < seconds * 22050:
        parts += [sentence, np.zeros(round(g.uniform(pause, 2 * pause) * 22050), np.float32)]
    wav = 0.5 * np.concatenate(parts)
    return wav + (0.001 * g.standard_normal(len(wav))).astype(np.float32)


def test_formats_keep_their_rate_and_give_the_same_cuts(tmp_path, sentence):
    wav = talk(sentence, 11)
    for name, kind in [("a.wav", {}), ("b.flac", {}), ("c.aiff", {}), ("d.w64", {})]:
        (tmp_path / "raw/ana").mkdir(parents=True, exist_ok=True)
        sf.write(tmp_path / "raw/ana" / name, wav, 22050, **kind)
    sf.write(tmp_path / "raw/ana/e.mp3", wav, 22050)
    cfg = SliceConfig(max_seconds=6)
    made = slice_recordings(tmp_path / "raw", tmp_path / "out", cfg)
    assert not made.rejects and made.speakers.keys() == {"ana"}
    cuts = {}
    for r in made.rows:
        cuts.setdefault(r.extra["source"], []).append((r.extra["start"], r.extra["end"]))
        clip, rate = read_audio(made.audio_path(r))
        assert rate == 22050 and len(clip) / rate == pytest.approx(r.duration, abs=1e-4)
    assert cuts["ana/a.wav"] == cuts["ana/b.flac"] == cuts["ana/c.aiff"] == cuts["ana/d.w64"]
    assert len(cuts["ana/e.mp3"]) == len(cuts["ana/a.wav"]) > 1
    again = read_manifest(tmp_path / "out", check_audio=True, require_text=False)
    assert [r.audio_file for r in again.rows] == [r.audio_file for r in made.rows]


def test_a_clip_is_what_the_recording_has_there(tmp_path, sentence):
    wav = talk(sentence, 10)
    write_audio(tmp_path / "raw/talk.wav", wav, 22050)
    cfg = SliceConfig(level_db=None, speaker="ana", max_seconds=6, vad=False)
    made = slice_recordings(tmp_path / "raw/talk.wav", tmp_path / "out", cfg)
    raw, _ = read_audio(tmp_path / "raw/talk.wav")
    for r in made.rows:
        first = round(float(r.extra["start"]) * 22050)
        clip, _ = read_audio(made.audio_path(r))
        fade = round(0.005 * 22050)
        np.testing.assert_array_equal(clip[fade:-fade], raw[first : first + len(clip)][fade:-fade])
    louder = SliceConfig(speaker="ana", sample_rate=16000, highpass_hz=80, vad=False)
    other = slice_recordings(tmp_path / "raw/talk.wav", tmp_path / "b", louder)
    clip, rate = read_audio(other.audio_path(other.rows[0]))
    assert rate == 16000
    assert 10 * np.log10(np.mean(clip.astype(float) ** 2)) == pytest.approx(-23, abs=0.5)


def test_killed_in_a_long_recording_it_goes_on_in_it(tmp_path, sentence):
    write_audio(tmp_path / "raw/ana/long.flac", talk(sentence, 100), 22050)
    cfg = SliceConfig(block_seconds=30, vad=False)
    slice_recordings(tmp_path / "raw", tmp_path / "whole", cfg)
    code = f"""
import os, signal
import xtts_ka.curate.slices as s
work, n = s._write_block, 0
def then_die(*a):
    global n
    n += 1
    if n == 3: os.kill(os.getpid(), signal.SIGKILL)
    return work(*a)
s._write_block = then_die
s.slice_recordings({str(tmp_path / "raw")!r}, {str(tmp_path / "killed")!r},
                   s.SliceConfig(block_seconds=30, vad=False))
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    held = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed/wavs").rglob("*.wav")}
    assert held
    slice_recordings(tmp_path / "raw", tmp_path / "killed", cfg)
    assert all(p.stat().st_mtime_ns == t for p, t in held.items())  # not cut again
    assert tree_digest(tmp_path / "killed") == tree_digest(tmp_path / "whole")
    # a recording that comes later is cut alone; a clip that was lost is made again
    write_audio(tmp_path / "raw/gio/more.flac", talk(sentence, 12, 1), 22050)
    first = sorted(held)[0]
    slice_recordings(tmp_path / "raw", tmp_path / "killed", cfg)
    assert first.stat().st_mtime_ns == held[first]
    first.unlink()
    slice_recordings(tmp_path / "raw", tmp_path / "killed", cfg)
    assert first.is_file()


def test_speech_without_pauses_is_cut_and_counted(tmp_path, sentence, capsys):
    loud = np.flatnonzero(np.abs(sentence) > 0.01)
    wav = np.tile(sentence[loud[0] : loud[-1]], 12)
    t = np.arange(len(wav)) / 22050
    wav = 0.4 * wav + (0.1 * np.sign(np.sin(2 * np.pi * 130 * t))).astype(np.float32)
    write_audio(tmp_path / "raw/ana/drone.wav", wav, 22050)
    options = ["vad=false", "max_seconds=5", "block_seconds=30"]
    args = ["corpus", "slice", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), *options]
    assert main(args) == 0
    told = capsys.readouterr()
    assert "without one" in told.out and "had no pause" in told.err
    rows = read_manifest(tmp_path / "out", require_text=False).rows
    assert all(r.duration <= 5 for r in rows)
    kept = sum(r.duration for r in rows)
    assert kept > 0.97 * len(wav) / 22050  # nothing between two clips is lost
    totals = json.loads((tmp_path / "out/curation/slice.json").read_text())["totals"]
    assert totals["forced"] > 0 and totals["clips"] == len(rows)


def test_places_where_something_would_be_lost(tmp_path, sentence):
    raw = tmp_path / "raw"
    write_audio(raw / "ana/a.wav", talk(sentence, 8), 22050)
    before = tree_digest(raw)
    for out, words in [
        (raw, "which is to be read"),
        (tmp_path, "which is to be read"),
        (raw / "corpus", "taken for recordings"),
        (raw / "ana/a.wav", "--out"),
    ]:
        with pytest.raises(ConfigError, match=words):
            slice_recordings(raw, out)
    write_audio(tmp_path / "mine/wavs/x.wav", sentence, 22050)
    with pytest.raises(ConfigError, match="did not make"):
        slice_recordings(raw, tmp_path / "mine")
    assert (tmp_path / "mine/wavs/x.wav").is_file() and tree_digest(raw) == before
    made = slice_recordings(raw, tmp_path / "out")
    CorpusFolder(tmp_path / "out").add(new_edit(made.rows[0].audio_file, set={"text": "ა"}))
    slice_recordings(raw, tmp_path / "out")  # the same options: the edits still fit
    with pytest.raises(ConfigError, match=EDITS):
        slice_recordings(raw, tmp_path / "out", SliceConfig(max_seconds=6))
    with pytest.raises(MissingError, match="no such"):
        slice_recordings(tmp_path / "none", tmp_path / "o")
    with pytest.raises(ManifestError, match="no recordings"):
        (tmp_path / "empty").mkdir()
        slice_recordings(tmp_path / "empty", tmp_path / "o")


def test_films_and_broken_files_are_told(tmp_path, sentence, capsys):
    raw = tmp_path / "raw"
    write_audio(raw / "a.wav", talk(sentence, 8), 22050)
    for name, head in [
        ("my film.mp4", b"\0\0\0\x18ftypmp42"),
        ("show.mkv", b"\x1a\x45\xdf\xa3"),
        ("old.avi", b"RIFF\0\0\0\0AVI LIST"),
        ("phone.m4a", b"\0\0\0\x20ftypM4A "),
        ("named.wav", b"\0\0\0\x18ftypmp42"),
        ("text.mp3", b"no sound at all "),
    ]:
        (raw / name).write_bytes(head + bytes(3000))
    (raw / "cut.wav").write_bytes((raw / "a.wav").read_bytes()[:9000])
    assert main(["corpus", "slice", str(raw), "--out", str(tmp_path / "out")]) == 0
    reasons = {r.item: r.reason for r in read_rejects(tmp_path / "out/rejects.csv")}
    assert len(reasons) == 7 and reasons.pop("cut.wav").startswith("truncated")
    assert all("ffmpeg -i" in r and "-vn -ac 1" in r for r in reasons.values()), reasons
    assert "'my film.mp4'" in reasons["my film.mp4"]
    assert "called `speaker`" in capsys.readouterr().err


def test_a_full_disk_is_told_and_work_goes_on(tmp_path, sentence, capsys):
    write_audio(tmp_path / "raw/ana/a.wav", talk(sentence, 30), 22050)
    args = ["corpus", "slice", str(tmp_path / "raw"), "--out", str(tmp_path / "disk/out")]
    with faults.Disk(tmp_path / "disk", 200_000) as disk:
        assert main(args) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told and ("full" in told or "large" in told), told
        disk.resize(20_000_000)
        assert main(args) == 0
        assert read_manifest(tmp_path / "disk/out", require_text=False).rows


def test_help_lists_every_option(capsys):
    for step, options in [
        ("slice", ("pad_seconds=0.25", "channels=mix")),
        ("transcribe", ("all=",)),
    ]:
        with pytest.raises(SystemExit):
            main(["corpus", step, "--help"])
        shown = capsys.readouterr().out
        assert all(o in shown for o in options), shown
    assert main(["corpus", "slice", "raw", "--out", "o", "pad_second=1"]) == 2
    assert "did you mean `pad_seconds`" in capsys.readouterr().err


def test_quiet_place_prefers_its_aim_among_equals():
    quiet = np.zeros(100)
    assert quiet_place(quiet, 20, 80, 70) == 70
    quiet[60:] = 30
    assert quiet_place(quiet, 20, 80, 70) == 59
    quiet[:] = 30
    quiet[40] = 10  # one quiet step between loud ones
    assert quiet_place(quiet, 20, 80, 70) == 40


def test_a_breath_softer_than_the_room_is_not_cut_in_two(tmp_path, sentence):
    g, rate, breaths = rng(0, "breath"), 22050, []
    sos = butter(2, [800, 4000], "bandpass", fs=rate, output="sos")
    loud = np.flatnonzero(np.abs(sentence) > 0.01)
    said, parts = 0.5 * sentence[loud[0] : loud[-1]], [np.zeros(rate // 2)]
    for _ in range(3):
        at = sum(map(len, parts)) / rate
        breaths.append((at + 0.5, at + 0.95))  # It ends 0.15 s before speech
        breath = sosfilt(sos, g.standard_normal(round(0.45 * rate)))
        parts += [np.zeros(rate // 2), 0.004 * breath, np.zeros(round(0.15 * rate)), said]
    wav = np.concatenate([*parts, np.zeros(rate)])
    room = np.cumsum(g.standard_normal(len(wav)))
    room = sosfilt(butter(1, 60, "highpass", fs=rate, output="sos"), room)
    wav += 0.01 * room / room.std()  # 12 dB above the breath, mostly below 200 Hz
    write_audio(tmp_path / "raw/ana/a.wav", wav.astype(np.float32), rate)
    made = slice_recordings(tmp_path / "raw", tmp_path / "out", SliceConfig(max_seconds=7))
    starts = [float(r.extra["start"]) for r in made.rows]
    assert len(starts) == 3
    for start, (a, b) in zip(starts, breaths):
        assert not a + 0.03 < start < b - 0.03, (start, a, b)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sentence):
    home = tmp_path_factory.mktemp("transcribe")
    write_audio(home / "raw/nino/a.wav", talk(sentence, 14), 22050)
    slice_recordings(home / "raw", home / "corpus")
    return home / "corpus"


def test_transcribe_without_a_recogniser_says_how_to_get_one(corpus, capsys):
    assert main(["corpus", "transcribe", str(corpus)]) == 2
    told = capsys.readouterr().err
    assert "which recogniser" in told and "xtts-ka fetch mms-1b-all" in told
    with pytest.raises(XttsKaError, match="metadata.csv"):
        CorpusFolder(corpus / "wavs").read()


def test_a_text_of_a_person_stays(corpus, capsys):
    folder = CorpusFolder(corpus)
    clips = [r.audio_file for r in folder.read().rows]
    before = (corpus / "metadata.csv").read_bytes()
    folder.add(new_edit(clips[0], set={"text": "ჩემი"}, was={"text": ""}))
    args = ["corpus", "transcribe", str(corpus), "--recogniser", "builtin"]
    assert main(args) == 0
    assert "synthetic voices only" in capsys.readouterr().err
    rows = folder.read().rows
    assert rows[0].text == "ჩემი" and all(r.text for r in rows)
    folder.add(new_edit(clips[1], set={"text": "მეორე"}, was={"text": rows[1].text}))
    assert main([*args, "all=true"]) == 0
    now = folder.read()
    assert [r.text for r in now.rows[:2]] == ["ჩემი", "მეორე"] and not now.remarks
    assert all(r.extra["heard"] for r in now.rows[:2])
    assert (corpus / "metadata.csv").read_bytes() == before


def test_a_clip_that_cannot_be_read_stops_nothing(corpus):
    from xtts_ka.curate.transcribe import transcribe_corpus
    from xtts_ka.evaluate.scorers import open_scorer

    folder = CorpusFolder(corpus, corpus / "other")
    clips = [r.audio_file for r in folder.read().rows]
    data = (corpus / clips[0]).read_bytes()
    os.truncate(corpus / clips[0], 500)
    try:
        done = transcribe_corpus(folder, open_scorer("builtin"))
    finally:
        (corpus / clips[0]).write_bytes(data)
    assert done["written"] == len(clips) - 1 and done["without_text"] == 1
    assert "truncated" in done["rejects"][0].reason
    assert transcribe_corpus(folder, open_scorer("builtin"))["written"] == 1  # tried again
