"""What a comparison is and how it is measured: a `Row` holds our way, the peers' ways and the
promised ratios; bench/targets.py holds what they aim at; `main` measures rows, prints a table and
keeps a record.

Contenders take turns, round after round, so that a busy machine slows all of them alike."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from targets import HELD_BY, ITSELF, TARGETS, WITH_BFLOAT16, WITHOUT_AMX, judged

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Row:
    "One comparison."

    what: str  # What is done, in words, with its size
    ours: object  # () -> CPU seconds, or what `unit` says
    peers: dict  # Name -> () -> the same
    promises: dict  # Name -> ratio ours / peer at most; a peer without one is shown only
    notes: str = ""
    hold: list = field(default_factory=list)  # Things that must live as long as the row
    unit: str = "s"
    once: bool = False  # A second go would give the same


class NotHereError(Exception):
    "What a row measures does not lie here; the text says what to do."


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
    for _ in range(1 if row.once else rounds):
        for name, run in runs.items():
            times[name].append(run())
    return times


def spread(values, unit="s"):
    "Median, minimum and maximum as text."
    m, factor = statistics.median(values), 1
    if unit == "s" and m < 1:
        unit, factor = ("ms", 1e3) if m >= 1e-3 else ("us", 1e6)
    least, most = min(values) * factor, max(values) * factor
    return f"{m * factor:.3g} {unit} ({least:.3g}-{most:.3g})"


def figures(row, times):
    "Ratio ours / peer for each peer, and our own median under `ITSELF`."
    ours = statistics.median(times["ours"])
    return {p: ours / statistics.median(times[p]) for p in row.peers} | {ITSELF: ours}


def bounds(peer, most, broken, word):
    "A bound of one peer as text, and by what it is missed; nothing for a peer without one."
    if peer not in most:
        return []
    text = f"{word}: at most {most[peer]:.3g}"
    return [text + (f", MISSED by {broken[peer] - 1:.0%}" if peer in broken else "")]


def report(name, row, times, colour):
    "Print one row; returns its record and whether every promise is kept."
    ratios, targets, promises = figures(row, times), TARGETS.get(name, {}), row.promises
    if unknown := set(targets) - set(ratios):
        raise SystemExit(f"bench/targets.py: {name} has no peer {', '.join(unknown)}")
    emulated = name in WITH_BFLOAT16 and not multiplies_bfloat16()
    if emulated:
        promises, targets = {}, {}
    elif not multiplies_by_tiles():
        promises = promises | WITHOUT_AMX.get(name, {})
    broken, missed = judged(ratios, promises), judged(ratios, targets)
    print(f"\n{row.what}")
    for peer in (ITSELF, *row.peers):
        who = "ours" if peer == ITSELF else peer
        said = [] if peer == ITSELF else [f"{ratios[peer]:.2g} of {peer}"]
        said += bounds(peer, promises, broken, "promised")
        said += bounds(peer, targets, missed, "target")
        text = "; ".join(said)
        paint = 31 if peer in broken else 33 if peer in missed else 0  # Red, amber
        text = f"\033[{paint}m{text}\033[0m" if paint and colour and text else text
        print(f"  {who:13} {spread(times[who], row.unit)}   {text}".rstrip())
    held = HELD_BY.get(name, "") if missed else ""
    word = EMULATED if emulated else ""
    for line in filter(None, (row.notes, word, held and f"held by: {held}")):
        print(f"  {line}")
    record = dict(row=name, what=row.what, unit=row.unit, seconds=times, ratios=ratios)
    record |= dict(promises=promises, targets=targets, kept=not broken, reached=not missed)
    return record | dict(broken=broken, missed=missed, held_by=held), not broken


EMULATED = (
    "this processor only emulates bfloat16: promise and target are for those that multiply it"
)


def multiplies_by_tiles():
    from xtts_ka.core.device import processor

    return processor().endswith("by AMX")


def multiplies_bfloat16():
    from xtts_ka.core.device import has_bfloat16

    return has_bfloat16("cpu")


def made(make, name):
    "A row, or the name of what it lacks."
    try:
        return make()
    except NotHereError as e:
        print(f"\n{name}: not measured, for {e}")
        return str(e)
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
    "Measure what the command line names; exit code 1 when a promise is missed, not for a target."
    now = commit()  # Before the rows: what is edited meanwhile is not what runs
    ap = argparse.ArgumentParser(
        description="Compare with named peers; exit code 1 when a promised ratio is missed."
    )
    ap.add_argument("rows", nargs="*", metavar="ROW", help=f"which: {', '.join(rows)} (all)")
    ap.add_argument("--rounds", type=int, default=5, help="how often each contender runs (5)")
    args = ap.parse_args()
    if unknown := set(args.rows) - set(rows):
        ap.error(f"unknown row {', '.join(unknown)}; there are {', '.join(rows)}")
    out = ROOT / "bench/results" / time.strftime("%Y%m%d-%H%M%S.json")
    versions = dict(python=platform.python_version(), torch=version("torch"), cores=os.cpu_count())
    from xtts_ka.core.device import processor
    from xtts_ka.core.files import write_json

    versions["processor"] = processor()
    records, fine = [], True
    for name in args.rows or rows:
        if isinstance(row := made(rows[name], name), str):
            records.append(dict(row=name, lacks=row))
            continue
        times = measured(row, args.rounds)
        for held in row.hold:
            if isinstance(held, ExitStack):  # The next row may need the same
                held.close()
        record, kept = report(name, row, times, sys.stdout.isatty())
        records.append(record)
        fine &= kept
        # After each row: one that fails, or Ctrl+C, loses none before it
        write_json(out, now | dict(versions=versions, load=os.getloadavg()[0], rows=records))
    write_json(out, now | dict(versions=versions, load=os.getloadavg()[0], rows=records))
    left = [r["row"] for r in records if "lacks" in r]
    for r in records:
        for peer, times in (r.get("missed") or {}).items():
            whose = "" if peer == ITSELF else f" of {peer}"
            print(
                f"target not reached: {r['row']}, {r['ratios'][peer]:.3g}{whose}, {times:.2g} times"
                f" what it should be: {r['held_by'] or 'nothing says why'}"
            )
    print(f"\nwritten: {out.relative_to(ROOT)}" + f"; not measured: {', '.join(left)}" * bool(left))
    sys.exit(not fine)
