"""What is worth doing when XTTS learns Georgian, at tiny scale: `python bench/ablations.py` (about
half an hour on one core) writes nbs/results/ablations.json, which nbs/xtts/ablations.ipynb
draws.

Everything is made here: a base that speaks English (espeak-ng voices), extended to Georgian in four
ways of starting new rows and three ways of writing text; with and without
replay and LoRA against forgetting; references and masks from nothing; a codebook with and without
revival. Two seeds each; losses in nats a code on clips that were not trained on.
The numbers compare ways of one scale with each other. They do not say how good a full-size model
becomes."""

import argparse
import itertools
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "nbs/results/ablations.json"

# An English of few words: enough for a base to learn what letters sound like
SUBJECTS = (
    "the old man,a young woman,my brother,our teacher,the little girl,his friend,a tall boy,the"
    " driver,her mother,the doctor,that singer's cat,the baker".split(",")
)
VERBS = (
    "opens,finds,carries,paints,washes,brings,follows,remembers,hides,watches,mends,sells".split(
        ","
    )
)
OBJECTS = (
    "the red door,a heavy box,the broken chair,an empty bottle,the green boat,a warm coat,the long"
    " letter,two white horses,the kitchen table,a silver ring,the garden gate,three small"
    " stones".split(",")
)
ENDS = (
    "today,in the morning,near the river,without a word,after dinner,by the window,every"
    " summer,with great care".split(",")
)


def english(n, seed):
    "n different sentences."
    from xtts_ka.core.randomness import rng

    every = [" ".join(parts) + "." for parts in itertools.product(SUBJECTS, VERBS, OBJECTS, ENDS)]
    return [every[i] for i in rng(seed, "english").permutation(len(every))[:n]]


def georgian(n, seed):
    from xtts_ka.corpus.sentences import recombine

    return recombine(n, seed, 2, 5, 0.1)


def speak(folder, texts, language):
    "A folder of segments, spoken by two voices in turn; every eighth clip is kept for validation."
    from xtts_ka.core.audio import write_audio
    from xtts_ka.core.manifest import Row, write_manifest
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer

    voices, speaker, rows = (
        [replace(VOICES[v], language=language, range=15) for v in ("giorgi", "ketevan")],
        Synthesizer(),
        [],
    )
    for i, text in enumerate(texts):
        voice, name = voices[i % 2], f"wavs/{language}{i:04d}.wav"
        wav = speaker.speak(text, voice).wav
        write_audio(folder / name, wav, 22050)
        rows.append(
            Row(
                name,
                text,
                voice.name,
                "val" if i % 8 == 7 else "train",
                len(wav) / 22050,
                {"language": language},
            )
        )
    write_manifest(
        folder / "metadata.csv",
        rows,
        ("audio_file", "text", "speaker_name", "split", "duration", "language"),
    )
    return folder


