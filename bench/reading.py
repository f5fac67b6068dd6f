"""What teaches XTTS's GPT to read: `python bench/reading.py RUN` (for example outputs/demo; about a
quarter of an hour on one core) writes
nbs/results/reading.json, which nbs/xtts/reading.ipynb draws. `--recordings DIR` does the same for
recordings, `--cost` measures a step. On a GPU, `--preset small --jobs 4` trains four variants at a
time there, and the rest (speaking, the recogniser) runs on the CPU,
where the run's vocoder is: `--listen FILE` there.

One GPT is trained on the clips of RUN with all parts, and once more with each part left out: taught
heads, given times against a recogniser's
against none, corrupted inputs, mel heads, the start from the codebook, Muon. The same steps, seed
and batches each; then unseen texts are
spoken by greedy decoding and read by the built-in recogniser from the codes through the DVAE and
the run's vocoder. The figures compare
variants of one short training with each other; they do not say how good a full training becomes."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "nbs/results/reading.json"

VARIANTS = {  # name -> changes of full_pretrain.gpt
    "all parts, given times": {},
    "times by a recogniser (forced)": {"alignment.times": "forced"},
    "no times (forward-sum)": {"alignment.times": "forward_sum"},
    "no taught heads": {"alignment.weight": 0},
    "no corrupted inputs": {"corrupt": 0},
    "no mel heads": {"mel_weight": 0},
    "no codebook start": {"codebook_start": False},
    "AdamW alone, its rate doubled": {"optimizer": "adamw", "lr": 3e-3},
}


def options(run, steps, preset, changes):
    "The configuration of a variant: that of the run, short."
    from xtts_ka.pipeline.stages import load_run

    gpt = {
        "loop.steps": steps,
        "loop.validate_every": max(1, steps // 4),
        "loop.save_every": steps,
        "loop.log_every": 10,
    }
    gpt |= {("loop.lr" if k == "lr" else k): v for k, v in changes.items()}
    words = [f"full_pretrain.gpt.{k}={json.dumps(v)}" for k, v in gpt.items()]
    words += [f"full_pretrain.preset={preset}"] if preset else []
    return load_run(Path(run) / "config.yaml", words).full_pretrain


def device_name():
    "Where the trainings run."
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"


def curve(path, keys):
    "Lines of a log."
    from xtts_ka.core.files import read_jsonl

    rows = [r for r in read_jsonl(path) if any(k in r for k in keys)]
    return {"step": [r["step"] for r in rows]} | {
        k: [round(r[k], 4) if k in r else None for r in rows] for k in keys
    }


def attention(stage, i):
    """Attention of the taught heads over the text of a clip, [codes, text positions], mean of the
    heads."""
    import torch

    from xtts_ka.xtts.alignment import default_heads
    from xtts_ka.xtts.gpt import gpt_forward

    task = stage.task
    heads = task.heads or default_heads(task.cfg.layers, task.cfg.heads)
    with torch.inference_mode():
        batch = task.collate([task.sample(i, "val")])
        out = gpt_forward(task.net, batch, heads)
    n = batch["text_in"].shape[1]
    return out.scores.softmax(-1).mean(0)[0, :, out.first : out.first + n]


def spoken(stage, texts) -> dict:
    "Unseen texts, spoken greedily: the codes of each, and how many end by themselves."
    import torch

    from xtts_ka.xtts.config import DecodeConfig
    from xtts_ka.xtts.fast import FastGPT
    from xtts_ka.xtts.sampling import decode_batch

    voices = []
    with torch.inference_mode():
        for s in stage.clips.speakers:
            clips = [stage.clips.wav(i) for i in stage.voice_clips(s)]
            voices.append(stage.conditioning(torch.cat(clips)))
    conds = [voices[k % len(voices)] for k in range(len(texts))]
    ids = [stage.vocabulary.encode(t) for t in texts]
    said = decode_batch(FastGPT(stage.gpt_net), conds, ids, DecodeConfig(temperature=0))
    pairs = [(text, take.codes.tolist()) for text, take in zip(texts, said)]
    return {"said": pairs, "stopped": sum(t.stopped for t in said)}


def listen(run, rows):
    "Character error rates of what variants have said, by the DVAE and the vocoder of the run."
    import numpy as np
    import torch

    from xtts_ka.core.checkpoint import read_tensors
    from xtts_ka.evaluate.chains import hifi_mel
    from xtts_ka.evaluate.recogniser import Recogniser, error_rate
    from xtts_ka.vocoder.infer import open_vocoder
    from xtts_ka.xtts.dvae import decode
    from xtts_ka.xtts.export import load_dvae

    dvae, stats = load_dvae(run / "xtts"), read_tensors(run / "xtts_init/mel_stats.pth")
    vocoder, recogniser = open_vocoder(run / "vocoder"), Recogniser()

    def heard(codes):
        wav = np.zeros(2205, np.float32)
        if codes:
            mel = decode(dvae, torch.tensor(codes)) * stats[:, None]  # [80, 4 n]
            wav = vocoder.generate(hifi_mel(mel, vocoder.mel)).numpy()
        return recogniser.transcribe(wav, 22050)

    for row in rows:
        rates = error_rate([(text, heard(codes)) for text, codes in row.pop("said")])
        row |= dict(zip(("cer", "low", "high"), (round(x, 4) for x in rates)))
        print(f"{row['name']}: {row['loss']['val/code'][-1]:.3f} nats, {row['cer']:.1%} lost")


def unseen_texts(stage, count):
    "Texts of the composer that no clip says."
    from xtts_ka.corpus.compose import compose
    from xtts_ka.text.chunks import closed

    known = {r.text for r in stage.clips.rows}
    return [closed(t) for t in compose(4 * count, 4711, 6) if t not in known][:count]


def pad_picture(picture):
    return [[round(float(x), 3) for x in row] for row in picture]


def copy_once(source, target):
    if source.is_dir() and not target.is_dir():
        shutil.copytree(source, target)


def measure(run, name, changes, args, work):
    "Train a variant and judge it."
    import torch

    from xtts_ka.xtts.stage import Pretrain

    torch.set_num_threads(1)
    cfg = options(run, args.steps, args.preset, changes)
    began, clock = time.process_time(), time.monotonic()
    out, aligner = Path(work) / f"{args.key or args.preset}-{name.replace(' ', '-')}", "aligner"
    stage = Pretrain(cfg, run / "segments", run / "xtts_init", out, args.seed)
    copy_once(Path(work) / aligner, out / aligner)  # the same for every size
    result = stage.gpt()
    copy_once(out / aligner, Path(work) / aligner)
    spent, seconds = time.process_time() - began, time.monotonic() - clock
    stage.gpt_net = stage.task.net.cpu()  # what follows is short, and runs on the CPU
    clip = max(stage.clips.split("val"), key=lambda i: -abs(len(stage.codes[i]) - 60))
    row = {
        "name": name,
        "cpu_seconds": round(spent, 1),
        "seconds": round(seconds, 1),
        "device": device_name(),
        "steps": args.steps,
        "parameters": sum(p.numel() for p in stage.gpt_net.parameters()),
        "loss": curve(result.log_path, ("val/code", "val/point", "cpu_seconds", "seconds")),
        "align": curve(result.log_path, ("loss/align",)),
        "text": stage.clips.rows[clip].text,
        "attention": pad_picture(attention(stage, clip)),
    }
    row |= spoken(stage, unseen_texts(stage, args.texts))
    print(
        f"{name}: {row['loss']['val/code'][-1]:.3f} nats, {spent:.0f} CPU s,"
        f" {seconds:.0f} s on {row['device']}",
        flush=True,
    )
    return row


def measure_all(run, args):
    "Rows of the variants, `args.jobs` at a time."
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    chosen = [(n, c) for n, c in VARIANTS.items() if args.only in n]
    with tempfile.TemporaryDirectory() as made_here:
        work = args.work or made_here
        if args.jobs == 1:
            return [measure(run, n, c, args, work) for n, c in chosen]
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
            made = [pool.submit(measure, run, n, c, args, work) for n, c in chosen]
            return [m.result() for m in made]


def recordings(folder, language, steps, seed, work):
    """Real recordings, whose letter times nobody knows: a recogniser of their own finds them, and
    heads learn to point there."""
    import torch

    from xtts_ka.core.config import build
    from xtts_ka.core.loop import load_models
    from xtts_ka.corpus.segment import SegmentConfig, segment_corpus
    from xtts_ka.corpus.sources import CorpusConfig, build_corpus
    from xtts_ka.xtts.config import InitConfig, PretrainConfig
    from xtts_ka.xtts.stage import Pretrain
    from xtts_ka.xtts.stage_init import XTTSModelInitializer

    run = Path(work)
    build_corpus(
        build(CorpusConfig, {"source": "folder", "path": str(folder), "language": language}),
        run / "corpus",
        seed,
    )
    segment_corpus(
        build(SegmentConfig, {"vad": False, "val_fraction": 0.15}),
        run / "corpus",
        run / "segments",
        seed,
    )
    dvae = {
        "codes": 128,
        "loop": {"steps": 300, "batch_size": 16, "validate_every": 300, "save_every": 300},
    }
    first = XTTSModelInitializer(
        build(InitConfig, {"dvae": dvae}), run / "segments", run / "xtts_init", language, seed
    )
    for part in (first.vocabulary, first.mels, first.dvae):
        part()
    first.finish(first.codes())
    loop = {
        "steps": steps,
        "batch_size": 8,
        "validate_every": steps // 4,
        "save_every": steps,
        "log_every": 10,
        "precision": "auto",
    }
    gpt = {
        "optimizer": "muon",
        "dropout": 0.0,
        "references": 2,
        "alignment": {"times": "forced", "forced_steps": 400},
        "loop": loop,
    }
    stage = Pretrain(
        build(PretrainConfig, {"gpt": gpt}),
        run / "segments",
        run / "xtts_init",
        run / "full_pretrain",
        seed,
    )
    result = stage.gpt()
    load_models(
        run / "full_pretrain/gpt", {"gpt": stage.task.net}, "latest"
    )  # the best step of so few clips is an early one
    clip = min(stage.clips.split("train"), key=lambda i: abs(len(stage.codes[i]) - 70))
    with torch.no_grad():
        seen = stage.task.score(stage.clips.split("train")[:16])["point"]
    align = curve(result.log_path, ("loss/align",))
    row = {
        "clips": len(stage.clips),
        "aligned": len(stage.task.times),
        "align": align,
        "point": curve(result.log_path, ("val/point",)),
        "point of training clips": round(float(seen), 4),
        "text": stage.clips.rows[clip].text,
        "attention": pad_picture(attention(stage, clip)),
    }
    first_loss, last_loss = (
        next(x for x in part if x is not None)
        for part in (align["loss/align"], align["loss/align"][::-1])
    )
    print(
        f"{row['clips']} recordings, {row['aligned']} aligned: alignment loss {first_loss:.2f} to"
        f" {last_loss:.2f} nats a code, heads point at the letter in {seen:.0%} of the codes"
    )
    return row


def cost(preset="full", batch=2, codes=120, letters=60, rounds=4):
    """CPU seconds and peak memory of a training step with and without taught heads, random weights,
    interleaved."""
    import torch

    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.xtts.alignment import default_heads, given_loss
    from xtts_ka.xtts.config import PRESETS, GptConfig
    from xtts_ka.xtts.gpt import code_losses, gpt_forward, make_gpt, sequences

    seeded_step(0, "cost")
    cfg = GptConfig(**PRESETS[preset]["gpt"])
    gpt = make_gpt(cfg, 2000, 1, 0, 1024).train()
    made = sequences(
        [torch.randint(4, 2000, (letters,))] * batch, [torch.randint(1024, (codes,))] * batch, gpt
    )
    made["reference"] = torch.randn(batch, 80, 200)
    path = torch.rand(batch, codes + 1, letters + 2)
    heads = default_heads(cfg.layers, cfg.heads)

    def step(taught):
        gpt.zero_grad(set_to_none=True)
        out = gpt_forward(gpt, made, heads if taught else ())
        loss = sum(code_losses(out, made))
        if taught:
            loss = loss + 0.3 * given_loss(out.scores, path / path.sum(-1, keepdim=True), out.first)
        loss.backward()

    def activations(taught):
        "Bytes that the backward pass keeps, each storage once."
        held = {}

        def keep(x):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            step(taught)
        return sum(held.values())

    weights = 2 * sum(p.numel() * p.element_size() for p in gpt.parameters())  # and their gradients
    memory = {taught: weights + activations(taught) for taught in (False, True)}
    seconds = {False: [], True: []}
    for k in range(rounds):
        for taught in (False, True) if k % 2 else (True, False):
            began = time.process_time()
            step(taught)
            seconds[taught].append(time.process_time() - began)
    best = {taught: min(times) for taught, times in seconds.items()}
    row = {
        "preset": preset,
        "million_weights": round(sum(p.numel() for p in gpt.parameters()) / 1e6, 1),
        "seconds_without": round(best[False], 2),
        "seconds_with": round(best[True], 2),
        "time_ratio": round(best[True] / best[False], 4),
        "memory_ratio": round(memory[True] / memory[False], 4),
    }
    print(row)
    return row


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        default="outputs/demo",
        help="folder of a run with segments, xtts_init and vocoder",
    )
    p.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    p.add_argument("--texts", type=int, default=40, help="unseen texts spoken (default: 40)")
    p.add_argument("--preset", default="", help="sizes: tiny or small; empty: those of the run")
    p.add_argument("--seed", type=int, default=1, help="(default: 1)")
    p.add_argument("--only", default="", help="variants whose name holds this (default: all)")
    p.add_argument(
        "--key",
        default="",
        help="name of this set of figures in the file (default: the preset, or tiny)",
    )
    p.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="variants trained at a time, a process each (default: 1)",
    )
    p.add_argument(
        "--work",
        metavar="DIR",
        help="keeps the trainings there: the same command goes on where it was stopped",
    )
    p.add_argument(
        "--listen",
        type=Path,
        metavar="FILE",
        help="instead: hear what FILE's variants have said on a machine without the run's vocoder",
    )
    p.add_argument("--out", type=Path, default=OUT, help="JSON to write (nbs/results/reading.json)")
    p.add_argument(
        "--recordings",
        metavar="DIR",
        help=(
            "instead: a folder of recordings with a list, for example of LJSpeech, through forced"
            " alignment"
        ),
    )
    p.add_argument("--language", default="en", help="of the recordings (default: en)")
    p.add_argument(
        "--cost",
        action="store_true",
        help="instead: time and memory of a step at full size, with and without taught heads",
    )
    args = p.parse_args()
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    from xtts_ka.core.files import write_json

    out = args.out
    held = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if args.cost:
        held["cost"] = cost(args.preset or "full")
        write_json(out, held, indent=None)
        return
    if args.recordings:
        with tempfile.TemporaryDirectory() as work:
            held["recordings"] = recordings(
                Path(args.recordings).resolve(), args.language, args.steps, args.seed, work
            )
        write_json(out, held, indent=None)
        return
    run, key = Path(args.run).resolve(), args.key or args.preset or "tiny"
    if args.listen:
        held[key] = json.loads(args.listen.read_text(encoding="utf-8"))[key]
    else:
        about = {"steps": args.steps, "texts": args.texts, "seed": args.seed}
        held[key] = about | {"rows": measure_all(run, args)}
    if (run / "vocoder").is_dir():
        listen(run, held[key]["rows"])
    else:
        print(f"{run}/vocoder: not here, so nothing is heard yet; --listen {out} does it later")
    write_json(out, held, indent=None)


if __name__ == "__main__":
    main()
