"""Killed, stopped, damaged: a training goes on to the same bits, or says why it does not.

The trainings run in processes of their own. Importing torch takes seconds, so one helper process
imports it once and
forks a child for each training; the child is what gets killed. `XTTS_KA_KILLS=50` makes the main
test longer."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"], os.environ["XTTS_KA_PROGRESS"] = "1", "off"
STEPS, KILLS, DAMAGES = (
    40,
    int(os.environ.get("XTTS_KA_KILLS", 4)),
    int(os.environ.get("XTTS_KA_DAMAGES", 200)),
)


# ---- what is trained
# ------------------------------------------------------------------------------------------


def make_task():
    "A GAN with two optimisers, dropout, noise by name, a hook that draws, and state of its own."
    import torch
    from torch import nn

    from xtts_ka.core.loop import Task
    from xtts_ka.core.randomness import rng, seeded_step

    class Gan(Task):
        phases, lengths = ("d", "g"), [i % 5 for i in range(30)]

        def __init__(self):
            seeded_step(3, "gan")
            self.gen = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(0.3), nn.Linear(12, 6))
            self.disc = nn.Sequential(
                nn.Linear(6, 8), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(8, 1)
            )
            self.revived = []

        def models(self):
            return {"gen": self.gen, "disc": self.disc}

        def averaged(self):
            return ("gen",)

        def __len__(self):
            return 30

        def item(self, index, epoch):
            return torch.from_numpy(rng(3, epoch, index).normal(index % 3, 1, 6).astype("float32"))

        def extra_state(self):
            return {"revived": self.revived}

        def load_extra(self, state):
            self.revived = state["revived"]

        def validate(self):
            return {"score": (self.gen(torch.ones(4, 6)) - 1).abs().mean().item()}

        def optimizers(self, models, cfg):
            return {
                "d": torch.optim.AdamW(models["disc"].parameters(), lr=cfg.lr, betas=(0.8, 0.99)),
                "g": torch.optim.AdamW(models["gen"].parameters(), lr=cfg.lr),
            }

        def loss(self, phase, x, step):
            time.sleep(0.001)  # Gives the killer moments to choose from
            fake = self.gen(torch.randn_like(x))
            if phase == "g":
                return (self.disc(fake) - 1).square().mean(), {"spread": fake.detach().std()}
            return self.disc(fake).square().mean() + (self.disc(x) - 1).square().mean(), {}

        def after_step(self, step):
            if step % 7:
                return
            self.revived.append(float(torch.rand(())))
            with torch.no_grad():
                self.gen[0].weight[step % 12].normal_(0, 0.1)

    return Gan()


def train(out, **options):
    "One training; the exit code a command line would give."
    from xtts_ka.core.loop import Interrupted, LoopConfig, fit

    cfg = LoopConfig(
        **{
            **dict(
                steps=STEPS,
                batch_size=4,
                accumulate=2,
                lr=2e-3,
                warmup=5,
                ema=0.9,
                bucket=True,
                validate_every=9,
                save_every=3,
                log_every=2,
                accelerator="cpu",
                keep=3,
            ),
            **options,
        }
    )
    try:
        fit(make_task(), cfg, out)
    except Interrupted as e:
        return e.exit_code
    return 0


def serve():
    """Import once, then fork a training for each line of JSON; answer with pids, then with exit
    codes."""
    import lightning_fabric  # noqa: F401, what a training imports
    import torch
    import torch._dynamo  # noqa: F401, what a training imports

    import xtts_ka.core.loop  # noqa: F401

    for line in sys.stdin:
        jobs, pids = json.loads(line), []
        for job in jobs:
            if pid := os.fork():
                pids.append(pid)
            else:
                os.environ.update(job.pop("env", {}))
                code = 1
                try:
                    code = train(**job)
                except BaseException as e:
                    print(type(e).__name__, e, file=sys.stderr, flush=True)
                finally:
                    os._exit(code)
        print(json.dumps(pids), flush=True)
        print(
            json.dumps([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids]), flush=True
        )


class Trainer:
    "The helper process, seen from the tests."

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *jobs):
        self.process.stdin.write(
            json.dumps([{k: str(v) if k == "out" else v for k, v in j.items()} for j in jobs])
            + "\n"
        )
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def codes(self):
        return json.loads(self.process.stdout.readline())

    def run(self, *jobs):
        self.start(*jobs)
        return self.codes()


@pytest.fixture(scope="module")
def trainer():
    t = Trainer()
    yield t
    t.process.stdin.close()
    t.process.wait(30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run that nothing disturbs, in an interpreter of its own."
    out = tmp_path_factory.mktemp("whole")
    subprocess.run([sys.executable, __file__, "train", str(out)], check=True)
    return out


# ---- looking at a run
# ------------------------------------------------------------------------------------------


def reached(out):
    "Last step in the log."
    from xtts_ka.core.files import read_jsonl

    rows = read_jsonl(Path(out) / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def wait_for(out, step, seconds=60):
    end = time.monotonic() + seconds
    while reached(out) < step:
        assert time.monotonic() < end, f"step {step} not reached, only {reached(out)}"
        time.sleep(0.001)


def sums(out):
    "SHA-256 of every file of the last and of the best checkpoint."
    folders = [max(Path(out, "checkpoints").glob(f"{tag}-*")) for tag in ("step", "best")]
    return {
        f"{f.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()
        for f in folders
        for p in sorted(f.iterdir())
    }


def log(out):
    "The log without its times."
    from xtts_ka.core.files import read_jsonl

    return [
        {k: v for k, v in r.items() if k not in ("seconds", "cpu_seconds")}
        for r in read_jsonl(Path(out) / "metrics.jsonl")
    ]


def assert_same(out, whole):
    assert sums(out) == sums(whole)
    assert log(out) == log(whole)
    assert not list(Path(out).rglob(".tmp-*")), "a temporary file was left"


# ---- (1) kill -9
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers, kills", [(0, KILLS), (2, max(1, KILLS // 2))])
def test_killed_at_any_moment_ends_in_the_same_files(trainer, whole, tmp_path, workers, kills):
    draw = random.Random(20 + workers)
    for target in sorted(draw.randint(1, STEPS - 6) for _ in range(kills)):
        (pid,) = trainer.start(dict(out=tmp_path, workers=workers))
        wait_for(tmp_path, target)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        assert trainer.codes() == [-signal.SIGKILL], "the run was over before it was killed"
    assert reached(tmp_path) < STEPS
    assert trainer.run(dict(out=tmp_path, workers=workers)) == [0]
    assert f"step-{STEPS:010d}/model.safetensors" in sums(
        tmp_path
    ) and f"step-{STEPS:010d}/optimizer.pt" in sums(tmp_path)
    assert_same(tmp_path, whole)


def test_another_seed_gives_other_files(trainer, whole, tmp_path):
    "Otherwise equality above would mean nothing."
    assert trainer.run(dict(out=tmp_path, seed=1)) == [0]
    mine, other = sums(tmp_path), sums(whole)
    for name in ("model.safetensors", "optimizer.pt"):
        assert mine[f"step-{STEPS:010d}/{name}"] != other[f"step-{STEPS:010d}/{name}"]


def test_two_processes_resume_too(trainer, tmp_path):
    "DDP over gloo: both ranks killed, started again, same files as undisturbed."

    def ranks(out, port):
        shared = dict(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            NODE_RANK="0",
            GROUP_RANK="0",
            TORCHELASTIC_RUN_ID="test",
        )
        return [
            dict(
                out=out,
                devices=2,
                strategy="ddp",
                batch_size=2,
                save_every=5,
                env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)},
            )
            for r in (0, 1)
        ]

    assert trainer.run(*ranks(tmp_path / "whole", free_port())) == [0, 0]
    pids = trainer.start(*ranks(tmp_path / "killed", free_port()))
    wait_for(tmp_path / "killed", 12)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert trainer.codes() == [-9, -9]
    assert trainer.run(*ranks(tmp_path / "killed", free_port())) == [0, 0]
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert log(tmp_path / "whole")[-1]["items"] > STEPS * 2 * 3.5, (
        "two processes share a batch of 4"
    )


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- (2) asked to stop
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_leaves_with_its_code(trainer, whole, tmp_path, signum, code):
    from xtts_ka.core.checkpoint import load_checkpoint

    (pid,) = trainer.start(dict(out=tmp_path, save_every=1000))
    wait_for(tmp_path, 10)
    os.kill(pid, signum)
    assert trainer.codes() == [code]
    assert (
        10 <= load_checkpoint(tmp_path / "checkpoints").step < STEPS
    )  # only the signal can have made it save
    assert trainer.run(dict(out=tmp_path)) == [0]
    assert_same(tmp_path, whole)


def test_finished_run_does_nothing_and_other_options_are_refused(trainer, whole):
    before = {
        p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file() and p.name != ".lock"
    }
    assert trainer.run(dict(out=whole)) == [0]
    assert trainer.run(dict(out=whole, lr=5e-3)) == [1]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert log(whole)[-1]["step"] == STEPS


# ---- (3) damage
# ------------------------------------------------------------------------------------------


def damage(draw, path, older):
    "Change or remove a file in one of seven ways."
    raw = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "truncate", "zero", "append", "missing", "swap", "empty"])
    at = draw.randrange(len(raw))
    if kind == "flip":
        raw[at] ^= 1 << draw.randrange(8)
    if kind == "truncate":
        raw = raw[:at]
    if kind == "zero":
        raw[at : at + 64] = bytes(len(raw[at : at + 64]))
    if kind == "append":
        raw += bytes([draw.randrange(256)])
    if kind == "swap":
        raw = bytearray(older.read_bytes())
    if kind == "empty":
        raw = bytearray()
    path.unlink()
    if kind != "missing":
        path.write_bytes(raw)
    return kind


def test_no_damage_is_accepted_and_the_one_before_is_taken(whole, tmp_path):
    import shutil

    from xtts_ka.core.checkpoint import load_checkpoint

    shutil.copytree(whole / "checkpoints", tmp_path / "c")
    older, newest = sorted((tmp_path / "c").glob("step-*"))[-2:]
    draw, silent, changed = random.Random(5), [], 0
    for _ in range(DAMAGES):
        path = draw.choice(sorted(newest.iterdir()))
        good = path.read_bytes()
        kind = damage(draw, path, older / path.name)
        same = path.exists() and path.read_bytes() == good
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = load_checkpoint(tmp_path / "c")
        if not same:
            changed += 1
            named = (
                found.skipped
                and newest.name in found.skipped[0]
                and any(newest.name in str(w.message) for w in said)
            )
            if found.path != older or not named:
                silent.append((path.name, kind))
        path.write_bytes(good)
    assert changed > 0.8 * DAMAGES and not silent, silent
    assert load_checkpoint(tmp_path / "c").path == newest


@pytest.mark.parametrize("kind", ["flip", "truncate", "missing"])
def test_training_goes_on_from_the_checkpoint_before(trainer, whole, tmp_path, kind):
    (pid,) = trainer.start(dict(out=tmp_path))
    wait_for(tmp_path, 20)
    os.kill(pid, signal.SIGTERM)
    assert trainer.codes() == [143]
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    victim = newest / "model.safetensors"
    if kind == "flip":
        victim.write_bytes(victim.read_bytes()[:-1] + bytes([victim.read_bytes()[-1] ^ 1]))
    if kind == "truncate":
        os.truncate(victim, 100)
    if kind == "missing":
        victim.unlink()
    assert trainer.run(dict(out=tmp_path)) == [0]
    assert_same(tmp_path, whole)
    assert (tmp_path / "checkpoints" / f"refused-{newest.name}").is_dir(), (
        "a damaged checkpoint is set aside, not deleted"
    )


# ---- (4) nothing that could run
# --------------------------------------------------------------------------------------


def test_every_file_loads_without_running_anything(whole):
    import torch
    from safetensors.torch import load_file

    kinds = {p.suffix for p in whole.rglob("*") if p.is_file() and p.name != ".lock"}
    assert kinds == {".safetensors", ".pt", ".json", ".jsonl"}
    for p in whole.rglob("*.pt"):
        torch.load(p, weights_only=True)
    for p in whole.rglob("*.safetensors"):
        assert load_file(p)
    for p in whole.rglob("*.json"):
        json.loads(p.read_text(encoding="utf-8"))


def test_a_pickle_that_calls_is_refused_even_with_a_manifest_that_fits(whole, tmp_path):
    import shutil

    import torch

    from xtts_ka.core.checkpoint import PARTS, load_checkpoint
    from xtts_ka.core.errors import CheckpointError
    from xtts_ka.core.files import sha256_file, write_json

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    newest = max((whole / "checkpoints").glob("step-*"))
    target = tmp_path / "c" / newest.name
    shutil.copytree(newest, target)
    torch.save({"g": Bomb()}, target / "optimizer.pt")
    files = {
        n: {"bytes": (target / n).stat().st_size, "sha256": sha256_file(target / n)} for n in PARTS
    }
    write_json(target / "manifest.json", {"format": 1, "step": STEPS, "files": files})
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "it_ran").exists()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.exit(train(sys.argv[2]))
