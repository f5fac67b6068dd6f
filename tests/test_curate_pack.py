"""Packing a corpus: the round trip is exact, shards resume after a kill, damage is named, and the
readers of a run, of `datasets` and of DuckDB take what was packed."""

import importlib.util
import io
import json
import os
import signal
import time

import numpy as np
import pytest
import soundfile as sf
from forks import Forked

from xtts_ka.core.errors import ConfigError, ManifestError
from xtts_ka.core.files import read_jsonl, sha256_file, write_json
from xtts_ka.core.manifest import Row, read_manifest, write_manifest
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.sources import CorpusConfig, build_corpus
from xtts_ka.curate.edits import CorpusFolder, new_edit
from xtts_ka.curate.pack import (
    PackConfig,
    SplitConfig,
    pack_corpus,
    split_corpus,
    unpack_corpus,
    verify_packed,
)

KINDS = ("PCM_16", "PCM_24", "PCM_U8", "FLOAT")


def make_corpus(folder, n=18, seconds=0.5):
    "Noise of several kinds, of three speakers whose clips stand between each other."
    rows = []
    for i in range(n):
        speaker = ("ნინო", "gia", "leo")[i % 3]
        row = Row(f"wavs/{speaker}/{i // 3:03d}.wav", f"წინადადება ნომერი {i}", speaker)
        row.extra = {"source": f"{speaker} 1.flac", "start": f"{i}.50", "sentence": f"s{i}"}
        wav = rng(1, "corpus", i).uniform(-0.9, 0.9, int(16000 * seconds) + 10 * i)
        (folder / row.audio_file).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / row.audio_file, wav, 16000, subtype=KINDS[i % len(KINDS)])
        rows.append(row)
    write_manifest(folder / "metadata.csv", rows)
    return CorpusFolder(folder)


def lines_of(corpus):
    return [(r.audio_file, r.text, r.speaker_name, r.split, r.extra) for r in corpus.read().rows]


def samples(path):
    return sf.read(path, dtype="int32"), sf.info(path).subtype


