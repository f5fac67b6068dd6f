"""What the documents that the project descends from promise: names of programs and models, data
sets as they were unpacked, weights by name, plots with named axes."""

import argparse
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from smoke import RUN

from xtts_ka.core.audio import write_audio
from xtts_ka.core.config import build, config
from xtts_ka.core.errors import AudioError, CheckpointError, ConfigError, MissingError
from xtts_ka.core.manifest import read_manifest
from xtts_ka.pipeline.cli import main

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "nbs/guides" / name for name in ("old_names.md", "old_names_ka.md")]


def scripts():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def sound(path, seconds=0.5, rate=16000):
    t = np.arange(int(seconds * rate)) / rate
    write_audio(path, (0.3 * np.sin(2 * np.pi * 200 * t)).astype(np.float32), rate)
    return path


# ---- programs

OLD = """run_pretrain run_xtts_pretrain pretrain_xtts_model embedding_adapter phoneme_processor
generate_embeddings prepare_embeddings create_metadata_files checkpoint_monitor train_encoder
create_speaker_emb_dataset vocoder""".split()


@pytest.mark.parametrize("name", OLD)
def test_old_programs_help_under_their_own_names(name, capsys):
    module, _, function = scripts()[name].partition(":")
    with pytest.raises(SystemExit) as end:
        getattr(importlib.import_module(module), function)(["--help"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {name} ")


@pytest.mark.parametrize("name", ["train", "generate_audio", "score_generated"])
def test_old_vocoder_programs(name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["vocoder", name, "--help"], "")
    assert end.value.code == 0 and "usage: xtts-ka vocoder " in capsys.readouterr().out


def test_errors_name_the_program_that_was_called(tmp_path, capsys):
    from xtts_ka.pipeline.entry_points import create_metadata_files

    assert create_metadata_files(["--embeddings_dir", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith("create_metadata_files: ")


def test_a_library_that_is_run_says_what_to_run(tmp_path):
    call = [sys.executable, "-m", "xtts_ka.text.g2p", "--config", "x.json"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "phoneme_processor --config" in done.stderr


def test_only_runs_what_it_needs_first(tmp_path, monkeypatch):
    from xtts_ka.pipeline import pretrain
    from xtts_ka.pipeline.runner import Run, check_above, select

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    calls = []
    monkeypatch.setattr(pretrain, "run", lambda *a, **k: calls.append((a, k)) or 0)
    pipeline = pretrain.PretrainPipeline(ROOT / "configs/smoke.yaml")
    for stage in pretrain.PRETRAIN_STAGES:
        calls.clear()
        assert pipeline.run(stage) == 0
        ((_, _, only), _), fresh = calls[0], Run(pipeline.cfg, pretrain.STAGES)
        chosen = select(fresh.stages, only)
        assert chosen[-1].name == stage and check_above(fresh, chosen) == []  # nothing is missing
    calls.clear()
    assert pipeline.run("embeddings", force=True) == 0
    assert [(a[2], k.get("force", False)) for a, k in calls] == [
        ("corpus,segments,speaker_encoder", False),
        ("embeddings", True),
    ]


def test_export_without_a_file(tmp_path, capsys):
    rows = [{"kind": "train", "step": s, "loss/main": 1 / s, "seconds": s} for s in range(1, 9)]
    (tmp_path / "run/gpt").mkdir(parents=True)
    log = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "run/gpt/metrics.jsonl").write_text(log)
    assert main(["monitor", "--dir", str(tmp_path / "run"), "--export"]) == 0
    assert len((tmp_path / "run/monitor/metrics.csv").read_text().splitlines()) > 8
    assert "monitor/metrics.csv" in capsys.readouterr().out


def test_adapter_takes_the_file_of_a_run():
    from xtts_ka.xtts.embedding_adapter import read_adapter_config

    cfg = read_adapter_config("configs/demo.yaml", ["run=nino", "clips=3"])
    assert (cfg.embeddings_dir, cfg.model, cfg.output_dir, cfg.clips) == (
        "outputs/nino/embeddings",
        "outputs/nino/xtts",
        "outputs/nino/xtts_voices",
        3,
    )
    assert read_adapter_config(None, ["pairs=store"]).pairs == "store"


# ---- parts that are there


def store_of(folder, files):
    from xtts_ka.core.files import sha256_file
    from xtts_ka.speaker.store import EmbeddingStore, Entry

    store = EmbeddingStore(folder)
    for i, path in enumerate(files):
        audio = Path("..") / path.relative_to(folder.parent)
        entry = Entry(path.stem, "ნინო", audio.as_posix(), config="c", sha256=sha256_file(path))
        store.add(entry, np.full(8, i + 1.0, np.float32))
    store.finish([p.stem for p in files])


def test_metadata_of_parts_that_are_there(tmp_path, monkeypatch):
    "`--copy_to_split data/split`, then `create_metadata_files` without a word, twice."
    from xtts_ka.speaker.prepare_embeddings import copy_embeddings_to_split_folders
    from xtts_ka.xtts.create_metadata_files import add_arguments
    from xtts_ka.xtts.create_metadata_files import main as create

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    data = tmp_path / "data"
    files = [sound(data / f"segmented/wavs/{i}.wav", 0.2 + i / 100) for i in range(6)]
    text = "".join(f"wavs/{i}.wav|დილა მშვიდობისა|ნინო\n" for i in range(6))
    (data / "segmented/metadata.csv").write_text(f"audio_file|text|speaker_name\n{text}")
    store_of(data / "embeddings", files)
    for i, part in enumerate(["train", "train", "train", "val", "test", "test"]):
        (data / "split" / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(files[i], data / "split" / part / f"clip{i}.wav")
    sound(data / "split/test/foreign.wav", 0.9)
    copied = copy_embeddings_to_split_folders("data/embeddings", "data/split")
    assert copied == {"train": (3, 0), "val": (1, 0), "test": (2, 1)}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for _ in range(2):
        assert create(parser.parse_args([])) == 0
        rows = read_manifest(data / "split").rows
        assert {r.audio_file: r.split for r in rows} == {
            f"{p}/clip{i}.wav": p
            for i, p in enumerate(["train", "train", "train", "val", "test", "test"])
        }
        for r in rows:
            number = int(Path(r.audio_file).stem.removeprefix("clip"))
            assert np.load(data / "split" / r.extra["embedding"])[0] == number + 1
        assert len(read_manifest(data / "split/train.csv").rows) == 3
        assert "foreign.wav" in (data / "split/rejects.csv").read_text()
    with pytest.raises(ConfigError, match="other files"):  # A new division would replace the parts
        create(parser.parse_args(["--split", "stratified"]))
    assert (data / "split/test/foreign.wav").is_file()


# ---- options


def test_one_text_is_a_list_of_one():
    from xtts_ka.speaker.config import TrainConfig

    cfg = build(TrainConfig, {"augment_noise_paths": "data/noise", "run_id": "x"})
    assert cfg.augment_noise_paths == ["data/noise"]

    @config
    class Other:
        names: list[str] | None = None
        numbers: list[int] = []
        either: str | list[str] = ""

    got = build(Other, {"names": "a", "either": "b"})
    assert (got.names, got.either) == (["a"], "b")
    with pytest.raises(ConfigError):
        build(Other, {"numbers": "1"})


def test_level_is_set_unless_told_otherwise(tmp_path):
    from xtts_ka.core.audio import rms_db
    from xtts_ka.speaker.config import EmbeddingsConfig, EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder
    from xtts_ka.speaker.infer import VoiceEmbeddingGenerator

    small = EncoderConfig(channels=16, dim=16, mels=24, attention=8, squeeze=8, scale=2)
    save_encoder(tmp_path / "encoder", new_ecapa(small))
    quiet = sound(tmp_path / "a.wav")
    options = dict(model=f"ecapa:{tmp_path / 'encoder'}", backend="torch", device="cpu")
    levels = {}
    for wanted in (-23.0, None):
        extra = {} if wanted else {"target_dbfs": None}
        wav = VoiceEmbeddingGenerator(**options, **extra).preprocess_audio(quiet)
        levels[wanted] = rms_db(wav)
    assert abs(levels[-23.0] + 23) < 0.1 and levels[None] > -16
    assert EmbeddingsConfig().target_dbfs is None  # the clips of a run have one level already


# ---- data sets as they were unpacked


def ours(root, names):
    rows = "".join(f"wavs/{n}.wav|ერთი, ორი|nino\n" for n in names)
    (root / "metadata.csv").write_text("audio_file|text|speaker_name\n" + rows)


def commas(root, names):
    rows = "".join(f'wavs/{n}.wav,"ერთი, ""ორი""",nino\n' for n in names)
    (root / "metadata.csv").write_text("audio_file,text,speaker_name\n" + rows)


def ljspeech(root, names):
    (root / "metadata.csv").write_text("".join(f"{n}|ერთი, ორი|ერთი, ორი\n" for n in names))


def coqui(root, names):
    rows = "".join(f"wavs/{n}.wav|ერთი, ორი\n" for n in names)
    (root / "metadata_train.csv").write_text("audio_file|text\n" + rows)


def common_voice(root, names):
    (root / "wavs").rename(root / "clips")
    rows = "".join(f"speaker{n}\t{n}.wav\tერთი, ორი\n" for n in names)
    (root / "validated.tsv").write_text("client_id\tpath\tsentence\n" + rows)


FORMATS = [ours, commas, ljspeech, coqui, common_voice]


def by_vocoder_train(root):
    from xtts_ka.vocoder.data import find_sources

    return [s.path for s in find_sources(root)[0]]


def by_vocoder_generate(root):
    from xtts_ka.vocoder.infer import find_items

    return [i.path for i in find_items(root)[1]]


def by_train_encoder(root):
    from xtts_ka.speaker.data import scan_folder

    return [u.path for u in scan_folder(root)]


def by_embed(root):
    from xtts_ka.speaker.prepare_embeddings import find_recordings

    return [Path(v.audio) for v in find_recordings(root).voices]


def by_tokens_and_prepare(root):
    from xtts_ka.corpus.loaders import read_data_set

    m = read_data_set(root, require_text=True)
    assert {r.text for r in m.rows} <= {"ერთი, ორი", 'ერთი, "ორი"'}
    return [m.audio_path(r) for r in m.rows]


READERS = [
    by_vocoder_train,
    by_vocoder_generate,
    by_train_encoder,
    by_embed,
    by_tokens_and_prepare,
]


@pytest.mark.parametrize("put", FORMATS)
@pytest.mark.parametrize("read", READERS)
def test_every_command_reads_every_format(tmp_path, read, put):
    names = ["a1", "b2", "c3"]
    for n in (*names, "not_listed"):
        sound(tmp_path / f"wavs/{n}.wav")
    put(tmp_path, names)
    assert sorted(p.stem for p in read(tmp_path)) == names
    assert all(p.is_file() for p in read(tmp_path))


def test_vocoder_train_on_ljspeech(tmp_path):
    from xtts_ka.vocoder.config import VocoderConfig
    from xtts_ka.vocoder.data import load_clips

    for n in range(4):
        sound(tmp_path / f"wavs/LJ001-000{n}.wav", 1.0, 22050)
    ljspeech(tmp_path, [f"LJ001-000{n}" for n in range(4)])
    words = {"train": str(tmp_path), "min_seconds": 0.1}
    cfg = build(VocoderConfig, {"data": words})
    train, val, rejects = load_clips(cfg.mel, cfg.data)
    assert (len(train) + len(val), rejects) == (4, [])


def test_sovits_prepare_on_ljspeech(tmp_path):
    "No column says what is learned from: the clips are divided, and all of them are there."
    from xtts_ka.sovits.config import PrepareConfig
    from xtts_ka.sovits.data import collect_clips

    for n in range(12):
        sound(tmp_path / f"lj/wavs/LJ001-{n:04}.wav", 1.0, 22050)
    ljspeech(tmp_path / "lj", [f"LJ001-{n:04}" for n in range(12)])
    found = collect_clips(PrepareConfig(), tmp_path / "lj", tmp_path / "out", 1, "en").clips
    parts = {part: len(found.split(part)) for part in ("train", "val", "test")}
    assert parts["train"] >= 9 and sum(parts.values()) == 12 and parts["test"]
    again = collect_clips(PrepareConfig(), tmp_path / "lj", tmp_path / "out", 1, "en").clips
    assert again.rows == found.rows
    sound(tmp_path / "lj/wavs/LJ001-0000.wav", 1.0, 48000)
    with pytest.raises(AudioError, match="48000 Hz, clips need 22050.*run --to segments"):
        [found.samples(i) for i in range(12)]


def test_embedding_leaves_a_foreign_table_alone(tmp_path):
    "The table of LJSpeech has no header: a column would make another file of it."
    from xtts_ka.speaker.prepare_embeddings import find_recordings, update_metadata

    sound(tmp_path / "wavs/a.wav")
    ljspeech(tmp_path, ["a"])
    assert find_recordings(tmp_path).manifest.format == "ljspeech"
    commas(tmp_path, ["a"])
    assert update_metadata(tmp_path / "metadata.csv", {"wavs/a.wav": "e/a,b.npy"}) == 1
    (row,) = read_manifest(tmp_path, check_audio=False).rows
    assert (row.text, row.extra) == ('ერთი, "ორი"', {"embedding": "e/a,b.npy"})
    assert update_metadata(tmp_path / "metadata.csv", {"wavs/a.wav": "e/c.npy"}) == 1
    (row,) = read_manifest(tmp_path, check_audio=False).rows
    assert (row.text, row.extra) == ('ერთი, "ორი"', {"embedding": "e/c.npy"})


def test_bad_lines_of_a_comma_table_are_rejects(tmp_path):
    lines = ["audio_file;text;speaker_name", 'a.wav;"არ იხურება;nino', "b.wav;ერთი|ორი;nino"]
    (tmp_path / "metadata.csv").write_text("\n".join([*lines, "c.wav;სამი;nino"]) + "\n")
    m = read_manifest(tmp_path, check_audio=False)
    assert [r.audio_file for r in m.rows] == ["c.wav"] and [r.line for r in m.rejects] == [2, 3]


# ---- checkpoints


def test_checkpoint_may_be_a_file(tmp_path):
    from xtts_ka.speaker import ecapa
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.encoders import build_encoder, save_encoder, state_digest

    small = EncoderConfig(channels=16, dim=16, mels=24, attention=8, squeeze=8, scale=2)
    net = ecapa.new_ecapa(small).eval()
    folder = save_encoder(tmp_path / "encoder", net)
    wrapped = {"model": {f"module.{k}": v for k, v in net.state_dict().items()}, "step": 3}
    torch.save(wrapped, tmp_path / "model.pt")
    found = {}
    for path in (folder, folder / "encoder.safetensors", tmp_path / "model.pt"):
        found[path] = state_digest(build_encoder("ecapa", path, "cpu").module)
    assert set(found.values()) == {state_digest(net)}
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no weights of ecapa in it"):
        build_encoder("ecapa", tmp_path / "other.pt", "cpu")


# ---- weights by name


class Handler(BaseHTTPRequestHandler):
    "The hub's protocol as far as a fetch needs it; the first answer with a large file is cut off."

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, data, status=200, cut=None, **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if "/tree/" in path:
            sizes = {n: len(d) for n, d in hub.files.items()}
            rows = [{"type": "file", "path": n, "size": k, "oid": "0"} for n, k in sizes.items()]
            return self.say(json.dumps(rows).encode(), Content_Type="application/json")
        if path.startswith("/api/models/"):
            return self.say(json.dumps(hub.info()).encode(), Content_Type="application/json")
        data = hub.files[path.rpartition("/")[2]]
        head = {"X_Repo_Commit": "c" * 40, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.say(data[start:], 206, Content_Range=span, **head)
        cut = len(data) // 2 if hub.cuts and self.command == "GET" and len(data) > 10**5 else None
        hub.cuts -= cut is not None
        self.say(data, cut=cut, Accept_Ranges="bytes", **head)

    do_HEAD = do_GET


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"embedding_model.ckpt": bytes(range(256)) * 2000, "README.md": b"card\n"}
        self.asked, self.cuts, self.wrong = [], 0, False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def info(self):
        def row(name, data):
            sha = hashlib.sha256(b"other" if self.wrong else data).hexdigest()
            lfs = {"sha256": sha, "size": len(data), "pointerSize": 1}
            return {"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": lfs}

        files = [row(n, d) for n, d in self.files.items()]
        return {"id": "a/b", "modelId": "a/b", "sha": "c" * 40, "tags": [], "siblings": files}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()


def test_fetch(hub, tmp_path, capsys):
    "Licence first; then a download that breaks, goes on where it ended, and is checked."
    assert main(["fetch", "ecapa"]) == 2
    said = capsys.readouterr()
    assert "Apache 2.0" in said.err and "--accept-licence" in said.err
    assert not any(p.endswith(".ckpt") for _, p, _ in hub.asked)
    hub.cuts = 1
    codes = [main(["fetch", "ecapa", "--accept-licence"]) for _ in range(2)]
    folder = tmp_path / "models/spkrec-ecapa-voxceleb"
    assert codes[-1] == 0, capsys.readouterr().err
    assert (folder / "embedding_model.ckpt").read_bytes() == hub.files["embedding_model.ckpt"]
    assert any(r and not r.startswith("bytes=0-") for _, _, r in hub.asked), "it did not go on"
    record = json.loads((folder / "fetched.json").read_text())
    assert record["sha256"]["embedding_model.ckpt"] == (
        hashlib.sha256(hub.files["embedding_model.ckpt"]).hexdigest()
    )
    asked = len(hub.asked)
    assert main(["fetch", "ecapa"]) == 0  # accepted before, and whole: nothing is taken again
    assert not any(p.endswith(".ckpt") for _, p, _ in hub.asked[asked:])
    from xtts_ka.core.weights import find_local

    assert find_local("ecapa") == folder


def test_fetch_refuses_what_is_not_the_hubs(hub, tmp_path, capsys):
    hub.wrong = True
    assert main(["fetch", "ecapa", "--accept-licence"]) == 2
    assert "not what the hub describes" in capsys.readouterr().err
    assert not (tmp_path / "models/spkrec-ecapa-voxceleb/embedding_model.ckpt").exists()
    assert main(["fetch", "ecappa"]) == 2 and "there are ecapa" in capsys.readouterr().err


def test_offline_list_needs_no_network(hub, capsys):
    hub.shutdown()
    assert main(["fetch", "wavlm-large", "coqui/XTTS-v2", "--offline-list"]) == 0
    said = capsys.readouterr().out
    assert "microsoft/wavlm-large" in said and "not for commercial use" in said
    assert "models/xtts_v2/model.pth" in said and not hub.asked


def test_plain_names_ask_the_hub(hub, tmp_path):
    from xtts_ka.core.weights import hub_has
    from xtts_ka.speaker.pretrained import find_model

    folder = find_model("ecapa", "embedding_model.ckpt")
    assert (folder / "embedding_model.ckpt").stat().st_size == 512000
    assert any("/speechbrain/spkrec-ecapa-voxceleb/" in p for _, p, _ in hub.asked)
    assert [hub_has("ecapa"), hub_has("no-such-name")] == [True, False]
    asked = len(hub.asked)
    assert find_model("ecapa", "embedding_model.ckpt") == folder and len(hub.asked) == asked


def test_all_missing_weights_before_the_first_stage(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from xtts_ka.pipeline.runner import run

    shutil.copytree(ROOT / "nbs/runs", tmp_path / "nbs/runs")
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    named = {
        "embeddings.model": "wavlm-large",
        "xtts_init.base": "coqui/XTTS-v2",
        "sovits2.text.bge": "BAAI/bge-m3",
        "speaker_encoder.checkpoint": "models/mine",
    }
    words = [f"{k}={v}" for k, v in named.items()]
    with pytest.raises(MissingError) as e:
        run(ROOT / "configs/smoke.yaml", words)
    said = str(e.value)
    assert all(f"{k}={v}: " in said for k, v in named.items())
    assert "1.3 GB" in said and "CC BY-SA" in said and "models/xtts_v2" in said
    assert "xtts-ka fetch wavlm-large coqui/XTTS-v2 BAAI/bge-m3;" in said
    assert not (tmp_path / "outputs").exists()
    home = tmp_path / "models/xtts_v2"
    home.mkdir(parents=True)
    for name in ("config.json", "model.pth", "vocab.json"):
        (home / name).touch()
    with pytest.raises(MissingError) as e:
        run(ROOT / "configs/smoke.yaml", words)
    assert "xtts_init.base" not in str(e.value)


# ---- metrics elsewhere


def test_wandb_without_its_package(tmp_path, monkeypatch):
    from xtts_ka.core.loop import LoopConfig, _Log

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingError, match="wandb=voices is set.*pip install wandb"):
        _Log(tmp_path / "metrics.jsonl", 0, LoopConfig(wandb="voices"), True)


def test_wandb_gets_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from xtts_ka.core.loop import LoopConfig, _Log

    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for session in range(2):
        log = _Log(tmp_path / "metrics.jsonl", session, LoopConfig(wandb="voices"), True)
        log.line({"kind": "train", "step": session + 1, "loss/main": 0.5, **log.times()})
        ids.append(log.wandb.id)
        log.close()
    files = {p.resolve() for p in tmp_path.rglob("*.wandb")}  # `latest-run` is a link
    kept = [p.read_bytes() for p in files]
    assert ids[0] == ids[1] and len(kept) == 2 and all(b"train/loss/main" in k for k in kept)


# ---- plots


def figures():
    from xtts_ka.pipeline import figures as f
    from xtts_ka.speaker.map_figure import draw_map

    draw = np.random.default_rng(0)
    metrics = [{"step": s, "kind": "train", "loss/main": 1 / s} for s in range(1, 9)]
    everyday = [
        dict(path=p, kind=k, CER=0.1, low=0.05, high=0.2)
        for p in ("recording", "XTTS")
        for k in ("all", "numbers")
    ]
    yield "losses", lambda d: f.plot_losses(_written(d / "metrics.jsonl", metrics))
    yield "durations", lambda d: f.plot_durations({"ნინო": [1, 2, 3], "gio": [2.0]})
    yield "pairs", lambda d: f.plot_pairs({"a": draw.normal(size=9), "b": range(9)}, ["a", "b"])
    yield "retrieval", lambda d: f.plot_retrieval(draw.random((4, 4)), ["a", "b", "c", "d"])
    yield "wave", lambda d: f.plot_wave(draw.normal(size=999) / 9, 16000)
    yield "mel", lambda d: f.plot_mel(draw.normal(size=(80, 20)))
    yield "codes", lambda d: f.plot_code_usage([3, 2, 1])
    yield "dtw", lambda d: f.plot_dtw([[0, 0], [1, 1], [2, 1]])
    yield "paths", lambda d: f.plot_paths([everyday[0] | {"path": "XTTS"}])
    yield "everyday", lambda d: f.plot_everyday(everyday)
    yield "map", lambda d: draw_map(draw.normal(size=(9, 2)), list("abcdefghi"), ["a"] * 9)


def _written(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    "name, draw", list(figures()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_axes_are_named(tmp_path, name, draw):
    fig = draw(tmp_path)
    fig.savefig(io.BytesIO())
    shown = [ax for ax in fig.axes if ax.get_visible() and ax.axison]
    bare = [ax for ax in shown if ax.get_label() != "<colorbar>" and not _named(ax, fig)]
    assert shown and not bare


def _named(ax, fig) -> bool:
    "Both axes have a name, or share one with a neighbour that has it."
    if ax.get_xlabel() and ax.get_ylabel():
        return True
    x = [o for o in fig.axes if o.get_xlabel() and o.get_position().x0 == ax.get_position().x0]
    y = [o for o in fig.axes if o.get_ylabel() and o.get_position().y0 == ax.get_position().y0]
    return bool(x and y)


@pytest.mark.parametrize("call", ["durations", "pairs", "retrieval", "everyday"])
def test_seaborn_draws_the_statistics(tmp_path, call, monkeypatch):
    import seaborn

    names = {"durations": "stripplot", "pairs": "pairplot", "retrieval": "heatmap"}
    name, used = names.get(call, "barplot"), []
    real = getattr(seaborn, name)
    monkeypatch.setattr(seaborn, name, lambda *a, **k: used.append(name) or real(*a, **k))
    dict(figures())[call](tmp_path)
    assert used


def test_names_on_a_map_leave_outliers_visible():
    "A clip of one speaker lies where the name of another would stand."
    from xtts_ka.speaker.map_page import PLOT, label_places

    r = np.random.default_rng(0)
    xy = np.concatenate([r.normal(0, 1, (40, 2)), r.normal([12, 0], 1, (40, 2))])
    top = np.quantile(xy[:40, 1], 0.95)
    xy[79] = [np.median(xy[:40, 0]), top + 0.35]  # just above the first speaker
    groups = {"ნინო": list(range(40)), "გიორგი": list(range(40, 80))}
    unit = 1 / min(PLOT / (np.ptp(xy, axis=0) * 1.14))
    (x, y, side), _ = label_places(xy, groups, [79])
    away = side * (xy[79, 1] - y) / unit
    assert not (abs(xy[79, 0] - x) < 2 * 9 * unit and 2 < away < 32)
    usual = label_places(xy, groups, [])[0]
    assert usual[2] == 1 and abs(usual[1] - top) < 0.3


# ---- conda, and the page of old names


def locked():
    "Names and versions that `uv sync` installs, by the lock: the project and its group dev."
    lock = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    versions: dict[str, set] = {}
    for p in lock:
        versions.setdefault(p["name"], set()).add(p.get("version"))
    project = next(p for p in lock if p["source"].get("editable") == ".")
    queue = [(project["name"], None), *((d["name"], d) for d in project["dev-dependencies"]["dev"])]
    seen = set()
    while queue:
        name, edge = queue.pop()
        wanted = [None, *(edge or {}).get("extra", ())]
        for extra in wanted:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for p in (p for p in lock if p["name"] == name):
                below = p.get("optional-dependencies", {}).get(extra) if extra else None
                below = p.get("dependencies", ()) if extra is None else below or ()
                queue += [(d["name"], d) for d in below]
    names = {name for name, _ in seen} - {project["name"]}
    return {n: versions[n] for n in names}


def test_conda_gets_the_locked_packages():
    import yaml

    written = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = (ROOT / ".python-version").read_text().strip()
    assert f"python={'.'.join(python.split('.')[:2])}" in written
    *pins, own = written[-1]["pip"]
    found: dict[str, set] = {}
    for pin in pins:
        name, version = re.match(r"([\w.-]+)==([^ ;]+)", pin).groups()
        found.setdefault(name.lower(), set()).add(version)
    wanted = locked()
    assert own == "-e ." and found.keys() == wanted.keys()
    assert all(found[n] <= wanted[n] for n in found)


SEED_NAMES = """run_pretrain.py pretrain_xtts_model.py run_xtts_pretrain.py embedding_adapter.py
phoneme_processor.py data_loader.py checkpoint_monitor.py checkpoint_monitor1.py
create_metadata_files.py voice_embedding.py embedding_visualization.py prepare_embeddings.py
generate_embeddings.py train.py generate_audio.py score_generated.py train_encoder.py
create_speaker_emb_dataset.py PretrainPipeline LanguageModelProcessor PhonemeModelProcessor
XTTSModelInitializer CheckpointManager PhonemeProcessor PhonemeVocab GraphemeToPhoneme
PhonemeEncoder XTTSDataset DataManager CollateFunction VoiceEmbeddingGenerator EmbeddingVisualizer
--config --force --only --step --plot --watch --interval --cleanup --analyze --export
--embeddings_dir --output_dir --segmented_dir --metadata --model --device --segment_length
--segment_overlap --no_visualize --overwrite --copy_to_split --model_name --dataset_name
--dataset_dir --model_device --checkpoint g2p_model.pt g2p_config.json phoneme_dict_ka.json
phoneme_vocab.pkl language_model_results.pkl phoneme_model_results.pkl xtts_init_results.pkl
xtts_v2_ka_combined.pkl xtts_v2_ka_config.json pretrain_progress.json xtts_pretrain_config.json
checkpoints/ logs/ path_to_score path_to_save checkpoint_path""".split()


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_old_names_lead_here(page):
    text = page.read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "`" in line]
    old = " ".join(r[0] for r in rows if r)
    assert not [n for n in SEED_NAMES if f"`{n}" not in old and f"{n}`" not in old and n not in old]
    programs = [r[1] for r in rows if r and r[0].endswith((".py`", "--step`"))]
    called = [n for c in programs for n in re.findall(r"`([^`]+)`", c)]
    called = [n.split()[0] for n in called if not n.startswith("xtts_ka.")]
    assert len(called) > 20 and set(called) <= {*scripts()}
    for first, here in ((r[0], r[1]) for r in rows if len(r) > 1):
        for name in re.findall(r"`(xtts_ka\.[^`]+|configs/[^`]+)`", here):
            if name.startswith("configs/"):
                assert (ROOT / name).is_file(), name
                continue
            module = importlib.import_module(name)
            classes = [c for c in vars(module).values() if isinstance(c, type)]
            known = vars(module).keys() | {n for c in classes for n in dir(c)}
            assert set(re.findall(r"`(\w+)`", first)) <= known, (name, first)


def test_old_files_are_written(smoke):
    "The page's files of a run are there in one."
    rows = GUIDES[0].read_text(encoding="utf-8").partition("## Files")[2].splitlines()
    here = [c for line in rows if line.startswith("| `") for c in [line.split("|")[2]]]
    run = smoke.root / "outputs" / RUN
    names = [n for c in here for n in re.findall(r"`([^`]+)`", c)]
    names = [n for n in names if not n.startswith(("configs/", "models/", "uv.", "environment"))]
    assert len(names) > 12 and not [n for n in names if not (run / n.rstrip("*")).exists()]
    assert not list(run.rglob("*.pkl"))
