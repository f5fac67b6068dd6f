"""Training by torchrun: two processes with half the batch each take the steps of one with all of
it, up to rounding. That holds where a loss is a mean over items of equal weight and nothing
draws by place; here it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS, ITEMS = 30, 48


def make_task():
    "A small network and a rule to learn; what is compared is the arithmetic of sharing a batch."
    import torch
    from torch import nn

    from xtts_ka.core.loop import Task
    from xtts_ka.core.randomness import rng, seeded_step

    class Line(Task):
        lengths = [i % 5 for i in range(ITEMS)]

        def __init__(self):
            seeded_step(3, "line")
            self.net = nn.Sequential(
                nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 1)
            )

        def models(self):
            return {"net": self.net}

        def averaged(self):
            return ("net",)

        def __len__(self):
            return ITEMS

        def validate(self):
            return {"score": float(self.net(torch.ones(4, 6)).mean())}

        def item(self, index, epoch):
            x = torch.from_numpy(rng(3, epoch, index).standard_normal(6).astype("float32"))
            return torch.cat([x, x.prod()[None] + x[:1]])

        def optimizers(self, models, cfg):
            return {"main": torch.optim.AdamW(models["net"].parameters(), lr=cfg.lr)}

        def loss(self, phase, batch, step):
            return (self.net(batch[:, :6])[:, 0] - batch[:, 6]).square().mean(), {}

    return Line()


def train(out, batch_size, devices=1):
    from xtts_ka.core.loop import LoopConfig, fit

    more = dict(devices=2, strategy="ddp") if devices == 2 else {}
    cfg = LoopConfig(
        steps=STEPS,
        batch_size=batch_size,
        accumulate=2,
        lr=5e-3,
        warmup=5,
        clip=1.0,
        ema=0.9,
        bucket=True,
        validate_every=10,
        save_every=STEPS,
        log_every=5,
        accelerator="cpu",
        precision="32-true",
        **more,
    )
    fit(make_task(), cfg, out)


def weights(out):
    from xtts_ka.core.checkpoint import load_checkpoint

    return {
        k: v
        for state in load_checkpoint(Path(out) / "checkpoints").models.values()
        for k, v in state.items()
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    env = os.environ | dict(OMP_NUM_THREADS="1", XTTS_KA_PROGRESS="off")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            __file__,
            str(out),
        ],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def furthest(a, b):
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_two_processes_take_the_steps_of_one(two, tmp_path, counted):
    from xtts_ka.core.files import read_jsonl

    train(tmp_path / "one", 4)  # 2 micro-batches of 4 a step, as 2 of 2 in each of two processes
    one, other = weights(tmp_path / "one"), weights(two)
    assert one.keys() == other.keys() and (gap := furthest(one, other)) < 1e-5
    train(
        tmp_path / "half", 2
    )  # and that is not because nothing was learned, or the batch does not matter
    assert furthest(one, weights(tmp_path / "half")) > 1e-2
    a, b = (read_jsonl(p / "metrics.jsonl") for p in (tmp_path / "one", two))
    assert [(r["step"], r.get("items")) for r in a] == [(r["step"], r.get("items")) for r in b]

    def numbers(rows):
        return {
            (r["step"], k): v
            for r in rows
            for k, v in r.items()
            if isinstance(v, float) and "seconds" not in k
        }

    assert len(numbers(a)) > 6 and numbers(a) == pytest.approx(
        numbers(b), rel=1e-3, abs=1e-4
    )  # losses and scores of the log
    counted(
        f"largest difference of a weight after {STEPS} steps, two processes against one: {gap:.1e}"
    )


if __name__ == "__main__":
    train(sys.argv[1], 2, devices=2)
