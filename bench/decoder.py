"""What is lost between a recording and the sound of its codes: by the vocoder, and by XTTS's own
decoder; words, hum, voicing and, where it is
installed, DistillMOS, voice by voice.

python bench/decoder.py demo=outputs/demo                      finished runs; entries of
nbs/results/decoder.json that are not named stay
python bench/decoder.py --everyday 30 everyday=outputs/demo    pieces of everyday texts instead

Between a recording and XTTS's own speech every way swaps one part more: the recording; its codes
through the DVAE and the vocoder; the GPT's latents, told these codes, through the vocoder and
through XTTS's own decoder; and the codes that the GPT itself chooses, both ways. Clips are those of
the validation split, which no training saw; pieces of everyday texts are recorded by the run's
synthetic voices. DistillMOS comes from the
package `distillmos` (MIT); without it that column stays empty."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[1] / "nbs/results/decoder.json"
RATE = 24000  # Hz, at which all ways are compared


def mos_judge():  # None where the package is not installed
    from xtts_ka.evaluate.naturalness import has_mos
    from xtts_ka.evaluate.scorers import open_scorer

    return open_scorer("distillmos") if has_mos() else None


def mos(wav, judge) -> float | None:  # [T] at RATE -> 1 to 5; None: no judge, or it fails
    from xtts_ka.evaluate.scorers import score_wavs

    return score_wavs(judge, [wav], RATE)[0].get("mos") if judge else None


def voicing(wav, frame=1200, lags=(68, 343)) -> float:  # [T] at RATE, lags in samples: 350 to 70 Hz
    """Mean peak of the normalised autocorrelation of the loud frames: near 1 for a voice with a
    pitch, 0.3 to 0.4 for noise."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.asarray(wav, np.float64), frame + lags[1]
    )[::600]
    power = (windows**2).mean(1)
    windows = windows[power > 0.1 * power.max()]  # [N, frame + lags]
    first, size = windows[:, :frame], lambda x: (x**2).sum(1)
    found = [
        (first * (later := windows[:, lag : lag + frame])).sum(1)
        / np.sqrt(size(first) * size(later) + 1e-12)
        for lag in range(*lags)
    ]
    return float(np.max(found, axis=0).mean())


KEPT = 30  # Cepstral coefficients that count as the envelope of a spectrum: formants, no pitch


def envelope(spectrum):  # [bins, frames] magnitudes -> [bins, frames]
    "The coarse structure of each frame."
    cepstrum = np.fft.irfft(np.log(spectrum + 1e-5), axis=0)  # [n_fft, frames]
    cepstrum[KEPT:-KEPT] = 0
    return np.exp(np.fft.rfft(cepstrum, axis=0).real)


def crossed(fine, coarse, n_fft=1024, hop=256):  # [T] each -> [T]
    "A sound with the excitation of one and the envelope of another that lasts as long."
    import torch

    n = min(len(fine), len(coarse))
    window = torch.hann_window(n_fft)

    def stft(x):
        wav = torch.from_numpy(np.ascontiguousarray(x[:n], np.float32))
        return torch.stft(wav, n_fft, hop, n_fft, window, return_complex=True)

    a, b = stft(fine), stft(coarse)
    gain = envelope(b.abs().numpy()) / envelope(a.abs().numpy())
    wav = torch.istft(a * torch.from_numpy(gain).float(), n_fft, hop, n_fft, window, length=n)
    return wav.numpy()


@dataclass
class Item:
    "What is said."

    text: str
    voice: str  # Of the run
    wav: np.ndarray  # [T] at 22,050 Hz, its recording


def from_clips(clips, count: int) -> list:  # Of `Item`
    "Validation clips, some of each voice."
    val = clips.split("val")
    chosen = [
        i
        for s in clips.speakers
        for i in [j for j in val if clips.rows[j].speaker_name == s][:count]
    ]
    rows = ((clips.rows[i], clips.wav(i).numpy()) for i in chosen)
    return [Item(row.text, row.speaker_name, wav) for row, wav in rows]


def from_everyday(model, folder, count: int) -> list:  # Of `Item`
    "Pieces of everyday texts, as the run's synthetic voices say them."
    from xtts_ka.evaluate.everyday import corpus_voices, record, run_options, turns
    from xtts_ka.evaluate.everyday_texts import load_everyday

    options, names = run_options(folder), sorted(model.speakers)
    voices, pad = corpus_voices(options, names), options["segments"]["pad_seconds"]
    return [
        Item(piece.text, who, record(piece.text, voices[who], pad))
        for text, who in turns(load_everyday(count), names)
        for piece in model.plan(text.said).pieces
    ]


