"""Alignment of an hour of synthetic speech with its text, which is not quite what was said: five
in a hundred sentences of the text are not in the sound, five in a hundred of the sound are not in
the text, and three in a hundred words of the text are others than those that were said.

    python bench/curate_align.py OUT                    # the set that is reported
    python bench/curate_align.py OUT --set dev          # other voices and sentences, to choose by
    python bench/curate_align.py OUT --noise 15         # white noise, so many dB below the speech

Figures: shares of the sentences as they should be that are placed within 120 ms at both ends and
that are refused, and of the missing and changed ones that are refused; CPU seconds.
"""

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import read_json, write_json
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.segment import speech_edges
from xtts_ka.corpus.sentences import load_sentences, recombine, words
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
from xtts_ka.curate.align import AlignConfig, align_recordings
from xtts_ka.evaluate.scorers import open_scorer
from xtts_ka.text.normalize import normalize

ROOT = Path(__file__).resolve().parents[1]

SETS = {  # Name -> seed, voices
    "dev": (11, ("nino", "davit", "ketevan", "sandro", "elene", "vakhtang")),
    "test": (23, ("giorgi", "tamar", "mariam", "levan", "zurab", "salome")),
}
MISSING, ADDED, CHANGED = 0.05, 0.05, 0.03  # Of the sentences, of the sentences, of the words
PAUSES = (0.2, 1.0)  # Seconds between sentences


def texts(seed: int, most: int) -> list[str]:
    "Sentences of the collection, then recombined ones, in a random order."
    own = [s.text for s in load_sentences()]
    more = recombine(max(0, most - len(own)), seed, min_words=3, max_words=9, made_up=0.0)
    found = own + more
    rng(seed, "order").shuffle(found)
    return found


def change(text: str, draw, lexicon: list) -> str:
    "Each word becomes another one with a probability of `CHANGED`."

    def other(m):
        if draw.random() >= CHANGED:
            return m[0]
        new = m[0]
        while new == m[0]:
            new = lexicon[int(draw.integers(len(lexicon)))]
        return new

    return re.sub(r"[ა-ჰ]+", other, text)


def build(out: Path, name: str, minutes: float, noise: float | None):
    "Write `reading.flac`, `reading.txt` and `truth.json`."
    seed, voices = SETS[name]
    sentences = texts(seed, round(minutes * 25))
    lexicon = sorted({w for s in sentences for w in words(s)})
    draw, synthesizer = rng(seed, "plan"), Synthesizer()
    sound, at, truth, lines = [np.zeros(SAMPLE_RATE, np.float32)], SAMPLE_RATE, [], []
    total = minutes * 60 * SAMPLE_RATE
    for sentence in sentences:
        if at >= total:
            break
        kind = str(draw.choice(["said", "missing", "added"], p=[0.9, MISSING, ADDED]))
        written = change(sentence, draw, lexicon) if kind == "said" else sentence
        kind = "changed" if written != sentence else kind
        entry = {"kind": kind, "text": written, "said": sentence}
        if kind != "added":
            lines.append(written)
        if kind != "missing":
            voice = voices[min(int(at / total * len(voices)), len(voices) - 1)]
            wav = synthesizer.speak(normalize(sentence).text, voice).wav
            first, last = speech_edges(wav, SAMPLE_RATE)
            entry |= {"voice": voice, "start": (at / SAMPLE_RATE), "end": 0.0}
            entry["end"] = entry["start"] + (last - first) / SAMPLE_RATE
            pause = np.zeros(round(draw.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
            sound += [wav[first:last], pause]
            at += last - first + len(pause)
        truth.append(entry)
    wav = np.concatenate(sound)
    if noise is not None:
        level = float(np.sqrt(np.mean(wav[np.abs(wav) > 0.001] ** 2))) * 10 ** (-noise / 20)
        wav += level * rng(seed, "noise").standard_normal(len(wav), dtype=np.float32)
    write_audio(out / "reading.flac", wav, SAMPLE_RATE)
    paragraphs = [" ".join(lines[k : k + 8]) for k in range(0, len(lines), 8)]
    (out / "reading.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    write_json(out / "truth.json", {"minutes": at / SAMPLE_RATE / 60, "sentences": truth})


def judged(out: Path, corpus: Path) -> dict:
    "The figures of an alignment."
    plan = [s for s in read_json(out / "truth.json")["sentences"] if s["kind"] != "added"]
    lines = [json.loads(x) for x in (corpus / "curation/align.jsonl").open(encoding="utf-8")]
    assert [" ".join(s["text"].split()) for s in plan] == [x["text"] for x in lines]
    off: list[float] = []
    counts: Counter = Counter()
    for s, found in zip(plan, lines):
        placed = found["kind"] == "placed"
        if s["kind"] == "said" and placed:
            off.append(max(abs(found["start"] - s["start"]), abs(found["end"] - s["end"])))
        counts[s["kind"], placed] += 1
    said, wrong = counts["said", True] + counts["said", False], ("missing", "changed")
    refused = sum(counts[k, False] for k in wrong)
    return {
        "sentences": {k: counts[k, True] + counts[k, False] for k in ("said", *wrong)},
        "placed within 120 ms": round(sum(x <= 0.12 for x in off) / said, 4),
        "refused of those said": round(counts["said", False] / said, 4),
        "refused of missing and changed": round(refused / (len(plan) - said), 4),
        "refused of missing": share(counts, "missing"),
        "refused of changed": share(counts, "changed"),
        "offset, ms": {q: round(1000 * float(np.percentile(off, q)), 1) for q in (50, 95, 99)},
    }


def share(counts: Counter, kind: str) -> float:  # Refused
    return round(counts[kind, False] / max(counts[kind, True] + counts[kind, False], 1), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--set", choices=SETS, default="test")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--noise", type=float, help="dB below the speech; default: none")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(args.out)
    if not (out / "truth.json").is_file():
        build(out, args.set, args.minutes, args.noise)
    began = time.process_time()
    corpus = out / "corpus"
    align_recordings(
        out / "reading.flac", out / "reading.txt", corpus, open_scorer("builtin"), AlignConfig()
    )
    cpu = time.process_time() - began
    found = {"set": args.set, "minutes": round(read_json(out / "truth.json")["minutes"], 1)}
    found |= {"noise, dB": args.noise, **judged(out, corpus), "CPU seconds": round(cpu, 1)}
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if args.set == "test":
        file = ROOT / "nbs/results/curate_align.json"
        held = read_json(file) if file.is_file() else {}
        name = "quiet" if args.noise is None else f"noise {args.noise:g} dB"
        write_json(file, held | {name: found})


if __name__ == "__main__":
    main()
