"""The measured figures of README: taken from a finished run, kept in nbs/results/, shown in nbs/index.ipynb. None is typed by hand.

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

from xtts_ka.pipeline.state import covered

ROOT = Path(__file__).resolve().parents[1]
KEPT, INDEX = ROOT / "nbs/results/demo.json", ROOT / "nbs/index.ipynb"
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
    "XTTS": "XTTS",
    "XTTS, by the vocoder": "XTTS with the vocoder",
    "sovits2": "GPT-SoVITS2",
}  # Ways from text to sound
ASKED = {
    "XTTS": 0.18,
    "XTTS, by the vocoder": 0.18,
    "sovits2": 0.12,
}  # Of the letters of everyday texts, at most


def daily(path):
    "The everyday figures of one path."
    name, asked = PATHS.get(path, f"the {path}s"), ASKED.get(path)

    def most(limit, value):
        return (
            (f"at most {100 * limit:.0f} %", lambda v, m: value(v) <= limit)
            if asked
            else ("", None)
        )

    all_ = ("all", lambda v, m: share(v) == 1) if asked else ("", None)
    mos = (
        ("at least 2.3", lambda v, m: v >= 2.3)
        if path == "XTTS"
        else (
            "at most 0.25 below the recordings",
            lambda v, m: v >= m["everyday MOS, recording"] - 0.25,
        )
    )
    return (
        Figure(
            "evaluate",
            f"everyday CER, {path}",
            f"everyday texts ({{everyday texts}}, {{everyday texts with an unseen word}} with a word never trained on), letters misunderstood: {name}",
            "{:.1%}",
            *most(asked, lambda v: v),
        ),
        Figure(
            "evaluate",
            f"everyday worst kind, {path}",
            "the same, the kind of text that fares worst",
            "{}",
            *most(0.25, share),
        ),
        Figure(
            "evaluate", f"everyday stopped, {path}", "of them, ended by themselves", "{}", *all_
        ),
        Figure(
            "evaluate",
            f"everyday complete, {path}",
            "of them, spoken in all by the model's own alignment",
            "{}",
            *all_,
        ),
        Figure(
            "evaluate",
            f"everyday length in range, {path}",
            "of them, length 0.75 to 1.3 of the recording",
            "{}",
            *(("at least 95 %", lambda v, m: share(v) >= 0.95) if asked else ("", None)),
        ),
        Figure("evaluate", f"everyday skipped words, {path}", "words of which nothing is heard"),
        Figure(
            "evaluate",
            f"everyday MOS, {path}",
            "DistillMOS, 1 to 5 (learned from mostly English speech: compare with the recordings)",
            "{:.2f}",
            *(mos if asked else ("", None)),
        ),
    )


SHOWN = (
    *(f for path in ("XTTS", "XTTS, by the vocoder", "sovits2", "recording") for f in daily(path)),
    Figure("corpus", "clips", "clips", "{:,}"),
    Figure("segments", "minutes", "speech, minutes", "{:.0f}"),
    Figure("corpus", "speakers", "voices"),
    Figure(
        "speaker_encoder",
        "EER with another channel each, %",
        "voices never heard: equal error rate, another channel for each clip (MFCC: {EER of MFCC with another channel each, %:.1f} %)",
        "{:.1f} %",
    ),
    Figure(
        "embeddings",
        "silhouette",
        "voice embeddings of the corpus: silhouette of its voices",
        "{:.2f}",
    ),
    Figure(
        "phonemes",
        "PER of Latin words, rules (%)",
        "foreign words not in the lexicon, wrong phonemes: the normaliser's rules",
        "{:.1f} %",
    ),
    Figure(
        "phonemes",
        "PER of Latin words, network (%)",
        "the same: the small network, trained on {Latin words learned from:,} words",
        "{:.1f} %",
    ),
    Figure(
        "language",
        "bits per character, Kneser-Ney",
        "letters of held-out sentences, bits each: counting, order {Kneser-Ney order}",
        "{:.2f}",
    ),
    Figure(
        "language", "bits per character, Transformer", "the same: a small Transformer", "{:.2f}"
    ),
    Figure(
        "xtts_init",
        "DVAE error, share of variance",
        "codes: error as a share of the variance",
        "{:.1%}",
        "at most 10 %",
        lambda v, m: v <= 0.10,
    ),
    Figure(
        "xtts_init",
        "codebook perplexity",
        "codes: perplexity of a codebook of {codebook size}",
        "{:.0f}",
        "at least half",
        lambda v, m: v >= m["codebook size"] / 2,
    ),
    Figure("full_pretrain", "GPT parameters", "GPT: parameters", "{:,}"),
    Figure(
        "full_pretrain",
        "GPT loss, nats a code",
        "GPT: validation loss, nats a code; knowing only how frequent codes are: {unigram, nats a code:.2f}",
        "{:.2f}",
        "below that",
        lambda v, m: v < m["unigram, nats a code"],
    ),
    Figure(
        "full_pretrain",
        "acoustic mel L1",
        "from latents to the vocoder's mel: mean error of the log-mel",
        "{:.2f}",
    ),
    Figure(
        "full_pretrain", "decoder mel L1", "waveform decoder: mean error of the log-mel", "{:.2f}"
    ),
    Figure(
        "vocoder",
        "stoi",
        "vocoder, held-out clips: STOI (Griffin-Lim, 60 rounds: {griffin_lim_stoi:.3f})",
        "{:.3f}",
    ),
    Figure(
        "vocoder",
        "mrstft",
        "the same: distance of spectra (Griffin-Lim: {griffin_lim_mrstft:.2f})",
        "{:.2f}",
    ),
    Figure(
        "sovits2",
        "CER of tokens, seen voices",
        "GPT-SoVITS2: letters read wrong in the tokens of held-out sentences",
        "{:.1%}",
    ),
    Figure("sovits2", "CER of tokens, strangers", "the same, voices never heard", "{:.1%}"),
    Figure(
        "sovits2",
        "CER, tokens written",
        "the same, tokens written for their texts",
        "{:.1%}",
        "at most 40 %",
        lambda v, m: v <= 0.4,
    ),
    Figure(
        "sovits2",
        "CER, copy synthesis",
        "the same, tokens of recordings spoken by the decoder (the recordings: {CER, recording:.1%})",
        "{:.1%}",
    ),
    Figure("sovits2", "CER, spoken", "the same, spoken from text", "{:.1%}"),
    Figure(
        "sovits2",
        "stopped by itself",
        "of them, stopped by themselves",
        "{}",
        "at least 95 %",
        lambda v, m: share(v) >= 0.95,
    ),
    Figure(
        "evaluate",
        "nearest to its own recording",
        "held-out sentences, spoken freely: generated mel nearest to their own recording",
        "{}",
        "at least 90 %",
        lambda v, m: share(v) >= 0.9,
    ),
    Figure("evaluate", "nearest, by its sound", "the same judged by the waveform", "{}"),
    Figure(
        "evaluate",
        "stopped by itself",
        "of them, stopped by themselves",
        "{}",
        "at least 95 %",
        lambda v, m: share(v) >= 0.95,
    ),
    Figure(
        "evaluate",
        "mean length ratio",
        "of them, length spoken to length recorded, mean",
        "{:.2f}",
        "0.8 to 1.2",
        lambda v, m: 0.8 <= v <= 1.2,
    ),
    Figure(
        "evaluate",
        "codes echoed from the reference",
        "runs of four codes spoken that also stand in the voice's reference; by chance, in other clips",
    ),
    Figure(
        "evaluate",
        "CER, recording",
        "an independent recogniser, letters misunderstood: the recordings",
        "{:.1%}",
    ),
    Figure("evaluate", "CER, vocoder copy", "the same: recordings through the vocoder", "{:.1%}"),
    Figure("evaluate", "CER, XTTS", "the same: XTTS, through its waveform decoder", "{:.1%}"),
    Figure(
        "evaluate",
        "CER, XTTS, by the vocoder",
        "the same: XTTS, by the vocoder, as `speak` sounds",
        "{:.1%}",
    ),
    Figure(
        "evaluate",
        "CER, sovits2",
        "the same: GPT-SoVITS2 (the best of the three is asked for)",
        "{:.1%}",
        "at most 20 %",
        lambda v, m: min(v, m["CER, XTTS"], m.get("CER, XTTS, by the vocoder", 1)) <= 0.2,
    ),
    Figure(
        "evaluate",
        "right voice, XTTS",
        "XTTS, nearer to its speaker than 95 % of other speakers are (likeness {likeness, XTTS}, others {likeness of different speakers, 95th percentile})",
    ),
    Figure(
        "evaluate", "right voice, sovits2", "the same: GPT-SoVITS2 (likeness {likeness, sovits2})"
    ),
    Figure(
        "evaluate",
        "CPU seconds a second of speech",
        "CPU seconds for one second of speech",
        "{:.2f}",
    ),
)


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
            f"{run_dir}: not finished ({', '.join(unfinished)}); figures are taken from finished runs only"
        )
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    metrics = {
        n: json.loads((run_dir / n / "metrics.json").read_text(encoding="utf-8")) for n in stages
    }
    return {
        **{k: config[k] for k in ("run", "seed", "threads", "jobs")},
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
    lines = ["| measured | | asked for |", "|---|--:|---|"]
    for f in SHOWN:
        metrics = kept["stages"].get(f.stage, {}).get("metrics", {})  # A run may skip stages
        if f.key not in metrics:
            continue  # A run without held-out sentences has nothing to compare
        missed = "" if f.reached is None or f.reached(metrics[f.key], metrics) else ": **missed**"
        lines.append(
            f"| {f.label.format_map(metrics)} | {f.form.format(metrics[f.key])} | {f.wanted}{missed} |"
        )
    return "\n".join(lines)


def longer():
    "What the patient run reached, in a sentence; nothing where it is not in nbs/results/results.json."
    held = json.loads((ROOT / "nbs/results/results.json").read_text(encoding="utf-8")).get(
        "demo_long"
    )
    if not held:
        return ""
    rows = [r for r in held.get("everyday", ()) if r["kind"] == "all"]
    if not rows:
        return ""  # measured before there was the everyday set: not to be compared with it
    best = min((r for r in rows if r["path"] in PATHS), key=lambda r: r["CER"])
    return f" With more sentences and longer training, {round(held['cpu_seconds'] / 60)} CPU minutes (`make run CONFIG=configs/demo_long.yaml`), {100 * best['CER']:.1f} % ({100 * best['low']:.0f} to {100 * best['high']:.0f} %) are misunderstood."


def start(kept):  # How the sentence of the first screen begins
    return f"**From nothing to a voice in {round(kept['wall_seconds'] / 60)} minutes**, with {kept['jobs'] * kept['threads']} CPU cores and no download of recordings or weights: "


def span(interval):  # "0.124 to 0.187" -> "12 to 19 %"
    low, high = (f"{100 * float(x):.0f}" for x in interval.split(" to "))
    return f"{low} to {high} %"


def twenty(kept):
    "What became of the held-out sentences."
    m = kept["stages"]["evaluate"]["metrics"]
    best = min((k for k in PATHS if f"CER, {k}" in m), key=lambda k: m[f"CER, {k}"])
    return best, (
        f"{100 * m[f'CER, {best}']:.1f} % of the letters ({span(m[f'CER interval, {best}'])}) in sentences that {PATHS[best]} never saw, and {100 * m['CER, recording']:.1f} % in the recordings themselves; "
        f"{m[f'stopped, {best}']} sentences end by themselves, and {m[f'right voice, {best}']} are in the right voice"
    )


def everyday(m):
    "What became of the everyday texts, path by path, the best first."
    known = sorted(
        (k for k in PATHS if f"everyday CER, {k}" in m), key=lambda k: m[f"everyday CER, {k}"]
    )
    each = [
        f"{100 * m[f'everyday CER, {k}']:.1f} % of the letters ({span(m[f'everyday CER interval, {k}'])}) as {PATHS[k]} speaks them, {m[f'everyday stopped, {k}']} to their end"
        for k in known
    ]
    return "; ".join(each) + (
        f"; {100 * m['everyday CER, recording']:.1f} % in the recordings"
        if "everyday CER, recording" in m
        else ""
    )


def headline(kept):
    "The result in a sentence or two, for the first screen: everyday texts, then the held-out sentences as a second row; a run that spoke no everyday text has only these."
    m = kept["stages"]["evaluate"]["metrics"]
    best, held = twenty(kept)
    if "everyday texts" in m:
        words = (
            f"{start(kept)}of {m['everyday texts']} texts as people type them, from single words to paragraphs, an independent recogniser misunderstands {everyday(m)}.{longer()}\n\n"
            f"Of {m[f'stopped, {best}'].split(' of ')[1]} short held-out sentences, made of words it was trained on, it misunderstands {held}."
        )
    else:
        words = f"{start(kept)}an independent recogniser misunderstands {held}.{longer()}"
    return f"{HEAD}\n{words}\n{TAIL}"


def table(kept):
    "The block between the marks, as markdown."
    older = (
        f" Of these stages the code or the options have changed since: {', '.join(kept['changed_since'])}."
        if kept["changed_since"]
        else ""
    )
    return f"{BEGIN}\n\nRun `{kept['run']}`, seed {kept['seed']}.{older}\n\n{results(kept)}\n\n{times(kept)}\n\n{END}"


def replaced(text, block, begin=BEGIN, end=END):
    "A text with the block between its marks exchanged."
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"the marks `{begin}` and `{end}` must stand once each")
    return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]


def show(notebook, kept):
    "The notebook's text with the result and the table in their places."
    nb = json.loads(notebook.read_text(encoding="utf-8"))
    for block, begin, end in ((headline(kept), HEAD, TAIL), (table(kept), BEGIN, END)):
        cell = next(
            (
                c
                for c in nb["cells"]
                if c["cell_type"] == "markdown" and begin in "".join(c["source"])
            ),
            None,
        )
        if cell is None:
            sys.exit(f"{notebook.name}: no cell holds `{begin}`")
        cell["source"] = replaced("".join(cell["source"]), block, begin, end).splitlines(
            keepends=True
        )
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def main(args):
    runs = [a for a in args if not a.startswith("-")]
    if runs:
        KEPT.write_text(
            json.dumps(take(runs[0]), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    new = show(INDEX, kept)
    if "--check" in args:
        if new != INDEX.read_text(encoding="utf-8"):
            sys.exit(
                "the figures in nbs/index.ipynb are not those of nbs/results/demo.json; run: uv run python tools/figures.py"
            )
        return
    INDEX.write_text(new, encoding="utf-8")
    readme.main([])
    print(headline(kept), table(kept), sep="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