class Run:
    "The ways from a recording to sound that a finished run has."

    def __init__(
        self,
        folder,  # Of the run: `xtts`, `segments` and perhaps `vocoder` are read
        clips: int,  # Of each voice
        everyday: int = 0,  # Texts of the everyday set instead
    ):
        from xtts_ka.xtts.data import load_clips
        from xtts_ka.xtts.export import load_dvae
        from xtts_ka.xtts.infer import KaXtts
        from xtts_ka.xtts.vocode import CodeVocoder, open_way

        folder = Path(folder)
        self.model = KaXtts(folder / "xtts", precision="float32")
        self.dvae, self.stats = load_dvae(folder / "xtts"), self.model.xtts.mel_stats
        latents = open_way(folder / "xtts", self.stats)
        self.by_latents = None if isinstance(latents, CodeVocoder) else latents
        self.vocoder = self.by_latents and self.by_latents.vocoder
        self.items = (
            from_everyday(self.model, folder, everyday)
            if everyday
            else from_clips(load_clips(folder / "segments", self.model.vocabulary)[0], clips)
        )
        self.voices = sorted({i.voice for i in self.items})
        self.told: dict = {}  # item -> `Decoded` that was told the recording's codes
        self.chosen: dict = {}  # item -> `Decoded` of the GPT's own codes

    def codes(self, item: Item):  # [n] long
        import torch

        from xtts_ka.xtts.dvae import encode
        from xtts_ka.xtts.features import code_mel

        return encode(self.dvae, code_mel(torch.from_numpy(item.wav)) / self.stats[:, None])

    def teacher(self, item: Item):  # `Decoded`
        import torch

        from xtts_ka.xtts.sampling import Decoded, teacher_latents

        if id(item) not in self.told:
            cond, codes = self.model.voice(item.voice)[0], self.codes(item)
            ids = self.model.vocabulary.encode(item.text)
            with torch.inference_mode():
                latents = teacher_latents(self.model.gpt, cond, ids, codes)
            self.told[id(item)] = Decoded(codes, latents, True)
        return self.told[id(item)]

    def own(self, item: Item):  # `Decoded`
        import torch

        from xtts_ka.xtts.sampling import Decoded

        if id(item) not in self.chosen:
            [(_, takes)] = self.model.plan_takes([item.text], self.model.voice(item.voice))
            codes, latents = (
                torch.cat([getattr(t, k) for t in takes]) for k in ("codes", "latents")
            )
            self.chosen[id(item)] = Decoded(codes, latents, True)  # of all pieces
        return self.chosen[id(item)]

    def recording(self, item):
        return item.wav, 22050

    def codes_by_vocoder(self, item):
        from xtts_ka.evaluate.chains import hifi_mel
        from xtts_ka.xtts.dvae import decode

        mel = decode(self.dvae, self.codes(item)) * self.stats[:, None]
        return self.vocoder.generate(hifi_mel(mel, self.vocoder.mel)).numpy(), 22050

    def by_vocoder(self, take):  # A function of an item
        return lambda item: (self.by_latents.say(take(item), self._vector(item)), RATE)

    def by_decoder(self, take):
        return lambda item: (self.model.sound(take(item).latents, self._vector(item), 1.0), RATE)

    def crossing(self, envelope: bool):  # A function of an item
        "The decoder's sound with the recording's envelope, or with its excitation."
        from xtts_ka.core.audio import resample

        def way(item):
            made = self.by_decoder(self.teacher)(item)[0]
            real = resample(item.wav, 22050, RATE)
            return crossed(made, real) if envelope else crossed(real, made), RATE

        return way

    def _vector(self, item):
        return self.model.voice(item.voice)[1]

    def ways(self) -> dict:  # Name -> (item -> (wav, rate))
        "From the recording to XTTS's own speech, a part more each time."
        vocoder = {
            "codes, by the vocoder": self.codes_by_vocoder,
            "codes, by latents and the vocoder": self.by_vocoder(self.teacher),
            "XTTS, by the vocoder": self.by_vocoder(self.own),
        }
        decoder = {
            "codes, by the decoder": self.by_decoder(self.teacher),
            "... with the recording's envelope": self.crossing(True),
            "... with the recording's excitation": self.crossing(False),
            "XTTS": self.by_decoder(self.own),
        }
        return {"recording": self.recording, **(vocoder if self.by_latents else {}), **decoder}


