"""Data sets of the hub by name: from its caches with no network at all, or as a stream."""

import json
import os
import shutil
import socket
import sys
import tarfile
from collections import Counter
from dataclasses import replace

import fake_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import KA, cv_table, fleurs, fleurs_table, sound, write

from xtts_ka.core.errors import ConfigError, ManifestError, MissingError
from xtts_ka.core.files import read_json
from xtts_ka.core.manifest import notes
from xtts_ka.corpus.hub import cached_data_set
from xtts_ka.corpus.loaders import read_corpus
from xtts_ka.corpus.look import look_at
from xtts_ka.corpus.sources import CorpusConfig, build_corpus, check_source


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "Empty caches of the hub and of `datasets`, and a machine whose network is not there."
    import huggingface_hub.constants

    def refused(*args):
        raise AssertionError("the network was asked")

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache/datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache/hub"))
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    return tmp_path / "cache"


def in_hub_cache(cache, name, folder):
    "Files as `hf download` leaves them: a snapshot of links to blobs."
    home = cache / "hub" / f"datasets--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs/main").write_text("0" * 40)
    files = [p for p in folder.rglob("*") if p.is_file()]
    for n, path in enumerate(files):
        link = home / "snapshots" / ("0" * 40) / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, home / f"blobs/{n}")
        link.symlink_to(os.path.relpath(home / f"blobs/{n}", link.parent))


def in_datasets_cache(cache, name, subset, made, split):
    "An Arrow file as `datasets.load_dataset` leaves it."
    owner, own = name.split("/")
    home = cache / f"datasets/{owner}___{own}/{subset}/0.0.0/0123456789abcdef"
    home.mkdir(parents=True)
    with pa.OSFile(str(home / f"{own}-{split}.arrow"), "wb") as f:
        with pa.ipc.new_stream(f, made.schema) as writer:
            writer.write_table(made, max_chunksize=2)
    about = {"config_name": subset, "dataset_name": own, "splits": {}}
    (home / "dataset_info.json").write_text(json.dumps(about))


def config(**options):
    return CorpusConfig(source="hub", **{"path": "google/fleurs", "subset": "ka_ge", **options})


def test_files_in_the_hub_cache_need_no_network(cache, tmp_path):
    fleurs(tmp_path / "made")
    in_hub_cache(cache, "google/fleurs", tmp_path / "made")
    check_source(config(), tmp_path / "out")
    assert len(look_at(config()).corpus.rows) == 4
    made = build_corpus(config(part="train"), tmp_path / "out")
    assert [r.text for r in made.rows][2] == "მოვიდა ხუთი კაცი." and not made.rejects
    assert {r.extra["gender"] for r in made.rows} == {"male", "female"}
    assert len(read_corpus("google/fleurs", subset="ka_ge", split="test").rows) == 1
    assert len(read_corpus("google/fleurs", language="ka", check_audio=False).rows) == 5
    with pytest.raises(MissingError, match="en_us: no such folder, and not in the caches"):
        build_corpus(config(subset="en_us"), tmp_path / "other")


def test_fleurs_as_tables_and_tar_files_in_the_hub_cache(cache, tmp_path):
    home = tmp_path / "made/data/ka_ge"
    (home / "audio/test").mkdir(parents=True)
    for n in range(2):
        (home / f"audio/test/{n}.wav").write_bytes(sound(n))
    lines = [f"{n}\t{n}.wav\t{KA[n]}\tx\tx\t4800\tFEMALE\n" for n in (0, 1, 3)]
    (home / "test.tsv").write_text("".join(lines))
    with tarfile.open(home / "audio/test.tar.gz", "w:gz") as tar:
        tar.add(home / "audio/test", "test")
    shutil.rmtree(home / "audio/test")
    in_hub_cache(cache, "google/fleurs", tmp_path / "made")
    corpus = read_corpus("google/fleurs", subset="ka_ge")
    assert [(r.text, r.extra["gender"]) for r in corpus.rows] == [(t, "female") for t in KA[:2]]
    assert [r.reason for r in corpus.rejects] == ["missing: no such recording in test.tar.gz"]
    made = build_corpus(config(), tmp_path / "out")
    assert (len(made.rows), len(made.rejects)) == (2, 1)


