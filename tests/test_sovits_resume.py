"""The three trainings of GPT-SoVITS2, killed with -9 at random moments and started again, end in
the same bits; the decoder's full size takes a step."""

import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import FORK

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import read_jsonl, sha256_file
from xtts_ka.core.manifest import Row
from xtts_ka.core.randomness import rng, seeded_step

TEXTS = [
    "დილა მშვიდობისა",
    "როგორ ხარ",
    "წვიმს",
    "დღეს ცივა",
    "ბავშვი თამაშობს",
    "ძაღლი ყეფს",
    "მზე ანათებს",
    "წიგნი მაგიდაზეა",
]
LOOP = dict(
    steps=24,
    batch_size=3,
    warmup=3,
    ema=0.9,
    validate_every=9,
    save_every=4,
    log_every=1,
    precision="32-true",
)


def material(folder):
    "Eight clips of two voices that hum their tokens."
    from xtts_ka.core.ragged import RaggedArray
    from xtts_ka.corpus.clips import Clips

    codes = [rng(0, "codes", k).integers(0, 16, (12 + k, 1)).astype(np.int16) for k in range(8)]
    for k, c in enumerate(codes):
        pitch = np.repeat(110 * (1 + k % 2) * 2 ** (c[:, 0] / 16), 882)
        write_audio(
            folder / f"{k}.wav",
            0.1 * np.sin(2 * np.pi * np.cumsum(pitch) / 22050).astype(np.float32),
            22050,
        )
    rows = [
        Row(f"{k}.wav", t, "ab"[k % 2], split="val" if k > 5 else "train")
        for k, t in enumerate(TEXTS)
    ]
    return Clips(rows, folder, 22050), RaggedArray.write(
        folder / "codes", codes, sum(map(len, codes))
    )


def make(kind, folder):
    "A tiny task of each kind."
    from xtts_ka.sovits.config import (
        ArConfig,
        ArLoop,
        DecoderConfig,
        DecoderLoop,
        QuantizerConfig,
        SemanticConfig,
        SemanticLoop,
        TextConfig,
    )
    from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
    from xtts_ka.sovits.text_encoder import Bpe, TextEncoder
    from xtts_ka.sovits.train_semantic import SemanticTokenizer

    clips, codes = material(folder)
    letters, text = CharVocabulary.of(TEXTS), TextConfig(vocab_size=320, dim=16, heads=2)
    semantic = SemanticConfig(
        dim=32,
        heads=2,
        before=1,
        kernel=5,
        flat_start=4,
        quantizer=QuantizerConfig(levels=[4, 4]),
        loop=SemanticLoop(**LOOP),
    )
    if kind == "tokenizer":
        from xtts_ka.core.ragged import RaggedArray
        from xtts_ka.sovits.train_semantic import SemanticTask

        mels = RaggedArray.write(
            folder / "mels",
            (rng(0, "mel", k).normal(size=(4 * (20 + k), 80)).astype(np.float32) for k in range(8)),
            sum(4 * (20 + k) for k in range(8)),
        )
        return SemanticTask(semantic, clips, mels, letters)
    seeded_step(0, "tokenizer")
    tokenizer = SemanticTokenizer(SemanticNet(semantic, len(letters)).eval(), letters)
    bpe = Bpe.train(TEXTS, text)
    if kind == "ar":
        from xtts_ka.sovits.train_ar import ArTask

        return ArTask(
            ArConfig(
                layers=2, dim=32, heads=2, kv_heads=1, ffn=48, free_run=2, loop=ArLoop(**LOOP)
            ),
            text,
            clips,
            codes,
            bpe,
            tokenizer,
        )
    from xtts_ka.sovits.train_decoder import SovitsDecoderTask

    cfg = DecoderConfig(
        hidden=16,
        ffn=24,
        heads=2,
        latent=16,
        flow_hidden=12,
        posterior_hidden=12,
        posterior_layers=2,
        speaker_dim=6,
        speaker_hidden=8,
        semantic_dim=32,
        text_dim=16,
        flows=2,
        crop_tokens=12,
        segment_frames=16,
        val_clips=2,
        generator=dict(dim=16, inter=24, layers=1),
        discriminator=dict(kinds=["mpd"], width=0.125, periods=[2, 3], start_step=3),
        loop=DecoderLoop(**LOOP),
    )
    seeded_step(0, "reader")
    return SovitsDecoderTask(
        cfg,
        clips,
        codes,
        tokenizer.net.quantizer,
        TextEncoder(text, bpe.size),
        [bpe.encode(t) for t in TEXTS],
    )


