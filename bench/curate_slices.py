"""How well long recordings are cut: real speakers joined to one recording each, with noise between
and under, and an hour of synthetic Georgian whose phonemes have known times.

python bench/curate_slices.py                  all; writes nbs/results/curate_slices.json
python bench/curate_slices.py --minutes 10     a shorter synthetic recording

A cut is in silence where the clean speech, which is known, is below the threshold of speech from
20 ms before to 20 ms after it, or is no speech but a breath (silero-vad gives the clean recording
no more than 0.5, its default, within 64 ms); `below_level` is the share by level alone. In the
synthetic recording a cut is in silence where no phoneme lasts. The threshold of a real speaker is
that of his clips as published (`corpus.segment`, `speech_threshold`): 40 dB below the loudest 40 ms,
or 8 dB above their own noise; what lies below 100 Hz, where one recording has pops as loud as its
speech, does not count. Between the clips there is digital silence."""

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


def windows(wav) -> np.ndarray:  # [F] dB
    "Levels of 40 ms, above 100 Hz."
    from scipy.signal import butter, sosfiltfilt

    from xtts_ka.corpus.segment import frame_levels

    sos = butter(4, 100, "highpass", fs=RATE, output="sos")
    return frame_levels(sosfiltfilt(sos, wav), round(2 * SETTLED * RATE))


def threshold(wavs: list) -> float:  # dB
    "Level above which a window is speech, in the recording that is made of these clips."
    from xtts_ka.corpus.segment import speech_threshold

    return speech_threshold(windows(0.5 * np.concatenate(wavs)))


def level_at(clean, at: float) -> float:  # dB
    "Level of the window around a place."
    first = round((at - 25 * SETTLED) * RATE)  # The filter needs a beginning: 12 windows
    part = np.pad(clean, RATE)[first + RATE : first + 2 * RATE]
    return float(windows(part)[12])


def speech_at(clean, at: float) -> float:
    "Greatest probability of speech within 64 ms of a place, in the clean recording."
    from xtts_ka.corpus.segment import VAD_FRAME, speech_probability

    first = round((at - 2) * RATE)  # The detector needs a beginning
    part = np.pad(clean, 2 * RATE)[first + 2 * RATE : first + 5 * RATE]
    p = np.array(list(speech_probability(part, RATE)))
    return float(p[2 * RATE // VAD_FRAME - 2 :][:5].max())


def real(data: Path, snr: float, rounds: int, work: Path) -> dict:
    "Ten clips of each speaker as one recording."
    from xtts_ka.core.audio import read_audio, write_audio
    from xtts_ka.core.randomness import rng
    from xtts_ka.curate.slices import SliceConfig, slice_recordings

    folders = sorted(p for p in (data / "librispeech_mini/multi").iterdir() if p.is_dir())
    under = noises(data)
    clean, limits = {}, {}
    for k in range(rounds):
        for i, folder in enumerate(folders):
            wavs = [read_audio(p, RATE)[0] for p in sorted(folder.glob("*.flac"))]
            g = rng(0, "joined", folder.name, k, round(snr))
            name = f"{folder.name}/{k}.wav"
            noisy, clean[name] = join(wavs, under[(i + k) % len(under)], snr, g)
            limits[name] = threshold(wavs)
            write_audio(work / "raw" / name, noisy, RATE)
    began = time.process_time()
    made = slice_recordings(work / "raw", work / "corpus", SliceConfig())
    cpu = time.process_time() - began
    found = [
        (s, t) for s in clean for t in cuts_of([r for r in made.rows if r.extra["source"] == s])
    ]
    loud = [(s, t) for s, t in found if level_at(clean[s], t) > limits[s]]
    wrong = [(s, t) for s, t in loud if speech_at(clean[s], t) > 0.5]
    hours = sum(map(len, clean.values())) / RATE / 3600
    kept = [
        _covered(c, limits[s], [r for r in made.rows if r.extra["source"] == s])
        for s, c in clean.items()
    ]
    return dict(
        snr_db=snr,
        recordings=len(clean),
        minutes=round(60 * hours, 1),
        clips=len(made.rows),
        cuts=len(found),
        in_silence=round(1 - len(wrong) / len(found), 4),
        below_level=round(1 - len(loud) / len(found), 4),
        speech_kept=round(float(np.mean(kept)), 4),
        longest=max(r.duration for r in made.rows),
        cpu_minutes_per_hour=round(cpu / 60 / hours, 2),
        wrong=[[s, t] for s, t in wrong],
    )


def _covered(clean, limit: float, rows) -> float:
    "Share of the windows with speech that lie in a clip."
    speech = windows(clean) > limit
    inside = np.zeros(len(speech), bool)
    for r in rows:
        start, end = (float(r.extra[k]) / 2 / SETTLED for k in ("start", "end"))
        inside[int(start) : int(np.ceil(end))] = True
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
        in_silence=round(1 - float(wrong.mean()), 4),
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
