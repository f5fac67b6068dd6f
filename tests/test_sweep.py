"""Sweeps of toy stages: what is shared is made once, the rest at the same time; failures, signals
and kills; and the command line on the real stages."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_runner import COMMON, START, write_notebook

from xtts_ka.pipeline import cli

CONFIGS = """
from xtts_ka.core.config import config
from xtts_ka.pipeline.stages import Stage

@config
class Corpus:
    clips: int = 3 # How many

@config
class Model:
    size: int = 1 # What is swept

TOYS = (Stage("corpus", "nbs/runs/corpus.ipynb", "toy_stages.Corpus",
               outputs=("corpus", "said.tsv"), doc="shared"),
        Stage("model", "nbs/runs/model.ipynb", "toy_stages.Model",
               needs=("corpus",), outputs=("model",), doc="swept"))
"""
CHILD = """
import sys
from toy_stages import TOYS
from xtts_ka.pipeline import cli, runner
from xtts_ka.pipeline.sweep import stop_with_parent
def page(run_dir):
    found = run_dir/"report"/"index.html"
    found.parent.mkdir(exist_ok=True); found.write_text("report")
    return found
runner.STAGES, runner.make_report = TOYS, page
stop_with_parent()
sys.exit(cli.main(sys.argv[1:]))
"""
PARENT = """
import sys
from toy_stages import TOYS
from xtts_ka.pipeline.sweep import sweep
sys.exit(sweep("c.yaml", sys.argv[2:], jobs=2, stages=TOYS, program=(sys.executable, sys.argv[1])))
"""
CORPUS = (
    "clips = 1\n" + COMMON,
    START.replace("STAGE", "'corpus'"),
    (
        "(here/'clips.bin').write_bytes(b'x'*clips)\n"
        "(here/'log.jsonl').write_text('{}\\n')\n"
        "(run/'said.tsv').write_text(f'{run_dir}/corpus/a.wav\\tა\\tb\\tc\\n')\n"
        "(here/'metrics.json').write_text(json.dumps({'clips': clips}))"
    ),
)
MODEL = (
    "size = 1\n" + COMMON,
    START.replace("STAGE", "'model'"),
    (
        "begin = time.time()\nif size == 13: raise ValueError('no luck with"
        " 13')\ntime.sleep(1)\n(here/'out.json').write_text(json.dumps([begin,"
        " time.time()]))\n(here/'metrics.json').write_text(json.dumps({'loss': 10/size, 'size':"
        " size}))"
    ),
)


class Field:
    "A repository of two toy stages, and sweeps in it."

    def __init__(self, root):
        self.root, self.outputs = root, root / "outputs"
        for name, text in {
            "toy_stages.py": CONFIGS,
            "child.py": CHILD,
            "parent.py": PARENT,
            "c.yaml": "run: t\nthreads: 1\n",
        }.items():
            (root / name).write_text(text)
        write_notebook(root, "corpus", CORPUS)
        write_notebook(root, "model", MODEL)

    def start(self, *words, program="child.py"):
        env = os.environ | {
            "XTTS_KA_ROOT": str(self.root),
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(self.root), os.environ.get("PYTHONPATH")))
            ),
        }
        return subprocess.Popen(
            [sys.executable, "parent.py", program, *words],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def sweep(self, *words):
        process = self.start(*words)
        return process.communicate(timeout=120)[0], process.returncode

    def state(self, run):
        return json.loads((self.outputs / run / "pretrain_progress.json").read_text())["stages"]

    def ran(self):
        "Stages that ran since the last call."
        log = self.root / "ran.log"
        found = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def until(self, *names, seconds=60):
        end = time.monotonic() + seconds
        while not all((self.outputs / n).exists() for n in names):
            assert time.monotonic() < end, f"{names} did not appear in {seconds} s"
            time.sleep(0.05)


@pytest.fixture
def field(tmp_path):
    return Field(tmp_path)


def test_shared_once_the_rest_at_the_same_time_and_on_again(field):
    said, code = field.sweep("model.size=1,2")
    assert code == 0, said
    assert sorted(field.ran()) == ["corpus", "model", "model"]  # The corpus once
    one, two = (
        json.loads((field.outputs / f"t-size-{n}/model/out.json").read_text()) for n in (1, 2)
    )
    assert min(one[1], two[1]) > max(one[0], two[0]), "they did not overlap"
    a, b = field.outputs / "t-size-1", field.outputs / "t-size-2"
    assert os.path.samefile(
        a / "corpus/clips.bin", b / "corpus/clips.bin"
    ) and not os.path.samefile(a / "corpus/log.jsonl", b / "corpus/log.jsonl")
    assert (b / "said.tsv").read_text().startswith("outputs/t-size-2/corpus/a.wav\t") and (
        b / "notebooks/corpus.ipynb"
    ).exists()
    assert (
        "2/2 t-size-2  takes corpus from t-size-1" in said
        and "▶ 1/2 t-size-1  corpus, for others too" in said
    )
    rows = list(csv.DictReader((field.outputs / "sweeps/t-size.csv").open(encoding="utf-8")))
    assert [(r["run"], r["model.size"], r["status"], r["model: loss"]) for r in rows] == [
        ("t-size-1", "1", "done", "10.0"),
        ("t-size-2", "2", "done", "5.0"),
    ]
    page = (field.outputs / "sweeps/t-size.html").read_text(encoding="utf-8")
    assert (
        '"chosen":["t-size-1","t-size-2"]' in page
        and "compared: outputs/sweeps/t-size.html" in said
        and (field.outputs / "index.html").exists()
    )
    assert (field.outputs / "sweeps/t-size.png").read_bytes()[:4] == b"\x89PNG"
    # Another value, which fails; what is done is not done again, and the corpus comes from an
    # earlier run
    (field.outputs / "t-size-13").mkdir()
    said, code = field.sweep("model.size=13,1,2")
    assert code == 1 and field.ran() == ["model"] and said.count("up to date") == 2, said
    assert re.search(
        r"✗ 1/3 t-size-13  failed after 0:\d\d: model: ValueError: no luck with 13; all it said:"
        r" outputs/t-size-13/sweep.log",
        said,
    ), said
    assert "ValueError: no luck with 13" in (field.outputs / "t-size-13/sweep.log").read_text()
    assert field.state("t-size-13")["corpus"]["status"] == "done" and os.path.samefile(
        a / "corpus/clips.bin", field.outputs / "t-size-13/corpus/clips.bin"
    )


# Runs that are no runs: they hold the lock, wait for a signal, save for a moment; the next time
# they have nothing to do.
OBEDIENT = """
import os, signal, sys, time
from pathlib import Path
from xtts_ka.pipeline.state import RunLock
from xtts_ka.pipeline.sweep import stop_with_parent
run = Path("outputs")/sys.argv[-1].partition("=")[2]
run.mkdir(parents=True, exist_ok=True)
if (run/"saved").exists(): (run/"went on").touch(); sys.exit(0)
def stop(signum, frame):
    time.sleep(1)
    (run/"saved").write_text(signal.Signals(signum).name)
    sys.exit(128 + signum)