def options(steps, every=None, **gpt):
    "A tiny GPT; the decoder is not looked at here."
    every = every or max(1, steps // 8)
    loop = dict(
        steps=steps,
        batch_size=8,
        lr=gpt.pop("lr", 1e-3),
        warmup=min(20, steps // 4),
        validate_every=every,
        save_every=steps,
        log_every=every,
    )
    return dict(
        gpt=dict(layers=3, dim=128, heads=4, reference_frames=96, loop=loop, **gpt),
        decoder=dict(channels=16, loop=dict(steps=1, batch_size=1, validate_every=1, save_every=1)),
    )


def curve(path, keys=("val/code", "val/replay", "val/free/stopped", "free/stopped", "free/length")):
    "Validation lines of a log."
    from xtts_ka.core.files import read_jsonl

    rows = [r for r in read_jsonl(path) if r["kind"] == "val"]
    return {
        "step": [r["step"] for r in rows],
        **{
            k.removeprefix("val/"): [round(r[k], 4) for r in rows]
            for k in keys
            if rows and k in rows[0]
        },
    }


class Bench:
    "Folders and models that several ablations share."

    def __init__(self, work, clips, steps, seed):
        self.work, self.steps, self.seed = Path(work), steps, seed
        self.en = speak(self.work / "en", english(clips, seed), "en")
        self.ka = speak(self.work / "ka", georgian(clips, seed), "ka")

    def initialize(self, name, segments, language, **cfg):
        from xtts_ka.core.config import build
        from xtts_ka.xtts.config import InitConfig
        from xtts_ka.xtts.stage_init import XTTSModelInitializer

        dvae = dict(
            codes=256,
            hidden=64,
            codebook_dim=32,
            blocks=1,
            loop=dict(
                steps=max(40, self.steps),
                batch_size=16,
                validate_every=max(20, self.steps // 4),
                save_every=1000,
            ),
        )
        dvae |= cfg.pop("dvae", {})
        stage = XTTSModelInitializer(
            build(InitConfig, dict(dvae=dvae, **cfg)),
            segments,
            self.work / name / "xtts_init",
            language,
            self.seed,
        )
        stage.vocabulary()
        stage.mels()
        stage.dvae()
        stage.finish(stage.codes())
        return stage

    def pretrain(self, name, segments, init, **cfg):
        from xtts_ka.core.config import build
        from xtts_ka.xtts.config import PretrainConfig
        from xtts_ka.xtts.stage import Pretrain

        return Pretrain(
            build(PretrainConfig, cfg),
            segments,
            self.work / init / "xtts_init",
            self.work / name / "full_pretrain",
            self.seed,
        )

    def base(self):
        "An XTTS that speaks English, in the official layout."
        self.initialize("base", self.en, "en")
        stage = self.pretrain("base", self.en, "base", **options(3 * self.steps))
        result = stage.gpt()
        stage.compute_speaker_latents()
        stage.latents()
        stage.decoder()
        self.folder = stage.export(self.work / "base" / "xtts", "synthetic English")
        return {"unigram": round(stage.unigram, 4), **curve(result.log_path)}

    def learn(self, name, init, share=0.0, steps=None, **gpt):
        "Georgian on the base: the curve, and the loss on English clips before and after."
        replay = dict(replay=dict(path=str(self.en), share=share)) if share else {}
        stage = self.pretrain(name, self.ka, init, **options(steps or self.steps, **gpt), **replay)
        before = self.english_loss(stage, stage.initial_gpt())
        result = stage.gpt()
        return {
            "unigram": round(stage.unigram, 4),
            "english_before": before,
            "english_after": self.english_loss(stage, stage.gpt_net),
            **curve(result.log_path),
        }

    def english_loss(self, stage, net):
        import torch

        mixed, stage.cfg.replay.path = stage.cfg.replay.path, str(self.en)
        task = stage.replay()
        stage.cfg.replay.path = mixed  # listening is no replay
        task.net = net.eval()
        with torch.no_grad():
            return round(task.score(task.val), 4)


# The ablations: name -> {variant: curves}


def new_rows(b):
    "How the rows of new letters start."
    out = {}
    for method in ("matched", "normal", "romanised"):
        b.initialize(
            f"rows-{method}",
            b.ka,
            "ka",
            base=str(b.folder),
            vocabulary=dict(mode="characters", new_rows=method),
        )
        out[method] = b.learn(f"rows-{method}", f"rows-{method}")
    return out


def text_form(b):
    "Letters, pieces or Latin spelling."
    out = {}
    for mode in ("characters", "bpe", "romanised"):
        b.initialize(
            f"text-{mode}",
            b.ka,
            "ka",
            base=str(b.folder),
            vocabulary=dict(mode=mode, size=160, new_rows="matched"),
        )
        out[mode] = b.learn(f"text-{mode}", f"text-{mode}")
    return out


def forgetting(b):
    "What keeps English: nothing, replay of a fifth or a half, LoRA."
    b.initialize("forget", b.ka, "ka", base=str(b.folder))
    return {
        "nothing": b.learn("forget-nothing", "forget"),
        "replay 0.2": b.learn("forget-replay", "forget", share=0.2),
        "replay 0.5": b.learn("forget-half", "forget", share=0.5),
        "LoRA 8": b.learn("forget-lora", "forget", lora=dict(rank=8)),
        "low rate": b.learn("forget-slow", "forget", lr=2e-4),
    }


def prompt(b):
    "Where the reference is cut from, and whether what it shows counts; from nothing."
    b.initialize("prompt", b.ka, "ka")
    out = {}
    for name, cfg in {
        "another clip": {},
        "the same clip": dict(reference="same"),
        "the same clip, masked": dict(reference="same", prompt_mask=True),
    }.items():
        stage = b.pretrain(
            f"prompt-{name}", b.ka, "prompt", **options(2 * b.steps, free_run=12, **cfg)
        )
        out[name] = curve(stage.gpt().log_path)
    return out


def revival(b):
    "A codebook whose unused codes are moved, or not (coqui's way)."
    out = {}
    for name, after in {"revival": 15, "no revival": 0}.items():
        stage = b.initialize(f"codes-{name}", b.ka, "ka", dvae=dict(revive_after=after))
        out[name] = curve(
            stage.out / "dvae" / "metrics.jsonl", ("val/recon", "val/share", "val/perplexity")
        ) | {"codes": 256}
    return out


ABLATIONS = dict(
    new_rows=new_rows, text_form=text_form, forgetting=forgetting, prompt=prompt, revival=revival
)


def main():
    p = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument(
        "which", nargs="*", metavar="ABLATION", help=f"which: {', '.join(ABLATIONS)} (all)"
    )
    p.add_argument(
        "--steps",
        type=int,
        default=120,
        help="GPT steps of a run; the base takes three times as many",
    )
    p.add_argument("--clips", type=int, default=240, help="clips of each language")
    p.add_argument("--seeds", type=int, default=2, help="how many seeds")
    p.add_argument("--first", type=int, default=1, help="the first seed")
    p.add_argument("--out", default=str(OUT), help="JSON to write")
    args = p.parse_args()
    if unknown := set(args.which) - set(ABLATIONS):
        p.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(ABLATIONS)}")
    import torch

    torch.set_num_threads(1)
    start, results = time.process_time(), {}
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as work:
            bench = Bench(work, args.clips, args.steps, seed)
            results.setdefault("base", {})[str(seed)] = bench.base()
            for name in args.which or ABLATIONS:
                results.setdefault(name, {})[str(seed)] = ABLATIONS[name](bench)
                print(f"seed {seed}, {name}: {time.process_time() - start:.0f} CPU s", flush=True)
    about = dict(
        steps=args.steps,
        clips=args.clips,
        seeds=args.seeds,
        cpu_seconds=round(time.process_time() - start),
        torch=torch.__version__,
        command="python bench/ablations.py",
    )
    from xtts_ka.core.files import write_json

    write_json(args.out, {"about": about, **results})
    print(f"written: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
