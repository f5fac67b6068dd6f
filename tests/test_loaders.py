"""Corpora as they are published: each form ends as clips of one form, and every line that does not
is named with its reason."""

import ast
import json
import shutil
import tarfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import shards
import soundfile as sf

from xtts_ka.core.errors import ConfigError, ManifestError
from xtts_ka.core.manifest import read_manifest, read_rejects
from xtts_ka.corpus.loaders import FORMATS, find_format, read_corpus
from xtts_ka.corpus.sources import CorpusConfig, build_corpus

KA = ["დილა მშვიდობისა.", "ხვალ წავალთ.", "მოვიდა 5 კაცი.", "რა ამინდია?"]
CV_HEAD = "\t".join(
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents"
    " variant locale segment".split()
)


def tone(path, rate=16000, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, (0.3 * np.sin(np.arange(int(rate * seconds)) * 0.1)).astype(np.float32), rate)


def write(path, *lines, newline="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + newline for line in lines).encode())


def cv_line(client, file, text, up=2, down=0, locale="ka"):
    speaker = "thirties\tmale_masculine\tქართული|თბილისი"
    return f"{client}\t{file}\t{'0' * 64}\t{text}\t\t{up}\t{down}\t{speaker}\t\t{locale}\t"


def common_voice(root):
    home = root / "cv-corpus-27.0/ka"
    for i in range(4):
        tone(home / f"clips/common_voice_ka_{i}.mp3", 32000)
    write(
        home / "validated.tsv",
        CV_HEAD,
        *[cv_line("ab"[i % 2] * 128, f"common_voice_ka_{i}.mp3", KA[i]) for i in range(4)],
        cv_line("c" * 128, "common_voice_ka_9.mp3", KA[0]),
    )
    write(home / "train.tsv", CV_HEAD, cv_line("a" * 128, "common_voice_ka_0.mp3", KA[0]))
    write(home / "test.tsv", CV_HEAD, cv_line("b" * 128, "common_voice_ka_1.mp3", KA[1]))
    write(home / "clip_durations.tsv", "clip\tduration[ms]", "common_voice_ka_0.mp3\t300")
    return root / "cv-corpus-27.0", 5


def fleurs(root):
    for part, n in (("train", 2), ("dev", 1), ("test", 1)):
        for i in range(n):
            tone(root / f"ka_ge/audio/{part}/{part}{i}.wav")
        write(
            root / f"ka_ge/{part}.tsv",
            *[f"{i}\t{part}{i}.wav\t{KA[i]}\t{KA[i].lower()}\tდ ი\t4800\tFEMALE" for i in range(n)],
            *["7\tgone.wav\tარა\tარა\tა\t1\tMALE"] * (part == "dev"),
        )
    return root / "ka_ge", 5


def ljspeech(root):
    for i in range(4):
        tone(root / f"wavs/LJ001-{i}.wav", 22050)
    write(
        root / "metadata.csv",
        *[f"LJ001-{i}|{KA[i]}|{KA[i]}" for i in range(4)],
        f"LJ001-9|{KA[0]}|{KA[0]}",
    )
    return root, 5


def coqui(root):
    for i in range(4):
        tone(root / f"wavs/{i}.wav")
    write(
        root / "metadata_train.csv",
        "audio_file|text|speaker_name",
        *[f"wavs/{i}.wav|{KA[i]}|nino" for i in range(3)],
    )
    write(
        root / "metadata_eval.csv",
        "audio_file|text|speaker_name",
        f"wavs/3.wav|{KA[3]}|nino",
        f"wavs/9.wav|{KA[0]}|nino",
    )
    return root, 5


def vctk(root):
    for i in range(5):
        for mic in (1, 2):
            tone(
                root / f"wav48_silence_trimmed/p{225 + i % 2}/p{225 + i % 2}_00{i}_mic{mic}.flac",
                48000,
            )
        if i < 4:
            write(root / f"txt/p{225 + i % 2}/p{225 + i % 2}_00{i}.txt", KA[i])
    return root, 5


def libritts(root):
    for i in range(5):
        home = root / ("dev-clean" if i == 3 else "train-clean-100") / str(19 + i % 2) / "198"
        tone(home / f"{i}.wav", 24000)
        if i < 4:
            write(home / f"{i}.normalized.txt", KA[i])
            write(home / f"{i}.original.txt", "original")
    return root, 5


def folder(root):
    for i in range(5):
        tone(root / f"{'ნინო' if i % 2 else 'gio'}/{i}.{'ogg' if i == 2 else 'wav'}")
        if i < 4:
            write(root / f"{'ნინო' if i % 2 else 'gio'}/{i}.{'lab' if i == 1 else 'txt'}", KA[i])
    return root, 5


def manifest(root):
    for i in range(4):
        tone(root / f"wavs/{i}.wav")
    write(
        root / "metadata.csv",
        "audio_file|text|speaker_name",
        *[f"wavs/{i}.wav|{KA[i]}|nino" for i in range(4)],
        f"wavs/9.wav|{KA[0]}|nino",
        newline="\r\n",
    )
    return root, 5


RELEASES = dict(
    common_voice=common_voice,
    fleurs=fleurs,
    ljspeech=ljspeech,
    coqui=coqui,
    vctk=vctk,
    libritts=libritts,
    folder=folder,
    parquet=shards.fleurs,
    manifest=manifest,
)


def test_every_format_has_its_release_here():
    assert {"auto", *RELEASES} == set(FORMATS)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_becomes_a_corpus(name, tmp_path):
    """Four recordings and one line that cannot be used, whatever the form; recognised without being
    named."""
    path, lines = RELEASES[name](tmp_path / "in")
    assert find_format(path, "ka")[0] == name
    for form in ("auto", name):
        made = build_corpus(
            CorpusConfig(source="folder", path=str(path), format=form), tmp_path / form
        )
        assert (len(made.rows), len(made.rejects)) == (4, 1) and len(made.rows) + len(
            made.rejects
        ) == lines
    back = read_manifest(tmp_path / "auto")
    assert back.rows == read_manifest(tmp_path / name).rows and not back.rejects
    assert {r.text for r in back.rows} <= {
        "დილა მშვიდობისა.",
        "ხვალ წავალთ.",
        "მოვიდა ხუთი კაცი.",
        "რა ამინდია?",
    }
    assert all(
        sf.info(back.audio_path(r)).samplerate == 22050
        and r.speaker_name
        and abs(r.duration - 0.3) < 0.06
        for r in back.rows
    )
    [reject] = read_rejects(tmp_path / "auto/rejects.csv")
    assert (
        reject.reason.split(":")[0] in ("missing", "no transcript") and reject.item and reject.file
    )


@pytest.mark.parametrize(
    "name,parts",
    [
        ("common_voice", {"train": 1, "test": 2, "": 1}),
        ("fleurs", {"train": 2, "val": 1, "test": 1}),
        ("coqui", {"train": 3, "val": 1}),
        ("libritts", {"train": 3, "val": 1}),
        ("parquet", {"train": 3, "test": 1}),
        ("vctk", {"": 4}),
    ],
)
def test_parts_are_kept(name, parts, tmp_path):
    path, _ = RELEASES[name](tmp_path)
    rows = read_corpus(path, language="ka").rows
    assert {p: sum(r.split == p for r in rows) for p in {r.split for r in rows}} == parts
    for p in ("train", "val", "test"):
        if p in parts:
            assert [r.audio_file for r in read_corpus(path, language="ka", split=p).rows] == [
                r.audio_file for r in rows if r.split == p
            ]


def test_no_speaker_of_common_voice_is_in_training_and_test(tmp_path):
    "`validated.tsv` has clips that no part names: those of a test speaker must not train."
    path, _ = common_voice(tmp_path)
    rows = read_corpus(path, language="ka").rows
    tested = {r.speaker_name for r in rows if r.split == "test"}
    assert tested and not tested & {r.speaker_name for r in rows if r.split != "test"}


@pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="safe unpacking came with Python 3.11.4"
)
def test_the_notebook_finds_common_voice_in_its_archive(tmp_path, monkeypatch, root):
    "colab/common_voice.ipynb, where a release is as it was downloaded."
    release, _ = common_voice(tmp_path / "released")
    shutil.make_archive(tmp_path / "common_voice_ka", "gztar", release.parent, release.name)
    cells = json.loads((root / "colab/common_voice.ipynb").read_text(encoding="utf-8"))["cells"]
    code = next("".join(c["source"]) for c in cells if "unpack_archive" in "".join(c["source"]))
    monkeypatch.chdir(tmp_path)
    names = dict(COMMON_VOICE="", DRIVE=str(tmp_path), BASE="none", CONFIG="c", RUN="r")
    names |= {"OVERRIDES": "", "options": [], "Path": Path}
    exec(code, names)
    told = dict(o.split("=", 1) for o in names["options"] if o.startswith("corpus."))
    found = read_corpus(told["corpus.path"], format=told["corpus.format"], language="ka")
    assert len(found.rows) == 4


