"""Side by side with named peers: `make bench`, or `make bench ARGS="manifest audio --rounds 9"`.

A row is a function that returns a `Row`: our way, the peers' ways, and the ratio (ours / peer) we
promise for each. Every contender is a callable that returns the CPU seconds
of one go; they take turns, round after round, so that a busy machine slows all of them alike. The
table shows medians with minimum and maximum, and the ratio of medians;
a missed promise is red and makes the exit code 1. A target (bench/targets.py) that is not reached
is amber, with what holds it, and changes no exit code. A peer that is not installed is named, and
its row left out. All figures go to bench/results/. `make bench ARGS=gpu` measures a GPU instead
(bench/gpu.py)."""

import contextlib
import csv
import os
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import cold
import embeddings
import memory
import records
import sovits
import speaker
import vocoder
import xtts
from compare import ROOT, Row, cpu, main

REAL = ROOT.parent / "shared/data/ljspeech_mini"  # real recordings, where they are at hand


def manifest():
    "Reading and checking a manifest, against readers that check nothing."
    import pandas as pd

    from xtts_ka.core.manifest import read_manifest

    n, tmp = 20000, tempfile.TemporaryDirectory()
    path = Path(tmp.name) / "metadata.csv"
    lines = [
        f"wavs/speaker{i % 40}/clip{i:06}.wav|წინადადება ნომერი {i}, რომელსაც მძღოლი"
        f" კითხულობს.|speaker{i % 40}\n"
        for i in range(n)
    ]
    path.write_text("audio_file|text|speaker_name\n" + "".join(lines), encoding="utf-8")

    def by_csv():
        with open(path, newline="", encoding="utf-8-sig") as f:
            return list(csv.reader(f, delimiter="|", quoting=csv.QUOTE_NONE))

    def by_pandas():
        return list(pd.read_csv(path, sep="|", quoting=csv.QUOTE_NONE).itertuples())

    assert (
        len(read_manifest(path, check_audio=False).rows)
        == len(by_pandas())
        == len(by_csv()) - 1
        == n
    )
    return Row(
        f"manifest, {n} rows",
        lambda: cpu(read_manifest, path, check_audio=False),
        {"csv.reader": lambda: cpu(by_csv), "pandas": lambda: cpu(by_pandas)},
        {"csv.reader": 6.0, "pandas": 2.0},
        f"ours checks every row: fields, path, duplicates, letters; pandas {version('pandas')}",
        [tmp],
    )


def audio():
    "Decoding and resampling of short files to 16 kHz."
    import librosa
    import soundfile
    import torch
    import torchaudio

    from xtts_ka.core.audio import read_audio

    torch.set_num_threads(1)
    files, tmp = _recordings()
    ours, theirs = (
        (lambda: [read_audio(f, 16000) for f in files]),
        (lambda: [librosa.load(f, sr=16000) for f in files]),
    )

    def by_torchaudio():  # Its own load needs FFmpeg on the machine
        for f in files:
            wav, rate = soundfile.read(f, dtype="float32")
            torchaudio.functional.resample(torch.from_numpy(wav), rate, 16000)

    seconds = sum(len(w) / r for w, r in ours())
    theirs()  # librosa loads its parts on the first call
    return Row(
        f"audio, {len(files)} files, {seconds:.0f} s to 16 kHz",
        lambda: cpu(ours),
        {
            "librosa.load": lambda: cpu(theirs),
            "soundfile and torchaudio": lambda: cpu(by_torchaudio),
        },
        {"librosa.load": 1.3},
        "ours also checks that the file is whole (MD5 of FLAC), finite and in range; librosa"
        f" {version('librosa')}, both soxr HQ; torchaudio {version('torchaudio')}, a shorter"
        " filter",
        [tmp],
    )


