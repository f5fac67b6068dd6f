"""The whole road: from recordings with and without texts to a corpus that a run takes; killed and
resumed, refused, with bad input, and through the command and the first stage of a run."""

import os
import signal
import time

import numpy as np
import pytest
from calls import called
from forks import Forked

from xtts_ka.core.audio import read_audio, write_audio
from xtts_ka.core.config import build, load
from xtts_ka.core.errors import ConfigError, ManifestError, MissingError
from xtts_ka.core.files import read_json, tree_digest
from xtts_ka.core.manifest import read_manifest, read_rejects
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.synthetic import SAMPLE_RATE, VOICES, Synthesizer
from xtts_ka.curate.card import CardConfig
from xtts_ka.curate.edits import CorpusFolder, new_edit
from xtts_ka.curate.faults import CheckConfig
from xtts_ka.curate.pack import SplitConfig
from xtts_ka.curate.road import (
    ROAD,
    RoadConfig,
    RunCorpusConfig,
    build_corpus,
    check_source,
    find_material,
    road,
)

READ = ("დღეს კარგი ამინდია.", "ბავშვები ეზოში თამაშობენ.", "მატარებელი საღამოს მოვა.")
TOLD = ("დედამ პური იყიდა ბაზარში.", "მდინარე მთიდან მოედინება.", "ყველა სკოლაში წავიდა დილით.")
NEVER = "ეს წინადადება არავის უთქვამს."
FAST = dict(encoder="none", judges="none")


