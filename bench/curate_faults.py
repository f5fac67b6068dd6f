"""How many planted faults `xtts-ka corpus check` finds, and how often it accuses a sound clip.

Ten clips of a hundred get each fault: a text of another clip, a label of another speaker, a
telephone's band, clipping, a second speaker, a cut inside a sound; and a tenth more are copies.
All faults are in one corpus, so seven clips of ten are faulty. False alarms are counted among the
clips without any fault, and beside it among those with another one (of which some are right: half
of a clip with two speakers is another's voice). Recordings of people (librispeech_mini,
ljspeech_mini) have no transcripts or no recogniser here, so texts are swapped among synthetic
Georgian voices only.

Shares have 95 % intervals (Clopper and Pearson). They are a little too narrow: every planting draws
anew from the same recordings, so a clip may be counted several times.

python bench/curate_faults.py DATA                    the half that was kept for the report
python bench/curate_faults.py DATA --half tune        the half that thresholds were chosen on
python bench/curate_faults.py DATA --out nbs/results/curate_faults.json"""

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from compare import commit

from xtts_ka.core.audio import encode_audio, read_audio, rms_db, set_level, write_audio
from xtts_ka.core.files import write_json
from xtts_ka.core.manifest import Row, read_manifest, write_manifest
from xtts_ka.core.randomness import rng
from xtts_ka.corpus.segment import frame_levels, speech_edges, speech_threshold
from xtts_ka.curate.check import check_corpus
from xtts_ka.curate.edits import CorpusFolder
from xtts_ka.curate.faults import CheckConfig
from xtts_ka.curate.measures import sounding, speech_level
from xtts_ka.evaluate.damage import add_noise, band_limit, clip_peaks

KINDS = {  # Fault -> kinds that find it
    "text": ("transcript",),
    "speaker": ("speaker",),
    "8 kHz": ("narrow_band",),
    "clipping": ("clipping",),
    "two speakers": ("two_speakers",),
    "copy": ("duplicate",),
    "cut begin": ("cut_begin",),
    "cut end": ("cut_end",),
}
SHARE = 0.1  # Of the clips, for each fault
KNOWN = 5  # Clips of a speaker among whom labels are swapped
PART = 2.0  # Seconds of each speaker's part, at least


@dataclass(frozen=True)
class Clip:
    "A clip of a corpus to be."

    wav: np.ndarray
    rate: int
    speaker: str
    text: str = ""
    fault: str = ""


# corpora without faults


def halves(names, half):
    "Every second name of a sorted list."
    return sorted(set(names))[0 if half == "tune" else 1 :: 2]


def pauses(wav, rate, least=0.12):
    "Middles of the pauses of a recording, in samples."
    size = round(0.01 * rate)
    levels = frame_levels(wav, size)
    quiet = np.diff(np.r_[0, (levels < speech_threshold(levels)).astype(int), 0])
    runs = zip(np.flatnonzero(quiet > 0), np.flatnonzero(quiet < 0))
    return [int((a + b) / 2) * size for a, b in runs if (b - a) * 0.01 >= least]


def pieces(wav, rate, shortest=5.0, silence=0.03):
    "A recording divided in its pauses; only pieces with silence at both ends."
    first, last = speech_edges(wav, rate)
    ends = [0] * (first >= silence * rate), [len(wav)] * (len(wav) - last >= silence * rate)
    out, start = [], None
    for at in sorted({*ends[0], *pauses(wav, rate), *ends[1]}):
        if start is None:
            start = at
        elif at - start >= shortest * rate:
            out.append(wav[start:at])
            start = at
    return out


def recordings(data, half):
    "Clips of people: LibriSpeech's 85 speakers and the one of LJSpeech."
    out = []
    for name in ("librispeech_mini", "ljspeech_mini"):
        found = read_manifest(data / name, check_audio=False, require_text=False)
        mine = set(halves([r.speaker_name for r in found.rows], half))
        if name == "ljspeech_mini":
            mine = {r.speaker_name for r in found.rows} if half == "report" else set()
        for row in found.rows:
            if row.speaker_name in mine:
                wav, rate = read_audio(found.audio_path(row))
                out += [Clip(w, rate, row.speaker_name) for w in pieces(wav, rate)]
    return out


