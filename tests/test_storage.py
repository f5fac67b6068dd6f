"""Object storage against an S3 server on the loopback address: a corpus packed into it, a run from
it and a copy of the run in it, connections that are cut, and what a wrong key is answered."""

import contextlib
import io
import json
import os
import shutil
import socket
import struct
import threading
import time
import urllib.request
from unittest import mock

import numpy as np
import pytest
import soundfile as sf
from calls import called

from xtts_ka.core import paths, storage
from xtts_ka.core.errors import MissingError, PathError, XttsKaError
from xtts_ka.core.manifest import Row, write_manifest
from xtts_ka.core.paths import find_input
from xtts_ka.core.randomness import rng
from xtts_ka.core.storage import RECORD, Storage, fetched, forget, upload
from xtts_ka.curate.edits import CorpusFolder
from xtts_ka.curate.pack import (
    MANIFEST,
    PackConfig,
    pack_corpus,
    pack_into_storage,
    unpack_corpus,
    verify_packed,
)
from xtts_ka.pipeline import mirror

pytest.importorskip("s3fs", reason="the extra storage is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")

SECRET = "a-secret-that-nobody-may-read-here"


@pytest.fixture(scope="module")
def server():
    "An S3 server; yields its port."
    made = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    made.start()
    yield made.get_host_and_port()[1]
    made.stop()


@pytest.fixture(autouse=True)
def s3(server, monkeypatch, tmp_path):
    "The environment of a client, and an empty bucket."
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in dict(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{server}",
        AWS_ACCESS_KEY_ID="AKIAFORTESTS",
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=str(tmp_path / "none"),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
        XTTS_KA_STORAGE=str(tmp_path / "cache"),
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "WAIT", 0.01)
    forget("")
    manage(server, "reset")
    Storage("s3://bucket/x").fs.mkdir("bucket")
    yield
    manage(server, "reset-auth", b"inf")


def manage(port, what, data=b""):
    kind = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/{what}", data, kind)
    urllib.request.urlopen(asked).close()


def make_corpus(folder, n, seconds=0.3):
    "Short noise of 8 kHz, of three speakers."
    rows = []
    for i in range(n):
        speaker = ("ნინო", "gia", "leo")[i % 3]
        row = Row(f"wavs/{speaker}/{i:05d}.wav", f"წინადადება ნომერი {i}", speaker)
        row.split = "val" if i % 10 == 9 else "train"
        wav = rng(1, "storage", i).integers(-(2**13), 2**13, int(8000 * seconds) + i % 7)
        (folder / row.audio_file).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / row.audio_file, wav.astype("int16"), 8000)
        rows.append(row)
    write_manifest(folder / "metadata.csv", rows)
    return CorpusFolder(folder)


def lines_of(corpus):
    return [(r.audio_file, r.text, r.speaker_name, r.split, r.extra) for r in corpus.read().rows]


class Proxy:
    "Passes bytes on to the server, and resets a connection after some bytes."

    def __init__(self, port):
        self.port, self.left, self.cuts, self.passed = port, None, 0, 0
        self.answers = True  # Which direction is counted
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def cut_after(self, size, times=1, answers=True):
        "Reset the connection when this many more bytes have gone one way: so many times."
        self.size, self.left, self.times, self.answers = size, size, times, answers

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.socket.accept()[0]
                there = socket.create_connection(("127.0.0.1", self.port))
                for a, b, back in ((client, there, False), (there, client, True)):
                    threading.Thread(target=self._pass, args=(a, b, back), daemon=True).start()

    def _pass(self, source, target, back):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                self.passed += len(data) * back
                if back == self.answers and self.left is not None:
                    self.left -= len(data)
                    if self.left < 0:
                        return self._cut(source, target)
                target.sendall(data)
        for s in (source, target):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def _cut(self, *sockets):
        self.cuts += 1
        self.times -= 1
        self.left = self.size if self.times > 0 else None
        for s in sockets:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)  # Which wakes the other direction
            s.close()


@pytest.fixture
def proxy(server, monkeypatch):
    made = Proxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.socket.close()


