"""A speaker encoder's training, killed with -9 and started again, ends in the same loss curve and
the same files as one that nobody disturbed."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import FORK

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import read_jsonl
from xtts_ka.core.randomness import rng

TINY = dict(
    model_name="ecapa-untrained",
    encoder=dict(channels=16, dim=16, mels=24, attention=8, squeeze=8, scale=2),
    window_size_s=0.5,
    speakers_per_batch=3,
    utterances_per_speaker=3,
    val_speakers_per_batch=None,
    val_utterances_per_speaker=4,
    val_speakers=0.4,
    steps=30,
    learning_rate_init=3e-3,
    schedule="plateau",
    scheduler_metrics_avg_every=3,
    scheduler_patience=0,
    ema=0.9,
    val_every=10,
    save_every=4,
    vis_train_art_every=0,
    vis_val_art_every=0,
    vis_train_metrics_every=1,
    backup_every=0,
    use_data_augmentation=True,
    augment=dict(rooms=3),
    projection="pca",
    device="cpu",
    tensorboard=False,
    seed=3,
)


def voices(folder, speakers=5, clips=3, rate=16000):
    "Harmonics of a pitch of its own, with an envelope of its own, for each speaker."
    for s in range(speakers):
        own, t = rng(0, "voice", s), np.arange(rate) / rate
        pitch, weights = own.uniform(90, 250), own.uniform(0.1, 1, 12)
        for k in range(clips):
            r = rng(0, "clip", s, k)
            wav = sum(
                w
                * np.sin(
                    2 * np.pi * (h * pitch * t + 0.3 * np.sin(2 * np.pi * r.uniform(2, 5) * t))
                )
                for h, w in enumerate(weights, 1)
            )
            write_audio(
                folder / f"ხმა {s}/{k}.wav",
                (0.3 * wav / np.abs(wav).max() + 0.002 * r.standard_normal(rate)).astype(
                    np.float32
                ),
                rate,
            )


def train(values, out):
    "What the process does; its words go to a file beside the folder."
    os.environ["XTTS_KA_PROGRESS"] = "off"
    with open(f"{out}.said", "w", buffering=1) as said:
        sys.stdout = sys.stderr = said
        import torch

        from xtts_ka.core.config import build
        from xtts_ka.speaker.config import TrainConfig
        from xtts_ka.speaker.train import train_encoder

        torch.set_num_threads(1)
        train_encoder(build(TrainConfig, values), out)


def start(values, out):
    process = FORK.Process(target=train, args=(values, out))
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


def weights(out):
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in sorted(Path(out).rglob("*.safetensors"))
    }


def test_killed_training_ends_in_the_same_bits(tmp_path):
    voices(tmp_path / "data")
    values = TINY | {"train_data_root": str(tmp_path / "data")}
    finish(values, tmp_path / "whole")
    at = [killed_at(values, tmp_path / "killed", n) for n in (6, 17)]
    finish(values, tmp_path / "killed")
    whole, killed = lines(tmp_path / "whole"), lines(tmp_path / "killed")
    assert (
        killed == whole
        and [r["step"] for r in whole if r["kind"] == "train"] == list(range(1, 31))
        and max(at) < len(whole)
    )
    assert (
        len({r["lr"] for r in whole if r["kind"] == "train"}) > 1
    )  # the plateau moved, and was remembered
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert a == b and "encoder.safetensors" in a and len(a) >= 3
    losses = [r["loss/main"] for r in whole if r["kind"] == "train"]
    assert len(set(losses)) == len(
        losses
    )  # no two steps are alike, so a step too many or too few would show


def hang_until_orphaned(parent=None):
    "What a library's exit handler may do to a data worker: nothing, for as long as it is let."
    while os.getppid() == (parent or os.getppid()):
        time.sleep(0.1)


def train_command(argv, out, fails):
    "`train_encoder`, with data workers that do not end by themselves."
    from multiprocessing.util import Finalize

    from torch.utils.data import _utils

    from xtts_ka.core.errors import XttsKaError
    from xtts_ka.speaker.train import EncoderTask
    from xtts_ka.speaker.train_encoder import main

    os.environ["XTTS_KA_PROGRESS"] = "off"
    multiprocessing.set_start_method("fork", force=True)  # As in a process of the shell
    _utils.MP_STATUS_CHECK_INTERVAL = 0.5
    trainer, item = os.getpid(), EncoderTask.item

    def with_a_bad_library(self, index, epoch):
        if os.getpid() != trainer:
            Finalize(None, hang_until_orphaned, (trainer,), exitpriority=1)
        return item(self, index, epoch)

    def broken(self):
        raise XttsKaError("the disk is gone")

    EncoderTask.item = with_a_bad_library
    if fails:
        EncoderTask.validate = broken
    sys.stdout = sys.stderr = open(f"{out}.said", "w", buffering=1)  # Until the end
    sys.exit(main([*argv, "--output_dir", str(out)]))


@pytest.mark.parametrize("ending", ["done", "failed", "SIGTERM", "SIGINT"])
def test_the_command_ends_with_its_workers(tmp_path, ending):
    "Two workers and pictures on: whatever ends the training, the process ends, and says how."
    voices(tmp_path / "data")
    on = {"num_workers": 2, "vis_train_art_every": 3, "vis_val_art_every": 1, "tensorboard": True}
    stopped = ending.startswith("SIG")
    length = {"steps": 10**5} if stopped else {"steps": None, "num_epochs": 6}
    values = TINY | on | length | {"use_data_augmentation": False}
    values |= {"val_every": 5, "train_data_root": str(tmp_path / "data")}
    (tmp_path / "train_config.json").write_text(json.dumps(values))
    argv, out = ["--config", str(tmp_path / "train_config.json")], tmp_path / "out"
    process = FORK.Process(target=train_command, args=(argv, out, ending == "failed"))
    process.start()
    try:
        while stopped and process.is_alive() and len(lines(out)) < 4:
            time.sleep(0.01)
        if stopped:
            os.kill(process.pid, getattr(signal, ending))
        process.join(90)
        assert not process.is_alive(), f"it waits for its workers: {said(out)}"
    finally:
        process.kill()
    assert process.exitcode == {"done": 0, "failed": 2, "SIGTERM": 143, "SIGINT": 130}[ending]
    if ending == "done":  # The log counts epochs as `num_epochs` does
        assert [r["epoch"] for r in lines(out) if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    told = {"done": "encoder of step", "failed": "the disk is gone"}
    assert told.get(ending, f"stopped by {ending}") in said(out)


def test_shipped_configuration(root):
    """Every key has arrived with the value that stands in the file; defaults differ from it where
    the documentation says so, and nowhere else."""
    from xtts_ka.speaker.config import TrainConfig, load_train_config

    path = root / "configs/speaker/train_config.json"
    written, cfg, default = json.loads(path.read_text()), load_train_config(path), TrainConfig()
    assert {k: getattr(cfg, k) for k in written} == written and len(written) == 36
    own = {"run_id", "train_data_root", "val_data_root", "comet_key", "comet_project"}
    assert {k for k in written if getattr(default, k) != written[k]} - own == {
        "force_restart",
        "use_data_augmentation",
        "num_workers",
        "data_parallel",
        "device",
    }
