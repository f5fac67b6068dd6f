"""Training by torchrun: two processes with half the batch each take the steps of one with all of
it, up to rounding. That holds where a loss is a mean over items of equal weight and nothing
draws by place; here it does. FSDP2 takes the same steps, and its checkpoints are those of one
process. A process that is killed costs the steps since the last checkpoint."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS, ITEMS = 30, 48
# A store for each attempt: in the shared one, restarted processes find addresses of dead ones
STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def make_task(**stop):
    "A small network and a rule to learn; what is compared is the arithmetic of sharing a batch."
    import torch
    from torch import nn

    from xtts_ka.core.loop import Task
    from xtts_ka.core.randomness import rng, seeded_step

    class Line(Task):
        lengths = [i % 5 for i in range(ITEMS)]

        def __init__(self, stop_at=0, with_signal=signal.SIGTERM):
            self.stop_at, self.with_signal = stop_at, with_signal
            seeded_step(3, "line")
            self.net = nn.Sequential(
                nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 1)
            )

        def models(self):
            return {"net": self.net}

        def averaged(self):
            return ("net",)

        def sharded(self):  # The norm between them stays whole in each process
            return [self.net[0], self.net[3]]

        def after_step(self, step):
            if step == self.stop_at:
                os.kill(os.getpid(), self.with_signal)

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

    return Line(**stop)


def train(out, batch_size, devices=1, strategy="ddp", save_every=STEPS, **stop):
    from xtts_ka.core.loop import LoopConfig, fit

    more = dict(devices=2, strategy=strategy) if devices == 2 else {}
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
        save_every=save_every,
        log_every=5,
        accelerator="cpu",
        precision="32-true",
        **more,
    )
    return fit(make_task(**stop), cfg, out)


def weights(out):
    from xtts_ka.core.checkpoint import load_checkpoint

    return {
        k: v
        for state in load_checkpoint(Path(out) / "checkpoints").models.values()
        for k, v in state.items()
    }


def by_torchrun(out, what, *options):
    env = os.environ | dict(OMP_NUM_THREADS="1", XTTS_KA_PROGRESS="off", **STORE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *options, __file__, what, str(out)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    by_torchrun(out := tmp_path_factory.mktemp("two"), "shared")
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


def test_divided_weights_take_the_same_steps_and_load_in_one_process(two, counted):
    "Stopped at step 13 and gone on, with an average; two of three modules are divided."
    from xtts_ka.core.checkpoint import load_checkpoint
    from xtts_ka.core.files import read_json
    from xtts_ka.core.loop import load_models

    whole, other = weights(two), weights(two / "fsdp2")
    assert whole.keys() == other.keys() and (gap := furthest(whole, other)) < 1e-5
    assert {k: v.shape for k, v in whole.items()} == {k: v.shape for k, v in other.items()}
    said = read_json(two / "fsdp2/parts.json")
    assert said["resumed"] == 13 and said["sharded"] == ["0.bias", "0.weight", "3.bias", "3.weight"]
    assert sum(said["rows"]) == 16 and min(said["rows"]) > 0  # Of the first matrix
    a, b = (load_checkpoint(p / "checkpoints").optimizers["main"] for p in (two, two / "fsdp2"))
    moments = [{tuple(s["exp_avg"].shape) for s in o["state"].values()} for o in (a, b)]
    assert moments[0] == moments[1]  # Gathered, too
    task = make_task()
    load_models(two / "fsdp2", task.models(), "latest")
    assert furthest(task.net.state_dict(), load_checkpoint(two / "checkpoints").models["net_ema"])
    counted(f"largest difference of a weight after {STEPS} steps, FSDP2 against DDP: {gap:.1e}")


def fsdp2(out):
    "In each of the two processes: stopped at step 13, gone on; process 0 says how it was divided."
    from xtts_ka.core.files import write_json
    from xtts_ka.core.loop import Interrupted
    from xtts_ka.core.sharded import is_sharded, local

    with pytest.raises(Interrupted):
        train(out, 2, devices=2, strategy="fsdp2", stop_at=13)
    import torch.distributed as dist

    from xtts_ka.core import loop

    seen = {}
    keep = loop._divide

    def divide(task, models, team):
        keep(task, models, team)
        seen.update(models["net"].named_parameters())

    loop._divide = divide
    result = train(out, 2, devices=2, strategy="fsdp2")
    rows = [None, None]
    dist.all_gather_object(rows, len(local(seen["0.weight"])))
    names = sorted(k for k, p in seen.items() if is_sharded(p))
    if dist.get_rank() == 0:
        said = {"resumed": result.resumed_from, "sharded": names, "rows": rows}
        write_json(Path(out) / "parts.json", said)


def gpt_task(folder, strategy="auto"):
    "XTTS's GPT in the preset `small` on a toy corpus: letters and codes that repeat them."
    import numpy as np
    import torch

    from xtts_ka.core.manifest import Row
    from xtts_ka.core.ragged import RaggedArray
    from xtts_ka.core.randomness import rng
    from xtts_ka.corpus.clips import Clips
    from xtts_ka.xtts.config import GptLoop, PretrainConfig
    from xtts_ka.xtts.train_gpt import GptTask
    from xtts_ka.xtts.vocabulary import Vocabulary, make_vocab

    draw = rng(5, "toy")
    texts = ["".join(draw.choice(list("აბგდე"), size=6)) for _ in range(16)]
    rows = [Row(f"{i}.wav", t, "ab"[i % 2], split="train") for i, t in enumerate(texts)]
    codes = [np.repeat([ord(c) % 8 for c in t], 2) for t in texts]
    mels = [draw.normal(size=(48, 80)).astype(np.float32) for _ in texts]
    for name, runs in (("codes", codes), ("mels", mels)):
        RaggedArray.write(folder / name, runs, sum(map(len, runs)))
    cfg = PretrainConfig(preset="small").gpt
    cfg.loop = GptLoop(
        steps=3,
        batch_size=2,
        validate_every=3,
        save_every=3,
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=strategy,
    )
    shelves = RaggedArray(folder / "codes"), RaggedArray(folder / "mels")
    vocabulary = Vocabulary(make_vocab("ka"), "ka")
    return GptTask(cfg, Clips(rows, folder), vocabulary, *shelves, torch.ones(80), 8)


def gpt(out):
    "Three steps of the GPT in two processes, by DDP and by FSDP2."
    from xtts_ka.core.loop import fit

    for strategy in ("ddp", "fsdp2"):
        task = gpt_task(Path(out) / f"data-{os.environ['RANK']}", strategy)
        fit(task, task.cfg.loop, Path(out) / strategy)
        held = sum(p.to_local().numel() for p in task.net.parameters() if hasattr(p, "to_local"))
        (Path(out) / f"{strategy}-{os.environ['RANK']}").write_text(str(held))


@pytest.mark.slow  # coqui-tts is imported three times
def test_the_gpt_divided_among_two_processes_loads_in_one(tmp_path, counted):
    from xtts_ka.core.loop import load_models

    by_torchrun(tmp_path, "gpt")
    whole, other = weights(tmp_path / "ddp"), weights(tmp_path / "fsdp2")
    assert whole.keys() == other.keys() and (gap := furthest(whole, other)) < 1e-5
    task = gpt_task(tmp_path / "data")
    models = task.models()
    before = {k: v.clone() for k, v in task.net.state_dict().items()}
    load_models(tmp_path / "fsdp2", models, "latest")
    assert furthest(task.net.state_dict(), whole) == gap and furthest(before, whole) > 1e-4
    blocks = sum(p.numel() for p in task.net.gpt.h.parameters())
    held = [int((tmp_path / f"fsdp2-{rank}").read_text()) for rank in (0, 1)]
    assert sum(held) == blocks * 4 / 6  # Heads of two blocks are taught, and those stay whole
    counted(f"largest difference of a weight after 3 steps of the GPT, FSDP2 and DDP: {gap:.1e}")


@pytest.mark.slow  # the stages up to the GPT, and the GPT in two processes
def test_train_gpt_of_a_run_which_then_goes_on_behind_it(tmp_path):
    "train-gpt --prepare, torchrun, and the run: the notebook finds the GPT trained."
    from smoke import RUN, TINY, Home

    from xtts_ka.core.checkpoint import load_checkpoint

    home = Home(tmp_path)
    loop = [f"full_pretrain.gpt.loop.{o}" for o in ("devices=2", "strategy=fsdp2")]
    words = ["--config", "configs/smoke.yaml", *TINY, *loop, "full_pretrain.gpt.optimizer=adamw"]

    def call(*words, program=("-m", "xtts_ka.cli")):
        command = [sys.executable, *program, *words]
        found = subprocess.run(command, cwd=tmp_path, env=home.env, capture_output=True, text=True)
        return found.returncode, found.stdout + found.stderr

    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher += ("-m", "xtts_ka.cli")
    code, said = call("train-gpt", *words[:-1], "--prepare")
    assert code == 2 and "does not go with gpt.optimizer=muon" in said, said
    code, said = call("train-gpt", *words, "--prepare")
    assert code == 2 and "segments" in said and "run it first" in said, said
    code, said = call("run", "--only", "corpus,segments,xtts_init", *words)
    assert code == 0, said
    code, said = call("train-gpt", *words, program=launcher)
    assert code != 0 and "--prepare" in said and said.count("Traceback") == 1  # torchrun's own
    code, said = call("train-gpt", *words, "--prepare")
    assert code == 0 and f"prepared: outputs/{RUN}" in said, said
    code, said = call("train-gpt", *words, program=launcher)
    assert code == 0 and "GPT: 20 steps" in said, said
    checkpoints = tmp_path / "outputs" / RUN / "full_pretrain/gpt/checkpoints"
    trained = load_checkpoint(checkpoints)
    files = {p: p.stat().st_mtime_ns for p in checkpoints.rglob("*.safetensors")}
    code, said = call("run", "--only", "full_pretrain", *words)
    assert code == 0 and "goes on after: its GPT is trained by train-gpt" in said, said
    assert files == {p: p.stat().st_mtime_ns for p in checkpoints.rglob("*.safetensors")}
    assert trained.step == 20 and (tmp_path / "outputs" / RUN / "xtts/model.pth").is_file()
    code, said = call("train-gpt", *words, program=launcher)
    assert code == 0 and "the stage is done already" in said, said


@pytest.mark.slow  # four processes that import torch
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_restarts_from_the_last_checkpoint(tmp_path, killed):
    "torchrun --max-restarts: all begin again at step 10; the weights are those of a quiet run."
    by_torchrun(tmp_path / "quiet", "quiet")
    said = by_torchrun(tmp_path / "killed", f"killed-{killed}", "--max-restarts", "1")
    assert "exitcode: -9" in said, said
    quiet, other = weights(tmp_path / "quiet"), weights(tmp_path / "killed")
    assert (tmp_path / "killed/resumed").read_text() == "10"
    assert quiet.keys() == other.keys() and furthest(quiet, other) == 0


def killed(out, rank):
    "The first time, a process kills itself at step 17; checkpoints are written every 10 steps."
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    stop = {"stop_at": 17, "with_signal": signal.SIGKILL}
    dies = first and os.environ["RANK"] == rank
    result = train(out, 2, devices=2, save_every=10, **(stop if dies else {}))
    if os.environ["RANK"] == "0":
        (Path(out) / "resumed").write_text(str(result.resumed_from))


if __name__ == "__main__":
    what, out = sys.argv[1:]
    if what.startswith("killed"):
        killed(out, what[-1])
    elif what == "gpt":
        gpt(out)
    elif what == "quiet":
        train(out, 2, devices=2)
    else:
        train(out, 2, devices=2)
        fsdp2(f"{out}/fsdp2")