for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # As `Interrupts`, see `held_back`
stop_with_parent()
with RunLock(run): (run/"begun").touch(); time.sleep(60)
"""


@pytest.mark.parametrize(
    "signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_stopped_or_killed_it_takes_its_runs_along_and_goes_on(field, signum, code):
    (field.root / "obedient.py").write_text(OBEDIENT)
    process = field.start("corpus.clips=1,2,3", program="obedient.py")
    field.until("t-clips-1/begun", "t-clips-2/begun")
    process.send_signal(signum)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == code, said
    if signum == signal.SIGKILL:  # Nobody tells them but the pipe that closes
        again = field.start(
            "corpus.clips=1,2", program="obedient.py"
        )  # They still hold their locks
        assert again.communicate(timeout=120)[0].count("✓") == 2 and again.returncode == 0
    else:
        assert (
            "saving and stopping" in said
            and "stopped after" in said
            and "the same command goes on" in said
        )
    assert [(field.outputs / f"t-clips-{n}/saved").read_text() for n in (1, 2)] == [
        "SIGINT" if code > 0 else "SIGTERM"
    ] * 2
    assert not (field.outputs / "t-clips-3/begun").exists() and (
        field.outputs / "t-clips-2/went on"
    ).exists() == (signum == signal.SIGKILL)


def test_the_command_on_the_real_stages(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "nbs").symlink_to(root / "nbs")
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))

    def call(*words):
        code = cli.main(["sweep", "--config", str(root / "configs/smoke.yaml"), *words])
        found = capsys.readouterr()
        return code, found.out + found.err

    code, said = call(
        "full_pretrain.gpt.layers=1,2", "vocoder.loop.steps=5", "--dry-run", "--jobs", "3"
    )
    assert code == 0 and "smoke-layers: 2 runs, 3 at a time" in said
    shared = re.search(r"smoke-layers-1: first (.*), for others too", said)[1].split(", ")
    assert {"corpus", "xtts_init", "vocoder", "sovits2"} <= set(shared) and not {
        "full_pretrain",
        "evaluate",
    } & set(shared)
    assert "smoke-layers-2: would run full_pretrain, evaluate" in said
    for words, why in {
        ("full_pretrain.gpt.layesr=1,2",): "did you mean `full_pretrain.gpt.layers`",
        ("full_pretrain.gpt.layers=1,two",): "layers=two",
        ("seed=1",): "no key has several values",
        ("seed=1,2", "--to", "segmets"): "did you mean `segments`",
        ("seed=1,2", "--only", "vocoder", "--to", "vocoder"): "one or the other",
        ("seed=1,2", "--name", "../x"): "--name",
        ("seed=1,2", "--jobs", "-1"): "--jobs",
        ("seed=1,,2",): "a value is missing",
    }.items():
        code, said = call(*words)
        assert code == 2 and why in said and "Traceback" not in said, said
    assert cli.main(["sweep", "seed=1,2"]) == 2 and "--config" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