def test_fleurs_gives_nobody_a_foreign_reference(tmp_path):
    path, _ = fleurs(tmp_path)
    rows = read_corpus(path, language="ka").rows
    assert len({r.speaker_name for r in rows}) == len(rows)
    assert {r.speaker_name for r in read_corpus(path, language="ka", speaker_name="one").rows} == {
        "one"
    }


def test_another_language_is_refused(tmp_path):
    path, _ = fleurs(tmp_path)
    with pytest.raises(ManifestError, match="all 5 lines were rejected"):
        build_corpus(CorpusConfig(source="folder", path=str(path), language="en"), tmp_path / "out")


def test_bad_lines_cost_themselves_alone(tmp_path):
    path, _ = ljspeech(tmp_path)
    with open(path / "metadata.csv", "ab") as f:
        f.write(
            b'LJ001-0|again|again\nLJ001-1|\xff\xfe|x\n\nbare\nLJ001-2|"unbalanced|Latin'
            b" only\n../LJ001-3|"
            + KA[0].encode()
            + b"|"
            + KA[0].encode()
            + b"\nLJ001-3|a\tb|\x07"
            + KA[1].encode()
            + b"\n"
        )
    corpus = read_corpus(path, language="ka")
    assert len(corpus.rows) == 4
    why = {r.line: r.reason.split(":")[0] for r in corpus.rejects}
    assert why == {
        5: "missing",
        6: "duplicate",
        7: "not UTF-8",
        9: "fields",
        10: "duplicate",
        11: "path",
        12: "duplicate",
    }