def test_corpus_goes_there_and_back(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 24)
    to = "s3://bucket/corpora/short"
    done = called("corpus", "pack", corpus.path, "--out", to, "card.licence=CC0-1.0")
    assert done.returncode == 0 and "24 clips" in done.stdout and to in done.stdout, done.stderr
    assert set(read_json_there(to, RECORD)["files"]) == {
        n for n in Storage(to).files() if n != RECORD
    }
    assert called("corpus", "unpack", to, "--verify").returncode == 0
    assert "as it was packed" in called("corpus", "check", to).stdout
    back = called("corpus", "unpack", to, "--out", tmp_path / "back")
    assert back.returncode == 0, back.stderr
    assert lines_of(CorpusFolder(tmp_path / "back")) == lines_of(corpus)
    assert not (tmp_path / "cache/outgoing").exists() or not any(
        (tmp_path / "cache/outgoing").iterdir()
    )
    again = called("corpus", "pack", corpus.path, "--out", to, "card.licence=CC0-1.0")
    assert again.returncode == 0, again.stderr


def read_json_there(address, name):
    return json.loads(Storage(address).read(name))


def test_what_is_there_is_not_sent_again(tmp_path):
    corpus, to = make_corpus(tmp_path / "corpus", 12), "s3://bucket/a"
    pack_into_storage(corpus, to, PackConfig())
    before = Storage(to).files()
    pack_corpus(corpus, tmp_path / "packed", PackConfig())
    files = {p: tmp_path / "packed" / p for p in before if p != RECORD}
    assert upload(files, to, last=(MANIFEST,)) == 0
    (tmp_path / "packed/rejects.csv").write_text("other")
    assert upload(files, to, last=(MANIFEST,)) == 2  # It, and what names the whole
    assert upload({"rejects.csv": files["rejects.csv"]}, to) == 0
    assert sorted(Storage(to).files()) == [RECORD, "rejects.csv"]


def test_large_files_go_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 5 * 2**20)
    monkeypatch.setattr(storage, "stored_digest", None)  # The ETag tells, nothing is read again
    (tmp_path / "a.bin").write_bytes(rng(1, "parts").bytes(11 * 2**20))
    upload({"a.bin": tmp_path / "a.bin"}, "s3://bucket/parts")
    assert Storage("s3://bucket/parts").files()["a.bin"].mark.endswith("-3")
    found = fetched("s3://bucket/parts", tmp_path / "cache") / "a.bin"
    assert found.read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_commands_read_what_lies_there(tmp_path):
    from xtts_ka.corpus.loaders import read_corpus
    from xtts_ka.curate.edits import CorpusFolder as Folder
    from xtts_ka.speaker.data import scan_folder
    from xtts_ka.speaker.prepare_embeddings import find_recordings
    from xtts_ka.vocoder.data import find_sources

    corpus, to = make_corpus(tmp_path / "corpus", 6), "s3://bucket/read"
    pack_into_storage(corpus, to, PackConfig(form="folder"))
    assert len(read_corpus(to).rows) == len(scan_folder(to)) == 6
    assert len(find_sources(to)[0]) == len(find_recordings(to).voices) == 6
    assert len(Folder(to, tmp_path / "work").read().rows) == 6
    one = find_input(f"{to}/metadata.csv")
    assert one.read_bytes() == (find_input(to) / "metadata.csv").read_bytes()
    with pytest.raises(PathError, match="a path of this machine is needed"):
        paths.resolve(to)
    assert paths.display_path(to) == to


def test_a_model_goes_into_a_bucket_and_comes_out(tmp_path):
    from xtts_ka.pipeline.hub import pull, push

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    np.save(tmp_path / "model/voice.npy", np.arange(8.0))
    to = "s3://bucket/models/nino"
    push(tmp_path / "model", to, "cc-by-4.0", metrics={})
    push(tmp_path / "model", to, "cc-by-4.0", metrics={})
    pull(to, tmp_path / "there")
    assert (tmp_path / "there/voice.npy").read_bytes() == (
        tmp_path / "model/voice.npy"
    ).read_bytes()
    assert RECORD not in {p.name for p in (tmp_path / "there").iterdir()}
    Storage(to).fs.pipe("bucket/models/nino/voice.npy", b"x" * 192)
    with pytest.raises(XttsKaError, match="voice.npy"):
        pull(to, tmp_path / "other")


