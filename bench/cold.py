"""Rows for bench/run.py: how soon the command line answers. CPU seconds, user and system, of fresh
processes whose modules have been compiled before, as an installed command's have.
Alone: `python bench/cold.py`. What a start consists of: `python -X importtime -m xtts_ka.cli
normalize TEXT`."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from targets import ITSELF

ROOT = Path(__file__).resolve().parents[1]
TEXT = "2024 წლის 5 მაისს 1,250 კაცი იყო, 20 კგ 30 ლარი ღირდა და აშშ-ში 7 %-ით მეტი."
GO = "import sys; from xtts_ka.pipeline.cli import main; sys.exit(main())"


def spent(command, env):
    "CPU seconds of one process."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _row(words, promised):
    "The command beside an interpreter that does nothing."
    from compare import Row

    tmp = tempfile.TemporaryDirectory()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= dict(PYTHONPATH=str(ROOT), PYTHONPYCACHEPREFIX=tmp.name, PYTHONIOENCODING="utf-8")
    ours, empty = ([sys.executable, "-c", GO, *words], [sys.executable, "-c", "pass"])
    spent(ours, env)  # Compiles
    shown = " ".join(w if w != TEXT else "TEXT" for w in words)
    return Row(
        f"xtts-ka {shown}, cold",
        lambda: spent(ours, env),
        {"python -c pass": lambda: spent(empty, env)},
        {ITSELF: promised},
        "CPU of a fresh process, its modules compiled before",
        [tmp],
    )


def cold_help():
    return _row(["--help"], 0.3)


def cold_normalize():
    return _row(["normalize", TEXT], 0.8)


ROWS = dict(cold_help=cold_help, cold_normalize=cold_normalize)

if __name__ == "__main__":
    from compare import main

    main(ROWS)