def _recordings():
    "Real clips where they are at hand, else noise in the same format."
    import numpy as np
    import soundfile as sf

    if REAL.is_dir():
        return sorted((REAL / "wavs").glob("*.flac")), None
    print("bench: no real recordings beside the repository, using noise", file=sys.stderr)
    tmp, r = tempfile.TemporaryDirectory(), np.random.default_rng(0)
    for i in range(24):
        sf.write(
            Path(tmp.name) / f"{i:02}.flac",
            (0.1 * r.standard_normal(22050 * 7)).astype("float32"),
            22050,
        )
    return sorted(Path(tmp.name).glob("*.flac")), tmp


def loop():
    """The cost of a training step around the model, against a loop written by hand. Two lengths are
    run, so that set-up and saving drop out."""
    import torch
    from torch import nn

    from xtts_ka.core.loop import LoopConfig, Task, fit
    from xtts_ka.core.randomness import seeded_step, torch_rng

    torch.set_num_threads(1)
    data = torch.randn(512, 128, generator=torch_rng(0, "data"))

    def net():
        seeded_step(0, "net")
        return nn.Sequential(
            nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 128)
        )

    class Copy(Task):
        def models(self):
            self.net = net()
            return {"net": self.net}

        def __len__(self):
            return len(data)

        def item(self, index, epoch):
            return data[index]

        def collate(self, items):
            return torch.stack(items)

        def loss(self, phase, batch, step):
            return nn.functional.mse_loss(self.net(batch), batch), {}

        def validate(self):
            return {"score": 0.0}

        def fingerprint(self):
            return {"bench": 1}

    def ours(steps):
        with tempfile.TemporaryDirectory() as d:
            return cpu(
                fit,
                Copy(),
                LoopConfig(
                    steps=steps, batch_size=16, log_every=100, validate_every=0, save_every=10**6
                ),
                d,
            )

    def bare(steps):
        model = net()
        opt = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def run():
            for _step in range(steps):
                batch = torch.stack([data[i] for i in torch.randint(512, (16,)).tolist()])
                loss = nn.functional.mse_loss(model(batch), batch)
                opt.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()

        return cpu(run)

    def slope(run):
        return lambda: (run(1200) - run(200)) / 1000

    return Row(
        "loop, a step of a small net (150 k weights, batch 16)",
        slope(ours),
        {"bare loop": slope(bare)},
        {"bare loop": 1.3},
        "both clip by norm; ours also resumes bit by bit, logs and watches for non-finite losses",
    )


TOYS = """
from xtts_ka.core.config import config
from xtts_ka.pipeline.stages import Stage
@config
class Toy:
    n: int = 1 # A number
def toy(i):
    needs = (f"toy{i - 1}",) if i > 1 else ()
    file = f"nbs/runs/{i}0_toy.ipynb"
    return Stage(f"toy{i}", file, "toys.Toy", needs=needs, outputs=(f"toy{i}",))
TOYS = tuple(map(toy, (1, 2, 3)))
"""
DRIVE = (
    "import sys; from toys import TOYS; from xtts_ka.pipeline.runner import run;"
    " sys.exit(run('c.yaml', [f'run={sys.argv[1]}'], stages=TOYS))"
)


