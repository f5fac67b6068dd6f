"""`map_clips`: the same files from one process, several, and a Ray cluster whose workers and nodes
die."""

import functools
import threading
import time
from pathlib import Path

import engine_worker
import numpy as np
import pytest

from xtts_ka.core.audio import write_audio
from xtts_ka.core.engine import EngineConfig, map_clips
from xtts_ka.core.errors import MissingError, XttsKaError
from xtts_ka.core.files import sha256_file, write_json
from xtts_ka.core.manifest import Row, write_manifest
from xtts_ka.core.randomness import rng
from xtts_ka.core.shards import new_clips
from xtts_ka.corpus.clips import Clips
from xtts_ka.corpus.segment import SegmentConfig, segment_corpus
from xtts_ka.sovits.data import compute_mels

CLIPS = 30


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Thirty clips, the last but one no sound, the last not there."
    root = tmp_path_factory.mktemp("corpus")
    for k in range(CLIPS - 2):
        write_audio(root / f"{k}.wav", 0.1 * rng(0, k).standard_normal(4000 + 999 * k), 16000)
    (root / "28.wav").write_bytes(b"x" * 999)
    return new_clips((f"{k}.wav", root / f"{k}.wav") for k in range(CLIPS))


def run(clips, out, engine=None, **options):
    "Level and spectrum of all clips, into two files."

    def merge(results):
        rows = [results[c.name] if c.name in results else {"reason": c.reason} for c in clips]
        spectra = np.stack([r.pop("spectrum") for r in rows if "reason" not in r])
        np.save(out / "spectra.npy", spectra)
        write_json(out / "levels.json", rows)

    make = functools.partial(engine_worker.Levels, **options)
    return map_clips(clips, make, out, "v", merge, engine=EngineConfig(**engine or {}))


def files(out):
    return {p.name: sha256_file(p) for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def alone(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    done = run(clips, out)
    assert done.complete and len(done.new) == CLIPS - 1 and not (out / "shards").exists()
    text = (out / "levels.json").read_text()
    assert text.count('"db"') == CLIPS - 2 and "missing" in text
    return files(out)


def test_a_killed_worker_costs_its_shard_only(clips, alone, tmp_path):
    out = tmp_path / "out"
    done = run(clips, out, dict(workers=2), dies_at="7.wav", dies_once=tmp_path / "died")
    assert (tmp_path / "died").exists() and len(done.new) == CLIPS - 1 and files(out) == alone


def test_a_shard_that_kills_every_worker_is_named(clips, alone, tmp_path):
    "What other workers have finished is kept: the next run makes only the rest."
    with pytest.raises(XttsKaError, match=r"3 workers died with the \d+ clips from .*\.wav"):
        run(clips, tmp_path, dict(workers=2), dies_at="17.wav")
    kept = len(list((tmp_path / "shards").glob("[0-9a-f]*.safetensors")))
    done = run(clips, tmp_path)
    assert kept > 2 and 0 < len(done.new) < CLIPS - 3 and files(tmp_path) == alone


def test_a_worker_that_cannot_be_made_is_one_error(clips, tmp_path):
    with pytest.raises(MissingError, match="the model is not there"):
        map_clips(clips, engine_worker.Impossible, tmp_path, "v", len, engine=two())


def two():
    return EngineConfig(workers=2)


def made(clips, out, known, engine=None):
    "Names of the clips that are mapped when the output has those of `known`."
    make = functools.partial(engine_worker.Levels)
    return map_clips(clips, make, out, "v", len, lambda: known, engine).new


def test_only_what_is_new_is_made(clips, tmp_path):
    "By the digest of the sound; what has none is never given to a worker."
    held = {c.name: c.digest for c in clips}
    assert not made(clips, tmp_path, held)
    assert made(clips, tmp_path, held | {"3.wav": "of another sound"}) == {"3.wav"}
    assert made(clips[:4], tmp_path, {}) == {f"{k}.wav" for k in range(4)}


def test_recordings_are_cut_alike_by_two_processes(clips, tmp_path):
    "The clips of `segments`, written by workers, and the log-mels of GPT-SoVITS2."
    rows = [Row(f"{k}.wav", "სიტყვა", ("ana", "gio")[k % 2]) for k in range(4, CLIPS)]
    corpus = Path(clips[0].path).parent
    write_manifest(corpus / "metadata.csv", rows)
    cfg = SegmentConfig(vad=False, min_seconds=0.2, val_fraction=0.2)
    for name, engine in (("one", None), ("two", two())):
        cut = segment_corpus(cfg, corpus, tmp_path / name, 1, engine)
        compute_mels(Clips(cut.rows, tmp_path / name), tmp_path / name / "mels", engine=engine)
    assert len(cut.rows) > 10 and len(cut.rejects) >= 2
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_cluster_that_loses_a_worker_and_a_node(clips, alone, tmp_path):
    """Three nodes of Ray on this machine. It takes more than five seconds of CPU time: these are
    some twenty processes, and nothing smaller shows that a node may go."""
    pytest.importorskip("ray")
    out, lost = tmp_path / "out", []

    def lose_a_node(cluster, node):
        while len(list((out / "shards").glob("[0-9a-f]*.safetensors"))) < 3:
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        lost.append((out / "levels.json").exists())

    with engine_worker.cluster_of_three() as (cluster, nodes):
        watch = threading.Thread(target=lose_a_node, args=(cluster, nodes[0]), daemon=True)
        watch.start()
        engine = dict(engine="ray", workers=3, ray_address=cluster.address)
        once = dict(dies_at="7.wav", dies_once=tmp_path / "died")
        done = run(clips, out, engine, pause=0.3, **once)
        watch.join()
    assert once["dies_once"].exists() and lost == [False]  # Both while the work went on
    assert len(done.new) == CLIPS - 1 and files(out) == alone
