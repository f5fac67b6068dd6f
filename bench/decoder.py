"""What is lost between a recording and the sound of its codes: by the vocoder, and by XTTS's own
decoder; words, hum, voicing and, where it is
installed, DistillMOS, voice by voice.

python bench/decoder.py before=outputs/demo after=outputs/new     finished runs; entries of
nbs/results/decoder.json that are not named stay

The clips are those of the validation split, which no training saw. DistillMOS comes from the
package `distillmos` (MIT); without it that column stays empty."""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[1] / "nbs/results/decoder.json"
RATE = 24000  # Hz, at which all ways are compared


@functools.lru_cache(1)
def mos_model():  # None where the package is not installed
    try:
        from distillmos import ConvTransformerSQAModel
    except ImportError:
        return None
    return ConvTransformerSQAModel().eval()


def mos(wav) -> float | None:  # [T] at RATE -> 1 to 5
    import torch

    from xtts_ka.core.audio import resample

    if (model := mos_model()) is None:
        return None
    with torch.inference_mode():
        return float(model(torch.from_numpy(resample(wav, RATE, 16000))[None]))


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


class Run:
    "The ways from a recording to sound that a finished run has."

    def __init__(
        self,
        folder,  # Of the run: `xtts`, `segments` and perhaps `vocoder` are read
        clips: int,  # Of each voice
    ):
        from xtts_ka.corpus.clips import Clips
        from xtts_ka.vocoder.infer import open_vocoder
        from xtts_ka.xtts.data import load_clips
        from xtts_ka.xtts.export import load_dvae
        from xtts_ka.xtts.infer import KaXtts

        folder = Path(folder)
        self.model, self.dvae = (
            KaXtts(folder / "xtts", precision="float32"),
            load_dvae(folder / "xtts"),
        )
        self.stats = self.model.xtts.mel_stats
        self.clips: Clips = load_clips(folder / "segments", self.model.vocabulary)[0]
        self.vocoder = (
            open_vocoder(folder / "vocoder") if (folder / "vocoder/generator").is_dir() else None
        )
        val = self.clips.split("val")
        self.chosen = [
            i
            for s in self.clips.speakers
            for i in [j for j in val if self.clips.rows[j].speaker_name == s][:clips]
        ]

    def codes(self, i: int):  # [n] long
        from xtts_ka.xtts.dvae import encode
        from xtts_ka.xtts.features import code_mel

        return encode(self.dvae, code_mel(self.clips.wav(i)) / self.stats[:, None])

    def recording(self, i):
        return self.clips.wav(i).numpy(), 22050

    def by_vocoder(self, i):
        from xtts_ka.evaluate.chains import hifi_mel
        from xtts_ka.xtts.dvae import decode

        mel = decode(self.dvae, self.codes(i)) * self.stats[:, None]
        return self.vocoder.generate(hifi_mel(mel, self.vocoder.mel)).numpy(), 22050

    def by_decoder(self, i):
        import torch

        from xtts_ka.xtts.sampling import teacher_latents

        row, model = self.clips.rows[i], self.model
        cond, vector = model.voice(row.speaker_name)
        ids = model.vocabulary.encode(row.text)
        with torch.inference_mode():
            latents = teacher_latents(model.gpt, cond, ids, self.codes(i))
        return np.asarray(model.sound(latents, vector, 1.0)), RATE

    def ways(self) -> dict:  # Name -> (clip -> (wav, rate))
        found = {
            "recording": self.recording,
            "codes, by the vocoder": self.by_vocoder,
            "codes, by the decoder": self.by_decoder,
        }
        return {name: way for name, way in found.items() if self.vocoder or way != self.by_vocoder}


def measured(run: Run, way, recogniser) -> list:  # A dict a clip
    "Each chosen clip by one way."
    from xtts_ka.core.audio import resample
    from xtts_ka.evaluate.metrics import hum

    out = []
    for i in run.chosen:
        wav, rate = way(i)
        wav, row = resample(np.asarray(wav, np.float32), rate, RATE), run.clips.rows[i]
        out.append(
            {
                "text": row.text,
                "voice": row.speaker_name,
                "heard": recogniser.transcribe(wav, RATE),
                "hum": hum(wav, RATE),
                "voicing": voicing(wav),
                "mos": mos(wav),
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
        "--out", default=str(OUT), help="JSON to write; sounds go to audio/decoder beside it"
    )
    args = p.parse_args(argv)
    import torch

    from xtts_ka.evaluate.recogniser import Recogniser

    torch.set_num_threads(1)
    out, recogniser, start = Path(args.out), Recogniser(), time.process_time()
    held = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    for name, folder in (run.split("=", 1) for run in args.runs):
        run, held[name] = Run(folder, args.clips), {}
        for way, speak in run.ways().items():
            rows = measured(run, speak, recogniser)
            held[name][way] = {"all": summary(rows)} | {
                v: summary([r for r in rows if r["voice"] == v]) for v in run.clips.speakers
            }
            keep_sounds(name, way, rows, out.parent / "audio/decoder")
            print(
                f"{name}, {way}: {held[name][way]['all']}, {time.process_time() - start:.0f} CPU s",
                flush=True,
            )
    held["about"] = {
        "command": "python bench/decoder.py NAME=RUN",
        "split": "val",
        "torch": torch.__version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