def runner():
    """A run of three notebooks that do nothing, with its records and its report, against a
    papermill call for each."""
    import resource
    import subprocess

    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    tmp = tempfile.TemporaryDirectory()
    root, runs = Path(tmp.name), iter(range(10**6))
    (root / "toys.py").write_text(TOYS)
    (root / "c.yaml").write_text("jobs: 1\n")
    (root / "nbs/runs").mkdir(parents=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebooks = [root / f"nbs/runs/{i}0_toy.ipynb" for i in (1, 2, 3)]
    for i, path in enumerate(notebooks, 1):
        cells = [
            new_code_cell(
                "n = 1\nrun_dir = ''\nseed = 1\nthreads = 1", metadata={"tags": ["parameters"]}
            ),
            new_code_cell(
                "from pathlib import Path\nfolder = Path(run_dir or"
                f" 'plain')/'toy{i}'\nfolder.mkdir(parents=True, exist_ok=True)"
            ),
        ]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    env = os.environ | {"XTTS_KA_ROOT": tmp.name, "PYTHONPATH": tmp.name}

    def spent(*commands):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for command in commands:
            subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return Row(
        "runner, three notebooks that do nothing",
        lambda: spent([sys.executable, "-c", DRIVE, f"r{next(runs)}"]),
        {
            "papermill, a call each": lambda: spent(
                *(
                    [sys.executable, "-m", "papermill", str(n), str(root / "out.ipynb")]
                    for n in notebooks
                )
            )
        },
        {"papermill, a call each": 1.0},
        "ours also keeps records, fingerprints and outputs' digests and writes a report; papermill"
        f" {version('papermill')}",
        [tmp],
    )


def espeak_reader():
    """espeak-ng's phonemes of a text as a function, and what to close after it: the library allows
    one at a time."""
    from g2p import espeak

    held = contextlib.ExitStack()
    return held.enter_context(espeak()), held


def numbers():
    """Numbers in words. The peers know no ordinals and no case endings; ICU and CLDR (unicode-rbnf)
    write 18 wrongly."""
    import icu
    import unicode_rbnf

    from xtts_ka.text.numbers import cardinal, inflect

    draw = random.Random(0)
    values = [
        draw.choice(
            (
                draw.randrange(100),
                draw.randrange(1900, 2030),
                draw.randrange(10**5),
                draw.randrange(10**9),
            )
        )
        for _ in range(20000)
    ]
    spell = icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale("ka"))
    engine = unicode_rbnf.RbnfEngine.for_language("ka")
    few = values[:500]

    def ours():
        return [cardinal(v) for v in values]

    def fresh():
        cardinal.cache_clear()
        return ours()

    per = cpu(fresh), cpu(ours)
    endings = ("ზე", "ის", "მდე", "იანი", "ში")
    with_endings = cpu(lambda: [inflect(v, endings[i % 5]) for i, v in enumerate(values)])
    eighteen = sum("თრვამეტი" in spell.format(v) for v in values)
    return Row(
        f"numbers, {len(values)} in words",
        lambda: cpu(ours),
        {
            "ICU": lambda: cpu(lambda: [spell.format(v) for v in values]),
            "unicode-rbnf": lambda: (
                cpu(lambda: [engine.format_number(v) for v in few]) * len(values) / len(few)
            ),
        },
        {"ICU": 1.0, "unicode-rbnf": 0.1},
        f"{len(values) / per[0]:,.0f} a second without the cache, {len(values) / per[1]:,.0f} with"
        f" it, {len(values) / with_endings:,.0f} with a case ending; ICU {icu.ICU_VERSION}"
        f" misspells {eighteen} of these ({eighteen / len(values):.1%}); unicode-rbnf"
        f" {version('unicode-rbnf')} ran {len(few)} of them",
    )


def normalize():
    """Sentences of a Wikipedia-like text in words, against espeak-ng, which goes on to phonemes but
    reads many of them wrongly."""
    from xtts_ka.text.normalize import KaNormalizer

    sentences = _sentences()
    size, normalizer = sum(len(s.encode()) for s in sentences), KaNormalizer()
    read, held = espeak_reader()

    def ours():
        return [normalizer.normalize(s) for s in sentences]

    seconds = cpu(ours)
    changed = sum(bool(r.spans) for r in ours())
    return Row(
        f"normalize, {len(sentences)} sentences, {size / 1e6:.2f} MB",
        lambda: cpu(ours),
        {"espeak-ng": lambda: cpu(lambda: [read(s) for s in sentences])},
        {"espeak-ng": 3.0},
        f"{size / 1e6 / seconds * 60:.0f} MB a minute on one core; {changed} sentences"
        f" ({changed / len(sentences):.0%}) have something to be read; espeak-ng"
        f" {read.version.split()[0]} makes phonemes, too",
        [held],
    )


