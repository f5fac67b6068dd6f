"""Rows for bench/run.py that are read from records, since measuring them takes long: what
`make run` took (outputs/demo) and what `make test` took. A row is left out where its record does
not lie, and says which command makes it.
Alone: `python bench/records.py`."""

import json
import time
from pathlib import Path

from targets import ITSELF

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "outputs/demo"
TESTS = ROOT / "bench/results/make_test.json"  # Written by tools/do.py


def stages(run=RUN):
    "Name -> record of each stage of a finished run; `NotHereError` for none."
    from compare import NotHereError

    path = run / "pretrain_progress.json"
    if not path.is_file():
        raise NotHereError(f"{run.name} has not been run here: make run")
    found = json.loads(path.read_text(encoding="utf-8"))["stages"]
    if left := [name for name, s in found.items() if s["status"] not in ("done", "stale")]:
        raise NotHereError(f"{run.name} is not finished ({', '.join(left)}): make run")
    return found


def _row(what, value, unit, promised, notes):
    from compare import Row

    return Row(what, lambda: value, {}, {ITSELF: promised}, notes, unit=unit, once=True)


def run_cpu():
    found = stages()
    spent = {n: s["cpu_seconds"] / 60 for n, s in found.items()}
    most = sorted(spent, key=spent.get, reverse=True)[:4]
    return _row(
        "make run, CPU minutes of all stages",
        sum(spent.values()),
        "min",
        45.0,
        "most of it: " + ", ".join(f"{n} {spent[n]:.1f}" for n in most),
    )


def run_wall():
    "Minutes in which a stage ran; a pause between two sessions of the run does not count."
    from datetime import datetime

    from xtts_ka.pipeline.state import covered

    found = stages()
    ends = ("started", "ended")
    spans = [[datetime.fromisoformat(s[k]).timestamp() for k in ends] for s in found.values()]
    return _row(
        "make run, minutes on the clock",
        covered(spans) / 60,
        "min",
        30.0,
        "two stages at a time; the machine's other work counts, too",
    )


def make_test():
    from compare import NotHereError

    if not TESTS.is_file():
        raise NotHereError("make test has not passed here")
    held = json.loads(TESTS.read_text(encoding="utf-8"))
    made = time.strftime("%Y-%m-%d", time.gmtime(held["ended"]))
    return _row(
        "make test, minutes on the clock",
        held["seconds"] / 60,
        "min",
        15.0,
        f"passed on {made}; {held['cpu_seconds'] / 60:.1f} CPU minutes; load before it"
        f" {held['load']:.1f}",
    )


def run_memory():
    "What the last and greatest stage recorded of itself."
    from compare import NotHereError

    found = {n: s["metrics"].get("peak memory, GiB") for n, s in stages().items()}
    found = {n: float(v) for n, v in found.items() if v is not None}
    if not found:
        raise NotHereError("no stage of the run recorded its memory: make run")
    said = ", ".join(f"{n} {v:.2f}" for n, v in found.items())
    return _row(
        "make run, memory at most of a stage's process",
        max(found.values()),
        "GiB",
        3.5,
        f"recorded of itself by: {said}",
    )


ROWS = dict(run_cpu=run_cpu, run_wall=run_wall, run_memory=run_memory, make_test=make_test)

if __name__ == "__main__":
    from compare import main

    main(ROWS)
