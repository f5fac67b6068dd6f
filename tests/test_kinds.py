"""Kinds of faults: outputs that are inputs, data lost without a word, bad items, what was typed."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from xtts_ka.core.audio import check_audio, read_audio, read_crop, write_audio
from xtts_ka.core.config import config, load
from xtts_ka.core.errors import ConfigError, ManifestError, MissingError, XttsKaError
from xtts_ka.core.manifest import notes, read_lines, read_manifest
from xtts_ka.corpus.loaders import read_corpus

RATE = 16000
TONE = (0.3 * np.sin(np.arange(RATE // 4) / 5)).astype(np.float32)
HEAD = "audio_file|text|speaker_name"
ROOT = Path(__file__).resolve().parents[1]


def tone(path, rate=RATE):
    write_audio(path, TONE, rate)
    return path


def table(folder, *lines, name="metadata.csv"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def call(*words, cwd, **env):
    "`xtts-ka` in a process of its own, from another folder."
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    words = [sys.executable, "-m", "xtts_ka.cli", *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True)


# A: an output that is an input


def test_generated_speech_does_not_replace_recordings(tmp_path):
    from xtts_ka.vocoder.infer import GenerateConfig, generate

    tone(tmp_path / "clips/a.wav")
    before = (tmp_path / "clips/a.wav").read_bytes()
    (tmp_path / "link").symlink_to("clips")
    for out in ("clips", "link"):
        cfg = GenerateConfig(
            dataset_path=str(tmp_path / "clips"),
            checkpoint_path="griffin-lim",
            path_to_save=str(tmp_path / out),
        )
        with pytest.raises(ConfigError, match="path_to_save .*would be lost"):
            generate(cfg)
    assert (tmp_path / "clips/a.wav").read_bytes() == before
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["a.wav"]


@pytest.mark.parametrize("command", ["train", "tokenize", "embed", "score"])
def test_outputs_spare_inputs(tmp_path, capsys, command):
    segments = tmp_path / "s"
    tone(segments / "wavs/a.wav")
    table(segments, HEAD, "wavs/a.wav|დილა|ნინო")
    (segments / "rejects.csv").write_text("kept")
    words = {
        "train": ("sovits", "prepare", f"dataset_path={segments}", f"path_to_save={segments}"),
        "tokenize": (
            "sovits",
            "tokenize",
            "--model",
            "m",
            "--manifest",
            segments,
            "--out",
            segments,
        ),
    }.get(command)
    if command == "embed":
        from xtts_ka.speaker.prepare_embeddings import prepare_embeddings

        class Generator:
            cfg = None

        with pytest.raises(ConfigError, match="would be lost"):
            prepare_embeddings(segments, segments, None, generator=Generator())
    elif command == "score":
        from xtts_ka.speaker.compute_score import main

        pairs = tmp_path / "pairs.txt"
        pairs.write_text("1 a.wav b.wav\n")
        given = ["--pairs", str(pairs), "--embeddings", str(tmp_path), "--output", str(pairs)]
        assert main(given) == 2 and pairs.read_text() == "1 a.wav b.wav\n"
        assert "would be lost" in capsys.readouterr().err
    else:
        from xtts_ka.pipeline.cli import parse

        args = parse(list(map(str, words)))
        with pytest.raises(ConfigError, match="would be lost"):
            args.do(args)
    assert (segments / "rejects.csv").read_text() == "kept"


@pytest.mark.parametrize("command", ["normalize", "phonemize"])
def test_a_text_is_changed_in_place_or_not_at_all(tmp_path, command, capsys, monkeypatch):
    "Its own input as `--out`, by another name too: the whole text is there afterwards."
    from xtts_ka.pipeline.cli import main

    text, link = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("5 კატა\n" * 3, encoding="utf-8")
    link.symlink_to(text)
    assert main([command, "--input", str(text), "--out", str(link)]) in (0, 2)
    lines = text.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and all(lines), capsys.readouterr()


# C: data lost without a word


@pytest.fixture
def linked(tmp_path):
    "A folder of two speakers, the second a link to another disk, with a loop and a closed folder."
    for speaker in ("corpus/gio", "far/nino"):
        tone(tmp_path / speaker / "a.wav")
        (tmp_path / speaker / "a.txt").write_text("დილა", encoding="utf-8")
    (tmp_path / "corpus/nino").symlink_to(tmp_path / "far/nino")
    (tmp_path / "corpus/gio/round").symlink_to("..")
    return tmp_path / "corpus"


def test_linked_speakers_are_read_and_loops_are_listed(linked):
    corpus = read_corpus(linked, language="ka")
    assert corpus.speakers == {"gio": 1, "nino": 1}
    assert all(corpus.audio_path(r).is_file() for r in corpus.rows)
    assert [(r.item, r.reason.split(":")[0]) for r in corpus.rejects] == [
        ("gio/round", "duplicate")
    ]


def test_every_reader_enters_linked_folders(linked):
    from xtts_ka.speaker.augment import sound_files
    from xtts_ka.speaker.data import scan_folder
    from xtts_ka.speaker.prepare_embeddings import find_recordings
    from xtts_ka.vocoder.data import find_sources
    from xtts_ka.vocoder.infer import find_items
    from xtts_ka.vocoder.score import audio_files

    assert len(scan_folder(linked, "folder")) == len(sound_files([linked])) == 2
    assert len(find_recordings(linked, None).voices) == len(audio_files(linked)) == 2
    sources, left = find_sources(linked)
    assert len(sources) == 2 and [r.reason.split(":")[0] for r in left] == ["duplicate"]
    (linked.parent / "set").mkdir()
    (linked.parent / "set/audio").symlink_to(linked)
    _, items, left = find_items(linked.parent / "set")
    assert len(items) == 2 and [r.reason.split(":")[0] for r in left] == ["duplicate"]


def test_recordings_outside_a_layout_are_named(tmp_path, capsys):
    from xtts_ka.speaker.data import scan_folder

    for file in ("gio/a.wav", "loose.wav", "nino/day/b.wav"):
        tone(tmp_path / file)
    assert len(scan_folder(tmp_path, "folder")) == 1
    assert "2 recordings do not lie" in capsys.readouterr().err


def test_a_column_is_found_or_refused(tmp_path):
    for n in range(4):
        tone(tmp_path / f"{n}.wav")
    rows = [f" {n}.wav | დილა |{name}" for n, name in enumerate(("nino", "nino ", " nino", "gio"))]
    m = read_manifest(table(tmp_path, " Audio_File|TEXT|speaker_name ", *rows))
    assert m.speakers == {"gio": 1, "nino": 3} and not m.rejects
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata_train.csv")
    assert read_corpus(tmp_path, language="ka").speakers == {"gio": 1, "nino": 3}
    table(tmp_path, "audio_file|text|speaker", *rows, name="metadata_train.csv")
    with pytest.raises(ManifestError, match="`speaker` must be called speaker_name"):
        read_corpus(tmp_path)


def test_default_speakers_and_look_alikes_are_noted(tmp_path):
    for n in range(3):
        tone(tmp_path / f"{n}.wav")
    table(tmp_path, "audio_file|text", *(f"{n}.wav|დილა" for n in range(3)))
    assert "3 recordings name no speaker" in notes(read_corpus(tmp_path, language="ka"))[0]
    assert not notes(read_corpus(tmp_path, language="ka", speaker_name="ana"))
    table(tmp_path, HEAD, "0.wav|დილა|nino", "1.wav|დილა|Nino", "2.wav|დილა|ni no")
    assert "differ only in case or blanks" in notes(read_manifest(tmp_path))[0]


# D: one bad item


def test_a_path_that_leaves_costs_its_row(tmp_path):
    from xtts_ka.speaker.data import scan_folder
    from xtts_ka.speaker.prepare_embeddings import find_recordings
    from xtts_ka.vocoder.data import find_sources
    from xtts_ka.vocoder.infer import find_items
    from xtts_ka.xtts.create_metadata_files import match_rows

    folder = tmp_path / "corpus"
    tone(folder / "a.wav")
    tone(tmp_path / "secret.wav")
    (folder / "b.wav").symlink_to(tmp_path / "secret.wav")
    table(folder, HEAD, "a.wav|დილა|ნინო", "b.wav|დილა|ნინო")
    assert len(find_recordings(folder, None).voices) == len(scan_folder(folder)) == 1
    assert len(find_sources(folder)[0]) == len(find_items(folder)[1]) == 1
    m = read_manifest(folder, check_audio=False)
    assert [r.line for r in match_rows(m, {}, {"a": folder})[1]][-1] == 3
    assert [r.reason for r in m.rejects] == ["path: a link leads out of the folder"]
    assert "cp -rL" in notes(m)[0]


@pytest.mark.parametrize("coding", ["GSM610", "G721_32"])
def test_codings_without_seeking_are_cropped(tmp_path, coding):
    sf.write(tmp_path / "a.wav", TONE, 8000, subtype=coding)
    whole = read_audio(tmp_path / "a.wav")[0]
    assert np.array_equal(read_crop(tmp_path / "a.wav", 100, 500)[0], whole[100:600])


def test_an_unreadable_text_costs_itself(tmp_path):
    from xtts_ka.vocoder.infer import Item, speak_folder

    items = [Item("a", tmp_path / "none.txt"), Item("b", tmp_path / "b.txt")]
    (tmp_path / "b.txt").write_text("x")

    def speak(item):
        return TONE[: len(item.path.read_text()) * 100]

    _, _, _, rejects = speak_folder(items, speak, tmp_path / "out", RATE)
    assert [(r.item, r.reason) for r in rejects] == [("a", "unreadable: No such file or directory")]
    assert (tmp_path / "out/b.wav").is_file()


def test_lines_of_a_text_are_kept_or_rejected(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffერთი\n\n".encode() + b"\xff\n" + "ორი \r\n".encode())
    lines, rejects = read_lines(path)
    assert lines == [(1, "ერთი"), (4, "ორი")] and [r.line for r in rejects] == [3]
    for data, why in (("ა".encode("utf-16"), "UTF-16"), (b"", "no text"), (b"\0", "NUL")):
        path.write_bytes(data)
        with pytest.raises(XttsKaError, match=why):
            read_lines(path)


# E: what was typed


@config
class Options:
    "Text, and a number."

    path: str | None = None
    name: str = ""
    places: list[str] = []
    number: int = 0


@pytest.mark.parametrize(
    "value", ["set #1", "007", "a: b", "[x", "no", "1e3", "x=y", "'", "{a", "-5"]
)
def test_a_text_option_is_what_stands_behind_the_sign(value):
    cfg = load(Options, None, [f"path={value}", f"name={value}", "number=7"])
    assert (cfg.path, cfg.name, cfg.number) == (value, value, 7)


def test_lists_and_none_stay_yaml():
    cfg = load(Options, None, ["path=null", "places=[a, b]"])
    assert (cfg.path, cfg.places) == (None, ["a", "b"])


def test_run_names_and_swept_texts_are_literal(tmp_path):
    from xtts_ka.pipeline.runner import run_name
    from xtts_ka.pipeline.stages import load_run, run_config
    from xtts_ka.pipeline.sweep import read_words

    assert run_name(None, ["run=007", "corpus.path=a: b"]) == "007"
    words = ["corpus.source=folder", "corpus.path=set #1", "corpus.speaker_name=007"]
    cfg = load_run(None, words).corpus
    assert (cfg.path, cfg.speaker_name) == ("set #1", "007")
    assert read_words(["corpus.path=a: b,c #1"], run_config()) == {"corpus.path": ["a: b", "c #1"]}


def test_one_rule_for_relative_paths(tmp_path, monkeypatch):
    from xtts_ka.core.paths import resolve
    from xtts_ka.pipeline.stages import load_run
    from xtts_ka.speaker.data import scan_folder
    from xtts_ka.vocoder.data import find_sources

    (tmp_path / "root").mkdir()
    (tmp_path / "root/far").mkdir()
    tone(tmp_path / "here/clips/nino/a.wav")
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("clips") == tmp_path / "here/clips" and resolve("far") == tmp_path / "root/far"
    assert len(scan_folder("clips", "folder")) == len(find_sources("clips")[0]) == 1
    cfg = load_run(None, ["corpus.source=folder", "corpus.path=clips"])
    assert cfg.corpus.path == (tmp_path / "here/clips").as_posix()
    with pytest.raises(MissingError) as e:
        scan_folder("clip", "folder")
    said = str(e.value)
    assert f"{tmp_path}/here/clip" in said and f"{tmp_path}/root/clip" in said
    assert "`clips` is there" in said


def test_messages_name_the_right_thing():
    from xtts_ka.pipeline.stages import load_run

    for words, said in (
        (
            ["full_pretrain.gpt.dim=7"],
            "`full_pretrain.gpt.dim` must be greater than or equal to 16",
        ),
        (["corpus.sourc=x"], "did you mean `corpus.source`?"),
        (["speaker_name=x"], "did you mean `corpus.speaker_name`?"),
    ):
        with pytest.raises(ConfigError) as e:
            load_run(None, words)
        assert said in str(e.value) and "must be int" not in str(e.value)


# F: smaller


def test_digits_are_a_transcript(tmp_path):
    tone(tmp_path / "a.wav")
    table(tmp_path, HEAD, "a.wav|1999|ნინო")
    assert not read_manifest(tmp_path, require_script="georgian").rejects
    table(tmp_path, "audio_file|text", "a.wav|1999")
    assert not read_corpus(tmp_path, language="ka").rejects


@pytest.mark.parametrize(
    "written, cause",
    [
        ("wavs\\a.wav", "backslashes"),
        ("wavs/A.wav", "`a.wav` is there"),
        ("wavs/a.flac", "`a.wav` is there, with another suffix"),
        ("wav/a.wav", "`wavs` is there"),
        ("wavs/a  b.wav", "other blanks"),
    ],
)
def test_a_missing_file_has_a_likely_cause(tmp_path, written, cause):
    tone(tmp_path / "wavs/a.wav")
    tone(tmp_path / "wavs/a b.wav")
    table(tmp_path, HEAD, f"{written}|დილა|ნინო")
    assert cause in read_manifest(tmp_path).rejects[0].reason


def test_names_and_texts_in_another_unicode_form(tmp_path):
    nfd = unicodedata.normalize("NFD", "é")
    tone(tmp_path / f"{nfd}.wav")
    table(tmp_path, HEAD, f"é.wav|caf{nfd} é|{nfd}va", "a.wav|x|éva")
    tone(tmp_path / "a.wav")
    m = read_manifest(tmp_path)
    assert not m.rejects and m.rows[0].text == "café é" and m.speakers == {"éva": 2}
    assert m.audio_path(m.rows[0]).is_file()


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path, size):
    tone(tmp_path / "a.wav")
    data = (tmp_path / "a.wav").read_bytes()
    at = data.index(b"data") + 4
    streamed = data[:at] + size.to_bytes(4, "little") + data[at + 4 :]
    (tmp_path / "b.wav").write_bytes(streamed)
    assert np.array_equal(read_audio(tmp_path / "b.wav")[0], read_audio(tmp_path / "a.wav")[0])
    assert check_audio(tmp_path / "b.wav").frames == len(TONE)


def test_a_longer_cosine_says_what_to_do():
    from xtts_ka.core.loop import _way_on

    assert "schedule=constant" in _way_on("steps was 100, is 200")
    assert "schedule" not in _way_on("lr was 0.1, is 0.2")


# What a stranger found


def test_a_missing_corpus_is_said_before_anything_runs(tmp_path, monkeypatch):
    from xtts_ka.pipeline.runner import run

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    (tmp_path / "empty").mkdir()
    words = ["run=t", "corpus.source=folder"]
    for path, error in (("nowhere", MissingError), ("empty", ManifestError)):
        for dry_run in (True, False):
            with pytest.raises(error, match=path):
                run(None, [*words, f"corpus.path={path}"], dry_run=dry_run)
    assert not (tmp_path / "outputs").exists()


def test_list_and_dry_run_agree(tmp_path, monkeypatch, capsys):
    from xtts_ka.pipeline import runner
    from xtts_ka.pipeline.state import Progress

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    progress = Progress(tmp_path / "outputs/t")
    parts = {"code": "of another day"}
    progress.update("corpus", status="done", fingerprint="x", fingerprint_parts=parts)
    (tmp_path / "outputs/t/config.yaml").write_text("run: t\n")
    assert runner.run(None, ["run=t"], list_=True) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "corpus " in x)
    assert "stale" in line and "code" in line and " done" not in line


def test_nothing_is_left_behind_by_a_wrong_path(tmp_path):
    from xtts_ka.xtts.embedding_adapter import AdapterConfig, EmbeddingAdapter

    (tmp_path / "model").mkdir()
    for name in ("model.pth", "config.json", "vocab.json", "speakers_xtts.pth"):
        (tmp_path / "model" / name).write_bytes(b"{}")
    cfg = AdapterConfig(
        embeddings_dir=str(tmp_path / "no"),
        model=str(tmp_path / "model"),
        output_dir=str(tmp_path / "data/out"),
    )
    with pytest.raises(XttsKaError):
        EmbeddingAdapter(cfg).run()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["-5°C", "-ზე მეტი", "-5"])
def test_a_text_may_begin_with_a_minus(text):
    from xtts_ka.pipeline.cli import parse

    assert parse(["normalize", text]).text == [text]
    assert parse(["sovits", "speak", "--model", "m", "--text", text]).text == text


def test_words_without_a_reading_are_named_and_counted(capsys):
    from xtts_ka.pipeline.text_commands import normalize_lines, phonemize_lines, run_lines

    for lines_of in (normalize_lines, phonemize_lines):
        assert run_lines(lines_of(["მე 日本 ვარ", "დილა"])) == 1
        said = capsys.readouterr().err
        assert "line 1: no reading for 日 本" in said and "1 of 2 lines" in said
        assert run_lines(lines_of(["დილა 🙂"])) == 0


def test_georgian_leaves_in_utf8_in_every_locale(tmp_path):
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = call("normalize", "2 დღე", cwd=tmp_path, **env)
    assert (done.returncode, done.stdout.decode()) == (0, "ორი დღე\n")
    (tmp_path / "in.txt").write_bytes("ა".encode("utf-16"))
    done = call("normalize", "--input", "in.txt", cwd=tmp_path)
    assert done.returncode == 2 and b"UTF-16" in done.stderr
