"""The everyday texts by unmodified coqui-tts from an export, beside our own decoding through the
same decoder.

    python bench/coqui.py outputs/demo [--texts 60] [--json FILE]

Both get the same pieces of text in words, the same stored voices and sampling options; coqui draws
from torch's global generator, seeded for
each text, so its takes are other takes. Ours is judged twice: as first takes, which is the
comparison, and with what `speak` adds (the end
decided by the alignment, pieces that lost words spoken again). The recogniser is the built-in
one."""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
import numpy as np
import torch
from compare import commit

from xtts_ka.core.files import write_json
from xtts_ka.core.randomness import seeded_step
from xtts_ka.evaluate.everyday_texts import load_everyday
from xtts_ka.evaluate.recogniser import Recogniser, error_rate
from xtts_ka.xtts.config import DecodeConfig
from xtts_ka.xtts.export import load_stock
from xtts_ka.xtts.features import OUTPUT_SAMPLE_RATE
from xtts_ka.xtts.infer import KaXtts
from xtts_ka.xtts.join import join


@torch.inference_mode()
def by_coqui(stock, plan, voice, cfg, seed):
    "Every piece by `Xtts.inference`, joined as ours are. Waveform [T] at 24 kHz."
    options = dict(
        temperature=cfg.temperature,
        top_k=cfg.top_k,
        top_p=cfg.top_p,
        repetition_penalty=cfg.repetition_penalty,
    )
    wavs = []
    for k, piece in enumerate(plan.pieces):
        seeded_step(seed, "coqui", k)
        wavs.append(
            np.asarray(
                stock.inference(piece.text, "en", *voice, enable_text_splitting=False, **options)[
                    "wav"
                ],
                np.float32,
            )
        )
    return join(wavs, [p.pause for p in plan.pieces], 1.0)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("run", type=Path, help="folder of a finished run")
    p.add_argument(
        "--texts",
        type=int,
        default=60,
        help="texts of the everyday set, kinds in turn (default: 60)",
    )
    p.add_argument("--seed", type=int, default=1, help="of the draws (default: 1)")
    p.add_argument("--json", type=Path, help="file to write the figures to")
    args = p.parse_args()
    torch.set_num_threads(1)
    ours, stock, recogniser = (
        KaXtts(args.run / "xtts", precision="float32"),
        load_stock(args.run / "xtts"),
        Recogniser(),
    )
    cfg = DecodeConfig()
    plain = replace(cfg, retries=0, watch_end=False)
    texts, rows = (
        load_everyday(args.texts),
        {"coqui": [], "ours, first takes": [], "ours, as spoken": []},
    )
    seconds = dict.fromkeys(rows, 0.0)
    for k, text in enumerate(texts):
        speaker = ours.speakers[k % len(ours.speakers)]
        voice, plan = ours.voice(speaker), ours.plan(text.text)
        ways = {
            "coqui": lambda: by_coqui(stock, plan, voice, cfg, args.seed),
            "ours, first takes": lambda: ours.speak(text.text, voice, plain, args.seed).wav,
            "ours, as spoken": lambda: ours.speak(text.text, voice, cfg, args.seed).wav,
        }
        for name, speak in ways.items():
            began = time.process_time()
            wav = speak()
            seconds[name] += time.process_time() - began
            rows[name].append((text.said, recogniser.transcribe(wav, OUTPUT_SAMPLE_RATE)))
    out = {"run": args.run.name, **commit(), "texts": len(texts), "paths": {}}
    for name, pairs in rows.items():
        rate, low, high = error_rate(pairs)
        out["paths"][name] = {
            "CER": round(rate, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "cpu_seconds": round(seconds[name], 1),
        }
        print(
            f"{name:18} {rate:.1%} ({low:.1%} to {high:.1%}) of the letters misunderstood,"
            f" {seconds[name]:.0f} CPU s"
        )
    if args.json:
        write_json(args.json, out)


if __name__ == "__main__":
    main()