def test_a_mirror_of_common_voice_as_tables_and_tar_files(cache, tmp_path):
    "`transcript/ka/train.tsv` and `audio/ka/train/ka_train_0.tar`, two of which one is damaged."
    head, made = "client_id\tpath\tsentence\tup_votes\tdown_votes\tlocale\n", tmp_path / "made"
    (made / "transcript/ka").mkdir(parents=True)
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        rows = [f"{part * 9}\t{n}.mp3\t{KA[n]}\t2\t0\tka\n" for n in numbers]
        (made / f"transcript/ka/{part}.tsv").write_text(head + "".join(rows))
        for n in numbers:
            path = made / f"audio/ka/{part}/ka_{part}_{n}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"{n}.mp3").write_bytes(sound(n, kind="mp3"))
            with tarfile.open(path, "w") as tar:
                tar.add(tmp_path / f"{n}.mp3", f"ka_{part}_{n}/{n}.mp3")
    (made / "audio/ka/train/ka_train_1.tar").write_bytes(b"no tar file")
    corpus = read_corpus(made, language="ka")
    assert corpus.format == "common_voice" and [r.split for r in corpus.rows] == ["train"] * 2 + [
        "test"
    ]
    assert corpus.audio_path(corpus.rows[1]).read_bytes() == sound(2, kind="mp3")
    [reject] = corpus.rejects
    assert (reject.item, reject.line) == ("clips/1.mp3", 3) and "tar files" in reject.reason
    assert "ka_train_1.tar: cannot be read" in notes(corpus)[0]
    in_hub_cache(cache, "someone/common_voice", made)
    made = build_corpus(config(path="someone/common_voice", subset="ka"), tmp_path / "out")
    assert (len(made.rows), len(made.rejects)) == (3, 1)


def test_arrow_files_of_datasets_need_no_network(cache, tmp_path):
    rows = [(n, f"test/{n}.wav", sound(n), KA[n], n % 2) for n in range(4)]
    in_datasets_cache(cache, "google/fleurs", "ka_ge", fleurs_table(rows), "test")
    made = build_corpus(config(), tmp_path / "out")
    assert len(made.rows) == 4 and {r.split for r in made.rows} == {"test"}
    in_datasets_cache(cache, "google/fleurs", "en_us", fleurs_table(rows[:1]), "test")
    assert len(read_corpus("google/fleurs", language="ka", check_audio=False).rows) == 4
    [found] = (cache / "datasets").rglob("ka_ge/*/*/*.arrow")
    found.write_bytes(found.read_bytes()[:900])
    with pytest.raises(ValueError, match="fleurs-test.arrow"):
        build_corpus(config(), tmp_path / "again")


def test_of_several_subsets_one_must_be_named(cache, tmp_path):
    "And of one that is not here, the message says which are."
    rows = [(n, f"test/{n}.wav", sound(n), KA[n], n % 2) for n in range(2)]
    for subset in ("ka_ge", "hy_am"):
        write(tmp_path / f"made/{subset}/test-0.parquet", fleurs_table(rows))
    in_hub_cache(cache, "google/fleurs", tmp_path / "made")
    for step in (check_source, build_corpus):
        with pytest.raises(ConfigError, match="several subsets; there: hy_am, ka_ge; name one"):
            step(config(subset="", language="mul"), tmp_path / "out")
    with pytest.raises(ConfigError, match="several subsets"):
        read_corpus("google/fleurs")
    with pytest.raises(MissingError, match="no subset 'en_us'; there: hy_am, ka_ge.*hf download"):
        build_corpus(config(subset="en_us"), tmp_path / "out")


def test_what_is_found_first_ends_the_search(cache, tmp_path, monkeypatch):
    "`datasets` is imported only for a folder of its own cache that has this data set's name."
    rows = [(n, f"test/{n}.wav", sound(n), KA[n], n % 2) for n in range(2)]
    in_datasets_cache(cache, "google/other_texts", "ka_ge", fleurs_table(rows), "test")
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import fails
    assert cached_data_set("google/fleurs", "ka_ge") is None
    fleurs(tmp_path / "made")
    in_hub_cache(cache, "google/fleurs", tmp_path / "made")
    in_datasets_cache(cache, "google/fleurs", "ka_ge", fleurs_table(rows), "test")
    assert cached_data_set("google/fleurs", "ka_ge").parts[-2] == "snapshots"
    with pytest.raises(MissingError, match="needs datasets, which is not installed"):
        cached_data_set("google/fleurs", "xx_xx")


