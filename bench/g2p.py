"""Georgian grapheme-to-phoneme, ours beside espeak-ng: `python bench/g2p.py`.

Errors on collections of reference pronunciations (SIGMORPHON 2021 and WikiPron, beside the
repository when they are at hand), and words per CPU second as a ratio to our table.
espeak-ng writes other symbols, so they are mapped to Wiktionary's first: what is counted is a wrong
sound, not another notation. The network is trained here, on SIGMORPHON's training
part alone, to show what learning the table from examples gives; on Georgian words it can at best be
as good as the table."""

import argparse
import contextlib
import ctypes
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data/g2p_ka"
ESPEAK = {
    "t": "tʼ",
    "k": "kʼ",
    "p": "pʼ",
    "q": "qʼ",
    "ts": "t͡sʼ",
    "tsʰ": "t͡s",
    "c": "t͡ʃʼ",
    "tʃ": "t͡ʃ",
    "dz": "d͡z",
    "dʒ": "d͡ʒ",
}  # espeak's symbol -> Wiktionary's


def pairs(name):
    "(word, phones) of a collection."
    from xtts_ka.text.g2p import read_pronunciations

    return read_pronunciations(DATA / f"{name}.tsv").pairs


@contextlib.contextmanager
def espeak():
    """espeak-ng's own transcription of a word as a function; Georgian, one symbol a phoneme, stress
    marks off."""
    from xtts_ka.corpus.synthetic import _espeak

    with _espeak() as lib:
        if lib.espeak_SetVoiceByName(b"ka"):
            raise SystemExit("bench: this espeak-ng has no Georgian voice")
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        lib.espeak_Info.restype = ctypes.c_char_p

        ipa_with_separator = 2 | ord("_") << 8

        def read(word, utf8=1):
            rest, out = ctypes.c_char_p(word.encode()), []
            while rest.value is not None:
                out.append(
                    lib.espeak_TextToPhonemes(ctypes.byref(rest), utf8, ipa_with_separator).decode()
                )
            return [
                ESPEAK.get(p, p)
                for p in "_".join(out).replace("ˈ", "").replace("ˌ", "").split("_")
                if p
            ]

        read.version = lib.espeak_Info(None).decode()
        yield read


def network(folder=None):
    """A trained network, or one trained now on SIGMORPHON's training part; and the CPU seconds of
    that."""
    from xtts_ka.text.config import NeuralG2PConfig
    from xtts_ka.text.g2p_neural import load_g2p, train_g2p
    from xtts_ka.text.phoneme_inventory import CONVENTIONS

    if folder:
        return load_g2p(folder), 0.0
    back = {new: old for old, new in CONVENTIONS["sigmorphon2021"].items()}
    entries = [(w, [back.get(p, p) for p in phones]) for w, phones in pairs("sigmorphon2021_train")]
    with tempfile.TemporaryDirectory() as d:
        net, result = train_g2p(
            entries[::20] + [e for i, e in enumerate(entries) if i % 20],
            NeuralG2PConfig(),
            d,
            entries[::20],
        )
    return net, result.cpu_seconds


def speed(systems, words, rounds=5):
    "Words a CPU second of each, median over rounds in which they take turns."
    times = {name: [] for name in systems}
    for _ in range(rounds):
        for name, read in systems.items():
            start = time.process_time()
            read(words)
            times[name].append(time.process_time() - start)
    return {name: len(words) / statistics.median(t) for name, t in times.items()}


def each(g2p):
    return lambda words: [g2p(w) for w in words]


def rows(model=None, neural=True):
    "Table rows: system, collection, words, WER, PER, words a second and their ratio to ours."
    from xtts_ka.text.g2p import GraphemeToPhoneme
    from xtts_ka.text.phoneme_inventory import NARROW, phoneme_error_rate, word_error_rate

    collections = {
        "sigmorphon2021_dev": ("broad", "sigmorphon2021"),
        "wiktionary_broad_extra_train": ("broad", "wikipron"),
        "wiktionary_narrow_dev": ("narrow", "wikipron"),
    }
    net, trained = network(model) if neural else (None, 0.0)
    out = []
    with espeak() as said:
        for name, (mode, convention) in collections.items():
            entries, ours = pairs(name), GraphemeToPhoneme(mode, convention)
            systems = {f"ours, {mode}": each(ours)}
            if mode == "narrow":
                systems["the letters, no rules"] = each(lambda word: [NARROW[c] for c in word])
            else:
                systems[f"espeak-ng {said.version}, mapped"] = lambda words: [
                    ours._written(said(w)) for w in words
                ]
            if net is not None and mode == "broad":
                systems[f"network ({trained:.0f} CPU s)"] = lambda words: [
                    ours._written(p) for p in net.read(words)
                ]
            words = [w for w, _ in entries]
            per_second = speed(systems, words)
            for system, read in systems.items():
                scored = [(phones, result) for (_, phones), result in zip(entries, read(words))]
                out.append(
                    {
                        "collection": name,
                        "system": system,
                        "words": len(words),
                        "WER %": round(word_error_rate(scored), 3),
                        "PER %": round(phoneme_error_rate(scored), 3),
                        "words/s": round(per_second[system]),
                        "speed, ours = 1": round(
                            per_second[system] / per_second[f"ours, {mode}"], 3
                        ),
                    }
                )
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument(
        "--model",
        help="folder with g2p_model.safetensors; by default a network is trained (half a minute)",
    )
    ap.add_argument("--no-network", action="store_true", help="leave the network out")
    args = ap.parse_args()
    if not DATA.is_dir():
        print(
            "bench: no collections of Georgian pronunciations beside the repository; skipped",
            file=sys.stderr,
        )
        return
    table = rows(args.model, not args.no_network)
    widths = {k: max(len(k), *(len(str(r[k])) for r in table)) for k in table[0]}
    for r in [{k: k for k in widths}, *table]:
        print(
            "  ".join(
                f"{r[k]!s:{'<' if k in ('collection', 'system') else '>'}{n}}"
                for k, n in widths.items()
            )
        )


if __name__ == "__main__":
    main()
