"""The engine: the same files by one process, by several, and by a Ray cluster that loses a worker
and a node; and what Ray costs. `python bench/engine.py --clips 2000` maps that many clips to mels,
codes, tokens and embeddings, with small untrained models: what is compared is files and times, not
quality. It writes nbs/results/engine.json. The start of clusters is timed apart."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

for pool in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "1")
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "nbs/results/engine.json"
sys.path.insert(0, str(ROOT / "tests"))


def corpus(root: Path, clips: int):
    "Noise with a tone, 1 to 4 seconds at 22,050 Hz, of eight speakers; a tokenizer, an encoder."
    import numpy as np

    from xtts_ka.core.audio import write_audio
    from xtts_ka.core.randomness import rng, seeded_step
    from xtts_ka.sovits.config import SemanticConfig
    from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
    from xtts_ka.sovits.train_semantic import SemanticTokenizer
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder

    lines = ["audio_file|text|speaker_name|split"]
    for k in range(clips):
        draw = rng(0, "clip", k)
        t = np.arange(draw.integers(22050, 4 * 22050)) / 22050
        wav = 0.05 * np.sin(2 * np.pi * (90 + 20 * (k % 8)) * t)
        wav += 0.02 * draw.standard_normal(len(t))
        write_audio(root / f"corpus/wavs/{k}.wav", wav, 22050)
        lines.append(f"wavs/{k}.wav|ა|s{k % 8}|train")
    (root / "corpus/metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    seeded_step(0, "tokenizer")
    letters = CharVocabulary.of(["დილა"])
    net = SemanticNet(SemanticConfig(dim=64, heads=2, before=2, kernel=5), len(letters))
    SemanticTokenizer(net.eval(), letters).save(root / "tokenizer")
    save_encoder(root / "encoder", new_ecapa(EncoderConfig(channels=32, dim=64)))


def everything(root: Path, out: Path, engine):
    "Mels, codes, tokens and embeddings of the corpus; seconds of each."
    import torch

    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.sovits.tokens import tokenize_corpus
    from xtts_ka.speaker.config import EmbeddingConfig
    from xtts_ka.speaker.infer import VoiceEmbeddingGenerator
    from xtts_ka.xtts.config import DvaeConfig
    from xtts_ka.xtts.data import load_clips, write_mels
    from xtts_ka.xtts.dvae import make_dvae
    from xtts_ka.xtts.train_dvae import DvaeTask, write_codes

    torch.set_num_threads(1)
    clips, _ = load_clips(root / "corpus")
    cfg = DvaeConfig(codes=64, hidden=32, codebook_dim=16, blocks=1)
    seeded_step(0, "dvae")
    dvae, files = make_dvae(cfg).eval(), [clips.folder / clips.key(i) for i in range(len(clips))]
    options = EmbeddingConfig(model=f"ecapa:{root / 'encoder'}", backend="torch", device="cpu")
    steps = {
        "mels": lambda: write_mels(clips, out / "mels", engine=engine),
        "codes": lambda: write_codes(
            dvae, DvaeTask(cfg, clips, held["mels"], torch.ones(80)), out / "codes", engine
        ),
        "tokens": lambda: tokenize_corpus(
            root / "corpus", root / "tokenizer", out / "tokens", device="cpu", engine=engine
        ),
        "embeddings": lambda: VoiceEmbeddingGenerator(cfg=options).generate_embeddings_batch(
            files, out / "embeddings", [r.speaker_name for r in clips.rows], engine=engine
        ),
    }
    held, seconds = {}, {}
    for name, step in steps.items():
        began = time.monotonic()
        held[name] = step()
        seconds[name] = round(time.monotonic() - began, 2)
    return seconds


def tokens_again(root: Path, out: Path, engine) -> int:
    "Clips that a second call tokenises."
    from xtts_ka.sovits.tokens import tokenize_corpus

    folders = root / "corpus", root / "tokenizer", out / "tokens"
    return tokenize_corpus(*folders, device="cpu", engine=engine).new


def lose(cluster, nodes, out: Path, said: list):
    "Kill a worker by -9 while tokens are made, and take a node away while embeddings are."
    import psutil

    def wait_for(folder):
        while len(list((out / folder / "shards").glob("[0-9a-f]*.safetensors"))) < 3:
            time.sleep(0.02)

    wait_for("tokens")
    ours = psutil.Process().children(recursive=True)
    actors = [p for p in ours if p.is_running() and "ray::_Host" in " ".join(p.cmdline())]
    actors[0].kill()
    said.append(f"worker {actors[0].pid} killed")
    wait_for("embeddings")
    cluster.remove_node(nodes[0], allow_graceful=False)
    said.append("node removed")


@contextlib.contextmanager
def ray_here(engine):
    from xtts_ka.core.engine import ray_cluster

    began = time.monotonic()
    with ray_cluster(engine):
        print(f"  Ray started in {time.monotonic() - began:.1f} s")
        yield


def arm(root: Path, name: str, record: dict):
    "One way of mapping everything."
    from xtts_ka.core.engine import EngineConfig
    from xtts_ka.core.files import tree_digest

    kind, _, workers = name.partition(" ")
    out = root / "out" / name.replace(" ", "-")
    said: list = []
    print(name, flush=True)
    if kind == "three-nodes":
        from engine_worker import cluster_of_three

        with cluster_of_three() as (cluster, nodes):
            engine = EngineConfig(engine="ray", workers=3, ray_address=cluster.address)
            losing = (cluster, nodes, out, said)
            threading.Thread(target=lose, args=losing, daemon=True).start()
            with ray_here(engine):
                seconds = everything(root, out, engine)
    else:
        engine = EngineConfig(engine=kind, workers=int(workers))
        with ray_here(engine) if kind == "ray" else contextlib.nullcontext():
            seconds = everything(root, out, engine)
            before = tree_digest(out)
            new = tokens_again(root, out, engine)
            assert not new and tree_digest(out) == before, f"{name}: done twice"
    record["seconds"][name] = seconds | {"all": round(sum(seconds.values()), 2)}
    record["digests"][name] = tree_digest(out)
    print("  ", record["seconds"][name], *said, flush=True)
    record["said"] += said


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--clips", type=int, default=2000)
    arms = ["local 1", "local 2", "local 4", "ray 2", "three-nodes"]
    p.add_argument("--arms", nargs="+", default=arms, help=", ".join(arms))
    args = p.parse_args()
    root = Path(tempfile.mkdtemp(prefix="engine-"))
    record: dict = dict(clips=args.clips, seconds={}, digests={}, said=[])
    try:
        corpus(root, args.clips)
        for name in args.arms:
            arm(root, name, record)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    record["equal"] = len(set(record["digests"].values())) == 1
    took = {n: s["all"] for n, s in record["seconds"].items()}
    if {"ray 2", "local 2"} <= set(took):
        record["ray / local, 2 workers"] = round(took["ray 2"] / took["local 2"], 3)
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in record.items() if k not in ("digests", "seconds")}))
    sys.exit(0 if record["equal"] else 1)


if __name__ == "__main__":
    main()
