"""A speaker encoder's training, killed with -9 and started again, ends in the same loss curve and the same files as one that nobody disturbed."""
import json, os, subprocess, sys, time
from pathlib import Path

import numpy as np

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import read_jsonl
from xtts_ka.core.randomness import rng

SCRIPT = """
import json, sys, torch
from xtts_ka.core.config import build
from xtts_ka.speaker.train_config import TrainConfig
from xtts_ka.speaker.train_encoder import train_encoder
torch.set_num_threads(1)
train_encoder(build(TrainConfig, json.loads(sys.argv[1])), sys.argv[2])
"""
TINY = dict(model_name="ecapa-untrained", encoder=dict(channels=16, dim=16, mels=24, attention=8, squeeze=8, scale=2), window_size_s=.5, speakers_per_batch=3, utterances_per_speaker=3,
            val_speakers_per_batch=None, val_utterances_per_speaker=4, val_speakers=.4, steps=30, learning_rate_init=3e-3, schedule="plateau", scheduler_metrics_avg_every=3, scheduler_patience=0, ema=.9,
            val_every=10, save_every=4, vis_train_art_every=0, vis_val_art_every=0, vis_train_metrics_every=1, backup_every=0, use_data_augmentation=True, augment=dict(rooms=3), projection="pca", device="cpu", tensorboard=False, seed=3)


def voices(folder, speakers=5, clips=3, rate=16000):
    "Harmonics of a pitch of its own, with an envelope of its own, for each speaker."
    for s in range(speakers):
        own, t = rng(0, "voice", s), np.arange(rate) / rate
        pitch, weights = own.uniform(90, 250), own.uniform(.1, 1, 12)
        for k in range(clips):
            r = rng(0, "clip", s, k)
            wav = sum(w * np.sin(2 * np.pi * (h * pitch * t + .3 * np.sin(2 * np.pi * r.uniform(2, 5) * t))) for h, w in enumerate(weights, 1))
            write_audio(folder/f"ხმა {s}/{k}.wav", (.3 * wav / np.abs(wav).max() + .002 * r.standard_normal(rate)).astype(np.float32), rate)


def start(values, out):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(values), str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**os.environ, "OMP_NUM_THREADS": "1", "XTTS_KA_PROGRESS": "off"})


def lines(out):
    return [{k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")} for row in read_jsonl(out/"metrics.jsonl")]


def finish(values, out):
    process = start(values, out)
    text = process.communicate()[0].decode()
    assert process.returncode == 0, text


def killed_at(values, out, count):
    "Kill when the log has `count` lines; how many it had then."
    process = start(values, out)
    while process.poll() is None and len(lines(out)) < count: time.sleep(.002)
    process.kill()
    text = process.communicate()[0].decode()
    assert process.returncode == -9, text or "it was over before it could be killed"
    return len(lines(out))


def weights(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(Path(out).rglob("*.safetensors"))}


def test_killed_training_ends_in_the_same_bits(tmp_path):
    voices(tmp_path/"data")
    values = TINY | {"train_data_root": str(tmp_path/"data")}
    finish(values, tmp_path/"whole")
    at = [killed_at(values, tmp_path/"killed", n) for n in (6, 17)]
    finish(values, tmp_path/"killed")
    whole, killed = lines(tmp_path/"whole"), lines(tmp_path/"killed")
    assert killed == whole and [r["step"] for r in whole if r["kind"] == "train"] == list(range(1, 31)) and max(at) < len(whole)
    assert len({r["lr"] for r in whole if r["kind"] == "train"}) > 1  # the plateau moved, and was remembered
    a, b = weights(tmp_path/"whole"), weights(tmp_path/"killed")
    assert a == b and "encoder.safetensors" in a and len(a) >= 3
    losses = [r["loss/main"] for r in whole if r["kind"] == "train"]
    assert len(set(losses)) == len(losses)  # no two steps are alike, so a step too many or too few would show
