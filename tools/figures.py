"""The measured figures of README and of the demonstration's page: taken from a finished run,
kept in nbs/results/. None is typed by hand.

python tools/figures.py outputs/demo    take them from a run, then show them
python tools/figures.py                 show again what nbs/results/demo.json says
python tools/figures.py --check         only compare"""

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import readme
import yaml

from xtts_ka.core.paths import slug
from xtts_ka.pipeline.state import covered

ROOT = Path(__file__).resolve().parents[1]
KEPT, RESULTS = ROOT / "nbs/results/demo.json", ROOT / "nbs/results/results.json"
INDEX, GUIDE = ROOT / "nbs/index.ipynb", ROOT / "nbs/guides/demonstration.md"
BEGIN, END = "<!-- figures: made by tools/figures.py, do not edit -->", "<!-- end of figures -->"
HEAD, TAIL = "<!-- result: made by tools/figures.py, do not edit -->", "<!-- end of result -->"


@dataclass(frozen=True)
class Figure:
    "One line of the table."

    stage: str  # Stage that measured it
    key: str  # Its name in the stage's metrics.json
    label: str  # In words; other metrics of the stage may be named in braces
    form: str = "{}"  # How the value is printed
    wanted: str = ""  # What the project asks for, in words
    reached: object = None  # (value, metrics of the stage) -> bool


def share(text):  # "19 of 20" -> 0.95, "word, 31.2%" -> 0.312
    if text.endswith("%"):
        return float(text.rsplit(", ", 1)[-1].rstrip("%")) / 100
    hits, total = map(int, text.split(" of "))
    return hits / total


PATHS = {
    "XTTS, by the vocoder": "XTTS with the vocoder",
    "sovits2": "GPT-SoVITS2",
    "XTTS": "XTTS with its own decoder",
}  # Ways from text to sound
ASKED = {
    "XTTS": 0.18,
    "XTTS, by the vocoder": 0.18,
    "sovits2": 0.12,
}  # Of the letters of everyday texts, at most


def daily(path):
    "The everyday figures of one chain."
    asked = ASKED.get(path)
    at_most = (f"at most {100 * asked:.0f} %", lambda v, m: v <= asked) if asked else ()
    worst = ("at most 25 %", lambda v, m: share(v) <= 0.25) if asked else ()
    every = ("all", lambda v, m: share(v) == 1) if asked else ()
    most = ("at least 95 %", lambda v, m: share(v) >= 0.95) if asked else ()
    mos = (
        ("at least 2.3", lambda v, m: v >= 2.3)
        if path == "XTTS"
        else (
            "at most 0.25 below the recordings",
            lambda v, m: v >= m["everyday MOS, recording"] - 0.25,
        )
    )
    return (
        Figure("evaluate", f"everyday CER, {path}", "CER", "{:.1%}", *at_most),
        Figure(
            "evaluate",
            f"everyday worst kind, {path}",
            "CER of the worst kind of text",
            "{}",
            *worst,
        ),
        Figure(
            "evaluate", f"everyday stopped, {path}", "texts ended by the model itself", "{}", *every
        ),
        Figure(
            "evaluate",
            f"everyday complete, {path}",
            "texts spoken completely, by the model's own alignment",
            "{}",
            *every,
        ),
        Figure(
            "evaluate",
            f"everyday length in range, {path}",
            "texts of 0.75 to 1.3 of the recording's length",
            "{}",
            *most,
        ),
        Figure("evaluate", f"everyday skipped words, {path}", "words missing from the transcript"),
        Figure(
            "evaluate", f"everyday MOS, {path}", "DistillMOS", "{:.2f}", *(mos if asked else ())
        ),
        Figure(
            "evaluate",
            f"everyday likeness by Resemblyzer, {path}",
            "likeness to recordings of the speaker, by Resemblyzer (by the run's own encoder:"
            f" {{everyday likeness, {path}:.2f}})",
            "{:.2f}",
        ),
    )