@pytest.fixture
def corpus(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    corpus.add(
        new_edit("wavs/gia/001.wav", set={"text": "სხვა ტექსტი | მილის გარეშე".replace("|", "")})
    )
    corpus.add(new_edit("wavs/leo/002.wav", drop="a door"))
    split_corpus(corpus, SplitConfig(val_fraction=0.2, test_fraction=0.2))
    return corpus


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_round_trip_is_exact(corpus, tmp_path, form):
    "Samples, kinds of samples, texts, further columns and order; of shards with several groups."
    made = pack_corpus(corpus, tmp_path / "packed", PackConfig(form=form))
    assert len(made["clips"]) == 17 and verify_packed(tmp_path / "packed") == []
    back = unpack_corpus(tmp_path / "packed", tmp_path / "back")
    assert lines_of(CorpusFolder(tmp_path / "back")) == lines_of(corpus)
    now = corpus.read()
    for a, b in zip(back.rows, now.rows):
        (x, rate), kind = samples(back.audio_path(a))
        (y, rate_), kind_ = samples(now.audio_path(b))
        assert np.array_equal(x, y) and (rate, kind) == (rate_, kind_), a.audio_file
    again = pack_corpus(CorpusFolder(tmp_path / "back"), tmp_path / "twice", PackConfig(form=form))
    assert again["clips"] == made["clips"]


def test_a_run_takes_what_was_packed(corpus, tmp_path):
    "The corpus stage gives the same clips from shards, from a packed folder and from the corpus."
    tables = []
    pack_corpus(corpus, tmp_path / "parquet", PackConfig())
    pack_corpus(corpus, tmp_path / "folder", PackConfig(form="folder"))
    for name in ("parquet", "folder"):
        cfg = CorpusConfig(source="folder", path=str(tmp_path / name))
        made = build_corpus(cfg, tmp_path / f"run-{name}")
        assert made.rejects == []
        tables.append({(r.text, r.speaker_name, r.split): r for r in made.rows})
        tables[-1] = {k: made.audio_path(r).read_bytes() for k, r in tables[-1].items()}
    assert len(tables[0]) == 17 and tables[0] == tables[1]


def test_split_is_kept_and_disjoint(corpus, tmp_path):
    rows = split_corpus(corpus, SplitConfig(by="speaker", val_fraction=0.3, test_fraction=0.3)).rows
    parts = {r.speaker_name: set() for r in rows}
    for r in rows:
        parts[r.speaker_name].add(r.split)
    assert sorted(map(len, parts.values())) == [1, 1, 1]
    assert {p for s in parts.values() for p in s} == {"train", "val", "test"}
    corpus.add(new_edit(rows[0].audio_file, set={"split": "test"}))  # a person's word counts more
    assert corpus.read().rows[0].split == "test"
    given = split_corpus(corpus, SplitConfig(by="given", val_fraction=0.0, test_fraction=0.0)).rows
    assert [r.split for r in given] == ["test"] + ["train"] * 16
    with pytest.raises(ManifestError, match="needs 3 speakers"):
        for r in rows[1:]:
            corpus.add(new_edit(r.audio_file, set={"speaker_name": rows[0].speaker_name}))
        split_corpus(corpus, SplitConfig(by="speaker"))


def test_a_corpus_without_parts_stays_without(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6, 0.2)
    pack_corpus(corpus, tmp_path / "packed", PackConfig())
    cfg = CorpusConfig(source="folder", path=str(tmp_path / "packed"))
    assert {r.split for r in build_corpus(cfg, tmp_path / "run").rows} == {""}
    unpack_corpus(tmp_path / "packed", tmp_path / "back")
    assert lines_of(CorpusFolder(tmp_path / "back")) == lines_of(corpus)


def test_one_flipped_bit_is_named(corpus, tmp_path):
    "In the first, a middle and the last byte of every file that was packed."
    out = tmp_path / "packed"
    made = pack_corpus(corpus, out, PackConfig())
    for name in made["files"]:
        whole = (out / name).read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            broken = bytearray(whole)
            broken[at] ^= 1 << at % 8
            (out / name).write_bytes(broken)
            faults = verify_packed(out)
            assert len(faults) == 1 and faults[0].startswith(f"{name}: changed"), faults
            with pytest.raises(ManifestError, match=name):
                unpack_corpus(out, tmp_path / "back")
        (out / name).write_bytes(whole)
    (out / "data" / "train-00009-of-00009.parquet").write_bytes(b"PAR1")
    assert verify_packed(out) == ["data/train-00009-of-00009.parquet: not packed with the others"]


def test_a_bad_clip_is_a_reject_and_a_bad_place_an_error(corpus, tmp_path):
    path = corpus.path / "wavs/gia/000.wav"
    path.write_bytes(path.read_bytes()[:1000])
    made = pack_corpus(corpus, tmp_path / "packed", PackConfig())
    assert "wavs/gia/000.wav" not in made["clips"] and len(made["clips"]) == 16
    rejects = (tmp_path / "packed/rejects.csv").read_text(encoding="utf-8")
    assert "wavs/gia/000.wav|truncated" in rejects and "review: a door" in rejects
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out in (corpus.path, corpus.path / "packed", tmp_path, tmp_path / "other"):
        with pytest.raises(ConfigError):
            pack_corpus(corpus, out, PackConfig())
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="exists"):
        unpack_corpus(tmp_path / "packed", tmp_path / "other")


def pack(corpus, out):
    "`pack_corpus` as a process: its exit status."
    pack_corpus(CorpusFolder(corpus), out, PackConfig(shard_megabytes=1))
    return 0


