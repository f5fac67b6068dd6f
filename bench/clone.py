"""How alike the voices of an export and of recordings are that nothing in a run has heard, as
unmodified coqui-tts clones them.

    python bench/clone.py outputs/before outputs/after [--json FILE]

The voices are timbres of espeak-ng that neither the corpus nor the guests nor the speaker encoder
have (those of the recogniser). coqui-tts
takes latents and vector of three recordings of each (`get_conditioning_latents`) and speaks three
sentences (`inference`). Likeness is the
cosine of a clip's vector to the mean vector of the recordings, by the ECAPA-TDNN of the last run
named and, independent of all runs, by
Resemblyzer where it is installed. `own` are other recordings of the voice, `others` those of the
other voices: no clone can be expected above
the one, and one without any ear lies near the other. With two runs the last line says how much of
the way from the first to `own` the second goes.

coqui-tts reads files by torchcodec, which needs FFmpeg; here soundfile reads them, and nothing else
of it is changed."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
import numpy as np
import torch

from xtts_ka.core.audio import read_audio, resample, set_level, write_audio
from xtts_ka.core.randomness import seeded_step
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
from xtts_ka.evaluate.recogniser import TRAINING_VOICES
from xtts_ka.speaker.encoders import SpeakerEncoder, load_encoder
from xtts_ka.xtts.config import DecodeConfig
from xtts_ka.xtts.export import load_stock
from xtts_ka.xtts.features import OUTPUT_SAMPLE_RATE

VOICES = ("steph", "alicia", "victor", "robert")
HEARD = (
    "ჩემი მეგობარი ხვალ საღამოს ჩამოვა ქალაქში და ბევრ ამბავს მოგვიყვება.",
    "მთაში ცივი ქარი ქროდა, მაგრამ ცა სუფთა იყო და ვარსკვლავები ანათებდა.",
    "ბავშვები ეზოში თამაშობდნენ და ხმამაღლა იცინოდნენ.",
)
SAID = (
    "დილით ადრე ავდექი და ბაზარში წავედი.",
    "გუშინ ძველი წიგნი ვიპოვე სახლში.",
    "დღეს კარგი ამინდია.",
)
EAR_RATE = 16000  # Hz


def record(folder, names):
    "Recordings: voice -> (files to clone from, other files)."
    synthesizer, out = Synthesizer(), {}
    for name in names:
        out[name] = [], []
        for kind, texts in enumerate((HEARD, SAID)):
            for k, text in enumerate(texts):
                path = Path(folder) / name / f"{('heard', 'own')[kind]}-{k}.wav"
                write_audio(
                    path,
                    set_level(synthesizer.speak(text, TRAINING_VOICES[f"ear-{name}"]).wav),
                    SAMPLE_RATE,
                )
                out[name][kind].append(path)
    return out


def listeners(run):
    "Name -> (waveforms at 16 kHz -> vectors)."
    ecapa = SpeakerEncoder(load_encoder(run / "speaker_encoder"), "ecapa", "cpu")
    out = {"ECAPA of the run": ecapa.embed}
    try:
        from resemblyzer import VoiceEncoder
    except ImportError:
        print(
            "Resemblyzer is not here: pip install Resemblyzer adds a judge that no run has trained"
        )
        return out
    judge = VoiceEncoder("cpu", verbose=False)
    out["Resemblyzer"] = lambda wavs: np.stack(
        [judge.embed_utterance(set_level(w, -30.0)) for w in wavs]
    )  # its own level
    return out


@torch.inference_mode()
def clones(export, recordings):
    "Voice -> spoken sentences at 16 kHz, by coqui-tts."
    import TTS.tts.models.xtts as coqui

    coqui.load_audio = lambda path, rate: torch.from_numpy(read_audio(path, rate)[0])[None]
    stock, cfg, out = load_stock(export), DecodeConfig(), {}
    options = dict(
        temperature=cfg.temperature,
        top_k=cfg.top_k,
        top_p=cfg.top_p,
        repetition_penalty=cfg.repetition_penalty,
    )
    for name, (heard, _) in recordings.items():
        latents, vector = stock.get_conditioning_latents([str(p) for p in heard])
        out[name] = []
        for k, text in enumerate(SAID):
            seeded_step(1, "clone", k)
            wav = stock.inference(text, "en", latents, vector, **options)["wav"]
            out[name].append(resample(np.asarray(wav, np.float32), OUTPUT_SAMPLE_RATE, EAR_RATE))
    return out


def likeness(listen, heard, wavs):
    "Mean cosine of clips to the mean vector of what was heard."
    centre = listen(heard).mean(0)
    vectors = listen(wavs)
    return float(
        np.mean(vectors @ centre / np.linalg.norm(vectors, axis=1) / np.linalg.norm(centre))
    )


def measured(runs, names=VOICES):
    "listener -> row -> voice -> likeness."
    with tempfile.TemporaryDirectory() as folder:
        recordings = record(folder, names)
        spoken = {run.name: clones(run / "xtts", recordings) for run in runs}
        sound = {
            name: [[read_audio(p, EAR_RATE)[0] for p in files] for files in pair]
            for name, pair in recordings.items()
        }
    spoken["own"] = {name: own for name, (_, own) in sound.items()}
    spoken["others"] = {
        name: [own[k] for k in range(len(SAID)) for n, (_, own) in sound.items() if n != name]
        for name in names
    }
    return {
        judge: {
            row: {name: likeness(listen, sound[name][0], wavs[name]) for name in names}
            for row, wavs in spoken.items()
        }
        for judge, listen in listeners(runs[-1]).items()
    }


def table(judge, rows, runs):
    """Print the likeness of every voice; returns the share of the way that the last run goes, or
    None."""
    names, mean = (
        list(next(iter(rows.values()))),
        lambda row: float(np.mean(list(rows[row].values()))),
    )
    print(f"\n{judge:16}" + "".join(f"{n:>9}" for n in names) + f"{'mean':>9}")
    for row, values in rows.items():
        print(f"{row:16}" + "".join(f"{v:9.3f}" for v in values.values()) + f"{mean(row):9.3f}")
    if len(runs) < 2:
        return None
    first, last = mean(runs[0].name), mean(runs[-1].name)
    way = (last - first) / (mean("own") - first)
    print(
        f"{runs[-1].name} goes {100 * way:.0f} % of the way from {runs[0].name} to the voices' own"
        " recordings"
    )
    return way


def main():
    ap = argparse.ArgumentParser(
        description="Clone voices never heard by unmodified coqui-tts, and say how alike they are."
    )
    ap.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a run with xtts/; the last needs speaker_encoder/ as well",
    )
    ap.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = ap.parse_args()
    if len({run.name for run in args.runs}) < len(args.runs):
        ap.error("the runs' folders need different names: they name the rows")
    torch.set_num_threads(1)
    start = time.process_time()
    found = measured(args.runs)
    ways = {judge: table(judge, rows, args.runs) for judge, rows in found.items()}
    print(f"\n{time.process_time() - start:.0f} CPU s")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"runs": [str(r) for r in args.runs], "likeness": found, "way": ways}, indent=1
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    sys.exit(main())