GROUPS = {
    "Everyday texts, XTTS with the vocoder": daily("XTTS, by the vocoder"),
    "Everyday texts, XTTS with its own decoder": daily("XTTS"),
    "Everyday texts, GPT-SoVITS2": daily("sovits2"),
    "Everyday texts, recordings": daily("recording"),
    "Held-out sentences, CER with an independent recogniser": (
        Figure("evaluate", "CER, recording", "recordings", "{:.1%}"),
        Figure("evaluate", "CER, vocoder copy", "recordings through the vocoder", "{:.1%}"),
        Figure("evaluate", "CER, XTTS, by the vocoder", "XTTS with the vocoder", "{:.1%}"),
        Figure("evaluate", "CER, XTTS", "XTTS with its own decoder", "{:.1%}"),
        Figure(
            "evaluate",
            "CER, sovits2",
            "GPT-SoVITS2 (target: best of the three)",
            "{:.1%}",
            "at most 20 %",
            lambda v, m: min(v, m["CER, XTTS"], m.get("CER, XTTS, by the vocoder", 1)) <= 0.2,
        ),
    ),
    "Held-out sentences, XTTS": (
        Figure(
            "evaluate",
            "nearest to its own recording",
            "generated mel nearest to its own recording",
            "{}",
            "at least 90 %",
            lambda v, m: share(v) >= 0.9,
        ),
        Figure("evaluate", "nearest, by its sound", "waveform nearest to its own recording"),
        Figure(
            "evaluate",
            "stopped by itself",
            "sentences ended by the model itself",
            "{}",
            "at least 95 %",
            lambda v, m: share(v) >= 0.95,
        ),
        Figure(
            "evaluate",
            "mean length ratio",
            "mean length ratio to the recording",
            "{:.2f}",
            "0.8 to 1.2",
            lambda v, m: 0.8 <= v <= 1.2,
        ),
        Figure(
            "evaluate",
            "codes echoed from the reference",
            "4-gram overlap of generated codes with the prompt; by chance, with other clips",
        ),
        Figure(
            "evaluate",
            "right voice, XTTS",
            "closer to its speaker than 95 % of other speakers are (similarity {likeness, XTTS},"
            " others {likeness of different speakers, 95th percentile})",
        ),
        Figure(
            "evaluate",
            "CPU seconds a second of speech",
            "CPU seconds per second of speech",
            "{:.2f}",
        ),
    ),
    "GPT-SoVITS2": (
        Figure(
            "sovits2",
            "CER of tokens, seen voices",
            "CER of text decoded from tokens, held-out sentences",
            "{:.1%}",
        ),
        Figure("sovits2", "CER of tokens, strangers", "the same, unseen voices", "{:.1%}"),
        Figure(
            "sovits2",
            "CER, tokens written",
            "CER of text decoded from generated tokens",
            "{:.1%}",
            "at most 40 %",
            lambda v, m: v <= 0.4,
        ),
        Figure(
            "sovits2",
            "CER, copy synthesis",
            "CER of the recordings' tokens through the decoder (recordings: {CER, recording:.1%})",
            "{:.1%}",
        ),
        Figure("sovits2", "CER, spoken", "CER of speech from text", "{:.1%}"),
        Figure(
            "sovits2",
            "stopped by itself",
            "sentences ended by the model itself",
            "{}",
            "at least 95 %",
            lambda v, m: share(v) >= 0.95,
        ),
        Figure(
            "evaluate",
            "right voice, sovits2",
            "closer to its speaker than 95 % of other speakers are (similarity {likeness,"
            " sovits2})",
        ),
    ),
    "Corpus and voices": (
        Figure("corpus", "clips", "clips", "{:,}"),
        Figure("segments", "minutes", "minutes of speech", "{:.0f}"),
        Figure("corpus", "speakers", "voices"),
        Figure(
            "speaker_encoder",
            "EER with another channel each, %",
            "speaker verification, unseen voices, another channel per clip: equal error rate (MFCC:"
            " {EER of MFCC with another channel each, %:.1f} %)",
            "{:.1f} %",
        ),
        Figure("embeddings", "silhouette", "silhouette of the voice embeddings", "{:.2f}"),
    ),
    "Text": (
        Figure(
            "phonemes",
            "PER of Latin words, rules (%)",
            "phoneme error rate on foreign words outside the lexicon: rules",
            "{:.1f} %",
        ),
        Figure(
            "phonemes",
            "PER of Latin words, network (%)",
            "the same: small network, trained on {Latin words learned from:,} words",
            "{:.1f} %",
        ),
        Figure(
            "language",
            "bits per character, Kneser-Ney",
            "Kneser-Ney {Kneser-Ney order}-gram, bits per character",
            "{:.2f}",
        ),
        Figure(
            "language",
            "bits per character, Transformer",
            "small Transformer, bits per character",
            "{:.2f}",
        ),
    ),
    "Models": (
        Figure(
            "xtts_init",
            "DVAE error, share of variance",
            "DVAE: error as a share of the variance",
            "{:.1%}",
            "at most 10 %",
            lambda v, m: v <= 0.10,
        ),
        Figure(
            "xtts_init",
            "codebook perplexity",
            "DVAE: perplexity of a codebook of {codebook size}",
            "{:.0f}",
            "at least half",
            lambda v, m: v >= m["codebook size"] / 2,
        ),
        Figure("full_pretrain", "GPT parameters", "GPT: parameters", "{:,}"),
        Figure(
            "full_pretrain",
            "GPT loss, nats a code",
            "GPT: validation loss, nats per code (unigram entropy: {unigram, nats a code:.2f})",
            "{:.2f}",
            "below that",
            lambda v, m: v < m["unigram, nats a code"],
        ),
        Figure(
            "full_pretrain",
            "acoustic mel L1",
            "acoustic network, latents to the vocoder's mel: L1 of the log-mel",
            "{:.2f}",
        ),
        Figure("full_pretrain", "decoder mel L1", "waveform decoder: L1 of the log-mel", "{:.2f}"),
        Figure(
            "vocoder",
            "stoi",
            "vocoder, held-out clips: STOI (Griffin-Lim, 60 iterations: {griffin_lim_stoi:.3f})",
            "{:.3f}",
        ),
        Figure(
            "vocoder",
            "mrstft",
            "vocoder: multi-resolution STFT distance (Griffin-Lim: {griffin_lim_mrstft:.2f})",
            "{:.2f}",
        ),
    ),
}
SHOWN = tuple(f for group in GROUPS.values() for f in group)


