"""The scorers of `xtts_ka.evaluate`, tried on recordings of people and on a recogniser of ours.

python bench/listening.py damage --run outputs/demo   known damage of LJSpeech and LibriSpeech,
                                                      rated by DistillMOS, DNSMOS and PESQ; about
                                                      two CPU minutes
python bench/listening.py voices --run outputs/demo   equal error rates of Resemblyzer, of the run's
                                                      encoder and of MFCC on LibriSpeech's trials
python bench/listening.py ctc outputs/ctc_ka          train a small Wav2Vec2ForCTC on synthetic
                                                      speech for some minutes, save it as the hub
                                                      would hold it, and read held-out sentences by
                                                      it, as the scorer `ctc:outputs/ctc_ka?lang=ka`
                                                      and as transformers' own pipeline

Figures go to nbs/results/listening.json, which nbs/evaluate/damage.ipynb shows; parts that are not
named stay. The recordings lie beside the repository (`--data`) and are never copied; without them
`damage` and `voices` measure nothing."""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "nbs/results/listening.json"
SECONDS = 5.0  # Of a clip, at most
RATE = 22050  # Hz, of the models
PART = {"ljspeech_mini": 8, "librispeech_mini": 8}  # Clips of a set


def keep(name, value):
    "Write one part of the results; the others stay."
    from xtts_ka.core.files import read_json, write_json

    held = read_json(RESULTS) if RESULTS.is_file() else {}
    write_json(RESULTS, held | {name: value})
    print(f"{RESULTS.relative_to(ROOT)}: {name}")