def test_killed_and_resumed_gives_the_same_files(tmp_path):
    "Shards that were finished before kill -9 are not made twice; every file is the same."
    corpus = make_corpus(tmp_path / "corpus", 48, 4.0)
    split_corpus(corpus, SplitConfig(test_fraction=0))
    whole = pack_corpus(corpus, tmp_path / "whole", PackConfig(shard_megabytes=1))
    assert len(whole["pieces"]) > 4
    out, work = tmp_path / "killed", tmp_path / ".killed.packing"
    p = Forked(pack, corpus.path, out)
    while p.poll() is None and len(read_jsonl(work / "shards.jsonl")) < 3:
        time.sleep(0.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not out.exists(), "it was too quick to be killed"
    done = {e["file"]: (work / e["file"]).stat().st_ino for e in read_jsonl(work / "shards.jsonl")}
    made = pack_corpus(corpus, out, PackConfig(shard_megabytes=1))
    assert made["files"] == whole["files"] and not work.exists()
    here = {os.stat(out / p["file"]).st_ino for p in made["pieces"]}
    assert len(done) >= 3 and set(done.values()) <= here


def test_after_an_edit_only_its_shard_is_made_again(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 48, 4.0)
    out = tmp_path / "packed"
    pack_corpus(corpus, out, PackConfig(shard_megabytes=1))
    before = {p: p.stat().st_ino for p in (out / "data").iterdir()}
    corpus.add(new_edit("wavs/leo/015.wav", set={"text": "სხვა"}))
    pack_corpus(corpus, out, PackConfig(shard_megabytes=1))
    after = {p: p.stat().st_ino for p in (out / "data").iterdir()}
    assert before.keys() == after.keys() and verify_packed(out) == []
    assert sum(before[p] != after[p] for p in before) == 1


def undecoded(table):
    import datasets

    return table.cast_column("audio", datasets.Audio(decode=False))


def same_sound(row, corpus):
    held = row["audio"]["bytes"]
    source = io.BytesIO(held) if held else row["audio"]["path"]
    file = {r.text: r.audio_file for r in corpus.read().rows}[row["text"]]
    return np.array_equal(*(sf.read(f, dtype="int32")[0] for f in (source, corpus.path / file)))


def test_datasets_reads_shards(corpus, tmp_path):
    "By name and as a folder with a page; the sound is a feature of its own with its rate."
    datasets = pytest.importorskip("datasets")
    pack_corpus(corpus, tmp_path / "packed", PackConfig())
    files = [str(p) for p in sorted((tmp_path / "packed/data").glob("*.parquet"))]
    plain = datasets.load_dataset("parquet", data_files=files, cache_dir=tmp_path / "c1")["train"]
    parts = datasets.load_dataset(str(tmp_path / "packed"), cache_dir=tmp_path / "c2")
    assert {k: len(v) for k, v in parts.items()} == {"train": 11, "validation": 3, "test": 3}
    for table in (plain, parts["train"]):
        assert isinstance(table.features["audio"], datasets.Audio)
        assert table.features["audio"].sampling_rate == 16000
    assert len(plain) == 17 and all(same_sound(row, corpus) for row in undecoded(plain))


def test_datasets_finds_a_folder(corpus, tmp_path):
    "`audiofolder` with the recordings and the list; it needs torchcodec's library to make rows."
    datasets = pytest.importorskip("datasets")
    pack_corpus(corpus, tmp_path / "packed", PackConfig(form="folder"))
    made = datasets.load_dataset_builder(str(tmp_path / "packed"), cache_dir=tmp_path / "c1")
    files = {os.path.relpath(f, tmp_path / "packed") for f in made.config.data_files["train"]}
    names = {r.audio_file for r in corpus.read().rows}
    assert made.name == "audiofolder"
    assert files == {"metadata.jsonl", *names}
    lines = read_jsonl(tmp_path / "packed/metadata.jsonl")
    assert {line["file_name"] for line in lines} == names
    try:
        import torchcodec.encoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return
    table = datasets.load_dataset(str(tmp_path / "packed"), cache_dir=tmp_path / "c2")["train"]
    assert len(table) == 17 and all(same_sound(row, corpus) for row in undecoded(table))


@pytest.mark.skipif(not importlib.util.find_spec("duckdb"), reason="duckdb is not installed")
def test_duckdb_reads_it(corpus, tmp_path):
    import duckdb

    pack_corpus(corpus, tmp_path / "packed", PackConfig())
    found = duckdb.sql(
        f"select speaker, count(*), octet_length(any_value(audio.bytes)) "
        f"from '{tmp_path}/packed/data/*.parquet' group by speaker order by speaker"
    ).fetchall()
    assert [(s, n) for s, n, _ in found] == [("gia", 6), ("leo", 5), ("ნინო", 6)]
    assert all(size > 1000 for _, _, size in found)


def test_what_was_computed_lies_beside_the_sound(corpus, tmp_path):
    "Codes and tokens as columns; null without one; other codes make the shards anew."
    pandas = pytest.importorskip("pandas")
    names = [r.audio_file for r in corpus.read().rows]
    runs = {n: np.arange(3 + k, dtype=np.int64) for k, n in enumerate(names[1:])}
    clips = {"about": {"clips": list(runs)}}
    write_json(tmp_path / "init/references/index.json", clips)

    def packed(shift, **more):
        RaggedArray.write(
            tmp_path / "init/codes",
            (v + shift for v in runs.values()),
            sum(map(len, runs.values())),
        )
        cfg = PackConfig(codes=str(tmp_path / "init"), **more)
        made = pack_corpus(corpus, tmp_path / "packed", cfg)
        tables = [pandas.read_parquet(tmp_path / "packed" / f) for f in shard_files(made)]
        return made, pandas.concat(tables).set_index("audio_file")

    two = np.stack([np.arange(4, dtype=np.int16)] * 2, 1)
    about = {"clips": [{"name": names[3], "seconds": 1.0}]}
    RaggedArray.write(tmp_path / "tokens/codes", [two], 4, about)
    first, table = packed(0, tokens=str(tmp_path / "tokens"))
    assert table.codes[names[0]] is None
    assert all(table.codes[n].tolist() == v.tolist() for n, v in runs.items())
    assert np.stack(table.tokens[names[3]]).tolist() == two.tolist()
    assert table.tokens.isna().sum() == len(names) - 1
    text = (tmp_path / "packed/README.md").read_text(encoding="utf-8")
    assert "- name: tokens\n    list:\n      list: int32" in text
    second, table = packed(7)
    assert "tokens" not in table and table.codes[names[1]].tolist() == [7, 8, 9]
    assert not {p["sha256"] for p in first["pieces"]} & {p["sha256"] for p in second["pieces"]}
    assert first["clips"] == second["clips"] and not verify_packed(tmp_path / "packed")
    unpack_corpus(tmp_path / "packed", tmp_path / "back")
    assert lines_of(CorpusFolder(tmp_path / "back")) == lines_of(corpus)


def shard_files(made):
    return [p["file"] for p in made["pieces"]]


def test_page_of_the_hub(corpus, tmp_path):
    "Licence and consent are what was told, and nothing is guessed; digests are those of the files."
    out = tmp_path / "packed"
    pack_corpus(corpus, out, PackConfig(card={"consent": "written, for research"}))
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "| licence | not stated |" in text and "| language | not stated |" in text
    assert "| consent | written, for research |" in text and "license" not in text.split("---")[1]
    assert "path: data/validation-*" in text and "sampling_rate: 16000" in text
    for name in text.split("![")[1:]:
        assert (out / name.partition("(")[2].partition(")")[0]).is_file()
    made = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert all(sha256_file(out / n) == mark for n, mark in made["files"].items())
    assert set(made["clips"]) == {r.audio_file for r in corpus.read().rows}
    assert len(read_manifest(corpus.path, check_audio=False).rows) == 18  # the original stays
