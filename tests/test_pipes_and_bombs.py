"""Files that are none: pipes, folders, bombs, run files that somebody edited."""

import json
import os
import threading
from types import SimpleNamespace

import pytest

from xtts_ka.core.errors import ConfigError, XttsKaError
from xtts_ka.core.files import DigestCache, read_json, read_jsonl


def soon(do, seconds=5):
    "Call it in a thread; what it raises, or an error when it hangs."
    found = []

    def run():
        try:
            found.append(do())
        except Exception as e:
            found.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))

    def make(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def test_a_pipe_never_blocks_a_reader(pipe):
    from xtts_ka.core.config import read_config
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.corpus.loaders import read_corpus
    from xtts_ka.text.g2p import read_pronunciations
    from xtts_ka.text.texts import read_texts

    for do in (
        lambda: read_config(pipe("c.yaml")),
        lambda: read_manifest(pipe("m/metadata.csv").parent),
        lambda: read_corpus(pipe("l/metadata.csv").parent),
        lambda: read_corpus(pipe("s/train.parquet").parent),
        lambda: read_corpus(pipe("s2/train.arrow")),
        lambda: read_pronunciations(pipe("p.tsv")),
        lambda: read_texts(pipe("t.txt")),
        lambda: read_json(pipe("j.json")),
        lambda: read_jsonl(pipe("j.jsonl")),
    ):
        assert isinstance(soon(do), (XttsKaError, OSError))


def test_one_transcript_that_cannot_be_read_is_one_reject(pipe, tmp_path):
    import numpy as np
    import soundfile as sf

    from xtts_ka.corpus.loaders import read_corpus

    folder = tmp_path / "corpus" / "nino"
    (folder / "folder.txt").mkdir(parents=True)
    pipe("corpus/nino/pipe.txt")
    (folder / "good.txt").write_text("გამარჯობა", encoding="utf-8")
    wav = (0.3 * np.sin(np.arange(44100) / 20)).astype(np.float32)
    for name in ("folder", "pipe", "good"):
        sf.write(folder / f"{name}.wav", wav, 22050)
    found = soon(lambda: read_corpus(tmp_path / "corpus"))
    assert not isinstance(found, Exception), found
    assert [r.text for r in found.rows] == ["გამარჯობა"] and len(found.rejects) == 2


def bomb(levels=12):
    rows = ["a0: &a0 [1, 2]"]
    return "\n".join(
        rows + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    )


def test_anchors_that_stand_for_a_billion_values(tmp_path):
    from xtts_ka.core.config import parse_override, read_config
    from xtts_ka.pipeline.report import read_config_rows

    (tmp_path / "config.yaml").write_text(bomb())
    found = soon(lambda: read_config(tmp_path / "config.yaml"))
    assert isinstance(found, ConfigError) and "anchors" in str(found)
    assert isinstance(soon(lambda: parse_override("a=[" + "[" * 5000)), ConfigError)
    assert "anchors" in soon(lambda: read_config_rows(tmp_path))[2]
    (tmp_path / "config.yaml").write_text("a: &a {b: 1}\nc: *a\nd: *a\n")
    assert read_config(tmp_path / "config.yaml")["d"] == {"b": 1}


@pytest.mark.parametrize(
    "stages",
    [
        None,
        [],
        {"first": None},
        {"first": {"status": 7}},
        {"first": {"fingerprint_parts": None}},
        {"first": {"outputs": ["a"]}},
        {"first": {"metrics": json.loads("[" * 200 + "]" * 200)}},
        {"first": {"seconds": "x"}},
    ],
)
def test_an_edited_record_is_one_line_that_says_how_to_go_on(tmp_path, stages):
    from xtts_ka.pipeline.state import Progress

    text = json.dumps({"schema": 1, "run": "t", "stages": stages})
    (tmp_path / "pretrain_progress.json").write_text(text)
    with pytest.raises(ConfigError, match="pretrain_progress.json: .*Delete .* to run every stage"):
        Progress(tmp_path)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"[" * 100_000, b"7", b"null"], ids=["bytes", "deep", "number", "null"]
)
def test_other_edited_files_of_a_run(tmp_path, data):
    from xtts_ka.pipeline.kept import kept_record
    from xtts_ka.pipeline.runner import gather_rejects
    from xtts_ka.pipeline.state import Progress

    (tmp_path / "pretrain_progress.json").write_bytes(data)
    with pytest.raises(ConfigError, match="Delete .* to run every stage"):
        Progress(tmp_path)
    (tmp_path / ".digests.json").write_bytes(data)
    assert DigestCache(tmp_path / ".digests.json").known == {}
    (tmp_path / ".old").mkdir()
    (tmp_path / ".old/first.json").write_bytes(data)
    run, stage = SimpleNamespace(dir=tmp_path), SimpleNamespace(name="first")
    assert kept_record(run, stage) is None
    (tmp_path / "first").mkdir()
    (tmp_path / "first/rejects.csv").write_bytes(b"stage|file\n\xff|b\n")
    (tmp_path / "rejects.csv").write_bytes(data)
    assert gather_rejects(tmp_path, (stage,)) == 1


def test_a_cache_of_digests_with_short_entries(tmp_path):
    (tmp_path / "a").write_text("a")
    held = (tmp_path / "a").stat()
    mark = [held.st_size, held.st_mtime_ns, held.st_ino]
    cache = DigestCache(tmp_path / "c.json")
    cache.known = {str(tmp_path / "a"): mark}
    assert len(cache.file(tmp_path / "a")) == 64