def chosen(data):
    "(set, name of the clip, wav at 22,050 Hz): spread over each set, its speakers in turn."
    from xtts_ka.core.audio import read_audio, set_level
    from xtts_ka.speaker.data import scan_folder

    for name, count in PART.items():
        found = scan_folder(data / name, "metadata")
        for u in found[:: max(1, len(found) // count)][:count]:
            wav, _ = read_audio(u.path, RATE)
            clip = u.path.relative_to(data / name).as_posix()
            yield name, clip, set_level(wav[: round(SECONDS * RATE)], -23.0)


def rated(judges, wav, original):
    "Scores of a damaged clip by name; PESQ knows the original."
    from xtts_ka.core.audio import resample, set_level
    from xtts_ka.vocoder.measures import pesq_wb

    low = resample(set_level(wav, -23.0), RATE, 16000)
    out = {"pesq": pesq_wb(resample(original, RATE, 16000), low)}
    for judge in judges:
        result = judge.score([low])[0]
        if "error" in result:
            raise SystemExit(f"{judge.card.name} fails: {result['error']}")
        out |= {"distillmos" if k == "mos" else k: v for k, v in result.items()}
    return out


def mean_of(rows, keys):
    return {k: round(sum(r[k] for r in rows) / len(rows), 4) for k in keys}


def agreements(means, sets):
    "Spearman's rank correlations of the means, by PESQ's order and by that of the noises."
    from xtts_ka.evaluate.damage import NOISES, rank_agreement

    keys = [k for k in next(iter(means.values())) if k != "pesq"]
    noises = {f"noise {s} dB": float(s) for s in NOISES} | {"recording": 99.0}

    def rank(some, quality):
        return {
            k: round(rank_agreement({c: v[k] for c, v in some.items()}, quality), 3) for k in keys
        }

    out = {
        "by PESQ": rank(means, {c: v["pesq"] for c, v in means.items()}),
        "the noises": rank(means, noises),
    }
    for name, some in sets.items():
        out[f"by PESQ, {name}"] = rank(some, {c: v["pesq"] for c, v in some.items()})
    return out


def damage(args):
    "Rate every clip under every damage."
    from xtts_ka.evaluate.damage import copy_damages, plain_damages
    from xtts_ka.evaluate.scorers import open_scorer

    judges = [open_scorer(n) for n in ("distillmos", "dnsmos")]
    made = plain_damages(RATE) | copy_damages(args.run)
    rows, start = [], time.process_time()
    for source, name, wav in chosen(args.data):
        for condition, make in made.items():
            scores = rated(judges, make(wav, name), wav)
            rows.append({"set": source, "clip": name, "condition": condition, **scores})
        print(f"{name}: {time.process_time() - start:.0f} CPU seconds", flush=True)
    keys = [k for k in rows[0] if k not in ("set", "clip", "condition")]

    def means(some):
        return {c: mean_of([r for r in some if r["condition"] == c], keys) for c in made}

    by_set = {s: means([r for r in rows if r["set"] == s]) for s in PART}
    agreement = agreements(means(rows), by_set)
    keep(
        "damage",
        {
            "clips": {s: len({r["clip"] for r in rows if r["set"] == s}) for s in PART},
            "seconds": SECONDS,
            "cpu_seconds": round(time.process_time() - start, 1),
            "scorers": [dataclasses.asdict(j.card) for j in judges],
            "means": means(rows),
            "by set": by_set,
            "spearman": agreement,
        },
    )
    print(json.dumps(agreement, indent=1))
    return 0 if all(agreement["by PESQ"][k] >= 0.8 for k in ("distillmos", "ovrl")) else 1


def vectors_by(scorer, wavs):
    "A vector of each clip at 16 kHz, at the encoder's own rate; one without stops the measurement."
    from xtts_ka.evaluate.scorers import score_wavs

    found = score_wavs(scorer, wavs, 16000)
    if faults := [r["error"] for r in found if "vector" not in r]:
        raise SystemExit(f"{scorer.card.name}: {len(faults)} clips fail, first: {faults[0]}")
    return [r["vector"] for r in found]


def error_rate(vectors, names, trials):  # In %
    "The equal error rate of trials on named clips."
    import numpy as np

    from xtts_ka.speaker.verification import eer, score_trials

    of = dict(zip(names, np.array(vectors, np.float32)))
    return round(100 * eer(*score_trials(of, trials))[0], 2)


def voices(args):
    "Equal error rates on the pairs of LibriSpeech."
    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.paths import display_path
    from xtts_ka.evaluate.scorers import open_scorer
    from xtts_ka.speaker.verification import (
        mfcc_embedding,
        perturb_channel,
        read_trials,
    )

    home = args.data / "librispeech_mini"
    trials = read_trials(home / "trials.csv")
    names = sorted({*trials.first, *trials.second})
    wavs = [read_audio(home / n, 16000)[0] for n in names]
    sounds = {
        "as they are": wavs,
        "another channel each": [perturb_channel(w, 16000, 0, n) for n, w in zip(names, wavs)],
    }
    encoders = {
        "Resemblyzer": open_scorer("resemblyzer"),
        "the run's own (synthetic voices)": open_scorer("run", where=str(args.run)),
    }
    for place in args.encoder:
        encoders[f"the encoder of {display_path(place)}"] = open_scorer("run", where=place)
    embed = {n: functools.partial(vectors_by, e) for n, e in encoders.items()}
    embed["MFCC"] = lambda some: [mfcc_embedding(w, 16000) for w in some]
    rates = {
        name: {kind: error_rate(f(some), names, trials) for kind, some in sounds.items()}
        for name, f in embed.items()
    }
    cards = [dataclasses.asdict(e.card) for e in encoders.values()]
    kept = {"clips": len(names), "pairs": len(trials), "scorers": cards, "eer": rates}
    keep("voices", kept)
    print(json.dumps(rates, indent=1))
    return 0


def spoken(count, seed, words, names):
    "[(wav at 16 kHz, text)] by synthetic voices in turn."
    from xtts_ka.core.audio import resample, set_level
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
    from xtts_ka.evaluate.recogniser import TRAINING_VOICES
    from xtts_ka.sovits.semantic import normalize_transcript

    synth = Synthesizer()
    texts = recombine(count, seed, min_words=words[0], max_words=words[1], made_up=0.3)
    out = []
    for n, text in enumerate(texts):
        wav = synth.speak(text, TRAINING_VOICES[names[n % len(names)]]).wav
        out.append(
            (set_level(resample(wav, SAMPLE_RATE, 16000), -23.0), normalize_transcript(text))
        )
    return out


def small_network(letters):
    "A Wav2Vec2ForCTC of 0.9 million weights with an adapter in every layer."
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    from xtts_ka.core.randomness import seeded_step

    seeded_step(0, "ctc")
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=5 + letters,
            hidden_size=144,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=288,
            conv_dim=[64, 128, 144],
            conv_kernel=[20, 16, 8],
            conv_stride=[10, 8, 4],
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            adapter_attn_dim=16,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            feat_proj_dropout=0.0,
            final_dropout=0.0,
            activation_dropout=0.0,
            layerdrop=0.0,
            mask_time_prob=0.0,
            ctc_zero_infinity=True,
            ctc_loss_reduction="mean",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def batches(clips, ids, order, most=10 * 16000):
    "Padded batches of clips of similar length: (wav [B, T], mask, labels)."
    import numpy as np
    import torch

    order = sorted(order, key=lambda i: len(clips[i][0]))
    batch = []
    for n, i in enumerate(order):
        batch.append(i)
        longest = len(clips[i][0])
        if n + 1 == len(order) or (len(batch) + 1) * longest > most:
            wav = np.zeros((len(batch), longest), np.float32)
            mask = np.zeros((len(batch), longest), np.int64)
            width = max(len(ids[j]) for j in batch)
            labels = np.full((len(batch), width), -100)
            for row, j in enumerate(batch):
                x = clips[j][0]
                wav[row, : len(x)] = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
                mask[row, : len(x)] = 1
                labels[row, : len(ids[j])] = ids[j]
            yield tuple(map(torch.from_numpy, (wav, mask, labels)))
            batch = []


def train_ctc(net, clips, ids, minutes, rate=2e-3):
    "Steps and the last mean loss; the pace falls over the time that there is."
    import torch

    from xtts_ka.core.randomness import rng

    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98))
    net.train()
    start, step, epoch, loss = time.process_time(), 0, 0, None
    while (gone := (time.process_time() - start) / 60 / minutes) < 1:
        order = rng(0, "ctc", epoch).permutation(len(clips))
        plan = list(batches(clips, ids, order))
        mean = 0.0
        for k in rng(0, "batches", epoch).permutation(len(plan)):
            gone = (time.process_time() - start) / 60 / minutes
            optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50, 1.02 - min(gone, 1))
            wav, mask, labels = plan[k]
            loss = net(wav, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step, mean = step + 1, mean + float(loss.detach()) / len(plan)
        epoch += 1
        print(f"{step} steps, {gone:.0%} of the time, loss {mean:.3f}", flush=True)
    return step, mean


def ctc(args):
    "Train, save, and read held-out sentences through the scorer and through the pipeline."
    from transformers import pipeline

    from xtts_ka.core.files import fresh_dir
    from xtts_ka.core.paths import resolve
    from xtts_ka.evaluate.error_rates import error_rates, error_row
    from xtts_ka.evaluate.recogniser import TRAINING_VOICES
    from xtts_ka.evaluate.recognisers import save_as_hub
    from xtts_ka.evaluate.scorers import open_scorer

    out = resolve(args.out)
    if out.exists():
        print(f"bench: {args.out} is there already; name another folder", file=sys.stderr)
        return 2
    names = sorted(TRAINING_VOICES)[:: args.every]
    clips = spoken(args.clips, 7, (1, 3), names)
    test = spoken(30, 1007, (2, 4), names)
    letters = sorted({c for _, t in clips for c in t} - {" "})
    ids = [[4 if c == " " else 5 + letters.index(c) for c in t] for _, t in clips]
    net = small_network(len(letters))
    start = time.process_time()
    steps, loss = train_ctc(net, clips, ids, args.minutes)
    spent = time.process_time() - start
    with fresh_dir(out) as folder:
        save_as_hub(net.eval(), letters, "ka", folder)

    scorer = open_scorer("ctc", where=str(out), lang="ka")
    heard = scorer.transcribe([w for w, _ in test])
    extractor, tokenizer, model = scorer.net
    theirs = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=extractor,
    )
    same = sum(theirs(w)["text"] == h.text for (w, _), h in zip(test, heard))
    rates = error_rates([error_row(t, h.text) for (_, t), h in zip(test, heard)])
    kept = {
        "clips": len(clips),
        "voices": len(names),
        "weights": sum(p.numel() for p in net.parameters()),
        "steps": steps,
        "loss": round(loss, 4),
        "cpu_seconds": round(spent),
        "scorer": dataclasses.asdict(scorer.card)
        | {"name": "ctc:OUT?lang=ka", "needs": "python bench/listening.py ctc OUT"},
        "files": sorted(f.name for f in out.iterdir()),
        "test": rates | {"as the pipeline": f"{same} of {len(test)}"},
        "examples": [
            {"said": t, "heard": h.text, "confidence": h.confidence}
            for (_, t), h in list(zip(test, heard))[:6]
        ],
    }
    keep("ctc", kept)
    print(json.dumps(kept, indent=1, ensure_ascii=False))
    return 0 if same == len(test) else 1


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True)
    for name, do in (("damage", damage), ("voices", voices)):
        c = commands.add_parser(name)
        c.set_defaults(do=do)
        c.add_argument("--run", type=Path, default=ROOT / "outputs/demo", help="a finished run")
        c.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    c.add_argument(
        "--encoder", nargs="*", default=[], help="folders of bench/speaker_encoder.py --out"
    )
    c = commands.add_parser("ctc")
    c.set_defaults(do=ctc)
    c.add_argument("out", help="folder of the recogniser")
    c.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of training")
    c.add_argument("--clips", type=int, default=900)
    c.add_argument("--every", type=int, default=38, help="every n-th of the 75 training voices")
    args = p.parse_args()
    if "data" in args and not all((args.data / s).is_dir() for s in PART):
        print(f"bench: no {' and '.join(PART)} in {args.data}; nothing measured", file=sys.stderr)
        return 0
    return args.do(args)


if __name__ == "__main__":
    sys.exit(main())
