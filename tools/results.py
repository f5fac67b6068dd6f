"""The results page of the docs: what finished runs and the newest `make bench` measured, with
sounds, and the commits they came from.

python tools/results.py outputs/demo outputs/demo_long    take figures and sounds from runs and from
bench/results, then execute nbs/results.ipynb
python tools/results.py outputs/demo@COMMIT               the same of a run that was made from
another commit than the present one

Figures go to nbs/results/results.json, an entry a run (those not named stay), and to bench.json;
sounds to nbs/results/audio/<run>/ (Ogg, a few kilobytes each)."""

import io
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "nbs/results"
SENTENCES = 2  # Sentences that can be heard, by every path
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "bench")]
import execute
import figures
from compare import commit


def paths_of(metrics):
    "Rows of the evaluation: every path, with its figures."
    names = [k.removeprefix("CER, ") for k in metrics if k.startswith("CER, ")]
    rows = []
    for n in names:
        low, high = map(float, metrics[f"CER interval, {n}"].split(" to "))
        rows.append(
            {
                "path": n,
                "CER": metrics[f"CER, {n}"],
                "low": low,
                "high": high,
                "stopped": metrics[f"stopped, {n}"],
                "likeness": metrics.get(f"likeness, {n}"),
                "likeness by Resemblyzer": metrics.get(f"likeness by Resemblyzer, {n}"),
                "MOS": metrics.get(f"MOS, {n}"),
                "right voice": metrics.get(f"right voice, {n}"),
            }
        )
    return rows


def everyday_of(run):
    "The everyday set by path and kind; nothing of a run that did not speak it."
    path = run / "evaluate/everyday.json"
    return json.loads(path.read_text(encoding="utf-8"))["summary"] if path.is_file() else []


def same_sound(data, path):
    import soundfile as sf

    (a, _), (b, _) = sf.read(io.BytesIO(data)), sf.read(path)
    return a.shape == b.shape and bool((a == b).all())


def sounds(run):
    "The first sentences by every path, as Ogg files; their texts come from the evaluation."
    import numpy as np
    import soundfile as sf

    from xtts_ka.core.audio import resample
    from xtts_ka.core.paths import slug

    folder = KEPT / "audio" / run.name
    held = {p.name: p.read_bytes() for p in folder.glob("*.ogg")}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = []
    for row in json.loads((run / "evaluate/heard.json").read_text(encoding="utf-8")):
        if row["n"] >= SENTENCES:
            continue
        wav, rate = sf.read(run / row["file"], dtype="float32")
        name = f"{row['n']}-{slug(row['path'])}.ogg"
        sf.write(
            folder / name,
            np.clip(resample(wav, rate, 16000), -1, 1),
            16000,
            format="OGG",
            subtype="VORBIS",
            compression_level=0.7,
        )
        if name in held and same_sound(held[name], folder / name):
            (folder / name).write_bytes(held[name])  # Every Ogg file has a serial number of its own
        out.append(
            {k: row[k] for k in ("n", "path", "text", "speaker", "heard")}
            | {"file": f"audio/{run.name}/{name}"}
        )
    return out


def newest_bench():
    """The last record of each row of bench/run.py, with its time and its commit, without its single
    rounds. None without a record; other files there have no rows, and records from before there
    were targets are left."""
    rows, last = {}, None
    for path in sorted((ROOT / "bench/results").glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        for r in held.get("rows", []):
            if "lacks" in r:
                rows.setdefault(r["row"], r)  # What was measured before stays
            elif "promises" in r:
                made = {"measured": path.stem, **{k: held[k] for k in ("commit", "changed")}}
                rows[r["row"]] = {k: v for k, v in r.items() if k != "seconds"} | made
                last = {"measured": path.stem, "versions": held["versions"]}
    return last and {**last, "rows": list(rows.values())}


def result(run, made_from):
    "What one run reached, with the commit it was made from."
    kept = figures.take(run)
    return {
        "run": run.name,
        "processor": kept["processor"],
        "seconds": kept["wall_seconds"],
        "cpu_seconds": round(sum(s["cpu_seconds"] for s in kept["stages"].values())),
        **commit(made_from),
        "everyday": everyday_of(run),
        "paths": paths_of(kept["stages"]["evaluate"]["metrics"]),
        "sounds": sounds(run),
    }


def main(args):
    if not args or args[0].startswith("-"):
        sys.exit(__doc__)

    def write(name, value):
        return (KEPT / name).write_text(
            json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )

    held = (
        json.loads((KEPT / "results.json").read_text(encoding="utf-8"))
        if (KEPT / "results.json").is_file()
        else {}
    )
    for folder, _, made_from in (a.partition("@") for a in args):
        new = result(Path(folder).resolve(), made_from)
        held[new["run"]] = new
    if measured := newest_bench():
        write("bench.json", measured)
    else:
        print(
            "bench/results: no record lies there (make bench); the table of the peers stays as"
            " it is"
        )
    write("results.json", held)
    print(*execute.execute(ROOT / "nbs/results.ipynb"), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
