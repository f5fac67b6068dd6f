"""Parquet shards with the sound inside, as the hub keeps FLEURS and Common Voice: what is read,
and what each damage costs."""

import io
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from shards import AUDIO, KA, cv_table, fleurs, fleurs_table, sound, table, write

from xtts_ka.core.audio import read_audio
from xtts_ka.core.errors import ConfigError, ManifestError
from xtts_ka.core.manifest import notes
from xtts_ka.corpus.loaders import read_corpus, read_data_set
from xtts_ka.corpus.look import look_at
from xtts_ka.corpus.packed import Tar
from xtts_ka.corpus.parquet import MAX_ROWS, Shard, choose_pieces
from xtts_ka.corpus.sources import CorpusConfig, build_corpus


def reasons(corpus):
    return {r.item: r.reason for r in corpus.rejects}


def plain(path, rows, **options):
    "A shard with a sound, its label and a text."
    sounds, labels, texts = zip(*rows)
    cells = [{"bytes": b, "path": p} for b, p in zip(sounds, labels)]
    write(path, table({"audio": (AUDIO, cells), "text": (pa.string(), texts)}), **options)
    return path.parent


def test_fleurs_keeps_texts_genders_parts_and_sound(tmp_path):
    path, _ = fleurs(tmp_path)
    corpus = read_corpus(path, language="ka")
    assert [r.text for r in corpus.rows] == [KA[0], *KA[:3]]
    assert [(r.audio_file, r.split, r.extra["gender"]) for r in corpus.rows] == [
        ("test/0.wav", "test", "male"),
        ("train/0.wav", "train", "male"),
        ("train/1.wav", "train", "female"),
        ("train/2.wav", "train", "male"),
    ]
    assert {r.extra["language"] for r in corpus.rows} == {"ka"}
    assert len(corpus.speakers) == 3 and "fleurs-1" in corpus.speakers
    assert corpus.audio_path(corpus.rows[2]).read_bytes() == sound(1)
    [reject] = corpus.rejects
    assert (reject.line, reject.file[-8:]) == (2, ".parquet") and "no sound" in reject.reason
    other = read_corpus(path, split="test", subset="ka_ge", text_column="transcription")
    assert [r.text for r in other.rows] == ["დილა მშვიდობისა"]
    with pytest.raises(ManifestError, match=r"'verse'; columns: .*raw_transcription \(string\)"):
        read_corpus(path, text_column="verse")


def test_numbers_of_genders_are_named_without_the_notes_of_datasets(tmp_path):
    rows = [(i, f"{i}.wav", sound(i), KA[i], i) for i in range(3)]
    write(tmp_path / "test.parquet", fleurs_table(rows, noted=False))
    genders = [r.extra["gender"] for r in read_corpus(tmp_path, check_audio=False).rows]
    assert genders == ["male", "female", "other"]


def test_common_voice_keeps_its_rules(tmp_path):
    "Speakers by the client, votes, languages; splits that overlap are read when they are named."

    def row(n, who, up=2, down=0, locale="ka"):
        file = f"common_voice_ka_{n}.mp3"
        return who * 64, file, sound(n, 32000, "mp3"), KA[n % 4], up, down, "male", locale

    parts = {
        "train": [row(0, "a"), row(1, "a", 1, 1)],
        "validation": [row(2, "b"), row(3, "b", locale="de")],
        "other": [row(4, "c")],
        "validated": [row(0, "a"), row(2, "b")],
        "invalidated": [row(5, "d")],
    }
    for name, rows in parts.items():
        write(tmp_path / f"data/{name}-00000-of-00001.parquet", cv_table(rows))
    corpus = read_corpus(tmp_path, language="ka")
    assert [(r.speaker_name, r.split) for r in corpus.rows] == [
        ("cv-" + "a" * 12, "train"),
        ("cv-" + "b" * 12, "val"),
    ]
    assert sorted(r.reason for r in corpus.rejects) == [
        "language: de, not ka",
        "votes: 1 up, 1 down",
    ]
    assert "'invalidated', 'other', 'validated' of" in notes(corpus)[0]
    assert len(read_corpus(tmp_path, split="other").rows) == 1
    with pytest.raises(ConfigError, match="it has invalidated, other, train"):
        read_corpus(tmp_path, split="test")