def test_training_streams_shards(tmp_path, counted):
    "Each segment once an epoch, the same ones after a restart, and never more than fits."
    from xtts_ka.core.loop import Batches, LoopConfig, _stream
    from xtts_ka.vocoder.config import DataConfig, MelConfig
    from xtts_ka.vocoder.data import SegmentDataset, load_clips

    corpus, to = make_corpus(tmp_path / "corpus", 200, 2.0), "s3://bucket/stream"
    made, _ = pack_into_storage(corpus, to, PackConfig(shard_megabytes=1))
    shards = [n for n in made["files"] if n.endswith(".parquet")]
    mel = MelConfig(sample_rate=8000, fmax=4000)
    cfg = DataConfig(train=to, stream=True, cache_gigabytes=0.004, shards_together=2)

    class Segments(SegmentDataset):
        lengths = None

        def collate(self, samples):
            return np.stack([s["wav"].numpy() for s in samples])

    def batches(workers=0):
        train, val, rejects = load_clips(mel, cfg)
        assert len(train) + len(val) + len(rejects) == 188 and len(val) == 8 and not rejects
        assert {c.source.split for c in train} == {"train"}
        loop = LoopConfig(batch_size=8, seed=1, workers=workers)
        return train, Batches(Segments(train, mel, 8192, 1), loop)

    train, first = batches()
    cache, most, seen = train[0].stream.cache, 0, []
    for m in range(first.per_epoch):
        batch, at = first[m], first.indices(m)
        seen += at
        with contextlib.suppress(FileNotFoundError):  # A shard has just been removed
            files = [p for p in cache.home.rglob("*") if p.parent.name.isdecimal()]
            most = max(most, sum(p.stat().st_size for p in files))
        if m == 9:
            kept = batch
    assert sorted(seen) == list(range(len(first.task)))
    assert 2e6 < most < 5.1e6 < 1e6 * len(shards)  # What is allowed, and one that is on its way
    train[0].stream.close()
    shutil.rmtree(cache.home)  # Another machine goes on
    again, second = batches(workers=1)
    with _stream(second, 9, 11, False) as prepared:  # In a forked process
        assert np.array_equal(next(iter(prepared)), kept)
    for clip in (train[0], train[100]):
        wav, _ = sf.read(corpus.path / clip.source.name, dtype="float32")
        assert np.array_equal(clip.read(100, 5000), wav[100:5100])
    for t in (train, again):
        t[0].stream.close()
    counted(f"{len(seen)} segments of {len(shards)} shards, at most {most / 1e6:.1f} MB at once")


@pytest.fixture
def project(tmp_path, root):
    "A folder with the notebooks of the stages."
    shutil.copytree(root / "nbs/runs", tmp_path / "project/nbs/runs")
    shutil.copy(root / "settings.ini", tmp_path / "project")
    (tmp_path / "project/a.yaml").write_text("run: a\nthreads: 1\ncorpus: {source: folder}\n")
    return tmp_path / "project"


