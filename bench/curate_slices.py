"""How well long recordings are cut: real speakers joined to one recording each, with noise between
and under, and an hour of synthetic Georgian whose phonemes have known times; and how much memory an
hour takes.

python bench/curate_slices.py                  all; writes nbs/results/curate_slices.json
python bench/curate_slices.py --minutes 10     shorter long recordings
python bench/curate_slices.py --words          make the times of the words anew (pocketsphinx)
python bench/curate_slices.py --check-words    how exact such times are

A cut is in silence where no word lasts, by the times that another recogniser (pocketsphinx,
Gaussian mixtures over MFCC) gives for each published clip, alone and without noise; between the
clips there is digital silence. Its edges of pauses in espeak-ng's English are within 21 ms by the
median and 49 ms in nine of ten cases, mostly too far in the pause; so a cut that lies deeper than
30 ms in a word, from either end, is wrong, and neither the level nor the slicer's own detector
excuses it. `by_chance` is the share of places drawn uniformly from the recordings that would pass.

`below_level` is a second, harsher measure, which knows no words: the share of cuts where the clean
speech is below the threshold of speech from 20 ms before to 20 ms after. That threshold is the
speaker's, from his clips as published (`corpus.segment`, `speech_threshold`): 40 dB below the
loudest 40 ms, or 8 dB above their own noise; what lies below 100 Hz does not count. It takes the
middle of a breath for wrong, and a clip with much noise of its own has no silence by it. In the
synthetic recording a cut is in silence where no phoneme lasts.

The options of the slicer were chosen on other recordings: 24 further speakers of librispeech_mini
(`single/`, a clip of each, six to a recording) and ljspeech_mini, with other seeds. What is
reported is `multi/`; its wrong cuts were looked at for their causes, and no option was chosen on
it."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
SETTLED = 0.02  # Seconds on either side of a cut
DEEP = 0.03  # Seconds from the end of a word; such times are not known better
WORDS = Path(__file__).with_name("curate_slices_words.json")
MEMORY = 1024  # MiB that slicing an hour may hold, torch included


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


def join(wavs: list, noise, snr: float, g) -> tuple:  # (noisy [T], clean [T], seconds of each clip)
    "One recording: pauses of 0.3 to 2 s between the clips, noise under everything."
    from xtts_ka.core.audio import rms_db

    parts, at = [np.zeros(round(g.uniform(0.5, 3) * RATE), np.float32)], []
    for wav in wavs:
        at.append(sum(map(len, parts)) / RATE)
        parts += [wav, np.zeros(round(g.uniform(0.3, 2) * RATE), np.float32)]
    clean = 0.5 * np.concatenate(parts)
    shift = int(g.integers(len(noise)))
    under = np.resize(np.roll(noise, -shift), len(clean))
    gain = 10 ** ((rms_db(0.5 * np.concatenate(wavs)) - snr - rms_db(under)) / 20)
    return np.clip(clean + gain * under, -1, 1).astype(np.float32), clean, at


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


def heard(decoder, wav) -> list:  # [(start, end)] of words, seconds
    "Words of a free transcript, without silence, noise and murmur."
    lead = 0.3
    wav = np.pad(0.9 * wav / np.abs(wav).max(), round(lead * RATE))
    wav = wav + 3e-5 * np.random.default_rng(0).standard_normal(len(wav))
    decoder.start_utt()
    decoder.process_raw((wav * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    return [
        (round(w.start_frame / 100 - lead, 2), round((w.end_frame + 1) / 100 - lead, 2))
        for w in decoder.seg()
        if w.word[0] not in "<["
    ]


def make_words(data: Path):
    "Times of the words of every clip of `multi/`, each transcribed alone."
    from pocketsphinx import Decoder

    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.files import write_json

    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    paths = sorted((data / "librispeech_mini/multi").rglob("*.flac"))
    write_json(WORDS, {p.stem: heard(decoder, read_audio(p, RATE)[0]) for p in paths}, None)


def check_words(data: Path):
    "Five sentences by espeak-ng: how far the edges of pauses are from the known ones."
    from pocketsphinx import Decoder

    from xtts_ka.core.audio import resample
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer, Voice

    VOICES["en"] = Voice("en", "f2", 50, 150, 55, "f", language="en-us")
    decoder, errors = Decoder(samprate=RATE, loglevel="FATAL"), []
    texts = [r.text for r in read_manifest(data / "ljspeech_mini").rows]
    for text in [t for t in texts if "," in t and len(t) < 130][:5]:
        said = Synthesizer().speak(text, "en")
        times = [*[t for _, t in said.phonemes], said.seconds]
        voiced = [
            x for p, *x in zip((p for p, _ in said.phonemes), times, times[1:]) if p[0] != "_"
        ]
        words = np.array(heard(decoder, resample(said.wav, said.sample_rate, RATE)))
        for (_, a), (b, _) in zip(voiced, voiced[1:]):
            i = np.searchsorted(words[:, 0], (a + b) / 2) - 1
            if b - a > 0.08 and 0 <= i < len(words) - 1 and words[i, 1] < (a + b) / 2:
                errors += [words[i, 1] - a, words[i + 1, 0] - b]
    median, most = np.percentile(np.abs(errors), (50, 90))
    print(
        f"{len(errors)} edges of pauses: half within {median:.3f} s, nine in ten within {most:.3f}"
    )


def depth(words: np.ndarray, at: float) -> float:  # words: [N, 2]; seconds
    "How far a place is from the nearer end of the word that lasts there; 0 between words."
    i = np.searchsorted(words[:, 0], at) - 1
    return max(0.0, float(min(at - words[i, 0], words[i, 1] - at))) if i >= 0 else 0.0


def real(data: Path, snr: float, rounds: int, work: Path) -> dict:
    "Ten clips of each speaker as one recording."
    from xtts_ka.core.audio import read_audio, write_audio
    from xtts_ka.core.randomness import rng
    from xtts_ka.curate.slices import SliceConfig, slice_recordings

    folders = sorted(p for p in (data / "librispeech_mini/multi").iterdir() if p.is_dir())
    under = noises(data)
    known = {k: np.array(v) for k, v in json.loads(WORDS.read_text()).items()}
    clean, limits, words = {}, {}, {}
    for k in range(rounds):
        for i, folder in enumerate(folders):
            paths = sorted(folder.glob("*.flac"))
            wavs = [read_audio(p, RATE)[0] for p in paths]
            g = rng(0, "joined", folder.name, k, round(snr))
            name = f"{folder.name}/{k}.wav"
            noisy, clean[name], at = join(wavs, under[(i + k) % len(under)], snr, g)
            words[name] = np.concatenate([known[p.stem] + t for p, t in zip(paths, at)])
            limits[name] = threshold(wavs)
            write_audio(work / "raw" / name, noisy, RATE)
    began = time.process_time()
    made = slice_recordings(work / "raw", work / "corpus", SliceConfig())
    cpu = time.process_time() - began
    found = [
        (s, t) for s in clean for t in cuts_of([r for r in made.rows if r.extra["source"] == s])
    ]
    loud = [(s, t) for s, t in found if level_at(clean[s], t) > limits[s]]
    wrong = [(s, t) for s, t in found if depth(words[s], t) > DEEP]
    g, ends = rng(0, "places"), {s: len(c) / RATE for s, c in clean.items()}
    passed = [depth(words[s], g.uniform(0, e)) <= DEEP for s, e in ends.items() for _ in range(100)]
    hours = sum(ends.values()) / 3600
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
        by_chance=round(float(np.mean(passed)), 4),
        below_level=round(1 - len(loud) / len(found), 4),
        speech_kept=round(float(np.mean(kept)), 4),
        longest=max(r.duration for r in made.rows),
        cpu_minutes_per_hour=round(cpu / 60 / hours, 2),
        wrong=[[s, t] for s, t in wrong],
        loud=[[s, t] for s, t in loud],
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
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.core.randomness import rng
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer

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
    cpu, held = in_a_child(work / "raw", work / "corpus")
    made = read_manifest(work / "corpus", require_text=False)
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
        mebibytes=held,
        wrong=[round(float(t), 2) for t in cuts[wrong]],
    )


def in_a_child(raw: Path, out: Path, *options: str) -> tuple[float, int]:  # CPU seconds, MiB
    "Slice in a process of its own, whose memory is nobody else's."
    words = [sys.executable, __file__, "part", str(raw), str(out), "speaker=all", *options]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench/curate_slices.py: {done.stderr[-2000:]}")
    cpu, held = done.stdout.split()[-2:]
    return float(cpu), int(held)


def part(raw: str, out: str, *options: str):
    "What such a process runs; prints CPU seconds and the most MiB that it held."
    from memory import highest

    from xtts_ka.core.config import load
    from xtts_ka.curate.slices import SliceConfig, slice_recordings

    slice_recordings(raw, out, load(SliceConfig, None, list(options)))
    print(f"\n{time.process_time():.1f} {round(1024 * highest())}")


def stereo(hour: Path, work: Path) -> dict:
    """The same at 48 kHz with two channels, noise on each, the second 6 dB lower. By energy alone:
    the detector sees blocks at 16 kHz there too, and its memory is in the row before."""
    import soundfile as sf

    from xtts_ka.core.audio import resample
    from xtts_ka.core.randomness import rng

    g, frames = rng(0, "stereo"), 0
    (work / "stereo").mkdir()
    with sf.SoundFile(work / "stereo/hour.flac", "w", 48000, 2) as f:
        for part in sf.blocks(hour, blocksize=60 * 22050, dtype="float32"):
            wav = resample(part, 22050, 48000)
            noise = (1e-3 * g.standard_normal((len(wav), 2))).astype(np.float32)
            f.write(np.stack([wav, 0.5 * wav], 1) + noise)
            frames += len(wav)
    cpu, held = in_a_child(work / "stereo", work / "clips", "vad=false")
    return dict(
        minutes=round(frames / 48000 / 60, 1),
        sample_rate=48000,
        channels=2,
        cpu_minutes_per_hour=round(cpu * 60 / (frames / 48000), 2),
        mebibytes=held,
    )


def main():
    from xtts_ka.core.files import write_json

    if sys.argv[1:2] == ["part"]:
        return part(*sys.argv[2:])

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    p.add_argument("--minutes", type=float, default=60, help="of the synthetic recording")
    p.add_argument("--rounds", type=int, default=4, help="recordings of each real speaker")
    p.add_argument("--out", type=Path, default=ROOT / "nbs/results/curate_slices.json")
    p.add_argument("--words", action="store_true", help="make the times of the words, no more")
    p.add_argument("--check-words", action="store_true", help="how exact they are")
    args = p.parse_args()
    if args.words or args.check_words:
        return make_words(args.data) if args.words else check_words(args.data)
    result: dict = {"real": [], "synthetic": None, "stereo": None, "memory_bound": MEMORY}
    for snr in (20.0, 5.0):
        with tempfile.TemporaryDirectory() as work:
            result["real"].append(real(args.data, snr, args.rounds, Path(work)))
            print(result["real"][-1])
    with tempfile.TemporaryDirectory() as work:
        result["synthetic"] = synthetic(args.minutes, Path(work))
        print(result["synthetic"])
        result["stereo"] = stereo(Path(work) / "raw/hour.flac", Path(work))
        print(result["stereo"])
    write_json(args.out, result)
    if missed := misses(result):
        raise SystemExit(f"bench/curate_slices.py: {'; '.join(missed)}")


def misses(result: dict) -> list[str]:
    "Which bounds do not hold."
    rows = [*result["real"], result["synthetic"], result["stereo"]]
    out = [f"{r['in_silence']:.1%} in silence" for r in rows[:-1] if r["in_silence"] < 0.98]
    out += [f"{m} CPU minutes" for r in rows if (m := r["cpu_minutes_per_hour"]) > 10]
    return out + [f"{m} MiB held" for r in rows[2:] if (m := r["mebibytes"]) > MEMORY]


if __name__ == "__main__":
    main()