def test_a_link_out_of_the_release_is_refused(tmp_path):
    path, _ = folder(tmp_path / "in")
    tone(tmp_path / "secret.wav")
    (path / "gio/0.wav").unlink()
    (path / "gio/0.wav").symlink_to(tmp_path / "secret.wav")
    made = build_corpus(CorpusConfig(source="folder", path=str(path)), tmp_path / "out")
    assert len(made.rows) == 3 and "path: a link leads out of the folder" in {
        r.reason for r in made.rejects
    }


def test_wrong_headers_keep_their_messages(tmp_path):
    (tmp_path / "metadata.csv").write_text("file;words;who\na.wav;ა;x\n")
    with pytest.raises(ManifestError, match="semicolons"):
        read_corpus(tmp_path, language="ka")
    (tmp_path / "validated.tsv").write_text("client_id\tsentence\nx\ty\n")
    with pytest.raises(ManifestError, match="no column path"):
        read_corpus(tmp_path, language="ka")
    with pytest.raises(ManifestError, match="is it VCTK"):
        read_corpus(tmp_path, format="vctk")
    with pytest.raises(ManifestError, match="metadata.csv"):
        build_corpus(
            CorpusConfig(source="folder", path=str(tmp_path), format="manifest"),
            tmp_path.parent / "out",
        )


def test_options_are_checked():
    with pytest.raises(ConfigError, match="corpus.path"):
        CorpusConfig(source="folder", format="vctk")
    with pytest.raises(ConfigError):
        CorpusConfig(format="kaldi")


def test_the_run_notebook_names_every_option(root):
    cells = json.loads((root / "nbs/runs/10_corpus.ipynb").read_text())["cells"]
    source = "".join(
        next(c for c in cells if "parameters" in c["metadata"].get("tags", []))["source"]
    )
    scope = {a.targets[0].id: ast.literal_eval(a.value) for a in ast.parse(source).body}
    assert {f.name for f in fields(CorpusConfig)} <= set(scope)
    CorpusConfig(**{f.name: scope[f.name] for f in fields(CorpusConfig)})


def test_a_large_release_is_read_in_seconds(tmp_path):
    "50,000 lines without looking into the recordings."
    lines = [cv_line(f"{i % 900:0128x}", f"{i}.mp3", KA[i % 4]) for i in range(50000)]
    write(tmp_path / "validated.tsv", CV_HEAD, *lines)
    (tmp_path / "clips").mkdir()
    began = time.process_time()
    corpus = read_corpus(tmp_path, language="ka", check_audio=False)
    spent = time.process_time() - began
    assert len(corpus.rejects) == 50000 and {r.reason for r in corpus.rejects} == {
        "missing: no such file"
    }
    assert spent < 10, f"{spent:.1f} s of CPU"


def test_real_recordings(root, tmp_path):
    "LJSpeech's own sentences, laid out as LJSpeech is."
    home = root.parent / "shared/data/ljspeech_mini"
    if not (home / "metadata.csv").is_file():
        pytest.skip("no ../shared/data/ljspeech_mini here")
    given = read_manifest(home)
    (tmp_path / "wavs").mkdir()
    for r in given.rows:
        (tmp_path / "wavs" / given.audio_path(r).name).write_bytes(given.audio_path(r).read_bytes())
    write(
        tmp_path / "metadata.csv",
        *[f"{given.audio_path(r).stem}|{r.text}|{r.text}" for r in given.rows],
    )
    corpus = read_corpus(tmp_path, language="en", speaker_name="Linda Johnson")
    assert corpus.format == "ljspeech" and not corpus.rejects
    assert [(r.text, r.duration) for r in corpus.rows] == [(r.text, r.duration) for r in given.rows]
