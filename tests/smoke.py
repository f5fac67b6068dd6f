"""The smoke pipeline in a repository of its own: a copy of the sources, so that neither outputs/ is
touched nor an edit can reach a run half-way."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parents[1], Path(sys.executable).parent
RUN = "smoke-test"
# configs/smoke.yaml, smaller still: fewer steps, and speech that is cut early (nobody listens to
# it)
TINY = (
    f"run={RUN}",
    "threads=1",
    "jobs=1",
    "corpus.own=10",
    "segments.val_fraction=0.1",
    "speaker_encoder.loop.steps=6",
    "speaker_encoder.loop.save_every=2",
    "speaker_encoder.voices=4",
    "phonemes.neural.loop.steps=20",
    "phonemes.neural.loop.validate_every=10",
    "phonemes.neural.loop.save_every=6",
    "language.transformer.loop.save_every=4",
    "xtts_init.dvae.loop.save_every=4",
    "evaluate.say=[]",
    *(
        f"sovits2.{part}.loop.{k}"
        for part in ("semantic", "ar")
        for k in ("steps=8", "validate_every=8", "save_every=3")
    ),
    "sovits2.sampling.max_per_piece=1.5",
    "vocoder.loop.steps=8",
    "vocoder.loop.validate_every=8",
    "vocoder.loop.save_every=3",
    "sovits2.decoder.loop.steps=6",
    "sovits2.decoder.loop.validate_every=6",
    "sovits2.decoder.loop.save_every=2",
    "evaluate.decode.max_codes_per_id=0.3",
    "evaluate.decode.guard_extra=4",
    *(
        f"full_pretrain.{part}.loop.{k}"
        for part in ("gpt", "decoder")
        for k in ("steps=20", "validate_every=20", "save_every=4")
    ),
    "full_pretrain.gpt.loop.batch_size=6",
)


@dataclass
class Ended:
    "A call that is over."

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Home:
    "A root with the sources and configurations in it, and calls of the command line there."

    def __init__(self, root, source=ROOT):
        self.root, self.dir = Path(root), Path(root) / "outputs" / RUN
        # With what is compiled, whose dates are kept, but for files that are just being written
        ignore = shutil.ignore_patterns("*.pyc.*", ".ipynb_checkpoints")
        for name in ("nbs", "configs", "xtts_ka"):
            shutil.copytree(source / name, self.root / name, ignore=ignore)
        shutil.copy(source / "settings.ini", self.root)
        keep = {
            k: v for k, v in os.environ.items() if k not in ("IN_TEST", "PYTHONDONTWRITEBYTECODE")
        }  # a stage is a process: modules compiled anew in each would cost seconds
        # MPLBACKEND as on many servers: the report must have its plots all the same
        self.env = keep | dict(
            XTTS_KA_ROOT=str(root), PYTHONPATH=str(root), OMP_NUM_THREADS="1", MPLBACKEND="agg"
        )

    def start(self, *words, program="xtts-ka"):
        "Begin a call in a process group of its own."
        words = [str(BIN / program), *map(str, words)]
        return subprocess.Popen(
            words,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *words, program="xtts-ka"):
        begin, process = time.monotonic(), self.start(*words, program=program)
        out, err = process.communicate()
        return Ended(process.returncode, out, err, time.monotonic() - begin)

    def command(self, *more):
        return ("run", "--config", "configs/smoke.yaml", *TINY, *more)

    def run(self, *more):
        return self.call(*self.command(*more))

    def stages(self):
        "What pretrain_progress.json says of each stage."
        path = self.dir / "pretrain_progress.json"
        return json.loads(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}


def files(folder, *patterns):
    "Files below a folder, relative to it."
    return sorted(
        p.relative_to(folder).as_posix()
        for pattern in patterns or ("*",)
        for p in Path(folder).rglob(pattern)
        if p.is_file()
    )