def tape(path, texts, voice):
    "Sentences with a second of faint noise between them."
    speak, pause = Synthesizer().speak, np.zeros(SAMPLE_RATE, np.float32)
    parts = [x for t in texts for x in (pause, speak(t, VOICES[voice]).wav)]
    wav = np.concatenate([*parts, pause])
    noise = rng(1, path.name).normal(0, 0.0005, len(wav))
    write_audio(path, np.clip(wav + noise, -1, 1).astype(np.float32), SAMPLE_RATE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "tapes"
    one, two = list(VOICES)[:2]
    tape(folder / one / "book.wav", READ, one)
    (folder / one / "book.txt").write_text(" ".join([*READ, NEVER]), encoding="utf-8")
    tape(folder / two / "talk.flac", TOLD, two)
    return folder


@pytest.fixture(scope="module")
def config():
    return RoadConfig(
        recogniser="builtin",
        check=CheckConfig(**FAST),
        split=SplitConfig(val_fraction=0.2, test_fraction=0.2),
        card=CardConfig(consent="none is needed: synthetic speech"),
    )


@pytest.fixture(scope="module")
def walked(raw, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("walked") / "corpus"
    return road(raw, out, config)


def digest_of(out):
    "All that a reader sees: clips, lists, journals' result."
    keep = ("metadata.csv", "curated.csv", "rejects.csv", "wavs", "curation/splits.json")
    return {k: tree_digest(out / k) for k in (*keep, "curation/card.md", f"curation/{ROAD}")}


def test_all_steps_and_what_they_left_out(walked, raw):
    steps = read_json(walked.folder / "curation" / ROAD)["steps"]
    assert [s["name"] for s in steps] == ["align", "slice", "transcribe", "check", "split"]
    assert (steps[0]["given"], steps[0]["kept"], steps[0]["left"]) == (1, 3, {"missing": 1})
    assert steps[1]["given"] == 1 and steps[2]["given"] == steps[1]["kept"] == 3
    texts = {r.text for r in walked.rows}
    assert set(READ) <= texts and not any("უთქვამს" in t for t in texts)
    assert all(r.text and r.split for r in walked.rows)
    assert {r.split for r in walked.rows} == {"train", "val", "test"}
    sources = {p.relative_to(raw).as_posix() for p in raw.rglob("*.[wf]*")}
    assert {r.extra["source"] for r in walked.rows} == sources
    lost = read_rejects(walked.folder / "rejects.csv")
    assert len(lost) == 1 and NEVER in lost[0].item and lost[0].reason.startswith("missing")
    assert "| consent | none is needed: synthetic speech |" in (
        walked.folder / "curation/card.md"
    ).read_text(encoding="utf-8")


def test_clips_are_where_the_list_says(walked, raw):
    "A clip is its stretch of the recording, up to its level."
    row = next(r for r in walked.rows if r.text == READ[1])
    clip, rate = read_audio(walked.audio_path(row))
    whole, at = read_audio(raw / row.extra["source"])
    assert rate == at
    first = max(round(float(row.extra["start"]) * rate) - rate, 0)
    near = whole[first : round(float(row.extra["end"]) * rate) + rate]
    fit = np.correlate(near, clip, "valid") if len(near) > len(clip) else np.zeros(1)
    norms = np.sqrt(np.convolve(near**2, np.ones(len(clip)), "valid") * (clip**2).sum())
    assert (fit / norms).max() > 0.9


def test_again_is_the_same_and_people_are_heeded(walked, raw, config, tmp_path):
    out = tmp_path / "corpus"
    made = road(raw, out, config)
    before = digest_of(out)
    assert before == digest_of(walked.folder)
    road(raw, out, config)
    assert digest_of(out) == before
    name = made.rows[0].audio_file
    CorpusFolder(out).add(new_edit(name, drop="a door", by="tamar"))
    again = road(raw, out, config)
    assert name not in {r.audio_file for r in again.rows}
    cut = load(RoadConfig, None, ["recogniser=builtin", "slice.max_seconds=5"])
    with pytest.raises(ConfigError, match="1 corrections"):
        road(raw, out, cut)


def walk(raw, out, values):
    "`road` as a process: its exit status."
    road(raw, out, build(RoadConfig, values))
    return 0


def test_killed_and_resumed_gives_the_same(walked, raw, config, tmp_path):
    from xtts_ka.core.config import to_dict

    out = tmp_path / "corpus"
    p = Forked(walk, raw, out, to_dict(config))
    while p.poll() is None and not list(out.glob("curation/parts/sliced/wavs/*/*.wav")):
        time.sleep(0.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (out / "curated.csv").exists(), "it was too quick to be killed"
    road(raw, out, config)
    assert digest_of(out) == digest_of(walked.folder)


def test_without_a_recogniser(raw, tmp_path):
    "Nothing is written before it is asked for; recordings without a text may stay without one."
    with pytest.raises(MissingError, match="recogniser=ctc:FOLDER"):
        road(raw, tmp_path / "corpus", RoadConfig())
    assert not (tmp_path / "corpus").exists()
    cfg = build(RoadConfig, {"transcribe": False, "check": FAST, "drop": ["silent"]})
    made = road(raw / list(VOICES)[1], tmp_path / "corpus", cfg)
    assert len(made.rows) == 3 and not any(r.text for r in made.rows)
    steps = read_json(tmp_path / "corpus/curation" / ROAD)["steps"]
    assert {"no text": 3} in [s["left"] for s in steps]


def test_bad_input(raw, config, tmp_path):
    "What cannot be used is named, and the rest goes on."
    bad = tmp_path / "bad"
    one = list(VOICES)[0]
    tape(bad / one / "book.wav", READ, one)
    (bad / one / "book.txt").write_text(" ".join(READ), encoding="utf-8")
    write_audio(bad / one / "hush.wav", np.zeros(SAMPLE_RATE * 5, np.float32), SAMPLE_RATE)
    (bad / one / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 100)
    tape(bad / one / "other.wav", TOLD, one)
    (bad / one / "other.txt").write_text(
        "სხვა წიგნი, რომელიც აქ არავის წაუკითხავს.", encoding="utf-8"
    )
    made = road(bad, tmp_path / "corpus", config)
    assert {r.text for r in made.rows} == set(READ)
    said = {r.item: r.reason for r in read_rejects(tmp_path / "corpus/rejects.csv")}
    assert {f"{one}/hush.wav", f"{one}/film.mp4"} <= said.keys()
    assert any(k.startswith(f"{one}/other.wav") for k in said), said
    assert "ffmpeg" in said[f"{one}/film.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no recordings"):
        road(tmp_path / "empty", tmp_path / "x", config)
    with pytest.raises(MissingError, match="no such"):
        road(tmp_path / "nowhere", tmp_path / "x", config)
    with pytest.raises(ConfigError, match="folder outside"):
        road(raw, raw / "corpus", config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metadata.csv").write_text("audio_file|text|speaker_name\na.wav|ა|ana\n")
    with pytest.raises(ConfigError, match="another corpus"):
        road(raw, tmp_path / "mine", config)


def test_only_silence_is_an_error_that_says_so(tmp_path, config):
    write_audio(tmp_path / "raw/a.wav", np.zeros(SAMPLE_RATE * 4, np.float32), SAMPLE_RATE)
    with pytest.raises(ManifestError, match="rejects.csv says why"):
        road(tmp_path / "raw", tmp_path / "corpus", config)


def test_texts_beside(tmp_path):
    "Case of suffixes does not count; what has times comes first; another name is another text."
    for name in ("a.wav", "b.wav", "c.wav"):
        write_audio(tmp_path / name, np.zeros(800, np.float32), 8000)
    for name in ("a.txt", "a.TEXTGRID", "b.Srt", "cc.txt", "c.md"):
        (tmp_path / name).write_text("x")
    found = find_material(tmp_path)
    assert [p.name for _, p in found.texted] == ["a.TEXTGRID", "b.Srt"]
    assert [r.source for r in found.plain] == ["c.wav"] and len(found.remarks) == 1


def test_the_stage_takes_the_road(raw, config, tmp_path):
    "One rate, normalised texts, rejects of all steps; the options of the stage reach the road."
    cfg = RunCorpusConfig(source="raw", path=str(raw), sample_rate=16000, road=config)
    check_source(cfg, tmp_path / "run/corpus")
    made = build_corpus(cfg, tmp_path / "run/corpus")
    assert len(made.rows) == 6 and {r.split for r in made.rows} == {"train", "val", "test"}
    assert {read_audio(made.audio_path(r))[1] for r in made.rows} == {16000}
    assert {r.text for r in read_manifest(made.folder).rows} == {r.text for r in made.rows}
    told = read_json(made.folder / "corpus.json")
    assert (told["source"], told["rejected"], len(told["road"])) == ("raw", 1, 5)
    assert [r.reason[:7] for r in read_rejects(made.folder / "rejects.csv")] == ["missing"]
    walked = CorpusFolder(tmp_path / "run/curate")
    walked.add(new_edit(walked.read().rows[0].audio_file, drop="a door", by="tamar"))
    assert len(build_corpus(cfg, tmp_path / "run/corpus").rows) == 5
    for bad, error in (
        (dict(path="nowhere"), MissingError),
        (dict(road=RoadConfig()), MissingError),
    ):
        with pytest.raises(error):
            check_source(RunCorpusConfig(**{**vars_of(cfg), **bad}), tmp_path / "other/corpus")
    with pytest.raises(ConfigError, match="corpus.path=FOLDER"):
        RunCorpusConfig(source="raw")


def vars_of(cfg):
    return {k: getattr(cfg, k) for k in ("source", "path", "sample_rate", "road")}


def test_command(raw, tmp_path, capsys):
    from xtts_ka.pipeline.cli import main

    words = ["corpus", "road", str(raw), "--out", str(tmp_path / "c"), "--recogniser", "builtin"]
    assert main([*words, "check.encoder=none", "check.judges=none"]) == 0
    said = capsys.readouterr().out
    assert "1 missing" in said and "6 clips, speakers: 2" in said
    assert main(["corpus", "road", "no/where", "--out", str(tmp_path / "d")]) == 2


def test_a_run_begins_with_raw_recordings(root, raw, tmp_path):
    "`xtts-ka run --only corpus`: table and pictures in the notebook; refused before any work."
    program = ("run", "--only", "corpus", "--config", "configs/smoke.yaml")
    run = f"test-raw-{os.getpid()}"
    words = [f"run={run}", "corpus.source=raw", f"corpus.path={raw}"]
    home = root / "outputs" / run
    try:
        said = called(*program, *words, cwd=root, PYTHONPATH=str(root))
        assert said.returncode == 2 and "corpus.road.recogniser=builtin" in said.stderr
        assert not home.exists()
        words += ["corpus.road.recogniser=builtin", "corpus.road.check.encoder=none"]
        words += ["corpus.road.check.judges=none"]
        said = called(*program, *words, cwd=root, PYTHONPATH=str(root))
        assert said.returncode == 0, said.stdout + said.stderr
        assert len(read_manifest(home / "corpus").rows) == 6
        page = (home / "report/index.html").read_text(encoding="utf-8")
        assert "1 missing" in page and "transcribe" in page
    finally:
        import shutil

        shutil.rmtree(home, ignore_errors=True)