def test_any_sound_file_inside_is_read(tmp_path):
    "Whatever the label says: mp3, opus, flac and vorbis bytes."
    opus = tmp_path / "x.opus"
    sf.write(opus, np.sin(np.arange(9600) * 0.1) / 4, 24000, "OPUS", format="OGG")
    kinds = [sound(n, kind=k) for n, k in enumerate(("mp3", "flac", "ogg"))] + [opus.read_bytes()]
    path = plain(tmp_path / "in/train.parquet", [(b, "a.wav", KA[0]) for b in kinds])
    corpus = read_corpus(path, speaker_name="nino")
    assert not corpus.rejects and len({r.audio_file for r in corpus.rows}) == 4
    for row in corpus.rows:
        wav, rate = read_audio(corpus.audio_path(row))
        assert 0.25 < len(wav) / rate < 0.45 and np.abs(wav).max() > 0.2
    made = build_corpus(CorpusConfig(source="folder", path=str(path)), tmp_path / "out")
    assert len(made.rows) == 4 and not (tmp_path / "out/.unpacked").exists()


def test_rows_that_cannot_be_used_cost_themselves_alone(tmp_path):
    (tmp_path / "secret.wav").write_bytes(sound(0))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/beside.wav").write_bytes(sound(1))
    huge = bytearray(sound(0))
    huge[40:44] = (2**30).to_bytes(4, "little")  # the size of the sound in its header
    path = plain(
        tmp_path / "in/train.parquet",
        [
            (sound(0), "../../etc/a.wav", KA[0]),  # a label only: its folders mean nothing
            (None, "beside.wav", KA[1]),
            (None, "../secret.wav", KA[2]),
            (None, str(tmp_path / "secret.wav"), KA[2]),
            (None, None, KA[0]),
            (sound(0), "b.wav", None),
            (sound(0), "c.wav", "Good morning."),
            (sound(0), "d.wav", "ა|ბ"),
            (b"", "e.wav", KA[0]),
            (b"no sound at all", "f.wav", KA[0]),
            (bytes(huge), "g.wav", KA[0]),
            (sound(2), "h|\u202e\n.wav", KA[3]),
        ],
    )
    corpus = read_corpus(path, language="ka", speaker_name="nino")
    assert [r.audio_file for r in corpus.rows] == [
        "train/a.wav",
        "train/beside.wav",
        "train/h___.wav",
    ]
    why = {r.line: r.reason.split(":")[0] for r in corpus.rejects}
    assert why == dict(
        zip(
            range(3, 12),
            ["path", "path", "missing", "empty text", "no Georgian letters", "text", "empty"]
            + ["unreadable", "truncated"],
        )
    )
    folders = {corpus.audio_path(r).parent for r in corpus.rows}
    assert len(folders) == 1 and not folders & {tmp_path, tmp_path / "in"}


def test_no_label_leads_out(tmp_path):
    "Names that reach for other folders, hide, are too long, or differ in their case only."
    labels = ["/etc/passwd", "..", "../../up.wav", "C:\\x\\y.wav", ".hidden.wav", "a\0b.wav"]
    labels += ["ა" * 300 + ".wav", "A.wav", "a.wav", "a.wav", "con|~\u2028.wav", "", "x/"]
    path = plain(tmp_path / "in/train.parquet", [(sound(0), p, KA[0]) for p in labels])
    found = read_corpus(path, speaker_name="nino", unpack_to=tmp_path / "out")
    assert not found.rejects and len({r.audio_file.lower() for r in found.rows}) == len(labels)
    places = {found.audio_path(r) for r in found.rows}
    assert len(places) == len(labels) and len({p.parent for p in places}) == 1
    assert all(p.resolve().parent.parent == (tmp_path / "out").resolve() for p in places)
    assert not any(p.name.startswith(".") for p in places)
    made = build_corpus(CorpusConfig(source="folder", path=str(path)), tmp_path / "made")
    assert len(made.rows) == len(labels)


def varint(n):  # zigzag, as thrift's compact protocol writes integers
    n, out = n << 1, b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def announce(path, old, new):
    "Change numbers in the footer of a Parquet file."
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    assert varint(old) in footer
    footer = footer.replace(varint(old), varint(new))
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + data[-4:])


def test_a_shard_that_announces_too_much_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "train.parquet"
    cells = pa.nulls(MAX_ROWS + 1, AUDIO)
    pq.write_table(pa.table({"audio": cells, "text": pa.nulls(MAX_ROWS + 1, pa.string())}), path)
    assert path.stat().st_size < 10**6
    with pytest.raises(ManifestError, match="announces 5000001 rows"):
        read_corpus(tmp_path)
    plain(path, [(sound(0), "a.wav", KA[0])])
    for column, what in ((1, "bytes"), (3, "text")):
        size = pq.ParquetFile(path).metadata.row_group(0).column(column - 1).total_uncompressed_size
        hurt = shutil.copy(path, tmp_path / f"{what}.parquet")
        announce(type(path)(hurt), size, 2**45)
    found = read_corpus(tmp_path / "bytes.parquet")
    assert not found.rows and f"announces {2**45} bytes" in found.rejects[0].reason
    assert f"announces {2**45} bytes" in read_corpus(tmp_path / "text.parquet").rejects[0].reason


