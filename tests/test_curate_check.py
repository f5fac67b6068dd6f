"""The check of a corpus: bad input, a kill in the middle, the command, the page in a browser."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, chromium
from calls import called

from xtts_ka.core.audio import set_level, write_audio
from xtts_ka.core.errors import ConfigError, ManifestError, MissingError
from xtts_ka.core.manifest import Row, read_rejects, write_manifest
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.sentences import recombine
from xtts_ka.curate.check import check_corpus, open_ears, read_checks
from xtts_ka.curate.edits import CorpusFolder
from xtts_ka.curate.faults import CheckConfig
from xtts_ka.evaluate.damage import add_noise, band_limit, clip_peaks
from xtts_ka.text.language_model import KneserNey

PLAIN = ["encoder=none", "judges=none"]
QUICK = CheckConfig(encoder="none", judges="none")
TEXT = "დილით ქარმა ფანჯარა გააღო"


def sound(key, seconds=1.6, rate=16000):
    "Bursts of harmonics with pauses and room noise: no words, but the shape of speech."
    r, t = rng(5, key), np.arange(round(seconds * rate)) / rate
    pitch = r.uniform(90, 220)
    rise = np.clip(np.sin(2 * np.pi * (2.2 + r.uniform()) * t - np.pi / 2), 0, 1)
    wave = sum(np.sin(2 * np.pi * k * pitch * t + r.uniform(0, 6)) / k for k in range(1, 12))
    hiss = r.normal(size=len(t)) * (np.sin(2 * np.pi * 1.3 * t) > 0.6)
    wav = np.pad((wave * rise + 0.8 * hiss * rise) * 0.1, rate // 5)
    return add_noise(set_level(wav.astype(np.float32), -23.0), 45, key)


def corpus(folder, clips, rate=16000):
    "A corpus of (speaker, text, wav); no file for a wav of None."
    rows = []
    for n, (speaker, text, wav) in enumerate(clips):
        name = f"wavs/{n:02}.wav"
        if wav is not None:
            write_audio(folder / name, wav, rate)
        rows.append(Row(name, text, speaker))
    write_manifest(folder / "metadata.csv", rows)
    return CorpusFolder(folder)


def flags(checks):
    return [sorted(r.flags) for r in checks.rows]


def files(folder):
    "Everything that a check wrote, but the order of its caches."
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# bad input


def test_a_corpus_without_clips_is_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text("audio_file|text|speaker_name\n")
    with pytest.raises(ManifestError, match="no rows after the header"):
        check_corpus(CorpusFolder(tmp_path), QUICK)


def test_one_clip(tmp_path):
    "Nothing to compare with, and that is said."
    checks = check_corpus(corpus(tmp_path, [("a", TEXT, sound(1))]), QUICK)
    assert flags(checks) == [[]]
    assert any(n.startswith("texts: 1, too few") for n in checks.notes)
    assert any(n.startswith("CER: not measured") for n in checks.notes)
    assert checks.rows[0].values["snr_db"] > 30


def test_one_speaker_says_so(tmp_path):
    folder = corpus(tmp_path, [("a", f"{TEXT} {n}", sound(n)) for n in range(3)])
    checks = check_corpus(folder, CheckConfig(judges="none"))
    said = " ".join(checks.notes)
    assert "one speaker" in said and "the corpus is too small" in said
    assert checks.rows[0].values["margin"] is None and checks.rows[0].values["own_cos"] > 0


def test_silent_missing_broken_and_without_text(tmp_path):
    clips = [("a", TEXT, sound(1)), ("a", "", sound(2)), ("b", "!?", sound(3))]
    clips += [("b", TEXT, np.zeros(16000, np.float32)), ("b", TEXT, None), ("b", TEXT, sound(4))]
    folder = corpus(tmp_path, clips)
    (tmp_path / "wavs/05.wav").write_bytes(b"RIFF, and no more")
    checks = check_corpus(folder, QUICK)
    found = flags(checks)
    assert found[:3] == [[], ["no_text"], ["no_text"]]
    assert "silent" in found[3] and found[4] == found[5] == ["unreadable"]
    reasons = [r.reason for r in read_rejects(folder.work / "check/rejects.csv")]
    assert reasons[0] == "no such file" and len(reasons) == 2
    held = read_checks(folder)
    assert held["wavs/04.wav"]["flags"] == {"unreadable": "no such file"}
    assert held["wavs/00.wav"]["badness"] == 0.0 < held["wavs/03.wav"]["badness"]


def test_what_was_named_must_be_there(tmp_path):
    folder = corpus(tmp_path, [("a", TEXT, sound(1))])
    with pytest.raises(MissingError, match="nothing-here"):
        check_corpus(folder, CheckConfig(encoder="resemblyzer:nothing-here.pt", judges="none"))
    with pytest.raises(ConfigError, match="there is no 'ears'"):
        check_corpus(folder, CheckConfig(encoder="none", judges="none", recogniser="ears"))
    with pytest.raises(ConfigError, match="min_snr_db"):
        CheckConfig(min_snr_db=200)


def test_judges_as_strangers_write_them():
    assert CheckConfig(judges="dnsmos, distillmos,dnsmos").judges == ["dnsmos", "distillmos"]
    assert CheckConfig(judges="[dnsmos]").judges == ["dnsmos"]
    for judges in ("resemblyzer", "dnsmos,distilmos", "auto,dnsmos"):
        with pytest.raises(ConfigError, match="a list of dnsmos, distillmos"):
            open_ears(CheckConfig(encoder="none", judges=judges))


def test_a_telephone_throughout_is_said_once(tmp_path):
    clips = [("ab"[k % 2], f"{TEXT} {k}", band_limit(sound(k), 16000)) for k in range(6)]
    checks = check_corpus(corpus(tmp_path, clips), QUICK)
    assert flags(checks) == [[]] * 6
    assert any("narrow band: 6 of 6 clips" in n for n in checks.notes)


def test_a_language_model_from_elsewhere(tmp_path):
    "It is looked for before anything is measured; a folder of the stage will do."
    texts = recombine(140, 5, min_words=5, max_words=7)
    said = [*texts[:41], "the quick brown fox jumps over the dog"]
    noise = rng(1, "noise").normal(size=(42, 4000)) * 0.05
    clips = [("a", t, w.astype(np.float32)) for t, w in zip(said, noise)]
    folder = corpus(tmp_path / "c", clips)
    for name in ("nothing.safetensors", "c"):
        with pytest.raises(MissingError, match="no such file"):
            check_corpus(folder, replace(QUICK, language_model=str(tmp_path / name)))
    assert not (folder.work / "cache").exists()
    KneserNey(3).fit(texts[42:]).save(tmp_path / "language/kneser_ney.safetensors")
    checks = check_corpus(folder, replace(QUICK, language_model=str(tmp_path / "language")))
    assert [r.clip for r in checks.rows if "odd_text" in r.flags] == ["wavs/41.wav"]
    KneserNey(3).fit(["nothing but English"]).save(tmp_path / "en.safetensors")
    checks = check_corpus(folder, replace(QUICK, language_model=str(tmp_path / "en.safetensors")))
    assert any("foreign to language_model" in n for n in checks.notes)


# a kill in the middle


def damaged(folder, n=12):
    clips = [("ab"[k % 2], f"{TEXT} {'ა' * k}", sound(k)) for k in range(n)]
    clips[2] = (*clips[2][:2], band_limit(clips[2][2], 16000))
    clips[3] = (*clips[3][:2], clip_peaks(clips[3][2], 0.01))
    clips[5] = (*clips[5][:2], 0.5 * clips[4][2])
    return corpus(folder, clips)


def test_killed_and_resumed_gives_the_same_files(tmp_path):
    whole = damaged(tmp_path / "x/whole")
    check_corpus(whole, CheckConfig(encoder="none", judges="none", drop=["clipping"]))
    shutil.copytree(tmp_path / "x/whole", tmp_path / "y/whole")
    killed = CorpusFolder(tmp_path / "y/whole")
    shutil.rmtree(killed.work)
    words = ["corpus", "check", str(killed.path), *PLAIN, "drop=[clipping]"]
    code = f"from xtts_ka.pipeline.cli import main; main({words!r})"
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    journal, until = killed.work / "cache/clips.jsonl", time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    first = journal.read_bytes()
    assert called(*words).returncode == 0
    a, b = files(whole.work), files(killed.work)
    assert journal.read_bytes().startswith(first[: first.rindex(b"\n")])
    same = {k: v for k, v in a.items() if not k.endswith("index.html") and k != "check.json"}
    assert same == {k: b[k] for k in same} and set(a) == set(b)
    assert len(killed.read().rows) == 11


def test_a_changed_clip_is_measured_again_and_others_are_not(tmp_path):
    folder = damaged(tmp_path, 6)
    check_corpus(folder, QUICK)
    journal = folder.work / "cache/clips.jsonl"
    assert len(journal.read_text().splitlines()) == 6
    write_audio(tmp_path / "wavs/00.wav", clip_peaks(sound(0), 0.02), 16000)
    checks = check_corpus(folder, QUICK)
    assert len(journal.read_text().splitlines()) == 7
    assert "clipping" in checks.rows[0].flags


# the command and the page


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = damaged(tmp_path_factory.mktemp("check") / "ხმები")
    run = called("corpus", "check", folder.path, *PLAIN, "min_snr_db=10")
    assert run.returncode == 0, run.stderr
    return folder, run


def test_the_command_prints_what_it_found(checked):
    folder, run = checked
    line = "12 clips, speakers: 2, flagged: 3 (1 narrow_band, 1 clipping, 1 duplicate)"
    assert line in run.stdout and "curation/check/index.html" in run.stdout
    totals = json.loads((folder.work / "check.json").read_text())
    assert totals["options"]["min_snr_db"] == 10 and totals["kinds"]["duplicate"] == 1
    assert len((folder.work / "checks.csv").read_text().splitlines()) == 13


def test_the_command_refuses_what_it_does_not_know(checked):
    run = called("corpus", "check", checked[0].path, "min_snr=10")
    assert run.returncode != 0 and "did you mean `min_snr_db`" in run.stderr
    run = called("corpus", "check", checked[0].path, "drop=[clicks]")
    assert run.returncode != 0 and "no kind 'clicks'" in run.stderr
    assert "min_bandwidth_hz" in called("corpus", "check", "--help").stdout


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_sorts_and_filters(checked):
    page = Path(checked[0].work) / "check/index.html"
    assert "http://" not in page.read_text() and "https://" not in page.read_text()
    rows = "[...document.querySelectorAll('#clips tbody tr')]"
    with Browser() as b:
        b.open(page, "true")
        assert b.run(f"{rows}.length") == 12
        assert b.run(f"{rows}[0].cells[4].innerText") != ""  # the worst first
        b.run("document.querySelectorAll('#clips th button')[0].click()")
        assert b.run(f"{rows}.map(r => r.cells[1].innerText)[0]") == "wavs/00.wav"
        b.run("document.querySelectorAll('#clips th button')[0].click()")
        assert b.run(f"{rows}.map(r => r.cells[1].innerText)[0]") == "wavs/11.wav"
        b.run("kind => {}")
        b.run("(k => { k.value = 'duplicate'; k.onchange(); })(document.getElementById('kind'))")
        assert b.run(f"{rows}.map(r => r.cells[1].innerText).join()") == "wavs/05.wav"
        b.fill("#find", "nothing like it")
        assert b.run(f"{rows}.length") == 0
        whole = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
        b.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        b.wait(whole)
        b.press(".player button")
        b.wait("[...document.querySelectorAll('.player audio')].some(a => a.currentTime > 0.1)")
