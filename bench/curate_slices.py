"""How well long recordings are cut: real speakers joined to one recording each, with noise between
and under, and an hour of synthetic Georgian whose phonemes have known times.

python bench/curate_slices.py                  all; writes nbs/results/curate_slices.json
python bench/curate_slices.py --minutes 10     a shorter synthetic recording

A cut is in silence where the clean speech, which is known, is below the threshold of speech 20 ms
before and after it; in the synthetic recording, where no phoneme lasts. Silence of a real recording
is by its own level: 40 dB below its loudest 10 ms, higher where its own noise is (`corpus.segment`,
`speech_threshold`)."""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
SETTLED = 0.02  # Seconds on either side of a cut


def noises(data: Path) -> list:
    "Noise of half a minute: recorded where at hand, and pink from a generator."
    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.randomness import rng

    found = [
        read_audio(p, RATE, 7200)[0] for p in sorted((data / "noise_mini/noise").glob("*.flac"))
    ]
    if found:
        return found
    spectrum = np.fft.rfft(rng(0, "noise").standard_normal(RATE * 30))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    return [pink.astype(np.float32)]


def join(wavs: list, noise, snr: float, g) -> tuple:  # (noisy [T], clean [T])
    "One recording: pauses of 0.3 to 2 s between the clips, noise under everything."
    from xtts_ka.core.audio import rms_db

    parts = [np.zeros(round(g.uniform(0.5, 3) * RATE), np.float32)]
    for wav in wavs:
        parts += [wav, np.zeros(round(g.uniform(0.3, 2) * RATE), np.float32)]
    clean = 0.5 * np.concatenate(parts)
    at = int(g.integers(len(noise)))
    under = np.resize(np.roll(noise, -at), len(clean))
    gain = 10 ** ((rms_db(0.5 * np.concatenate(wavs)) - snr - rms_db(under)) / 20)
    return np.clip(clean + gain * under, -1, 1).astype(np.float32), clean


def cuts_of(rows) -> list:  # Seconds
    "Both ends of every clip; an end that two clips share counts once."
    return sorted({float(r.extra[k]) for r in rows for k in ("start", "end")})