def moment(iso):
    return datetime.fromisoformat(iso).timestamp()


def take(run_dir):
    "What a finished run measured, as `nbs/results/<run>.json` keeps it."
    run_dir = Path(run_dir)
    if not (run_dir / "pretrain_progress.json").is_file():
        sys.exit(f"{run_dir}: no run lies there (no pretrain_progress.json)")
    stages = json.loads((run_dir / "pretrain_progress.json").read_text(encoding="utf-8"))["stages"]
    if unfinished := [n for n, s in stages.items() if s["status"] not in ("done", "stale")]:
        sys.exit(
            f"{run_dir}: not finished ({', '.join(unfinished)}); figures are taken from finished"
            " runs only"
        )
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    metrics = {
        n: json.loads((run_dir / n / "metrics.json").read_text(encoding="utf-8")) for n in stages
    }
    return {
        **{k: config[k] for k in ("run", "seed", "threads", "jobs")},
        "processor": ", or ".join(
            dict.fromkeys(
                p for s in stages.values() if (p := s.get("packages", {}).get("processor"))
            )
        ),
        "changed_since": [n for n, s in stages.items() if s["status"] == "stale"],
        "wall_seconds": round(
            covered([moment(s[k]) for k in ("started", "ended")] for s in stages.values())
        ),
        "stages": {
            n: {
                "seconds": round(s["seconds"], 1),
                "cpu_seconds": round(s["cpu_seconds"], 1),
                "metrics": metrics[n],
            }
            for n, s in stages.items()
        },
    }


def minutes(seconds):
    return f"{int(round(seconds)) // 60}:{int(round(seconds)) % 60:02}"


def times(kept):
    "How long each stage took."
    rows = [(f"`{n}`", s["seconds"], s["cpu_seconds"]) for n, s in kept["stages"].items()]
    rows.append(("all", kept["wall_seconds"], sum(r[2] for r in rows)))
    how = (
        f"{kept['threads']} thread"
        + "s" * (kept["threads"] > 1)
        + (f" each, {kept['jobs']} at a time" if kept["jobs"] > 1 else "")
    )
    return "\n".join(
        [f"| stage | minutes, {how} | CPU minutes |", "|---|--:|--:|"]
        + [f"| {n} | {minutes(s)} | {minutes(c)} |" for n, s, c in rows]
    )


def results(kept):
    "What came out; a figure that misses what is asked for says so."
    lines = ["| measured | | target |", "|---|--:|---|"]
    for title, group in GROUPS.items():
        rows = [row for f in group if (row := line(f, kept["stages"]))]
        lines += [f"| **{title}** | | |", *rows] if rows else []
    return "\n".join(lines)


def line(f, stages):
    "A row of the table; empty where a run has not measured the figure."
    metrics = stages.get(f.stage, {}).get("metrics", {})
    if f.key not in metrics:
        return ""
    value = metrics[f.key]
    missed = "" if f.reached is None or f.reached(value, metrics) else ": **missed**"
    return f"| {f.label.format_map(metrics)} | {f.form.format(value)} | {f.wanted}{missed} |"


def longer():
    "The everyday results of the long run; empty where it has not been measured."
    held = json.loads(RESULTS.read_text(encoding="utf-8")).get("demo_long", {})
    rows = {r["path"]: r for r in held.get("everyday", ()) if r["kind"] == "all"}
    return {"minutes": round(held["cpu_seconds"] / 60), "rows": rows} if rows else {}


def span(interval):  # "0.124 to 0.187" -> "12 to 19 %"
    low, high = (f"{100 * float(x):.0f}" for x in interval.split(" to "))
    return f"{low} to {high} %"


def samples(run, path):
    "Links to the voices of a chain: the sounds that tools/results.py has kept."
    files = sorted((ROOT / "nbs/results/audio" / run).glob(f"[0-9]-{slug(path)}.ogg"))
    return " · ".join(f"[▶ {n}](results/audio/{run}/{f.name})" for n, f in enumerate(files, 1))


