"""What a comparison is and how it is measured: a `Row` holds our way, the peers' ways and the
promised ratios; `main` measures rows, prints a table and keeps a record.

Contenders take turns, round after round, so that a busy machine slows all of them alike."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Row:
    "One comparison."

    what: str  # What is done, in words, with its size
    ours: object  # () -> CPU seconds
    peers: dict  # Name -> () -> CPU seconds
    targets: dict  # Name -> ratio ours / peer that is promised; a peer without one is shown only
    notes: str = ""
    hold: list = field(default_factory=list)  # Things that must live as long as the row


def cpu(call, *args, **kw):
    "CPU seconds of one call, all threads of this process."
    start = time.process_time()
    call(*args, **kw)
    return time.process_time() - start


def commit(name=""):
    "A commit; without a name the present one, and whether files that git knows differ from it."

    def ask(*words):
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    return {
        "commit": ask("rev-parse", "--verify", f"{name or 'HEAD'}^{{commit}}")[:12],
        "changed": not name and bool(ask("status", "--porcelain", "--untracked-files=no")),
    }


def measured(row, rounds):
    "Seconds of every contender, taken in turns."
    runs = {"ours": row.ours, **row.peers}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    return times


def spread(values):
    unit, factor = (
        ("s", 1)
        if (m := statistics.median(values)) >= 1
        else ("ms", 1e3)
        if m >= 1e-3
        else ("us", 1e6)
    )
    return f"{m * factor:.3g} {unit} ({min(values) * factor:.3g}-{max(values) * factor:.3g})"


def report(name, row, times, colour):
    "Print one row; returns its record and whether every promise is kept."
    ours, fine, ratios = statistics.median(times["ours"]), True, {}
    print(f"\n{row.what}\n  ours          {spread(times['ours'])}")
    for peer in row.peers:
        ratios[peer] = ratio = ours / statistics.median(times[peer])
        missed = ratio > row.targets.get(peer, float("inf"))
        fine &= not missed
        text = (
            f"{ratio:.2g} of {peer}"
            + (f" (promised: at most {row.targets[peer]:.3g})" if peer in row.targets else "")
            + (" MISSED" if missed else "")
        )
        print(
            f"  {peer:13} {spread(times[peer])}   "
            + (f"\033[31m{text}\033[0m" if missed and colour else text)
        )
    print(f"  {row.notes}")
    return (
        dict(row=name, what=row.what, seconds=times, ratios=ratios, targets=row.targets, kept=fine),
        fine,
    )


def made(make, name):
    "A row, or the name of the package that it lacks."
    try:
        return make()
    except ImportError as e:
        package = (e.name or str(e)).partition(".")[0]
        if package == "xtts_ka":
            raise
        print(
            f"\n{name}: not measured, for {package} is not here; the peers are the dependency group"
            " bench: uv sync --group bench"
        )
        return package


def main(rows):
    "Measure what the command line names; exit code 1 when a promise is missed."
    now = commit()  # Before the rows: what is edited meanwhile is not what runs
    ap = argparse.ArgumentParser(
        description="Compare with named peers; exit code 1 when a promised ratio is missed."
    )
    ap.add_argument("rows", nargs="*", metavar="ROW", help=f"which: {', '.join(rows)} (all)")
    ap.add_argument("--rounds", type=int, default=5, help="how often each contender runs (5)")
    args = ap.parse_args()
    if unknown := set(args.rows) - set(rows):
        ap.error(f"unknown row {', '.join(unknown)}; there are {', '.join(rows)}")
    records, fine = [], True
    for name in args.rows or rows:
        if isinstance(row := made(rows[name], name), str):
            records.append(dict(row=name, lacks=row))
            continue
        record, kept = report(name, row, measured(row, args.rounds), sys.stdout.isatty())
        records.append(record)
        fine &= kept
    out = ROOT / "bench/results" / time.strftime("%Y%m%d-%H%M%S.json")
    versions = dict(python=platform.python_version(), torch=version("torch"), cores=os.cpu_count())
    from xtts_ka.core.files import write_json

    write_json(out, now | dict(versions=versions, load=os.getloadavg()[0], rows=records))
    left = [r["row"] for r in records if "lacks" in r]
    print(f"\nwritten: {out.relative_to(ROOT)}" + f"; not measured: {', '.join(left)}" * bool(left))
    sys.exit(not fine)
