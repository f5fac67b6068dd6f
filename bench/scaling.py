"""How time and memory grow: `python bench/scaling.py [OUT]` measures the parts of a run on more and
more of the same, each in a process of its own, and writes nbs/results/scaling.json;
nbs/scaling.ipynb draws it and says what 1,000 and 100,000 hours would need.

What grows: clips of a manifest, hours of audio for mels, for what training reads of them and for
voice embeddings, sentences for the reader and the n-gram model, speakers for the comparison of
voices, rejected clips for a report.
The recordings are one synthetic sentence again and again: what a part costs does not depend on what
is said."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "nbs/results/scaling.json"
SECONDS = 2.5  # Of a clip


def clips(folder, hours):
    "So many hours of clips: files that are links to one recording, and a manifest."
    import numpy as np

    from xtts_ka.core.audio import write_audio
    from xtts_ka.core.manifest import Row, write_manifest
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer

    said = Synthesizer().speak("დილა მშვიდობისა, როგორ ხარ დღეს", VOICES["nino"])
    wav = np.resize(said.wav, int(SECONDS * said.sample_rate))
    n = round(hours * 3600 / SECONDS)
    write_audio(folder / "wavs/0.wav", wav, said.sample_rate)
    for k in range(1, n):
        os.link(folder / "wavs/0.wav", folder / f"wavs/{k}.wav")
    write_manifest(
        folder / "metadata.csv",
        [
            Row(f"wavs/{k}.wav", "დილა მშვიდობისა", f"s{k % 40}", split="train", duration=SECONDS)
            for k in range(n)
        ],
    )
    return folder


def timed(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def manifest(n, tmp):
    "Rows."
    from xtts_ka.core.manifest import read_manifest

    path = tmp / "metadata.csv"
    path.write_text(
        "audio_file|text|speaker_name\n"
        + "".join(
            f"wavs/{i}.wav|წინადადება ნომერი {i}, რომელსაც მძღოლი კითხულობს.|s{i % 400}\n"
            for i in range(n)
        ),
        encoding="utf-8",
    )
    return lambda: read_manifest(path, check_audio=False)


def mels(hours, tmp):
    """Hours, through the cache of GPT-SoVITS2's log-mels (reading, resampling, transforming,
    writing)."""
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.corpus.clips import Clips
    from xtts_ka.sovits.data import compute_mels

    folder = clips(tmp / "in", hours)
    return lambda: compute_mels(
        Clips(read_manifest(folder, check_audio=False).rows, folder), tmp / "mels"
    )


def embeddings(hours, tmp):
    "Hours, to voice embeddings by an ECAPA-TDNN of the demonstration's size."
    from xtts_ka.core.config import build
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder
    from xtts_ka.speaker.prepare_embeddings import prepare_embeddings

    folder = clips(tmp / "in", hours)
    save_encoder(tmp / "encoder", new_ecapa(build(EncoderConfig, dict(name="ecapa-untrained")), 0))
    return lambda: prepare_embeddings(
        folder, tmp / "out", None, model=f"ecapa:{tmp}/encoder", visualize=False
    )


def codes(hours, tmp):
    "Hours, to the codes of a DVAE of XTTS-v2's size (reading, mels, network)."
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.corpus.clips import Clips
    from xtts_ka.xtts.config import PRESETS, DvaeConfig
    from xtts_ka.xtts.dvae import encode, make_dvae
    from xtts_ka.xtts.features import code_mel

    folder = clips(tmp / "in", hours)
    held = Clips(read_manifest(folder, check_audio=False).rows, folder)
    dvae = make_dvae(DvaeConfig(**PRESETS["full"]["dvae"])).eval()
    return lambda: [encode(dvae, code_mel(held.wav(i))) for i in range(len(held))]


def tokens(hours, tmp):
    "Hours, to the semantic tokens of GPT-SoVITS2 (reading, mels, network)."
    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.sovits.config import SemanticConfig
    from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
    from xtts_ka.sovits.train_semantic import SemanticTokenizer

    folder = clips(tmp / "in", hours)
    files = [folder / r.audio_file for r in read_manifest(folder, check_audio=False).rows]
    letters = CharVocabulary(" აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ")
    net = SemanticNet(SemanticConfig(), len(letters), 80).eval()
    tokenizer = SemanticTokenizer(net, letters)
    return lambda: [tokenizer.encode(*read_audio(f)) for f in files]


def shelves(hours, tmp):
    "Hours of log-mels: written, opened, and 2,000 clips read, as so many steps of training would."
    import numpy as np

    from xtts_ka.core.ragged import RaggedArray

    n, rows = round(hours * 3600 / SECONDS), round(SECONDS * 100)
    drawn = np.random.default_rng(0).integers(0, n, 2000)

    def use():
        shelf = RaggedArray.write(
            tmp / "mels", (np.zeros((rows, 80), np.float16) for _ in range(n)), n * rows
        )
        for i in drawn:
            shelf[i]

    return use


def reports(n, tmp):
    "Rejected clips in a run, and its report."
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    from xtts_ka.pipeline.report import write_report

    run = tmp / "outputs/demo"
    (run / "notebooks").mkdir(parents=True)
    os.environ["XTTS_KA_ROOT"] = str(tmp)
    (run / "config.yaml").write_text("run: demo\n", encoding="utf-8")
    (run / "pretrain_progress.json").write_text(
        json.dumps(
            {"schema": 1, "run": "demo", "stages": {"corpus": {"status": "done", "seconds": 1.0}}}
        ),
        encoding="utf-8",
    )
    (run / "rejects.csv").write_text(
        "stage|file|line|item|reason\n"
        + "".join(
            f"corpus|metadata.csv|{i}|wavs/{i}.wav|truncated: {i} of {i + 9} samples\n"
            for i in range(n)
        ),
        encoding="utf-8",
    )
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# Corpus"), new_code_cell("1")]),
        run / "notebooks/10_corpus.ipynb",
    )
    return lambda: write_report(run)


def sentences(n, tmp):
    "Sentences, read in words."
    from xtts_ka.corpus.sentences import load_sentences
    from xtts_ka.text.normalize import KaNormalizer

    own, reader = [s.text for s in load_sentences()], KaNormalizer()
    reader.normalize(own[0])
    return lambda: [reader.normalize(f"{own[i % len(own)]} {i}") for i in range(n)]


def ngrams(n, tmp):
    "Sentences, into a Kneser-Ney model of letters."
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.text.language_model import KneserNey

    texts = recombine(n, 0, min_words=3, max_words=8)
    return lambda: KneserNey(8).fit(texts)


def speakers(n, tmp):
    "Speakers with ten vectors each, every pair of them compared."
    import numpy as np

    v = np.random.default_rng(0).normal(size=(n, 10, 128)).astype(np.float32)
    mean = v.mean(1) / np.linalg.norm(v.mean(1), axis=1, keepdims=True)
    return lambda: [
        (v.reshape(-1, 128)[a : a + 4096] @ mean.T).argmax(1) for a in range(0, 10 * n, 4096)
    ]


PARTS = {
    "manifest": (manifest, "rows", (1_000, 10_000, 100_000, 1_000_000)),
    "mels": (mels, "hours", (0.1, 1, 10)),
    "shelves": (shelves, "hours", (1, 10, 100)),
    "embeddings": (embeddings, "hours", (0.1, 1, 3)),
    "codes": (codes, "hours", (0.1, 0.3)),
    "tokens": (tokens, "hours", (0.1, 0.3)),
    "sentences": (sentences, "sentences", (1_000, 10_000, 100_000)),
    "ngrams": (ngrams, "sentences", (500, 2_000, 8_000)),
    "speakers": (speakers, "speakers", (100, 1_000, 10_000)),
    "reports": (reports, "rejects", (1_000, 10_000, 100_000, 1_000_000)),
}


def one(name, size):
    "In this process: CPU seconds, and by how much the peak of the memory grew."
    import resource

    import torch

    torch.set_num_threads(1)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with tempfile.TemporaryDirectory() as tmp:
        go = PARTS[name][0](size if PARTS[name][1] == "hours" else int(size), Path(tmp))
        before = peak()
        print(json.dumps({"size": size, "CPU seconds": timed(go), "MB": peak() - before}))


def growth(rows):
    "Exponent between the two largest: 1 is proportion."
    import math

    a, b = rows[-2:]
    return math.log(b["CPU seconds"] / a["CPU seconds"]) / math.log(b["size"] / a["size"])


def main(names):
    held = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in names or PARTS:
        _, unit, sizes = PARTS[name]
        rows = []
        for size in sizes:
            p = subprocess.run(
                [sys.executable, __file__, "one", name, str(size)],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "XTTS_KA_PROGRESS": "off"},
            )
            if p.returncode:
                sys.exit(f"{name}, {size}: {p.stderr[-2000:]}")
            rows.append(json.loads(p.stdout.splitlines()[-1]))
            print(
                f"{name:12} {size:>10,} {unit:10} {rows[-1]['CPU seconds']:9.3f} CPU s"
                f" {rows[-1]['MB']:8.1f} MB",
                flush=True,
            )
        held[name] = {
            "unit": unit,
            "what": PARTS[name][0].__doc__,
            "rows": rows,
            "exponent": round(growth(rows), 2),
        }
        print(f"{name:12} grows with the power {held[name]['exponent']}", flush=True)
    from xtts_ka.core.files import write_json

    write_json(RESULTS, held)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(sys.argv[2], float(sys.argv[3]))
    else:
        main(sys.argv[1:])