def test_a_damaged_shard_costs_its_own_rows(tmp_path):
    "Texts are read without the sound; of a group that is damaged, the other groups stay."
    for n in range(3):
        rows = [(sound(i), f"{n}{i}.wav", KA[i]) for i in range(4)]
        plain(tmp_path / f"train-{n}.parquet", rows, row_group_size=2)
    whole = (tmp_path / "train-0.parquet").read_bytes()
    (tmp_path / "train-1.parquet").write_bytes(whole[: len(whole) // 2])
    last = pq.ParquetFile(tmp_path / "train-2.parquet").metadata.row_group(1).column(0)
    hurt = bytearray((tmp_path / "train-2.parquet").read_bytes())
    at = last.dictionary_page_offset or last.data_page_offset
    hurt[at : at + 16] = bytes(16)  # the header of the first page with sound
    (tmp_path / "train-2.parquet").write_bytes(hurt)
    assert len(read_corpus(tmp_path, check_audio=False).rows) == 8
    corpus = read_corpus(tmp_path, speaker_name="nino")
    kept = ["00", "01", "02", "03", "20", "21"]
    assert [r.audio_file for r in corpus.rows] == [f"train/{n}.wav" for n in kept]
    why = reasons(corpus)
    assert "unreadable" in why.pop("train-1.parquet")
    assert list(why) == ["train/22.wav", "train/23.wav"]
    assert all("train-2.parquet is damaged" in w for w in why.values()), why
    again = read_data_set(tmp_path)
    assert (len(again.rows), len(again.rejects)) == (6, 3)
    for n in (0, 2):
        (tmp_path / f"train-{n}.parquet").unlink()
    with pytest.raises(ManifestError, match="train-1.parquet"):
        read_corpus(tmp_path)


def test_which_column_is_sound(tmp_path):
    cell = {"bytes": sound(0), "path": "a.wav"}
    text = (pa.string(), [KA[0]])
    path = tmp_path / "train.parquet"
    write(path, table({"id": (pa.int64(), [1]), "text": text}))
    with pytest.raises(ManifestError, match=r"no column with sound.*id \(int64\), text \(string\)"):
        read_corpus(tmp_path)
    write(path, table({"clean": (AUDIO, [cell]), "noisy": (AUDIO, [cell]), "text": text}))
    with pytest.raises(ManifestError, match="clean and noisy: name one, audio_column=NAME"):
        read_corpus(tmp_path)
    assert len(read_corpus(tmp_path, audio_column="noisy", speaker_name="x").rows) == 1
    write(path, table({"audio": (AUDIO, [cell]), "noisy": (AUDIO, [cell]), "text": text}))
    assert len(read_corpus(tmp_path, speaker_name="x").rows) == 1
    write(
        path,
        table({"wav": (pa.binary(), [sound(0)]), "speaker_id": (pa.int64(), [7]), "text": text}),
    )
    [row] = read_corpus(tmp_path).rows
    assert (row.speaker_name, row.audio_file) == ("7", "train/train-1")


def test_subsets_are_named_by_folders_or_by_the_card(tmp_path):
    for name in ("ka_ge", "en_us"):
        plain(tmp_path / name / "test-00000-of-00001.parquet", [(sound(0), f"{name}.wav", KA[0])])
    assert [r.audio_file for r in read_corpus(tmp_path, language="ka").rows] == ["test/ka_ge.wav"]
    assert read_corpus(tmp_path, subset="en_us").rows[0].audio_file == "test/en_us.wav"
    with pytest.raises(ConfigError, match="several subsets; there: en_us, ka_ge; name one"):
        read_corpus(tmp_path)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: georgian\n  data_files:\n"
        "  - split: train\n    path: ka_ge/*.parquet\n---\n# Card\n"
    )
    [row] = read_corpus(tmp_path, subset="georgian").rows
    assert (row.audio_file, row.split) == ("train/ka_ge.wav", "train")
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert len(read_corpus(tmp_path, subset="ka_ge").rows) == 1


def test_a_shard_that_has_changed_is_unpacked_again(tmp_path):
    path = plain(tmp_path / "train.parquet", [(sound(0), "a.wav", KA[0])])
    first = read_data_set(path)
    before = first.audio_path(first.rows[0])
    plain(tmp_path / "train.parquet", [(sound(5), "a.wav", KA[1])])
    again = read_data_set(path / "train.parquet")
    assert before.read_bytes() == sound(0)
    assert again.audio_path(again.rows[0]).read_bytes() == sound(5)


@pytest.fixture
def read_from_containers(monkeypatch):
    "Recordings that were read out of shards and tar files, whether or not they were wanted."
    read = []
    for kind in (Shard, Tar):

        def sounds(self, group, plain=kind.sounds):
            for key, data in plain(self, group):
                read.append(key)
                yield key, data

        monkeypatch.setattr(kind, "sounds", sounds)
    return read


def test_every_recording_is_unpacked_once(tmp_path, read_from_containers):
    "Read and checked one after another, a group of n rows was once read n times."
    rows = [(sound(n % 9), f"{n}.wav", KA[n % 4]) for n in range(120)]
    rows[7] = (sound(7), "7.wav", "no letters of Georgian")  # not wanted
    path = plain(tmp_path / "in/train.parquet", rows, row_group_size=40)
    corpus = read_corpus(path, language="ka", unpack_to=tmp_path / "out")
    assert len(corpus.rows) == 119 and len(read_from_containers) == 120
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 119
    read_from_containers.clear()
    home = tmp_path / "tars/ka_ge"
    (home / "audio").mkdir(parents=True)
    (home / "test.tsv").write_text("".join(f"{n}\t{n}.wav\t{KA[0]}\tx\n" for n in range(60)))
    with tarfile.open(home / "audio/test.tar.gz", "w:gz") as tar:
        for n in range(60):
            member = tarfile.TarInfo(f"test/{n}.wav")
            member.size = len(data := sound(n % 9))
            tar.addfile(member, io.BytesIO(data))
    assert len(read_corpus(tmp_path / "tars", language="ka").rows) == 60
    assert len(read_from_containers) == 60


def test_two_columns_of_sound_are_unpacked_apart(tmp_path):
    "Their recordings have the same names."
    cells = [[{"bytes": sound(n + k), "path": f"{n}.wav"} for n in range(3)] for k in (0, 5)]
    columns = {"near": (AUDIO, cells[0]), "far": (AUDIO, cells[1]), "text": (pa.string(), KA[:3])}
    write(tmp_path / "in/train.parquet", table(columns))
    for k, name in ((0, "near"), (5, "far"), (0, "near")):
        corpus = read_corpus(tmp_path / "in", audio_column=name, unpack_to=tmp_path / "out")
        held = [corpus.audio_path(r).read_bytes() for r in corpus.rows]
        assert held == [sound(n + k) for n in range(3)], name


def test_a_split_that_is_not_there_brings_no_other_one(tmp_path):
    "Only shards whose names tell no split may hold it."
    for name in ("train", "validation", "more"):
        plain(tmp_path / f"{name}.parquet", [(sound(0), f"{name}.wav", KA[0])])
    pieces, _ = choose_pieces(tmp_path, split="test")
    assert [p.path.name for p in pieces] == ["more.parquet"]
    assert [p.path.name for p in choose_pieces(tmp_path, split="val")[0]] == ["validation.parquet"]


def test_a_shard_that_is_named_is_read_once(tmp_path):
    "Its card names it in two subsets, or leaves it out."
    plain(tmp_path / "ka/train.parquet", [(sound(n), f"{n}.wav", KA[n]) for n in range(3)])
    plain(tmp_path / "ka/other.parquet", [(sound(0), "0.wav", KA[0])])
    configs = "".join(
        f"- config_name: {n}\n  data_files: train.parquet\n" for n in ("plain", "clean")
    )
    (tmp_path / "ka/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name, rows in (("train", 3), ("other", 1)):
        found = read_corpus(tmp_path / f"ka/{name}.parquet", speaker_name="nino")
        assert len(found.rows) == rows and not found.rejects


def test_a_look_opens_no_more_than_it_may(tmp_path, read_from_containers):
    rows = [(sound(n % 9), f"{n}.wav", KA[n % 4]) for n in range(40)]
    path = plain(tmp_path / "train.parquet", rows, row_group_size=10)
    cfg = CorpusConfig(source="folder", path=str(path), speaker_name="nino")
    assert look_at(cfg, most=5).opened == 5 and len(read_from_containers) <= 10
    assert look_at(cfg).opened == 40