def readers():
    """Golden rows in words: how many each reader gets right, and its time. All peers that are
    installed take part."""
    from readers import golden_rows, ours, scores, table

    rows = golden_rows()
    found, missing = scores(rows)
    right, _ = ours()
    best = max((sum(c.values()) for name, (_, c) in found.items() if name != "xtts_ka"), default=0)
    assert sum(found["xtts_ka"][1].values()) > best, "a peer reads more of the golden rows"
    return Row(
        f"readers, {len(rows)} golden rows",
        lambda: cpu(lambda: [right(text, accepted) for _, text, accepted in rows]),
        {},
        {},
        "rows read rightly:\n  " + "\n  ".join(table(rows, found, missing)),
    )


def g2p():
    "Words in phonemes; the errors of both on reference pronunciations are printed by bench/g2p.py."
    import espeakng_loader
    from epitran import Epitran
    from g2p import each
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    from xtts_ka.text.g2p import GraphemeToPhoneme

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    words = sorted(
        {w for s in _sentences() for w in "".join(c if "ა" <= c <= "ჰ" else " " for c in s).split()}
    )
    (read, held), rules, wrapped = espeak_reader(), Epitran("kat-Geor"), EspeakBackend("ka")
    few = words[::10]
    return Row(
        f"g2p, {len(words)} words",
        lambda: cpu(each(GraphemeToPhoneme()), words),
        {
            "espeak-ng": lambda: cpu(each(read), words),
            "epitran": lambda: cpu(each(rules.transliterate), few) * len(words) / len(few),
            "phonemizer": lambda: cpu(wrapped.phonemize, few) * len(words) / len(few),
        },
        {"espeak-ng": 1.0, "epitran": 1.0, "phonemizer": 1.0},
        f"errors: python bench/g2p.py; espeak-ng {read.version.split()[0]}; epitran"
        f" {version('epitran')} and phonemizer {version('phonemizer')} read every tenth",
        [held, rules, wrapped],
    )


def bpe():
    "Pieces learned from sentences, and ids of them."
    import io

    import sentencepiece

    from xtts_ka.core.config import build
    from xtts_ka.sovits.config import TextConfig
    from xtts_ka.sovits.text_encoder import Bpe

    sentences, cfg = _sentences(), build(TextConfig, dict(vocab_size=1256))

    def theirs():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=1256,
            byte_fallback=True,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
        reader = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        return [reader.encode(s) for s in sentences]

    def ours():
        pieces = Bpe.train(sentences, cfg)
        return [pieces.encode(s) for s in sentences]

    def count(ids):
        return sum(map(len, ids))

    return Row(
        f"BPE, {len(sentences)} sentences: 1,256 ids learned, sentences read",
        lambda: cpu(ours),
        {"sentencepiece": lambda: cpu(theirs)},
        {"sentencepiece": 6.0},
        f"{count(ours()):,} ids, sentencepiece {version('sentencepiece')} {count(theirs()):,}; ours"
        f" splits by a Unicode pattern first, with the library tokenizers {version('tokenizers')}",
    )


def _sentences():
    "Real sentences where they are at hand, else the package's own."
    path = ROOT.parent / "shared/data/text_ka/ud_sentences.tsv"
    if path.is_file():
        return [line.split("\t")[2] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    from xtts_ka.corpus.sentences import load_sentences

    print(
        "bench: no real sentences beside the repository, using the package's own", file=sys.stderr
    )
    return [s.text for s in load_sentences()]


ROWS = dict(
    manifest=manifest,
    audio=audio,
    loop=loop,
    numbers=numbers,
    normalize=normalize,
    readers=readers,
    g2p=g2p,
    bpe=bpe,
    runner=runner,
)
ROWS |= cold.ROWS | speaker.ROWS | embeddings.ROWS | xtts.ROWS | vocoder.ROWS | sovits.ROWS
ROWS |= memory.ROWS | records.ROWS

if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:  # by the clock of a GPU, so no rows
        from gpu import main as gpu

        sys.exit(gpu(sys.argv[2:]))
    main(ROWS)