def training(kind, folder, out):
    "What the process does; its words go to a file."
    os.environ["XTTS_KA_PROGRESS"] = "off"
    with open(f"{out}.said", "a", buffering=1) as said:
        sys.stdout = sys.stderr = said
        from xtts_ka.core.loop import fit

        torch.set_num_threads(1)
        task = make(kind, folder)
        fit(task, task.cfg.loop, out)


def start(*job):
    process = FORK.Process(target=training, args=job)
    process.start()
    return process


def lines(out):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")}
        for row in read_jsonl(out / "metrics.jsonl")
    ]


@pytest.mark.parametrize("kind", ["tokenizer", "ar", "decoder"])
def test_killed_and_resumed_to_the_same_bits(tmp_path, kind):
    folders = [tmp_path / n for n in ("one", "two")]
    for f in folders:
        f.mkdir()
    whole, killed = (f / "out" for f in folders)
    p = start(kind, folders[0], whole)
    p.join()
    assert p.exitcode == 0, Path(f"{whole}.said").read_text()
    draw, kills = random.Random(kind), 0
    for at in sorted(draw.sample(range(2, 23), 2)):
        p = start(kind, folders[1], killed)
        until = time.monotonic() + 60
        while p.is_alive() and not (
            (killed / "metrics.jsonl").exists() and len(lines(killed)) >= at
        ):  # A file read while it grows ends at its last whole line
            assert time.monotonic() < until
            time.sleep(0.002)
        kills += p.is_alive()
        p.kill()
        p.join()
    p = start(kind, folders[1], killed)
    p.join()
    assert p.exitcode == 0, Path(f"{killed}.said").read_text()
    assert kills == 2 and lines(whole) == lines(killed)
    last = "checkpoints/step-0000000024/model.safetensors"
    assert sha256_file(whole / last) == sha256_file(killed / last)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["full22", "full32"])
def test_full_decoder_takes_a_step(tmp_path, preset):
    "VITS2's published sizes with HiFi-GAN's discriminators, both optimisers; memory is printed."
    import resource

    from xtts_ka.core.loop import fit
    from xtts_ka.corpus.clips import Clips
    from xtts_ka.sovits.config import DecoderConfig, QuantizerConfig, TextConfig
    from xtts_ka.sovits.quantize import Quantizer
    from xtts_ka.sovits.text_encoder import Bpe, TextEncoder
    from xtts_ka.sovits.train_decoder import SovitsDecoderTask

    clips, codes = material(tmp_path)
    text = TextConfig(vocab_size=320, dim=192)
    bpe = Bpe.train(TEXTS, text)
    seeded_step(0, "full")
    cfg = DecoderConfig(
        preset=preset,
        segment_frames=16,
        loop=dict(steps=2, batch_size=1, validate_every=0, save_every=2),
    )
    clips = Clips(clips.rows, clips.folder, cfg.sample_rate)
    task = SovitsDecoderTask(
        cfg,
        clips,
        codes,
        Quantizer(QuantizerConfig(levels=[4, 4]), 192),
        TextEncoder(text, bpe.size),
        [bpe.encode(t) for t in TEXTS],
    )
    result = fit(task, cfg.loop, tmp_path / "out")
    row = [r for r in read_jsonl(tmp_path / "out/metrics.jsonl") if r["kind"] == "train"][-1]
    assert (
        result.step == 2
        and all(np.isfinite(v) for k, v in row.items() if k.startswith("loss/"))
        and "loss/adversarial" in row
    )

    def count(m):
        return sum(p.numel() for p in m.parameters()) / 1e6

    sizes = {n: count(m) for n, m in task.models().items()}
    assert 20 < sizes["decoder"] < 80
    print(
        f"\n{preset}: "
        + ", ".join(f"{n} {v:.1f} M parameters" for n, v in sizes.items())
        + "; peak of the process"
        f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )
