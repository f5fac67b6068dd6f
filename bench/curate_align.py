"""Alignment of an hour of synthetic speech with its text, which is not quite what was said: five
in a hundred sentences of the text are not in the sound, five in a hundred of the sound are not in
the text, and three in a hundred words of the text are others than those that were said.

    python bench/curate_align.py OUT                    # the set that is reported
    python bench/curate_align.py OUT --set dev          # other voices and sentences, to choose by

Figures: shares of the sentences as they should be that are placed within 120 ms at both ends and
that are refused, and of the missing and changed ones that are refused; CPU seconds.
"""

import argparse
import re
import time
from pathlib import Path

import numpy as np

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import read_json, write_json
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.segment import speech_edges
from xtts_ka.corpus.sentences import load_sentences, recombine, words
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
from xtts_ka.text.normalize import normalize

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


def build(out: Path, name: str, minutes: float):
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
    write_audio(out / "reading.flac", np.concatenate(sound), SAMPLE_RATE)
    paragraphs = [" ".join(lines[k : k + 8]) for k in range(0, len(lines), 8)]
    (out / "reading.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    write_json(out / "truth.json", {"minutes": at / SAMPLE_RATE / 60, "sentences": truth})


if __name__ == "__main__":
    import sys

    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    t = time.process_time()
    build(out, sys.argv[2], float(sys.argv[3]))
    print(time.process_time() - t)
    tr = read_json(out / "truth.json")
    from collections import Counter

    print(tr["minutes"], Counter(s["kind"] for s in tr["sentences"]))
