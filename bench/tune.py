"""A search of eight small trainings: `python bench/tune.py [OUT]`. Language models with eight
learning rates, by Ray Tune with ASHA, killed with -9 in the middle and started again; then the same
as a grid by Ray and by the local pool, whose scores must be equal. Prints what each took.

The runs lie in OUT (default: a folder that is deleted), in a repository of their own."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RATES = "1e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1"
TRAINING = "language/transformer/metrics.jsonl"


def words(name, rates=RATES, **more):
    "Of `xtts-ka sweep`: stages that need no audio model, steps enough for three rungs."
    return [
        "sweep",
        "--config",
        "configs/smoke.yaml",
        "--only",
        "corpus,language",
        *(w for k, v in more.items() for w in (f"--{k}", str(v))),
        f"language.transformer.loop.lr={rates}",
        "language.transformer.loop.steps=90",
        "language.transformer.loop.validate_every=10",
        "threads=1",
        f"run={name}",
    ]


def start(root, *args):
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"XTTS_KA_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "xtts_ka.cli", *args]
    return subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def timed(root, *args):
    "Wall seconds; the program's last words when it fails."
    begin, process = time.monotonic(), start(root, *args)
    said = process.communicate()[0]
    if process.returncode:
        sys.exit(said[-4000:])
    return time.monotonic() - begin, said


def rows(root, name):
    with open(root / f"outputs/sweeps/{name}-lr.csv", encoding="utf-8") as f:
        return {r["language.transformer.loop.lr"]: r for r in csv.DictReader(f)}


def steps(root, name):
    "Learning rate -> steps of the last validation."
    found = {}
    for rate in RATES.split(","):
        path = root / f"outputs/{name}-lr-{rate}" / TRAINING
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found[rate] = max([json.loads(x)["step"] for x in lines], default=0)
    return found


def killed(root, args):
    "Begin, and end it with -9 when three runs have been scored."
    process = start(root, *args)
    while sum(n >= 10 for n in steps(root, "asha").values()) < 3:
        if process.poll() is not None:
            sys.exit(process.communicate()[0][-4000:])
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return steps(root, "asha")


def scores(root, name):
    "Learning rate -> lines of the training, without times."
    found = {}
    for rate in RATES.split(",")[:3]:
        lines = (root / f"outputs/{name}-lr-{rate}" / TRAINING).read_text().splitlines()
        found[rate] = [
            {k: v for k, v in json.loads(x).items() if "seconds" not in k} for x in lines
        ]
    return found


def main(root):
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "images", "results")
    for name in ("nbs", "configs", "xtts_ka"):  # Copies: an edit would make stages run anew
        shutil.copytree(ROOT / name, root / name, ignore=ignore, dirs_exist_ok=True)
    shutil.copy(ROOT / "settings.ini", root)
    asha = words("asha", engine="ray", search="asha", score="language.transformer.score")
    before = killed(root, asha)
    seconds, _ = timed(root, *asha)
    table, after = rows(root, "asha"), steps(root, "asha")
    print(f"ASHA, after the kill: {seconds:.0f} s")
    for rate, row in table.items():
        print(f"  lr {rate:5}  {before[rate]:3} -> {after[rate]:3} steps  {row['status']}")
    ended = [r for r in table.values() if r["status"] == "done"]
    early = [r for r in table.values() if "stopped early" in r["status"]]
    assert len(table) == 8 and len(ended) + len(early) == 8 and ended and early
    assert (root / "outputs/sweeps/asha-lr.html").is_file()
    print(f"  {len(ended)} to the end, {len(early)} stopped; {sum(after.values())} of 720 steps")
    three = ",".join(RATES.split(",")[:3])
    for engine in ("ray", "local"):
        seconds, _ = timed(root, *words(engine, three, engine=engine))
        print(f"grid of three, {engine}: {seconds:.0f} s")
    same = scores(root, "ray") == scores(root, "local")
    print(f"lines of the three trainings equal: {same}")
    assert same


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as tmp:
            main(Path(tmp).resolve())