def listen(kept):
    "The first table of README: what can be heard, and how much of it is understood."
    m, run, patient = kept["stages"]["evaluate"]["metrics"], kept["run"], longer()
    lines = ["| | listen | CER | ended | likeness | DistillMOS |", "|---|---|--:|--:|--:|--:|"]

    def two(value):
        return "" if value is None else f"{value:.2f}"

    for path, name in {"recording": "recordings", **PATHS}.items():
        if f"everyday CER, {path}" not in m:
            continue
        cer = (
            f"{100 * m[f'everyday CER, {path}']:.1f} %"
            f" ({span(m[f'everyday CER interval, {path}'])})"
        )
        mos = two(m.get(f"everyday MOS, {path}"))
        like = two(m.get(f"everyday likeness by Resemblyzer, {path}"))
        stopped = m[f"everyday stopped, {path}"] if path != "recording" else ""
        lines.append(f"| {name} | {samples(run, path)} | {cer} | {stopped} | {like} | {mos} |")
        row = patient.get("rows", {}).get(path) if path != "recording" else None
        if row:
            interval = span(f"{row['low']} to {row['high']}")
            cer = f"{100 * row['CER']:.1f} % ({interval})"
            like, mos = two(row.get("likeness by Resemblyzer")), two(row["MOS"])
            ended = f"{row['stopped']} of {row['texts']}"
            name = f"{name}, `demo_long`"
            lines.append(
                f"| {name} | {samples('demo_long', path)} | {cer} | {ended} | {like} | {mos} |"
            )
    return "\n".join(lines)


def headline(kept):
    "The result on the first screen: what was measured, and the table to listen to."
    m = kept["stages"]["evaluate"]["metrics"]
    if "everyday texts" not in m:
        sys.exit(f"run {kept['run']} spoke no everyday texts; README shows those")
    spent = (
        f"{round(kept['wall_seconds'] / 60)} minutes on {kept['jobs'] * kept['threads']} CPU cores"
    )
    if kept.get("processor"):
        spent += f" ({kept['processor']})"
    unseen = m["everyday texts with an unseen word"].split(" of ")[0]
    words = (
        f"**From nothing to a voice in {spent}**, without downloading recordings or weights. "
        f"{m['everyday texts']} texts as people type them, from single words to paragraphs, "
        f"{unseen} with a word never trained on; "
        "character error rate (CER) by an independent recogniser with its 95 % interval, "
        "likeness by Resemblyzer:"
    )
    return f"{HEAD}\n{words}\n\n{listen(kept)}\n{TAIL}"


def readme_lines(kept):
    "The headline as README has it, whose links count from the root."
    return readme.relink(headline(kept)).splitlines()


def table(kept):
    "The block between the marks, as markdown."
    older = (
        " Of these stages the code or the options have changed since:"
        f" {', '.join(kept['changed_since'])}."
        if kept["changed_since"]
        else ""
    )
    return (
        f"{BEGIN}\n\nRun `{kept['run']}`, seed"
        f" {kept['seed']}.{older}\n\n{results(kept)}\n\n{times(kept)}\n\n{END}"
    )


def replaced(text, block, begin=BEGIN, end=END):
    "A text with the block between its marks exchanged."
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"the marks `{begin}` and `{end}` must stand once each")
    return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]


def show(notebook, kept):
    "The text of the first page's notebook with the result in its place."
    nb = json.loads(notebook.read_text(encoding="utf-8"))
    prose = [c for c in nb["cells"] if c["cell_type"] == "markdown"]
    cell = next((c for c in prose if HEAD in "".join(c["source"])), None)
    if cell is None:
        sys.exit(f"{notebook.name}: no cell holds `{HEAD}`")
    text = replaced("".join(cell["source"]), headline(kept), HEAD, TAIL)
    cell["source"] = text.splitlines(keepends=True)
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def pages(kept):
    "Path -> text of what shows the figures: the first page, and the page of the demonstration."
    guide = replaced(GUIDE.read_text(encoding="utf-8"), table(kept))
    return {INDEX: show(INDEX, kept), GUIDE: guide}


def main(args):
    runs = [a for a in args if not a.startswith("-")]
    if runs:
        text = json.dumps(take(runs[0]), indent=1, ensure_ascii=False) + "\n"
        KEPT.write_text(text, encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    for path, text in pages(kept).items():
        if "--check" not in args:
            path.write_text(text, encoding="utf-8")
        elif text != path.read_text(encoding="utf-8"):
            name = path.relative_to(ROOT)
            sys.exit(
                f"the figures in {name} are not those of nbs/results/demo.json; "
                "run: uv run python tools/figures.py"
            )
    if "--check" not in args:
        readme.main([])
        print(headline(kept), table(kept), sep="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