def silent_at(clean, at: float) -> bool:
    "Whether the clean recording is silent around a place."
    from xtts_ka.corpus.segment import frame_levels, speech_threshold

    levels = frame_levels(clean, RATE // 100)
    first = max(round((at - SETTLED) * 100), 0)
    return bool((levels[first : round((at + SETTLED) * 100)] < speech_threshold(levels)).all())


def real(data: Path, snr: float, rounds: int, work: Path) -> dict:
    "Ten clips of each speaker as one recording."
    from xtts_ka.core.audio import read_audio, write_audio
    from xtts_ka.core.randomness import rng
    from xtts_ka.curate.slices import SliceConfig, slice_recordings

    folders = sorted(p for p in (data / "librispeech_mini/multi").iterdir() if p.is_dir())
    under = noises(data)
    clean = {}
    for k in range(rounds):
        for i, folder in enumerate(folders):
            wavs = [read_audio(p, RATE)[0] for p in sorted(folder.glob("*.flac"))]
            g = rng(0, "joined", folder.name, k, round(snr))
            name = f"{folder.name}/{k}.wav"
            noisy, clean[name] = join(wavs, under[(i + k) % len(under)], snr, g)
            write_audio(work / "raw" / name, noisy, RATE)
    began = time.process_time()
    made = slice_recordings(work / "raw", work / "corpus", SliceConfig())
    cpu = time.process_time() - began
    found = [
        (s, t) for s in clean for t in cuts_of([r for r in made.rows if r.extra["source"] == s])
    ]
    wrong = [(s, t) for s, t in found if not silent_at(clean[s], t)]
    hours = sum(map(len, clean.values())) / RATE / 3600
    kept = [_covered(c, [r for r in made.rows if r.extra["source"] == s]) for s, c in clean.items()]
    return dict(
        snr_db=snr,
        recordings=len(clean),
        minutes=round(60 * hours, 1),
        clips=len(made.rows),
        cuts=len(found),
        in_silence=round(1 - len(wrong) / len(found), 4),
        speech_kept=round(float(np.mean(kept)), 4),
        longest=max(r.duration for r in made.rows),
        cpu_minutes_per_hour=round(cpu / 60 / hours, 2),
        wrong=[[s, t] for s, t in wrong],
    )


def _covered(clean, rows) -> float:
    "Share of the frames with speech that lie in a clip."
    from xtts_ka.corpus.segment import frame_levels, speech_threshold

    levels = frame_levels(clean, RATE // 100)
    speech, inside = levels > speech_threshold(levels), np.zeros(len(levels), bool)
    for r in rows:
        inside[round(100 * float(r.extra["start"])) : round(100 * float(r.extra["end"]))] = True
    return float((speech & inside).sum() / speech.sum())


def synthetic(minutes: float, work: Path) -> dict:
    "One recording of three voices; the pause between two sentences has 0.25 to 1 s, in a room."
    from xtts_ka.core.audio import write_audio
    from xtts_ka.core.randomness import rng
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer
    from xtts_ka.curate.slices import SliceConfig, slice_recordings

    g, speaker = rng(0, "hour"), Synthesizer()
    parts, words, at, n = [], [], 0.0, 0
    texts = recombine(4000, 0, min_words=3, max_words=12)
    while at < 60 * minutes:
        said = speaker.speak(texts[n], ("nino", "giorgi", "tamar")[n // 40 % 3])
        times = [*[t for _, t in said.phonemes], said.seconds]
        words += [(a + at, b + at) for (p, a), b in zip(said.phonemes, times[1:]) if p != "_"]
        parts += [said.wav, np.zeros(round(g.uniform(0.25, 1) * said.sample_rate), np.float32)]
        at += (len(parts[-1]) + len(parts[-2])) / said.sample_rate
        n += 1
    wav = 0.5 * np.concatenate(parts)
    wav += (10 ** (-50 / 20) * g.standard_normal(len(wav))).astype(np.float32)
    write_audio(work / "raw/hour.flac", wav, said.sample_rate)
    began = time.process_time()
    made = slice_recordings(work / "raw", work / "corpus", SliceConfig(speaker="all"))
    cpu = time.process_time() - began
    edges = np.array(words)
    cuts = np.array(cuts_of(made.rows))
    at = np.searchsorted(edges[:, 0], cuts) - 1  # The phoneme that began last
    wrong = (at >= 0) & (cuts < edges[np.maximum(at, 0), 1])
    return dict(
        minutes=round(len(wav) / said.sample_rate / 60, 1),
        voices=len(set(VOICES) & {"nino", "giorgi", "tamar"}),
        sentences=n,
        clips=len(made.rows),
        cuts=len(cuts),
        in_silence=round(1 - wrong.mean(), 4),
        cpu_minutes_per_hour=round(cpu * 60 / (len(wav) / said.sample_rate), 2),
        wrong=[round(float(t), 2) for t in cuts[wrong]],
    )


def main():
    from xtts_ka.core.files import write_json

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    p.add_argument("--minutes", type=float, default=60, help="of the synthetic recording")
    p.add_argument("--rounds", type=int, default=4, help="recordings of each real speaker")
    p.add_argument("--out", type=Path, default=ROOT / "nbs/results/curate_slices.json")
    args = p.parse_args()
    result: dict = {"real": [], "synthetic": None}
    for snr in (20.0, 5.0):
        with tempfile.TemporaryDirectory() as work:
            result["real"].append(real(args.data, snr, args.rounds, Path(work)))
            print(result["real"][-1])
    with tempfile.TemporaryDirectory() as work:
        result["synthetic"] = synthetic(args.minutes, Path(work))
        print(result["synthetic"])
    write_json(args.out, result)


if __name__ == "__main__":
    main()