@pytest.mark.parametrize("name", ["HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_of_datasets_is_where_the_variables_say(cache, tmp_path, monkeypatch, name):
    rows = [(n, f"test/{n}.wav", sound(n), KA[n], n % 2) for n in range(2)]
    home = cache / "huggingface" if name == "XDG_CACHE_HOME" else cache
    in_datasets_cache(home, "google/MyTexts".lower(), "ka_ge", fleurs_table(rows), "test")
    (home / "datasets/google___mytexts").rename(home / "datasets/google___my_texts")
    for other in ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(cache))
    assert cached_data_set("google/MyTexts", "ka_ge").parts[-3] == "ka_ge"


def test_what_is_not_here_says_how_to_get_it(cache, tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="corpus.stream=true.*hf download google/fleurs"):
        check_source(config(), tmp_path / "out")
    with pytest.raises(MissingError, match="no name of the hub"):
        build_corpus(config(path="recordings of nino"), tmp_path / "out")
    with pytest.raises(ConfigError, match="corpus.path=NAME"):
        CorpusConfig(source="hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for step in (check_source, build_corpus):
        with pytest.raises(MissingError, match="the hub cannot be asked.*HF_HUB_OFFLINE"):
            step(config(stream=True), tmp_path / "out")


def test_a_missing_library_is_one_sentence(cache, tmp_path, monkeypatch):
    fleurs(tmp_path / "made")
    for name in ("pyarrow", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingError, match="pyarrow, which is not installed.*xtts_ka.hub"):
        read_corpus(tmp_path / "made")
    with pytest.raises(MissingError, match="huggingface_hub, which is not installed.*xtts_ka.hub"):
        check_source(config(), tmp_path / "out")


def test_a_stream_keeps_the_rows_that_were_asked_for(cache, tmp_path, monkeypatch):
    "`datasets` streams from a hub on this machine; the second call asks nobody."
    import datasets
    import huggingface_hub.constants

    monkeypatch.undo()  # the network is there
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
    rows = [
        ("a" * 64, f"{n}.mp3", sound(n, kind="mp3"), KA[n % 4], 2, 0, "", "ka") for n in range(6)
    ]
    for name in ("train", "test", "invalidated"):
        write(tmp_path / f"made/ka/{name}-00000-of-00001.parquet", cv_table(rows))
    (tmp_path / "made/README.md").write_text(
        "---\nconfigs:\n- config_name: ka\n  data_files:\n"
        + "".join(f"  - {{split: {n}, path: ka/{n}-*}}\n" for n in ("train", "test", "invalidated"))
        + "---\n"
    )
    server = fake_hub.Hub("someone/common_voice", tmp_path / "made")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    cfg = config(path="someone/common_voice", subset="ka", stream=True, most=4)
    check_source(cfg, tmp_path / "out")
    server.broken = True
    with pytest.raises(MissingError, match="the hub cannot be asked: .*403"):
        build_corpus(cfg, tmp_path / "out")
    server.broken = False
    made = build_corpus(cfg, tmp_path / "out")
    assert Counter(r.split for r in made.rows) == {"train": 4, "test": 4} and not made.rejects
    [out] = (tmp_path / "data/hub").glob("*/ka.first-4")
    assert read_json(out / "rows.json")["rows"] == {"train": 4, "test": 4}
    assert {"segment", "accent"}.isdisjoint(pq.read_schema(next(out.glob("test*"))).names)
    kept = read_corpus(out, split="test")
    assert kept.audio_path(kept.rows[0]).read_bytes() == rows[0][2]
    server.asked.clear()
    assert len(build_corpus(cfg, tmp_path / "again").rows) == 8 and not server.asked
    accents = replace(cfg, text_column="accent", part="test")  # not among the columns kept before
    with pytest.raises(ManifestError, match="4 empty text"):
        build_corpus(accents, tmp_path / "accents")
    [apart] = (tmp_path / "data/hub").glob("*/ka.test.first-4.text-accent")
    assert "accent" in pq.read_schema(next(apart.glob("*.parquet"))).names
    server.asked.clear()
    assert len(build_corpus(cfg, tmp_path / "again").rows) == 8 and not server.asked
    with pytest.raises(ConfigError, match="'xx' not found. Available: .'ka'"):
        build_corpus(config(path=cfg.path, subset="xx", stream=True), tmp_path / "xx")
    with pytest.raises(MissingError, match="someone/else: the hub cannot be asked"):
        check_source(config(path="someone/else", stream=True), tmp_path / "xx")
    server.shutdown()