def voices(half, clips=150):
    "Synthetic Georgian in a quiet room."
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer

    syn, names = Synthesizer(), halves(VOICES, half)
    texts = recombine(clips, 11 if half == "tune" else 12, min_words=6, max_words=9)
    out = []
    for n, text in enumerate(texts):
        said = syn.speak(text, names[n % len(names)])
        wav = np.pad(set_level(said.wav, -23.0), round(0.15 * said.sample_rate))
        wav = add_noise(wav, 40, f"{half} {n}")
        out.append(Clip(wav, said.sample_rate, names[n % len(names)], text))
    return out


# faults


def second_speaker(clip, clips, r):
    "The beginning of one clip and the end of another one's."
    others = [c for c in clips if c.speaker != clip.speaker and c.rate == clip.rate]
    mine = clip.wav[slice(*speech_edges(clip.wav, clip.rate))]
    least = round(PART * clip.rate)
    others = [c for c in others if len(c.wav) > 1.3 * least]
    if len(mine) < least or not others:
        return None
    other = others[int(r.integers(len(others)))].wav
    head = clip.wav[: max(least, round(len(mine) * r.uniform(0.4, 0.6)))]
    tail = other[-max(least, round(len(mine) * r.uniform(0.4, 0.6))) :]
    tail = set_level(tail, rms_db(head))
    pause = np.zeros(round(0.15 * clip.rate), np.float32)
    pause = (pause + r.normal(size=len(pause)) * 1e-4).astype(np.float32)
    return np.concatenate([head, pause, tail])


