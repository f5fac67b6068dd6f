"""Voice or microphone? A small ECAPA trained with GE2E on 80 real speakers, beside MFCC and log-mel
averages: `python bench/speaker_encoder.py`.

Trains on `librispeech_mini/single` (one clip of each speaker, beside the repository), a fixed
number of steps and one seed, on one CPU thread; tests on the pairs of
`librispeech_mini/trials.csv`,
whose speakers were never heard. Equal error rates on the clips as they are, with a channel of its
own for each clip (equaliser and noise), and through rooms and codecs, which the training
does not know. `fsdd_mini` (half-second digits of four men at 8 kHz, all pairs of every 4th clip) is
reported, not aimed at: there the channel tells the speakers apart.
Exits with 1 when a promise is missed: 3 CPU minutes, 10 % raw and 20 % perturbed on the trials.
`--preset long` takes four times as many steps and says how far that leads."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"
DRAWS = 3  # Channels drawn for each clip; the error rates are means
CONFIG = ROOT / "configs/speaker/ecapa_cpu.json"
PRESETS = {"short": [], "long": ["steps=2000"]}


def train(preset, seed, folder, overrides=()):
    "The encoder, the steps and the CPU seconds of all of it."
    from xtts_ka.speaker.data import scan_folder
    from xtts_ka.speaker.encoders import SpeakerEncoder
    from xtts_ka.speaker.train_config import load_train_config
    from xtts_ka.speaker.train_encoder import load_recordings, train_encoder

    cfg = load_train_config(CONFIG, [*PRESETS[preset], f"seed={seed}", *overrides])
    start = time.process_time()
    clips = [
        u
        for u in scan_folder(DATA / "librispeech_mini", "metadata")
        if u.path.parent.name == "single"
    ]
    result = train_encoder(
        cfg, folder, (load_recordings(clips, cfg, Path(folder) / "waves", cfg.speeds), None)
    )
    return SpeakerEncoder(result.module, "ecapa"), result.step, time.process_time() - start


def clips_of(name, every=1):
    "{path: (wav, speaker)} of a set, at 16 kHz."
    from xtts_ka.core.audio import read_audio
    from xtts_ka.speaker.data import scan_folder

    found = scan_folder(DATA / name, "metadata")[::every]
    return {
        u.path.relative_to(DATA / name).as_posix(): (read_audio(u.path, 16000)[0], u.speaker)
        for u in found
        if "single" not in u.path.parts
    }


def contenders(encoder):
    "Name -> (list of wavs -> [n, D])."
    import numpy as np

    from xtts_ka.speaker.encoders import SpeakerEncoder, new_ecapa
    from xtts_ka.speaker.verification import logmel_embedding, mfcc_embedding

    def each(f):
        return lambda wavs: np.stack([f(w) for w in wavs])

    blank = SpeakerEncoder(new_ecapa(encoder.module.cfg, 0), "untrained")
    return {
        "trained here": encoder.embed,
        "the same, untrained": blank.embed,
        "MFCC, mean and deviation": each(mfcc_embedding),
        "log-mel, mean and deviation": each(logmel_embedding),
    }


def rates(embed, sets):
    "Error rates in % of one contender, a column each."
    from xtts_ka.speaker.verification import (
        eer,
        make_trials,
        perturb_channel,
        perturb_room,
        score_trials,
    )

    out = {}
    for name, (clips, trials) in sets.items():
        names, wavs = list(clips), [w for w, _ in clips.values()]
        trials = trials or make_trials([s for _, s in clips.values()], 0, 10**6)

        def rate(sound):
            vectors = embed(sound)
            return (
                100
                * eer(
                    *score_trials(
                        dict(zip(names, vectors)) if isinstance(trials.first, list) else vectors,
                        trials,
                    )
                )[0]
            )

        def through(channel):
            return statistics.fmean(
                rate([channel(w, 16000, seed, n) for n, w in zip(names, wavs)])
                for seed in range(DRAWS)
            )

        out |= {
            f"{name} raw": rate(wavs),
            f"{name} perturbed": through(perturb_channel),
            f"{name} room and codec": through(perturb_room),
        }
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--preset", choices=PRESETS, default="short")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", default="", help="keep the encoder in this folder")
    p.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of the training, e.g. steps=100"
    )
    args = p.parse_args()
    if not (DATA / "librispeech_mini").is_dir():
        print(
            "bench: librispeech_mini is not beside the repository; nothing measured",
            file=sys.stderr,
        )
        return 0
    import torch

    from xtts_ka.speaker.verification import read_trials

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        encoder, steps, cpu = train(args.preset, args.seed, args.out or d, args.overrides)
    sets = {
        "LibriSpeech": (
            clips_of("librispeech_mini"),
            read_trials(DATA / "librispeech_mini/trials.csv"),
        ),
        "FSDD": (clips_of("fsdd_mini", 4), None),
    }
    table = {name: rates(embed, sets) for name, embed in contenders(encoder).items()}
    columns = list(next(iter(table.values())))
    print(
        f"{steps} steps, {cpu:.0f} CPU seconds on one thread (data, augmentation and saving"
        f" included), seed {args.seed}; equal error rates in %"
    )
    print(" " * 28 + "".join(f"{c:>28}" for c in columns))
    for name, row in table.items():
        print(f"{name:28}" + "".join(f"{row[c]:28.1f}" for c in columns))
    ours = table["trained here"]
    missed = [
        w
        for w, bad in {
            "raw over 10 %": ours["LibriSpeech raw"] > 10,
            "perturbed over 20 %": ours["LibriSpeech perturbed"] > 20,
            "over 3 CPU minutes": args.preset == "short" and cpu > 180,
        }.items()
        if bad
    ]
    print(
        json.dumps(
            {
                "steps": steps,
                "cpu_seconds": round(cpu, 1),
                "seed": args.seed,
                **{k: round(v, 2) for k, v in ours.items()},
            }
        )
    )
    print("missed: " + ", ".join(missed) if missed else "all promises kept")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
