"""A vocoder's training, killed with -9 and started again, ends in the same curve and the same files
as one that nobody disturbed; all gradients flow; shipped configurations are whole."""

import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import FORK

from xtts_ka.core.audio import write_audio
from xtts_ka.core.config import build
from xtts_ka.core.files import read_jsonl
from xtts_ka.core.randomness import rng
from xtts_ka.vocoder.config import HIFIGAN, VocoderConfig, load_vocoder_config

LOOP = dict(
    steps=16,
    batch_size=2,
    lr=1e-3,
    warmup=2,
    validate_every=8,
    save_every=3,
    log_every=1,
    ema=0.9,
    seed=3,
)
GAN = dict(
    preset="",
    generator=dict(kind="hifigan", preset="tiny"),
    discriminator=dict(kinds=["mpd", "msd"], width=0.125, periods=[2, 3], start_step=5),
    loss=dict(mel="single"),
    data=dict(segment_size=2048, val_fraction=0.2),
    loop=LOOP,
    samples_every=8,
    samples=1,
)
LIGHT = dict(
    preset="demo",
    generator=dict(kind="spec", dim=32, inter=64, layers=2),
    data=dict(segment_size=2048, val_fraction=0.2),
    loop=LOOP,
    samples_every=8,
    samples=1,
)


def recordings(folder, clips=6, rate=22050):
    "Gliding harmonics with a little noise."
    t = np.arange(rate) / rate
    for k in range(clips):
        r = rng(0, "clip", k)
        phase = (
            2
            * np.pi
            * np.cumsum(r.uniform(100, 200) * (1 + 0.1 * np.sin(2 * np.pi * 3 * t)))
            / rate
        )
        wav = sum(np.sin(h * phase) / h for h in range(1, 20)) * (
            0.6 + 0.4 * np.sin(2 * np.pi * r.uniform(1, 3) * t)
        )
        write_audio(
            folder / f"ხმა/{k}.wav",
            (0.15 * wav + 0.005 * r.standard_normal(rate)).astype(np.float32),
            rate,
        )
    return folder


def run_training(values, out):
    "What the process does; its words go to a file beside the folder."
    os.environ["XTTS_KA_PROGRESS"] = "off"
    with open(f"{out}.said", "w", buffering=1) as said:
        sys.stdout = sys.stderr = said
        import torch

        from xtts_ka.vocoder.train import train

        torch.set_num_threads(1)
        train(build(VocoderConfig, values), out)


def start(values, out):
    process = FORK.Process(target=run_training, args=(values, out))
    process.start()
    return process


def said(out):
    return Path(f"{out}.said").read_text()


def lines(out):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")}
        for row in read_jsonl(out / "metrics.jsonl")
    ]


def finish(values, out):
    process = start(values, out)
    process.join()
    assert process.exitcode == 0, said(out)


def killed_at(values, out, count):
    "Kill with -9 when the log has `count` lines; how many it had then."
    process = start(values, out)
    while process.is_alive() and len(lines(out)) < count:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9, said(out) or "it was over before it could be killed"
    return len(lines(out))


def made(out):
    "Everything but what tells the time."
    kept = (
        p
        for p in sorted(Path(out).rglob("*"))
        if p.is_file() and p.suffix in (".safetensors", ".pt", ".wav", ".png", ".csv")
    )
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


@pytest.mark.parametrize("values", [GAN, LIGHT], ids=["gan", "light"])
def test_killed_training_ends_in_the_same_bits(tmp_path, values):
    values = values | {"data": values["data"] | {"train": str(recordings(tmp_path / "data"))}}
    finish(values, tmp_path / "whole")
    at = [killed_at(values, tmp_path / "killed", n) for n in (4, 11)]
    finish(values, tmp_path / "killed")
    whole, killed = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert (
        killed == whole
        and [r["step"] for r in whole if r["kind"] == "train"] == list(range(1, 17))
        and max(at) < len(whole)
    )
    a, b = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert (
        a == b
        and "generator/generator.pt" in a
        and len([n for n in a if n.startswith("samples/step-")]) == 4
    )
    losses = [r["loss/g"] for r in whole if r["kind"] == "train"]
    assert len(set(losses)) == len(
        losses
    )  # no two steps are alike, so a step too many or too few would show
    judged = [r["step"] for r in whole if "loss/d" in r]
    assert judged == (
        list(range(6, 17)) if values is not LIGHT and "preset" in values["generator"] else []
    )


@pytest.mark.parametrize("kind", ["mpd", "msd", "mrd"])
def test_every_discriminator_has_a_gradient_everywhere(kind):
    import torch

    from xtts_ka.core.randomness import seeded_step, torch_rng
    from xtts_ka.vocoder.discriminators import Discriminators

    seeded_step(0, kind)
    net, wav = (
        Discriminators((kind,), 0.125),
        (0.1 * torch.randn(2, 4096, generator=torch_rng(0, "wav"))).requires_grad_(),
    )
    with torch.autograd.set_detect_anomaly(True):
        sum(
            score.square().mean() + sum(f.abs().mean() for f in features)
            for score, features in net(wav)
        ).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters()
    )
    assert wav.grad.isfinite().all() and (wav.grad != 0).float().mean() > 0.99


def test_nothing_is_added_in_place_in_a_forward(root):
    "`x += y` on an activation is the classic way to break a vocoder's backward pass."
    for name in ("discriminators", "generators", "losses"):
        bodies = re.split(
            r"\n    def |\ndef ", (root / f"xtts_ka/vocoder/{name}.py").read_text(encoding="utf-8")
        )
        assert len(bodies) > 5 and not [
            b.split("(")[0]
            for b in bodies
            if b.startswith("forward") and re.search(r"[+\-*/]=[^=]", b)
        ]


def test_shipped_configurations(root):
    "They load, and say what the presets say."
    found = sorted((root / "configs/vocoder").glob("*.yaml"))
    assert [p.stem for p in found] == ["demo", "demo_long", "v1", "v2", "v3"]
    for path in found:
        cfg = load_vocoder_config(path)
        preset = path.stem.partition("_")[0]
        assert (
            cfg.preset == preset
            and cfg.generator == VocoderConfig(preset=preset).generator
            and cfg.mel == VocoderConfig(preset=preset).mel
        )
        if preset != "demo":
            assert (
                cfg.generator.upsample_initial_channel
                == HIFIGAN[path.stem]["upsample_initial_channel"]
                and cfg.data.level == "peak"
                and cfg.discriminator.width == 1
            )
    assert load_vocoder_config(root / "configs/vocoder/demo.yaml").discriminator.kinds == []


def test_command_line_of_the_seed(tmp_path, root):
    "The words of the documents this descends from, in all their spellings."
    import argparse

    from xtts_ka.vocoder.train import add_arguments, main

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    data, out = recordings(tmp_path / "data"), tmp_path / "out"
    words = [
        "--config",
        str(root / "configs/vocoder/demo.yaml"),
        f"datasets.train.dataset_path={data}",
        "datasets.val.dataset_path",
        "=",
        str(recordings(tmp_path / "other", 2)),
        "path_to_save:",
        str(out),
        "generator.dim=32",
        "generator.inter",
        "=",
        "64",
        "generator.layers:",
        "1",
        "loop.steps=3",
        "loop.batch_size=1",
        "data.segment_size=2048",
        "samples=1",
    ]
    assert main(parser.parse_args(words)) == 0
    assert (
        (out / "generator/generator.pt").is_file()
        and len(lines(out)) >= 1
        and list((out / "samples").rglob("*.png"))
    )
