"""Sweeps by Ray Tune: toy stages that score themselves. The grid gives what the local sweep gives,
ASHA stops what scores badly, and a sweep that was killed goes on with the scores it had. The same
with real trainings: `bench/tune.py`."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from calls import called
from test_runner import COMMON, START, write_notebook
from test_sweep import CORPUS, Field

pytest.importorskip("ray", reason="the extra `cluster`")
pytestmark = pytest.mark.xdist_group("ray")  # One cluster at a time

CONFIGS = """
from xtts_ka.core.config import config
from xtts_ka.pipeline.stages import Stage

@config
class Corpus:
    clips: int = 3 # How many

@config
class Loop:
    steps: int = 9 # Of the training
    validate_every: int = 1 # Steps
    seconds: float = 0.0 # Of a step

@config
class Model:
    size: float = 1.0 # What is swept
    loop: Loop = Loop() # How it is trained

TOYS = (Stage("corpus", "nbs/runs/corpus.ipynb", "toy_stages.Corpus",
               outputs=("corpus", "said.tsv"), doc="shared"),
        Stage("model", "nbs/runs/model.ipynb", "toy_stages.Model",
               needs=("corpus",), outputs=("model",), doc="swept"))
"""
PARENT = """
import json, sys
from toy_stages import TOYS
from xtts_ka.pipeline.sweep import Search, sweep
from xtts_ka.pipeline.tune import sweep_on_ray
def by_ray(plan, name, *more): return sweep_on_ray(plan, name, "", *more)
options = json.loads(sys.argv[2])
by = by_ray if options.pop("engine") == "ray" else None
sys.exit(sweep("c.yaml", sys.argv[3:], jobs=options.pop("jobs", 2), by=by,
               search=Search(**options), stages=TOYS, program=(sys.executable, sys.argv[1])))
"""
MODEL = (  # It goes on behind its last line, as a training does behind its checkpoint
    "size = 1.0\nloop = {'steps': 9, 'validate_every': 1, 'seconds': 0.0}\n" + COMMON,
    START.replace("STAGE", "'model'"),
    (
        "log = here/'metrics.jsonl'\n"
        "done = len(log.read_text().splitlines()) if log.exists() else 0\n"
        "for step in range(done + 1, loop['steps'] + 1):\n"
        "    row = {'kind': 'val', 'step': step, 'score': size + 1/step}\n"
        "    with open(log, 'a') as f: f.write(json.dumps(row) + '\\n')\n"
        "    time.sleep(loop['seconds'])\n"
        "(here/'out.json').write_text(json.dumps(size))\n"
        "(here/'metrics.json').write_text(json.dumps({'score': size + 1/loop['steps']}))"
    ),
)
ASHA = {"engine": "ray", "kind": "asha", "score": "model.score", "grace": 1, "reduction": 3}


class Searched(Field):
    "A repository of two toy stages, the second of which is a training."

    def __init__(self, root):
        super().__init__(root)
        (root / "toy_stages.py").write_text(CONFIGS)
        (root / "parent.py").write_text(PARENT)
        write_notebook(root, "corpus", CORPUS)
        write_notebook(root, "model", MODEL)

    def start(self, options, *words):
        return super().start(json.dumps(options), *words)

    def sweep(self, options, *words):
        process = self.start(options, *words)
        try:
            return process.communicate(timeout=500)[0], process.returncode
        finally:
            process.kill()

    def rows(self, name):
        text = (self.outputs / f"sweeps/{name}.csv").open(encoding="utf-8")
        return {r["run"]: r for r in csv.DictReader(text)}

    def scores(self, run):
        lines = (self.outputs / run / "model/metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]


@pytest.fixture
def field(tmp_path):
    return Searched(tmp_path)


@pytest.mark.slow  # three clusters, a minute and a half
def test_asha_stops_bad_runs_and_goes_on_after_a_kill(field):
    "The good ones come to their end; what was stopped stays so; nothing runs twice."
    words = ["model.size=1,2,3,4", "model.loop.seconds=0.5"]
    first = field.start(ASHA | {"jobs": 1}, *words)
    field.until("t-size-1/model/out.json", "t-size-2/model/metrics.jsonl", seconds=300)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    said, code = field.sweep(ASHA | {"jobs": 1}, *words)
    assert code == 0, said
    assert field.scores("t-size-1") == list(range(1, 10))
    rows = field.rows("t-size")
    assert rows["t-size-1"]["status"] == "done"
    for n in (2, 3, 4):  # Worse than the best third at the first step
        status = rows[f"t-size-{n}"]["status"]
        assert status.startswith("model stopped early by the sweep at step "), said
        assert not (field.outputs / f"t-size-{n}/model/out.json").exists()
    assert field.ran().count("corpus") == 1
    page = (field.outputs / "sweeps/t-size.html").read_text(encoding="utf-8")
    assert "stopped early by the sweep at step" in page
    assert not list(field.outputs.rglob("*.pkl"))
    said, code = field.sweep(ASHA, *words)
    assert code == 0 and field.ran() == [] and field.rows("t-size") == rows, said


@pytest.mark.slow  # two more clusters
def test_the_grid_is_that_of_the_local_sweep(field):
    words = ["model.size=1,2,3", "corpus.clips=2"]
    said, code = field.sweep({"engine": "ray"}, *words, "run=a")
    assert code == 0 and sorted(field.ran()) == ["corpus", *["model"] * 3], said
    assert field.sweep({"engine": "local"}, *words, "run=b")[1] == 0
    a, b = (
        [[v for k, v in r.items() if k != "run" and "seconds" not in k] for r in rows.values()]
        for rows in (field.rows("a-size"), field.rows("b-size"))
    )
    assert a == b and len(a) == 3
    for n in (1, 2, 3):
        for file in ("model/out.json", "model/metrics.jsonl", "corpus/clips.bin"):
            one, other = (field.outputs / f"{x}-size-{n}" / file for x in "ab")
            assert one.read_bytes() == other.read_bytes()
    random = {"engine": "ray", "kind": "random", "samples": 2}
    said, code = field.sweep(random, *words, "run=a", "seed=1")
    assert code == 0 and len(field.rows("a-size")) == 2, said


@pytest.mark.slow
def test_ctrl_c_lets_runs_save(field):
    words = ["model.size=1,2", "model.loop.seconds=1"]
    process = field.start({"engine": "ray"}, *words)
    field.until("t-size-1/model/metrics.jsonl", seconds=300)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "the same command goes on" in said, said
    assert field.state("t-size-1")["model"]["status"] == "failed"
    time.sleep(1)
    left = subprocess.run(["pgrep", "-f", str(field.root)], capture_output=True, text=True).stdout
    assert left == ""
    said, code = field.sweep({"engine": "ray"}, *words)
    assert code == 0 and field.scores("t-size-1") == list(range(1, 10)), said


@pytest.mark.parametrize(
    "words, why",
    [
        (["--search", "asha"], "need --engine ray"),
        (["--engine", "ray", "--search", "asha"], "full_pretrain.gpt.score"),
        (["--engine", "ray", "--search", "random"], "--samples N"),
        (
            ["--engine", "ray", "--search", "asha", "--score", "segments.score"],
            "no segments.loop",
        ),
        (["--ray-address", "auto"], "need --engine ray"),
    ],
)
def test_refused_before_anything_runs(root, words, why):
    said = called(
        "sweep", "--config", "configs/smoke.yaml", "seed=1,2", *words, root=root, cwd=root
    )
    assert said.returncode == 2 and why in said.stderr, said.stderr
