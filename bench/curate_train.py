"""Does a corpus made by the road train as well as clean clips? The clips of a corpus are joined to
long recordings with pauses and a room's noise, their texts beside; the road makes clips of them
again; the same configuration is trained on both, and its speech is written down. With louder noise
the two differ by what noise under the speech does to a training, too.

python bench/curate_train.py                   outputs/demo/corpus, configs/demo.yaml: two runs
python bench/curate_train.py --clean demo      the finished run `demo` is the one from clean clips
python bench/curate_train.py --clean demo --snr 30    noise 30 dB below the speech
python bench/curate_train.py --config configs/smoke.yaml --minutes 3      whether the parts fit

Writes to nbs/results/curate_train.json, by SNR (not with --minutes): clips and minutes that the
road kept, and the CER of everyday texts by every path, from clean clips and from the road's."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAUSES = 0.5, 1.5  # Seconds between two clips
SNR = 50.0  # dB: a quiet room
MOST = 600.0  # Seconds of a recording
CLOSE = 0.03  # CER by which the two may differ


def clean_clips(corpus: Path, minutes: float) -> tuple:  # (training clips, held-out clips)
    "Rows of a corpus; of each speaker the same number of minutes."
    from xtts_ka.core.manifest import read_manifest

    rows = read_manifest(corpus, check_audio=False).rows
    held = [r for r in rows if r.split == "test"]
    most = minutes * 60 / len({r.speaker_name for r in rows}) if minutes else float("inf")
    had: dict = {}
    chosen = []
    for r in rows:
        if r.split != "test" and had.get(r.speaker_name, 0) < most:
            had[r.speaker_name] = had.get(r.speaker_name, 0) + r.duration
            chosen.append(r)
    return chosen, held


def write_clean(corpus: Path, rows: list, out: Path):
    "The clips as a corpus of their own, linked."
    from xtts_ka.core.manifest import write_manifest

    for r in rows:
        (out / r.audio_file).parent.mkdir(parents=True, exist_ok=True)
        (out / r.audio_file).unlink(missing_ok=True)
        (out / r.audio_file).symlink_to((corpus / r.audio_file).resolve())
    write_manifest(out / "metadata.csv", rows)


def _tapes(rows: list) -> list:  # Lists of rows, each of a speaker and no longer than `MOST`
    tapes: list = []
    for speaker in sorted({r.speaker_name for r in rows}):
        seconds = MOST
        for r in (r for r in rows if r.speaker_name == speaker):
            if seconds + r.duration + PAUSES[1] > MOST:
                tapes.append([])
                seconds = 0.0
            tapes[-1].append(r)
            seconds += r.duration + PAUSES[1]
    return tapes


def write_raw(corpus: Path, rows: list, out: Path, snr: float, seed: int = 1) -> float:  # Minutes
    "Recordings of some minutes with pauses and noise, and the text of each beside."
    from xtts_ka.core.audio import read_audio, rms_db, write_audio
    from xtts_ka.core.randomness import rng

    total = 0.0
    for n, tape in enumerate(_tapes(rows), 1):
        g = rng(seed, "tape", n)
        parts, rate = [], 0
        for r in tape:
            wav, rate = read_audio(corpus / r.audio_file)
            parts += [np.zeros(round(g.uniform(*PAUSES) * rate), np.float32), wav]
        wav = np.concatenate([*parts, np.zeros(rate, np.float32)])
        level = 10 ** ((rms_db(np.concatenate(parts[1::2])) - snr) / 20)
        wav = np.clip(wav + g.normal(0, level, len(wav)), -1, 1).astype(np.float32)
        path = out / tape[0].speaker_name / f"tape {n:02d}.flac"
        write_audio(path, wav, rate)
        texts = [r.extra.get("raw_text") or r.text for r in tape]
        path.with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        total += len(wav) / rate / 60
    return total


def train(args, run: str, *words) -> dict:  # Stage -> metrics
    "One run; `RuntimeError` when it fails."
    skip = ["phonemes", "embeddings", *args.skip]
    command = [sys.executable, "-m", "xtts_ka.pipeline.cli", "run", "--config", args.config]
    command += [f"run={run}", f"skip={json.dumps(skip)}", "segments.split=given", *words]
    command += args.overrides
    if subprocess.run(command, cwd=ROOT).returncode:
        raise RuntimeError(f"{run} has failed: {' '.join(command)}")
    return finished(run)


def finished(run: str) -> dict:  # Stage -> metrics
    "Of a run that is done; `RuntimeError` when it is not."
    record = json.loads((ROOT / "outputs" / run / "pretrain_progress.json").read_text())
    if record["stages"].get("evaluate", {}).get("status") != "done":
        raise RuntimeError(f"outputs/{run} is not evaluated; finish it first")
    return {k: v.get("metrics", {}) for k, v in record["stages"].items()}


def cers(metrics: dict) -> dict[str, float]:  # Path -> CER of everyday texts
    head = "everyday CER, "
    return {k.removeprefix(head): v for k, v in metrics["evaluate"].items() if k.startswith(head)}


def compare(clean: dict, road: dict) -> dict:  # Path -> figures
    "CER from both corpora, by the paths that both runs have; the recordings are no path."
    a, b = cers(clean), cers(road)
    return {
        k: {"clean": a[k], "road": b[k], "difference": round(b[k] - a[k], 4)}
        for k in a
        if k in b and k != "recording"
    }


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--corpus", type=Path, default=ROOT / "outputs/demo/corpus", metavar="FOLDER")
    p.add_argument("--config", default="configs/demo.yaml", metavar="FILE")
    p.add_argument("--clean", default="", metavar="RUN", help="a finished run, not trained again")
    p.add_argument(
        "--snr", type=float, default=SNR, help="dB from the speech to the noise under it"
    )
    p.add_argument("--minutes", type=float, default=0, help="of the corpus; 0: all")
    p.add_argument("--skip", action="append", default=[], help="a stage to leave out, as sovits2")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of both runs")
    args = p.parse_args()
    from xtts_ka.core.files import read_json, write_json

    name = Path(args.config).stem
    name = f"{name}-{args.snr:g}dB"
    work = ROOT / "outputs" / f"curate-{name}"
    rows, held = clean_clips(args.corpus, args.minutes)
    minutes = write_raw(args.corpus, rows, work / "raw", args.snr)
    spoken = sum(r.duration for r in rows) / 60
    print(f"{len(rows)} clips, {spoken:.1f} minutes, in recordings of {minutes:.1f} minutes")
    if args.clean:
        clean = finished(args.clean)
    else:
        write_clean(args.corpus, [*rows, *held], work / "clean")
        options = ["corpus.source=folder", f"corpus.path={work}/clean"]
        clean = train(args, f"curate-{name}-clean", *options)
    options = ["corpus.source=raw", f"corpus.path={work}/raw", "corpus.road.recogniser=builtin"]
    options += ["corpus.road.align.min_seconds=0.3"]  # As segments.min_seconds: single words
    share = len(held) / (len(rows) + len(held))
    options += [
        "corpus.road.split.val_fraction=0.05",
        f"corpus.road.split.test_fraction={share:.4f}",
    ]
    road = train(args, f"curate-{name}-road", *options)
    found = compare(clean, road)
    result = dict(
        config=args.config,
        snr_db=args.snr,
        clean_run=args.clean or f"curate-{name}-clean",
        clips=dict(clean=len(rows) + len(held), road=road["corpus"]["clips"]),
        minutes=dict(clean=round(spoken, 2), raw=round(minutes, 2), road=road["corpus"]["minutes"]),
        cer=found,
        close=all(abs(v["difference"]) <= CLOSE for v in found.values()),
    )
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if not args.minutes:
        path = ROOT / "nbs/results/curate_train.json"
        known = read_json(path) if path.exists() else {}
        write_json(path, known | {f"{args.snr:g} dB": result})


if __name__ == "__main__":
    main()
