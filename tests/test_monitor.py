"""The monitor beside a training that runs, in the hands of a shell, and against its promise to keep
what is needed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from calls import called
from hypothesis import given, settings
from hypothesis import strategies as st

PY = [sys.executable, "-m", "xtts_ka.pipeline.cli", "monitor"]


def monitor(*words):
    "`xtts-ka monitor` in this process; as one of its own it is called in `test_ctrl_c_...`."
    return called("monitor", *words)


TRAINING = """
import sys, torch
from xtts_ka.core.loop import LoopConfig, Task, fit
class Line(Task):
    def models(self): return {"m": torch.nn.Linear(4, 1)}
    def __len__(self): return 64
    def item(self, i, epoch): return torch.full((4,), i / 64.)
    def loss(self, phase, batch, step):
        import time; time.sleep(.02)
        return ((self.m(batch) - 1) ** 2).mean(), {}
    def validate(self): return {"score": float(self.m.weight.norm())}
class Task_(Line):
    def models(self): self.m = torch.nn.Linear(4, 1); return {"m": self.m}
cfg = LoopConfig(steps=400, batch_size=8, log_every=5, save_every=50, validate_every=100)
fit(Task_(), cfg, sys.argv[1])
"""


def test_beside_a_training(tmp_path):
    """It reads while another process writes, ends by itself when that is done, and the time left is
    about right half-way."""
    child = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path / "run/gpt")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        log = tmp_path / "run/gpt/metrics.jsonl"
        until = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") > 40):  # half-way
            assert child.poll() is None and time.monotonic() < until, (
                child.stderr.read().decode() if child.poll() is not None else "no log"
            )
            time.sleep(0.02)
        from xtts_ka.pipeline.monitor import scan_run

        (seen,), _ = scan_run(tmp_path / "run")
        done = monitor("--dir", tmp_path / "run", "--watch", "--interval", 1)
        assert done.returncode == 0, done.stderr
        assert child.wait(60) == 0
        assert (
            seen.state == "training" and seen.training.steps == 400 and 0 < seen.seconds_left < 60
        )
        lines = done.stdout.splitlines()
        assert (
            len(lines) >= 1
            and "done" in lines[-1]
            and "400 of 400" in lines[-1]
            and "\x1b" not in done.stdout
        )
    finally:
        child.kill()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run/full_pretrain/gpt"
    folder.mkdir(parents=True)
    rows = [
        {"kind": "train", "step": s, "loss/main": 2 - s / 1000, "seconds": s / 10}
        for s in range(10, 301, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "training.json").write_text('{"steps": 1000}')
    return tmp_path / "run"


def test_exit_status(run):
    assert monitor("--dir", run).returncode == 0
    with open(run / "full_pretrain/gpt/metrics.jsonl", "a") as f:
        f.write('{"kind": "train", "step": 310, "loss/main": null, "seconds": 31}\n{"kind": "tr')
    found = monitor("--dir", run, "--watch", "--interval", 1)
    assert (
        found.returncode == 3 and "DIVERGED: loss/main is not a number at step 310" in found.stdout
    ), found
    assert monitor("--dir", run, "--analyze").returncode == 3


def test_ctrl_c_ends_watching_in_peace(run):
    p = subprocess.Popen(
        [*PY, "--dir", str(run), "--watch", "--interval", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "300 of 1,000" in p.stdout.readline()
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0 and "Traceback" not in err


@pytest.mark.parametrize(
    "words, why",
    [
        (["--dir", "{}", "--export", "x.xlsx"], ".csv, .parquet or .json"),
        (["--dir", "{}/nowhere"], "no such folder"),
        ([], "which run"),
        (["--config", "configs/demo.yaml", "run=never-run-at-all"], "start the run first"),
        (["--dir", "{}", "--interval", "0"], "at least 1 second"),
        (["--dir", "{}", "--clean"], "did you mean --cleanup"),
    ],
)
def test_wrong_calls(run, words, why):
    found = monitor(*(w.format(run) for w in words))
    assert found.returncode == 2 and why in found.stderr and "Traceback" not in found.stderr, (
        found.stderr
    )


def test_an_export_spares_the_run(run):
    "A file of the run is never written over; an earlier export may be."
    record = run / "full_pretrain/gpt/training.json"
    found = monitor("--dir", run, "--export", record)
    assert found.returncode == 2 and "a file of the run" in found.stderr
    assert record.read_text() == '{"steps": 1000}'
    (run.parent / "link").symlink_to(run)
    again = run.parent / "link/full_pretrain/gpt/training.json"
    assert monitor("--dir", run, "--export", again).returncode == 2
    for name in ("all.csv", "all.json", "all.csv", "all.json"):
        assert monitor("--dir", run, "--export", run / name).returncode == 0
    assert json.loads((run / "all.json").read_text())["values"]


def test_damaged_record_of_the_run(run):
    (run / "pretrain_progress.json").write_text("{torn")
    found = monitor("--dir", run)
    assert (
        found.returncode
        and "pretrain_progress.json" in found.stderr
        and "Traceback" not in found.stderr
    )


def test_names_are_text(run):
    odd = run / "<img src=x onerror=alert(1)>"
    os.rename(run / "full_pretrain", odd)
    assert monitor("--dir", run, "--plot").returncode == 0
    page = (run / "monitor/index.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.integers(1, 40), unique=True, max_size=7),
    torn=st.sets(st.integers(0, 6)),
    best=st.integers(0, 40),
    torn_best=st.booleans(),
    keep=st.integers(1, 4),
    twice=st.booleans(),
)
def test_cleanup_keeps_what_is_needed(tmp_path_factory, steps, torn, best, torn_best, keep, twice):
    """Whatever lies there: the newest whole checkpoint and a whole best one stay, and what stays is
    enough to go on from the same step."""
    import torch

    from xtts_ka.core.checkpoint import checkpoints, refusal, save_checkpoint
    from xtts_ka.pipeline.monitor import cleanup

    run = tmp_path_factory.mktemp("run")
    root = run / "gpt/checkpoints"
    root.mkdir(parents=True)

    def save(step, tag=None):
        return save_checkpoint(
            root, step, {"m": {"w": torch.ones(2)}}, {}, {"step": step}, keep=99, tag=tag
        )

    made = [save(s) for s in sorted(steps)]
    if best:
        made.append(save(best, "best"))
    damaged = [made[i] for i in torn if i < len(steps)] + ([made[-1]] if best and torn_best else [])
    for p in damaged:
        (p / "model.safetensors").write_bytes(b"no")
    whole = [p for p in checkpoints(root) if not refusal(p)]
    whole_best = [p for p in checkpoints(root, "best") if not refusal(p)]
    cleanup(run, keep)
    assert all(p.exists() for p in made)  # a dry run
    for _ in range(1 + twice):
        cleanup(run, keep, delete=True)
    left = [p for p in checkpoints(root) if not refusal(p)]
    assert (
        left[:1] == whole[:1]
        and len(left) == min(keep, len(whole))
        and all(p.exists() for p in whole_best)
    )
    if whole:
        assert not any(p.exists() for p in damaged)