def cut_inside(wav, rate, side, r):
    "Cut where a sound goes on before and behind: at least 30 ms within 10 dB of the speech."
    if side == "end":
        back = cut_inside(wav[::-1], rate, "begin", r)
        return None if back is None else back[::-1].copy()
    size = round(0.01 * rate)
    levels = frame_levels(wav, size)
    loud = levels > speech_level(sounding(wav, rate)) - 10
    inside = [i for i in range(3, len(loud) // 2) if loud[i - 3 : i + 3].all()]
    if not inside:
        return None
    return wav[round((inside[int(r.integers(len(inside)))] + r.uniform()) * size) :].copy()


def copied(clip, r):
    "As another archive has it: another level, cut a little, through MP3 or with noise."
    import io

    import soundfile

    wav = clip.wav[round(r.uniform(0, 0.08) * clip.rate) :] * r.uniform(0.3, 0.9)
    if r.uniform() < 0.5:
        return add_noise(wav.astype(np.float32), 35, r.integers(1 << 30))
    data = encode_audio(wav.astype(np.float32), clip.rate, "mp3")
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def plant(clips, seed, texts):
    "The clips with faults, one a clip, and the copies behind them."
    r = rng(seed, "faults")
    out = list(clips)
    order = r.permutation(len(out)).tolist()
    size = round(SHARE * len(out))
    made = {k: Counter() for k in KINDS}

    def take(fault, change, n=size):
        left = n
        for i in list(order):
            new = change(out[i]) if left else None
            if new is not None:
                out[i] = replace(new, fault=fault)
                order.remove(i)
                left -= 1
        made[fault]["planted"] = n - left

    def sound(f):
        def change(c):
            wav = f(c)
            return None if wav is None else replace(c, wav=wav.astype(np.float32))

        return change

    many = Counter(c.speaker for c in clips)
    names = sorted(n for n in many if many[n] >= KNOWN)  # Others cannot be told

    def mislabelled(c):
        others = [n for n in names if n != c.speaker]
        return replace(c, speaker=str(r.choice(others))) if c.speaker in names and others else None

    take("speaker", mislabelled)
    if texts:
        said = [c.text for c in clips]
        take("text", lambda c: replace(c, text=str(r.choice([t for t in said if t != c.text]))))
    take("8 kHz", sound(lambda c: band_limit(c.wav, c.rate)))
    take("clipping", sound(lambda c: clip_peaks(c.wav, r.uniform(0.001, 0.02))))
    take("two speakers", sound(lambda c: second_speaker(c, clips, r)))
    take("cut begin", sound(lambda c: cut_inside(c.wav, c.rate, "begin", r)), size // 2)
    take("cut end", sound(lambda c: cut_inside(c.wav, c.rate, "end", r)), size - size // 2)
    chosen = r.choice(order, size, replace=False)
    copies = [
        replace(out[i], wav=copied(out[i], r).astype(np.float32), fault="copy") for i in chosen
    ]
    return out + copies


def write_corpus(clips, folder):
    rows = []
    for n, c in enumerate(clips):
        name = f"wavs/{n:04}.wav"
        write_audio(folder / name, np.clip(c.wav, -1, 1), c.rate)
        rows.append(Row(name, c.text, c.speaker))
    write_manifest(folder / "metadata.csv", rows)
    return CorpusFolder(folder)


# what was found


def count(clips, rows):
    "For each fault: planted, found; false alarms among sound clips, and among other faults."
    found = {}
    fine = np.array([not c.fault for c in clips])
    for fault, kinds in KINDS.items():
        hit = np.array([any(k in r.flags for k in kinds) for r in rows])
        has = np.array([c.fault == fault for c in clips])
        if has.any():
            missed = [r.clip for r, h, p in zip(rows, hit, has) if p and not h]
            false = Counter(c.fault or "none" for c, h, p in zip(clips, hit, has) if h and not p)
            found[fault] = {
                "planted": int(has.sum()),
                "found": int((hit & has).sum()),
                "sound": int(fine.sum()),
                "false": int((hit & fine).sum()),
                "others": int((~fine & ~has).sum()),
                "others flagged": int((hit & ~fine & ~has).sum()),
                "accused by fault": dict(false),
                "missed": missed,
            }
    return found


def run(clips, cfg, seeds, texts, keep):
    "Counts over several plantings."
    total = {}
    for seed in seeds:
        planted = plant(clips, seed, texts)
        with tempfile.TemporaryDirectory(dir=keep) as folder:
            corpus = write_corpus(planted, Path(folder))
            checks = check_corpus(corpus, cfg)
        for fault, c in count(planted, checks.rows).items():
            mine = total.setdefault(fault, Counter())
            mine.update({k: v for k, v in c.items() if isinstance(v, int)})
            print(f"  seed {seed}, {fault}: missed {c['missed']}, accused {c['accused by fault']}")
    return {k: rates(dict(v)) for k, v in total.items()}


def share(part, whole):
    "Percent, with the ends of its interval."
    from scipy.stats import binomtest

    ends = binomtest(part, whole).proportion_ci(0.95, "exact")
    return tuple(round(100 * x, 2) for x in (part / whole, *ends))


def rates(counts):
    "The counts of a fault, with what they are in percent."
    found = share(counts["found"], counts["planted"])
    false = share(counts["false"], counts["sound"])
    others = round(100 * counts["others flagged"] / counts["others"], 2)
    return counts | {"found, %": found, "false, %": false, "others, %": others}


def table(name, found):
    heads = f"{'planted':>8}{'found, %':>10}{'interval':>14}{'false, %':>10}{'interval':>14}"
    print(f"\n{name}\n{'fault':<14}{heads}{'others, %':>11}")
    for fault, c in found.items():
        cells = [f"{c['planted']:>8}"]
        for value, low, high in (c["found, %"], c["false, %"]):
            cells.append(f"{value:>10.1f}{f'{low:.1f}-{high:.1f}':>14}")
        print(f"{fault:<14}{''.join(cells)}{c['others, %']:>11.1f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with librispeech_mini and ljspeech_mini")
    parser.add_argument("--half", choices=("tune", "report"), default="report")
    parser.add_argument("--seeds", type=int, default=6, help="plantings")
    parser.add_argument("--only", choices=("people", "voices"), help="one of the two corpora")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    cfg, results = CheckConfig(judges="none", players=0), {}
    seeds = range(args.seeds) if args.half == "tune" else range(100, 100 + args.seeds)
    for name in ("people", "voices"):
        if args.only in (None, name):
            clips = recordings(args.data, args.half) if name == "people" else voices(args.half)
            mine = replace(cfg, recogniser="builtin") if name == "voices" else cfg
            speakers = len({c.speaker for c in clips})
            found = run(clips, mine, seeds, name == "voices", None)
            table(f"{name}: {len(clips)} clips of {speakers} speakers, {args.half}", found)
            results[name] = {"clips": len(clips), "speakers": speakers, "faults": found}
    if args.out:
        about = {"half": args.half, "seeds": args.seeds, "share": SHARE, **commit()}
        write_json(args.out, {**about, "corpora": results})


if __name__ == "__main__":
    main()
