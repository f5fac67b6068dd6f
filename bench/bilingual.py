"""Georgian and English in one GPT-SoVITS2, without a language tag: `python bench/bilingual.py OUT`.

Six voices of espeak-ng speak Georgian, English, and sentences of both; a model of the
demonstration's size learns from them (`corpus.language=mul`). Sentences that it has never seen, of
words that it has, are then spoken by the same call in every language, each with a reference in the
other one. Two listen: the package's recogniser, which took no part and knows Georgian alone, and a
copy of it that has been taught English spelling by other voices. Adds `bilingual` to
nbs/results/sovits.json and players to nbs/results/audio/bilingual; nbs/sovits/compare.ipynb shows
both. About ten minutes of CPU; after a kill the same command goes on."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
AUDIO = ROOT / "nbs/results/audio/bilingual"
LANGUAGES = ("Georgian", "English", "mixed")
MAIN = ("giorgi", "ketevan")  # They speak most, and what is held out
MORE = ("nino", "davit", "mariam", "levan")
CLIPS = {"main": (330, 330, 130), "more": (40, 40, 15), "judge": (3, 12, 5)}  # Of each language
HELD_OUT = 16  # Sentences of each language
SAID = (  # Longer than what was learned; players
    "დღეს ძალიან კარგი ამინდია და ბავშვები ეზოში თამაშობენ.",
    "The old teacher found a small blue bird in the garden yesterday.",
    "ჩემმა მეგობარმა წიგნი დაკარგა, the children found it near the river.",
)
OPTIONS = [
    "language=mul",
    "threads=1",
    "text.vocab_size=340",  # 256 bytes, 33 and 26 letters, marks
    "ar.loop.steps=260",  # fewer than the demonstration's, so that all ends in ten minutes
    "ar.loop.validate_every=260",
    "decoder.loop.steps=300",
    "decoder.loop.validate_every=300",
]
JUDGE_STEPS = 300

# English sentences: a small grammar of our own (CC0)

WHO = (
    "the old man|my sister|the young woman|our teacher|a little boy|the doctor|my brother|"
    "the farmer|a good friend|the children|her mother|his father|the driver|a tall girl|"
    "the new student|the baker|my uncle|the queen|a tired soldier|the singer"
).split("|")
DID = (
    "found|bought|carried|painted|opened|lost|sold|cleaned|saw|wanted|forgot|brought|built|"
    "broke|loved|watched|took|made|showed|kept"
).split("|")
WHAT = (
    "a red apple|the small house|an open window|the blue bird|some fresh bread|a heavy box|"
    "the long letter|a white horse|the wooden table|a warm coat|two black cats|the green door|"
    "a golden ring|the last ticket|three yellow flowers|a glass of water|the morning paper|"
    "an old clock|a cup of tea|the wrong key"
).split("|")
WHERE = (
    "in the garden|near the river|behind the school|at the station|on the bridge|in the kitchen|"
    "under the tree|by the sea|in our village|at the market|on the hill|next to the church"
).split("|")
WHEN = (
    "yesterday|last night|in the morning|this summer|on Sunday|again|two years ago|after dinner|"
    "before the rain|last week|at night|every winter"
).split("|")
SHORT = (
    "good morning|thank you very much|how are you today|I do not know|where is the station|"
    "see you tomorrow|it is very cold|what is your name|please open the door|I am so happy|"
    "come with me|happy birthday"
).split("|")


def english(n, seed, taken=()):
    "`n` different sentences without a mark, of two to ten words; none of those that are `taken`."
    draw, out = random.Random(f"english {seed}"), dict.fromkeys(taken)
    while len(out) < n + len(taken):
        kind = draw.random()
        if kind < 0.04:
            words = [draw.choice(SHORT)]
        elif kind < 0.2:
            words = [draw.choice(WHAT), draw.choice(WHERE)]
        elif kind < 0.35:
            words = [draw.choice(WHEN), draw.choice(WHO), draw.choice(DID), "it"]
        else:
            words = [draw.choice(WHO), draw.choice(DID), draw.choice(WHAT)]
            words += [draw.choice(draw.choice((WHERE, WHEN)))] * (draw.random() < 0.4)
        out[" ".join(words)] = None
    return list(out)[len(taken) :]


def georgian(n, seed):
    "`n` different sentences without a mark."
    from xtts_ka.corpus.sentences import recombine

    return [t[:-1] for t in recombine(n, seed, min_words=2, max_words=5)]


def sentences(counts, seed, taken=()):
    "Language -> texts with a mark at the end; a mixed one is a tuple of its parts."
    draw = random.Random(f"mixed {seed}")
    ka, en = georgian(counts[0] + counts[2], seed), english(counts[1] + counts[2], seed, taken)
    pairs = []
    for a, b in zip(ka[counts[0] :], en[counts[1] :]):
        first, second = draw.sample([a, b], 2)
        pairs.append((first + "," * (draw.random() < 0.7), second))
    marked = [[f"{t}." for t in ka[: counts[0]]], [f"{t}." for t in en[: counts[1]]]]
    return dict(zip(LANGUAGES, [*marked, [(a, f"{b}.") for a, b in pairs]]))


def whole(text):
    "A text as it is written."
    return text if isinstance(text, str) else " ".join(text)


def say(synthesizer, text, voice):
    "Each part by the voice's own language, [T] at 22,050 Hz."
    from xtts_ka.sovits.infer import join_with_pauses, trim_silence

    parts = [text] if isinstance(text, str) else text
    wavs = []
    for part in parts:
        code = "en" if part.isascii() else "ka"
        said = synthesizer.speak(part, replace(voice, language=code))
        wavs.append(trim_silence(said.wav, said.sample_rate))
    pauses = [0.18 if p.endswith(",") else 0.04 for p in parts[:-1]] + [0.05]
    return join_with_pauses([np.zeros(1, np.float32), *wavs], [0.05, *pauses], said.sample_rate)


def corpus(folder, said, voices):
    "`metadata.csv` and clips of [(voice, split, language, text)]; kept when it is there."
    from xtts_ka.core.audio import set_level, write_audio
    from xtts_ka.core.files import fresh_dir
    from xtts_ka.core.manifest import Row, write_manifest
    from xtts_ka.core.progress import bar
    from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer

    if (folder / "metadata.csv").is_file():
        return folder
    synthesizer, rows = Synthesizer(), []
    with fresh_dir(folder) as tmp:
        for n, (name, split, language, text) in enumerate(bar(said, "speaking")):
            wav = set_level(say(synthesizer, text, voices[name]), -23.0)
            file = f"wavs/{name}/{n:05}.wav"
            write_audio(tmp / file, wav, SAMPLE_RATE)
            extra, seconds = {"language": language}, len(wav) / SAMPLE_RATE
            rows.append(Row(file, whole(text), name, split, round(seconds, 4), extra))
        columns = ("audio_file", "text", "speaker_name", "split", "duration", "language")
        write_manifest(tmp / "metadata.csv", rows, columns)
    return folder


def speakers_texts():
    "[(voice, split, language, text)] of the model: what is held out is in no other clip."
    held = sentences((HELD_OUT,) * 3, 7)
    heard = [whole(t) for texts in held.values() for t in texts]
    taken = [t[:-1] for t in heard] + [p.rstrip(".") for t in held["mixed"] for p in t]
    out = [
        (MAIN[k % 2], "test", language, text)
        for language, texts in held.items()
        for k, text in enumerate(texts)
    ]
    for n, name in enumerate((*MAIN, *MORE)):
        counts = CLIPS["main" if name in MAIN else "more"]
        for language, texts in sentences(counts, 100 + n, taken).items():
            kept = [t for t in texts if whole(t)[:-1] not in taken]
            out += [
                (name, "val" if k % 25 == 0 else "train", language, t) for k, t in enumerate(kept)
            ]
    return out


# who listens


def judge_voices():
    "Every other voice of the recogniser's training; the model has heard none of them."
    from xtts_ka.evaluate.recogniser import TRAINING_VOICES

    return dict(sorted(TRAINING_VOICES.items())[::2])


def train_judge(out):
    "The package's recogniser, taught Latin letters too; (`SemanticTokenizer`, CPU seconds)."
    import torch

    from xtts_ka.core.loop import fit, load_models
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.corpus.clips import Clips
    from xtts_ka.evaluate.recogniser import Recogniser
    from xtts_ka.sovits.config import SemanticLoop
    from xtts_ka.sovits.data import compute_mels
    from xtts_ka.sovits.semantic import CharVocabulary
    from xtts_ka.sovits.train_semantic import SemanticTask, SemanticTokenizer

    start, voices = Recogniser().net, judge_voices()
    said = [
        (name, "val" if k == 0 else "train", language, text)
        for n, name in enumerate(voices)
        for language, texts in sentences(CLIPS["judge"], 900 + n).items()
        for k, text in enumerate(texts)
    ]
    folder = corpus(out / "clips", said, voices)
    clips = Clips(read_manifest(folder, check_audio=False).rows, folder)

    class Taught(SemanticTask):
        "Begins with the package's weights; rows of new letters are drawn."

        def models(self):
            models, n = super().models(), len(start.letters)
            held, fresh = start.net.state_dict(), self.net.state_dict()
            for k in ("letters.weight", "letters.bias"):
                held[k] = torch.cat([held[k], fresh[k][n:]])
            self.net.load_state_dict(held)
            return models

    letters = CharVocabulary(start.letters.characters + "abcdefghijklmnopqrstuvwxyz")
    loop = SemanticLoop(
        steps=JUDGE_STEPS, seed=5, lr=1e-3, muon_lr=3e-3, warmup=20, validate_every=100
    )
    cfg = replace(start.net.cfg, flat_start=0, loop=loop)
    task = Taught(cfg, clips, compute_mels(clips, out / "mels"), letters)
    result = fit(task, loop, out / "training", "recogniser")
    load_models(out / "training", {"semantic": task.net}, "best")
    return SemanticTokenizer(task.net.cpu().eval(), letters), result.cpu_seconds


# the measurement


def train_writer(out):
    "Tokenizer and autoregressive model by configs/sovits/demo.yaml: a `Sovits2Stage`."
    from xtts_ka.corpus.synthetic import VOICES
    from xtts_ka.sovits.config import load_sovits
    from xtts_ka.sovits.stage import Sovits2Stage

    cfg = load_sovits(ROOT / "configs/sovits/demo.yaml", OPTIONS)
    folder = corpus(out / "segments", speakers_texts(), VOICES)
    stage = Sovits2Stage(cfg, folder, out / "model", cfg.seed, cfg.language)
    stage.prepare()
    stage.train_tokenizer()
    stage.tokenize()
    stage.train_ar()
    return stage


def written(stage):
    "Language -> errors that the tokenizer reads in recordings' tokens and in those written freely."
    from xtts_ka.evaluate.recogniser import error_rate
    from xtts_ka.sovits.config import SamplingConfig

    out, clips = {}, stage.data.clips
    for language in LANGUAGES:
        rows = [
            i
            for i in stage.data.test_rows(unseen=False)
            if clips.rows[i].extra["language"] == language
        ]
        made = stage.ar_task.sample_clips(rows, SamplingConfig(temperature=0))
        texts = [clips.rows[i].text for i in rows]
        own = stage.tokenizer.transcribe([stage.codes[i] for i in rows])
        new = stage.tokenizer.transcribe([m.codes for m in made])
        out[language] = {
            "language": language,
            "sentences": len(rows),
            "CER, tokens": round(error_rate([*zip(texts, own)])[0], 4),
            "CER, written": round(error_rate([*zip(texts, new)])[0], 4),
            "stopped": sum(m.stopped for m in made),
        }
    return out


def reference(manifest, row):
    "A training clip of the voice, of another language than the text."
    other = "English" if row.extra["language"] == "Georgian" else "Georgian"
    fits = [
        r
        for r in manifest.rows
        if (r.speaker_name, r.split, r.extra["language"]) == (row.speaker_name, "train", other)
    ]
    return manifest.audio_path(next(r for r in fits if r.duration > 2.5))


def listen(model, manifest, judge, own):
    "Language -> errors of the recordings and of speech, endings, lengths; and what was heard."
    from xtts_ka.core.audio import read_audio
    from xtts_ka.evaluate.recogniser import error_rate

    table, shown = {}, []
    for language in LANGUAGES:
        rows = [r for r in manifest.rows if (r.split, r.extra["language"]) == ("test", language)]
        heard = {"recording": [], "spoken": [], "recording, own": [], "spoken, own": []}
        stopped, lengths = 0, []
        for r in rows:
            said = model.speak(r.text, [reference(manifest, r)])
            wav, rate = read_audio(manifest.audio_path(r), None)
            stopped += said.stopped
            lengths.append(said.seconds / (len(wav) / rate))
            sounds = {"recording": (wav, rate), "spoken": (said.wav, said.sample_rate)}
            for what, sound in sounds.items():
                text = judge.transcribe([judge.encode(*sound)])[0]
                heard[what].append((r.text, text))
                if own and language == "Georgian":
                    heard[f"{what}, own"].append((r.text, own.transcribe(*sound)))
            shown.append((language, r.text, heard["spoken"][-1][1]))
        rates = {k: [round(x, 4) for x in error_rate(v)] for k, v in heard.items() if v}
        table[language] = {
            **{f"CER, {k}": v[0] for k, v in rates.items()},
            "low": rates["spoken"][1],
            "high": rates["spoken"][2],
            "ended by itself": stopped,
            "length ratio": round(float(np.mean(lengths)), 3),
        }
    return table, shown


def players(model, manifest, judge):
    "The sentences of `SAID` by both voices, with what is heard of them."
    import soundfile

    AUDIO.mkdir(parents=True, exist_ok=True)
    out = []
    for name in MAIN:
        row = next(r for r in manifest.rows if (r.speaker_name, r.split) == (name, "test"))
        for k, text in enumerate(SAID):
            said = model.speak(text, [reference(manifest, row)])
            file = AUDIO / f"{name}-{k + 1}.ogg"
            soundfile.write(file, said.wav, said.sample_rate)
            heard = judge.transcribe([judge.encode(said.wav, said.sample_rate)])[0]
            out.append({"file": file.name, "speaker": name, "text": text, "heard": heard})
    return out


def main(out):
    import torch
    from compare import commit

    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.evaluate.recogniser import Recogniser
    from xtts_ka.sovits.infer import load_model

    torch.set_num_threads(1)
    out = Path(out)
    stage = train_writer(out)
    train = stage.data.clips.split("train")
    about = {**commit(), "clips": len(train), "minutes": stage.data.minutes(train)}
    rows = written(stage)
    report(about, rows)
    stage.train_decoder()
    stage.export()
    judge, judged = train_judge(out / "judge")
    costs = {c["model"]: c["CPU seconds"] for c in stage.costs} | {"recogniser": round(judged)}
    model = load_model(out / "model/model")
    manifest = read_manifest(out / "segments", check_audio=False)
    spoken, shown = listen(model, manifest, judge, Recogniser())
    rows = {language: row | spoken[language] for language, row in rows.items()}
    report(about | {"CPU seconds": costs}, rows, players(model, manifest, judge))
    for language, text, heard in shown:
        print(f"{language}: {text} -> {heard}")


def report(about, rows, said=()):
    "Print, and keep in nbs/results/sovits.json."
    from sovits import keep

    for row in [*rows.values(), *said]:
        print("  ".join(f"{k}: {v}" for k, v in row.items()), flush=True)
    keep(bilingual={**about, "rows": [*rows.values()], "said": [*said]})


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