def test_a_run_from_storage_with_its_copy_there(tmp_path, project, monkeypatch):
    corpus, to = make_corpus(tmp_path / "corpus", 6), "s3://bucket/corpus"
    pack_into_storage(corpus, to, PackConfig())
    words = ("run", "--config", "a.yaml", "--only", "corpus", f"corpus.path={to}")
    words += ("outputs.mirror=s3://bucket/runs",)
    first = called(*words, root=project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "copy: s3://bucket/runs/a" in first.stdout
    run, there = project / "outputs/a", Storage("s3://bucket/runs/a").files()
    assert len(list((run / "corpus/wavs").rglob("*.wav"))) == 6
    kept = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert there.keys() - {RECORD} == kept.keys() - {".digests.json", ".lock"}
    shutil.rmtree(project / "outputs")  # Another machine
    shutil.rmtree(tmp_path / "cache")
    forget("")
    second = called(*words, root=project)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "brought back from s3://bucket/runs/a" in second.stdout
    assert "up to date" in second.stdout and "▶" not in second.stdout
    for name in ("corpus/metadata.csv", "config.yaml", "report/index.html"):
        assert (run / name).read_bytes() == kept[name], name
    monkeypatch.setattr(mirror, "upload", mock.Mock(side_effect=storage.Unreachable("cut")))
    third = called(*words, root=project)
    assert third.returncode == 1 and "not up to date: cut" in third.stdout, third.stdout
    pack_into_storage(make_corpus(tmp_path / "other", 7), to, PackConfig())
    plan = called(*words, "--dry-run", root=project)
    assert "would run: inputs changed" in plan.stdout, plan.stdout


def test_a_cut_connection_goes_on(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK", 2**18)
    data = rng(1, "cut").bytes(2**21)
    (tmp_path / "a.bin").write_bytes(data)
    upload({"a.bin": tmp_path / "a.bin"}, "s3://bucket/cut")
    proxy.cut_after(len(data) // 2)
    found = fetched("s3://bucket/cut", tmp_path / "one")
    assert proxy.cuts == 1 and (found / "a.bin").read_bytes() == data


def test_a_connection_that_stays_cut_is_said_and_nothing_comes_twice(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(storage, "TRIES", 2)
    monkeypatch.setattr(storage, "BLOCK", 2**18)
    data = rng(1, "cut").bytes(2**21)
    (tmp_path / "a.bin").write_bytes(data)
    upload({"a.bin": tmp_path / "a.bin"}, "s3://bucket/cut")
    proxy.cut_after(len(data) // 2)
    proxy.size, proxy.times = 1000, 10**6  # After the half: at once, again and again
    with pytest.raises(MissingError, match="no connection for reading .* tried 2 times"):
        fetched("s3://bucket/cut", tmp_path / "one")
    assert not [p for p in (tmp_path / "one").rglob("*") if p.name == "a.bin"]
    proxy.left, proxy.passed = None, 0
    found = fetched("s3://bucket/cut", tmp_path / "one")
    assert (found / "a.bin").read_bytes() == data
    assert proxy.passed < 0.7 * len(data)


def test_a_cut_upload_is_never_taken_for_whole(tmp_path, proxy, monkeypatch):
    monkeypatch.setattr(storage, "TRIES", 2)
    corpus, to = make_corpus(tmp_path / "corpus", 60), "s3://bucket/broken"
    proxy.cut_after(60_000, 10**6, answers=False)
    words = ("corpus", "pack", corpus.path, "--out", to)
    failed = called(*words)
    assert failed.returncode == 2 and "no connection for writing" in failed.stderr, failed.stderr
    proxy.left = None
    there = Storage(to).files()
    assert MANIFEST not in there
    outgoing = next((tmp_path / "cache/outgoing").iterdir())
    whole = {n: (outgoing / n).stat().st_size for n in there if n != RECORD}
    assert {n: there[n].size for n in whole} == whole
    refused = called("corpus", "unpack", to, "--out", tmp_path / "back")
    assert refused.returncode == 2 and "has not ended" in refused.stderr
    assert called(*words).returncode == 0
    assert lines_of_packed(to, tmp_path) == lines_of(corpus)


def lines_of_packed(address, tmp_path):
    unpack_corpus(address, tmp_path / "unpacked")
    return lines_of(CorpusFolder(tmp_path / "unpacked"))


def test_refusals_are_one_sentence_without_secrets(tmp_path, server, monkeypatch, project):
    corpus = make_corpus(tmp_path / "corpus", 3)
    said = []

    def refused(*words, contains):
        done = called(*words, root=project)
        said.append(done.stdout + done.stderr)
        assert done.returncode == 2 and contains in done.stderr, done.stdout + done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr

    pack = ("corpus", "pack", corpus.path, "--out")
    refused(*pack, "s3://no-such-bucket/a", contains="no such bucket")
    refused(*pack, "nowhere://a/b", contains="no storage that fsspec knows")
    refused("corpus", "unpack", "s3://bucket/none", "--verify", contains="no manifest.json")
    refused("corpus", "check", "s3://bucket/none", contains="--work FOLDER")
    Storage("s3://bucket/b").fs.pipe("bucket/theirs/x.txt", b"x")
    refused(*pack, "s3://bucket/theirs", contains="no upload of ours made")
    run = ("run", "--config", "a.yaml", "--only", "corpus")
    refused(*run, "corpus.path=s3://bucket/none", contains="nothing is there")
    manage(server, "reset-auth", b"0")  # From now on keys are looked at
    refused(*pack, "s3://bucket/a", contains="the storage refuses reading; credentials come from")
    forget("")
    refused(*run, "corpus.path=s3://bucket/b", contains="the storage refuses reading")
    mirror = ("corpus.source=synthetic", "outputs.mirror=s3://bucket/runs")
    refused(*run, *mirror, contains="the storage refuses reading")
    assert not (project / "outputs/a").exists()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    refused(*pack, "s3://bucket/a", contains="the storage refuses reading")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFORTESTS")
    monkeypatch.setattr(storage, "TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    refused(*pack, "s3://bucket/a", contains="no connection for reading")
    assert not any(SECRET in text or "AKIAFORTESTS" in text for text in said)
    assert not (tmp_path / "cache/outgoing").exists()  # Refused before the work


def test_without_a_network_what_was_fetched_is_used(tmp_path, monkeypatch, capsys):
    corpus, to = make_corpus(tmp_path / "corpus", 3), "s3://bucket/corpus"
    pack_into_storage(corpus, to, PackConfig())
    here = find_input(to)
    forget("")
    monkeypatch.setattr(storage, "TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert find_input(to) == here
    assert "is used" in capsys.readouterr().err
    with pytest.raises(MissingError, match="no connection"):
        find_input("s3://bucket/other")


def test_one_flipped_bit_is_found_and_named(tmp_path):
    corpus, to = make_corpus(tmp_path / "corpus", 40), "s3://bucket/bit"
    made, _ = pack_into_storage(corpus, to, PackConfig())
    shard = next(n for n in made["files"] if n.startswith("data/val"))
    place = Storage(to)
    data = bytearray(place.read(shard))
    data[len(data) // 2] ^= 16
    place.fs.pipe(place.path(shard), bytes(data))
    faults = verify_packed(to)
    assert len(faults) == 1 and faults[0].startswith(f"{shard}: changed since it was packed (wavs/")
    done = called("corpus", "unpack", to, "--verify")
    assert (done.returncode, done.stdout.strip()) == (1, faults[0])
    forget("")
    with pytest.raises(XttsKaError, match=f"{shard}: its digest is another"):
        find_input(to)


def test_two_thousand_clips(tmp_path, counted):
    "The round trip is exact, its time is linear, and `datasets` and DuckDB read the same."
    duckdb, datasets = pytest.importorskip("duckdb"), pytest.importorskip("datasets")
    seconds = {}
    for n in (500, 2000):
        corpus = make_corpus(tmp_path / f"c{n}", n)
        begin = time.process_time()
        cfg = PackConfig(shard_megabytes=1)
        made = pack_corpus(corpus, tmp_path / f"p{n}", cfg)
        back = unpack_corpus(tmp_path / f"p{n}", tmp_path / f"b{n}")
        seconds[n] = time.process_time() - begin
    shards = [n for n in made["files"] if n.endswith(".parquet")]
    counted(f"2,000 clips in {len(shards)} shards, {seconds[2000] / seconds[500]:.2f} of 500 clips")
    assert seconds[2000] < 1.5 * 4 * seconds[500], seconds
    assert lines_of(CorpusFolder(tmp_path / "b2000")) == lines_of(corpus)
    for row in back.rows:
        a, b = back.audio_path(row), corpus.path / row.audio_file
        assert a.read_bytes() == b.read_bytes(), row.audio_file
    sql = f"select audio_file, text, speaker from '{tmp_path}/p2000/data/*.parquet'"
    wanted = sorted((r.audio_file, r.text, r.speaker_name) for r in back.rows)
    assert sorted(duckdb.sql(sql).fetchall()) == wanted
    files = [str(tmp_path / "p2000" / n) for n in shards]
    table = datasets.load_dataset("parquet", data_files=files, cache_dir=tmp_path / "hf")["train"]
    rows = zip(*(table[c] for c in ("audio_file", "text", "speaker")))
    assert sorted(rows) == wanted
    one = table.cast_column("audio", datasets.Audio(decode=False))[0]
    wav = sf.read(corpus.path / one["audio_file"], dtype="int16")[0]
    assert np.array_equal(sf.read(io.BytesIO(one["audio"]["bytes"]), dtype="int16")[0], wav)