def measured(run: Run, way, recogniser, judge) -> list:  # A dict an item
    "Each item by one way."
    from xtts_ka.core.audio import resample
    from xtts_ka.evaluate.metrics import hum

    out = []
    for item in run.items:
        wav, rate = way(item)
        wav = resample(np.asarray(wav, np.float32), rate, RATE)
        out.append(
            {
                "text": item.text,
                "voice": item.voice,
                "heard": recogniser.transcribe(wav, RATE),
                "hum": hum(wav, RATE),
                "voicing": voicing(wav),
                "mos": mos(wav, judge),
                "wav": wav,
            }
        )
    return out


def summary(rows: list) -> dict:
    "Means of some clips; the error rate with its interval."
    from xtts_ka.evaluate.recogniser import error_rate

    rate, low, high = error_rate([(r["text"], r["heard"]) for r in rows])
    scored = [r["mos"] for r in rows if r["mos"] is not None]
    return {
        "clips": len(rows),
        "CER": round(rate, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "hum": round(float(np.mean([r["hum"] for r in rows])), 4),
        "voicing": round(float(np.mean([r["voicing"] for r in rows])), 3),
        "MOS": round(float(np.mean(scored)), 3) if scored else None,
        "judged": len(scored),
    }


def keep_sounds(name: str, way: str, rows: list, folder):
    "The first clip of each voice as Ogg, for players."
    import soundfile as sf

    from xtts_ka.core.paths import slug

    Path(folder).mkdir(parents=True, exist_ok=True)
    for voice in sorted({r["voice"] for r in rows}):
        wav = next(r["wav"] for r in rows if r["voice"] == voice)
        path = Path(folder) / f"{slug(name)}-{slug(way)}-{voice}.ogg"
        sf.write(
            path, np.clip(wav, -1, 1), RATE, format="OGG", subtype="VORBIS", compression_level=0.7
        )


def about_run(args, judge) -> dict:
    "How the figures of one name were made; those of the others stay."
    import torch

    more = f" --everyday {args.everyday}" if args.everyday else f" --clips {args.clips}"
    return {
        "command": f"python bench/decoder.py NAME=RUN{more}",
        "of": "everyday texts" if args.everyday else "split val",
        "torch": torch.__version__,
        "judge": judge and judge.card.version,
    }


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=RUN",
        help="a name for the figures, and the folder of a finished run",
    )
    p.add_argument("--clips", type=int, default=24, help="clips of each voice (24)")
    p.add_argument(
        "--everyday",
        type=int,
        default=0,
        help="so many everyday texts, in pieces, instead of clips",
    )
    p.add_argument("--way", default="", help="only ways whose name holds this; the others stay")
    p.add_argument(
        "--out", default=str(OUT), help="JSON to write; sounds go to audio/decoder beside it"
    )
    args = p.parse_args(argv)
    import torch

    from xtts_ka.core.files import read_json, write_json
    from xtts_ka.evaluate.recogniser import Recogniser

    torch.set_num_threads(1)
    out, recogniser, start = Path(args.out), Recogniser(), time.process_time()
    held, judge = read_json(out) if out.is_file() else {}, mos_judge()
    about = held.pop("about", {})
    for name, folder in (run.split("=", 1) for run in args.runs):
        run, kept = Run(folder, args.clips, args.everyday), held.get(name, {})
        held[name] = {way: kept.get(way) for way in run.ways()}
        for way, speak in run.ways().items():
            if args.way not in way:
                continue
            rows = measured(run, speak, recogniser, judge)
            held[name][way] = {"all": summary(rows)} | {
                v: summary([r for r in rows if r["voice"] == v]) for v in run.voices
            }
            keep_sounds(name, way, rows, out.parent / "audio/decoder")
            print(
                f"{name}, {way}: {held[name][way]['all']}, {time.process_time() - start:.0f} CPU s",
                flush=True,
            )
        held[name] = {way: found for way, found in held[name].items() if found}
        about[name] = about_run(args, judge)
    write_json(out, held | {"about": about})
    print(f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
