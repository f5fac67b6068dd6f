"""Voice embeddings: audio seconds a CPU second, against the file-by-file loop of the usual script:
`python bench/embeddings.py --rounds 3`.

The model has WavLM base-plus's architecture and random weights: speed and agreement do not depend
on what a model has learned, and nothing else here is ever made of random weights.
The usual script reads a file with librosa, cuts windows of 5 s every 4 s, gives each alone to
transformers' extractor and model, and averages. Promised, on one thread and with the same windows
on both sides:
2 times its speed at cosine 0.99999, 3 times at 0.999. Where the script leaves the rest at the
end as short as it is, instead of moving the last window back, it has less to compute; that way is
timed, too, and printed
without a promise (ours does the same with tail=short). Contenders take turns, round after round.
Exit code 1 when a promise is missed."""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/data/librispeech_mini/multi"  # real recordings, where they are at hand
PROMISED = {0.99999: 2.0, 0.999: 3.0}  # Cosine -> times the speed of the usual script
LENGTH, OVERLAP = 5.0, 1.0  # Seconds


def recordings(n, folder):
    "Real clips of all lengths where they are at hand, else noise that changes its colour."
    import numpy as np
    import soundfile as sf

    real = sorted(REAL.rglob("*.flac"), key=lambda p: (sf.info(p).duration, p.name))
    if real:
        return [
            real[(2 * i + 1) * len(real) // (2 * n)] for i in range(n)
        ]  # the middles of n equal parts, from short to long
    print("bench: no real recordings beside the repository, using noise", file=sys.stderr)
    draw = np.random.default_rng(0)
    for i in range(n):
        sf.write(
            Path(folder) / f"{i}.flac",
            np.convolve(
                0.03 * draw.standard_normal(int(16000 * (3 + 9 * i / n))),
                draw.standard_normal(8),
                "same",
            ),
            16000,
        )
    return sorted(Path(folder).glob("*.flac"))


def base_plus(folder):
    "A folder as the hub has it, with random weights."
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    from xtts_ka.core.randomness import seeded_step

    seeded_step(0, "random network")
    WavLMModel(WavLMConfig()).save_pretrained(folder)  # transformers' defaults are base-plus
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(
        folder
    )  # as the hub's base-plus says
    return folder


def usual(folder):
    "The usual script's function: (path, windows of so many samples) -> vector."
    import librosa
    import numpy as np
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMModel

    model, extractor = (
        WavLMModel.from_pretrained(folder).eval(),
        Wav2Vec2FeatureExtractor.from_pretrained(folder),
    )

    def embed(path, plan):
        wav, vectors = librosa.load(path, sr=16000)[0], []
        for a, b in plan(len(wav)):
            inputs = extractor(wav[a:b], sampling_rate=16000, return_tensors="pt")
            with torch.no_grad():
                v = model(**inputs).last_hidden_state.mean(1)[0].numpy()
            vectors.append(v / np.linalg.norm(v))
        mean = np.mean(vectors, 0)
        return mean / np.linalg.norm(mean)

    return embed


def cpu(call):
    start = time.process_time()
    return call(), time.process_time() - start


def main():
    ap = argparse.ArgumentParser(
        description=(
            "Audio seconds a CPU second of every backend; exit code 1 when a promised ratio is"
            " missed."
        )
    )
    ap.add_argument("--rounds", type=int, default=3, help="how often each contender runs (3)")
    ap.add_argument("--files", type=int, default=6, help="recordings (6)")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not run(args, Path(folder)))


def contenders(folder, files):
    "Name -> () -> vectors; ours under their backends' names."
    import torch

    from xtts_ka.speaker.config import BACKENDS
    from xtts_ka.speaker.infer import VoiceEmbeddingGenerator
    from xtts_ka.speaker.segments import plan_segments

    torch.set_num_threads(1)
    script, size = (
        usual(base_plus(folder / "base-plus")),
        (round(16000 * LENGTH), round(16000 * OVERLAP)),
    )
    ways = {
        "usual script": lambda: [script(f, lambda n: plan_segments(n, *size)) for f in files],
        "usual script, short rest": lambda: [
            script(f, lambda n: plan_segments(n, *size, "short", 400)) for f in files
        ],
    }
    encoder = None
    for name in BACKENDS:
        ours, seconds = cpu(
            lambda: VoiceEmbeddingGenerator(
                str(folder / "base-plus"),
                "cpu",
                encoder=encoder,
                backend=name,
                onnx_dir=str(folder / "onnx"),
                segment_length=LENGTH,
                segment_overlap=OVERLAP,
                target_dbfs=None,  # The script takes the sound as it is
            )
        )
        encoder = ours.encoder
        print(f"{name:10} ready in {seconds:.1f} CPU s", flush=True)
        ways[name] = lambda ours=ours: [ours.generate_embedding_from_file(f) for f in files]
    return ways


def run(args, folder):
    import numpy as np
    import soundfile as sf

    files = recordings(args.files, folder)
    sound = sum(sf.info(f).duration for f in files)
    ways = contenders(folder, files)
    times, vectors = {name: [] for name in ways}, {}
    for _ in range(args.rounds):
        for name, call in ways.items():
            vectors[name], seconds = cpu(call)
            times[name].append(seconds)
    speed = {name: sound / statistics.median(t) for name, t in times.items()}
    cosine = {
        name: float(min((np.asarray(a) * b).sum() for a, b in zip(v, vectors["usual script"])))
        for name, v in vectors.items()
    }
    print(
        f"\n{len(files)} files, {sound:.0f} s, windows of {LENGTH:g} s that share {OVERLAP:g} s,"
        f" one thread, {args.rounds} rounds"
    )
    print(
        f"{'':26}{'audio s / CPU s':>16}{'times usual':>13}{'short rest':>12}{'least cosine':>14}"
    )
    for name in ways:
        print(
            f"{name:26}{speed[name]:16.2f}{speed[name] / speed['usual script']:13.2f}"
            f"{speed[name] / speed['usual script, short rest']:12.2f}{cosine[name]:14.6f}"
        )
    fine = kept(speed, cosine)
    out = ROOT / "bench/results" / time.strftime("%Y%m%d-%H%M%S-embeddings.json")
    versions = dict(
        python=platform.python_version(),
        **{k: version(k) for k in ("torch", "transformers", "onnxruntime")},
    )
    from xtts_ka.core.files import write_json

    write_json(
        out,
        dict(
            versions=versions,
            load=os.getloadavg()[0],
            seconds_of_sound=sound,
            seconds=times,
            audio_per_cpu=speed,
            cosine=cosine,
            kept=fine,
        ),
    )
    print(f"written: {out.relative_to(ROOT)}")
    return fine


def _row(least, n=6):
    """A row for bench/run.py: the backend that `auto` takes for an agreement, against the usual
    script."""
    import numpy as np
    import soundfile as sf
    import torch
    from compare import Row
    from compare import cpu as seconds

    from xtts_ka.speaker.backends import choose_backend
    from xtts_ka.speaker.infer import VoiceEmbeddingGenerator
    from xtts_ka.speaker.segments import plan_segments

    torch.set_num_threads(1)
    tmp = tempfile.TemporaryDirectory()
    files, model, size = (
        recordings(n, tmp.name),
        str(base_plus(Path(tmp.name) / "base-plus")),
        (round(16000 * LENGTH), round(16000 * OVERLAP)),
    )
    ours = VoiceEmbeddingGenerator(
        model,
        "cpu",
        backend="torch",
        segment_length=LENGTH,
        segment_overlap=OVERLAP,
        target_dbfs=None,
    )
    ours.backend = choose_backend(ours.encoder, least, Path(tmp.name) / "onnx", LENGTH)
    script, run = usual(model), lambda: [ours.generate_embedding_from_file(f) for f in files]
    whole, short = (
        (lambda: [script(f, lambda n: plan_segments(n, *size)) for f in files]),
        (lambda: [script(f, lambda n: plan_segments(n, *size, "short", 400)) for f in files]),
    )
    agreement = float(min((np.asarray(a) * b).sum() for a, b in zip(run(), whole())))
    assert agreement >= least, f"{ours.backend.name}: cosine {agreement:.7f}"
    return Row(
        f"voice embeddings at cosine {least:g}, WavLM base-plus (random weights), {n} files,"
        f" {sum(sf.info(f).duration for f in files):.0f} s of sound",
        lambda: seconds(run),
        {"usual script": lambda: seconds(whole), "short rest": lambda: seconds(short)},
        {"usual script": 1 / PROMISED[least]},
        f"one thread; `auto` took {ours.backend.name}, least cosine {agreement:.6f}; short rest:"
        f" the usual script with less to compute; transformers {version('transformers')}",
        [tmp],
    )


def embed():
    return _row(0.99999)


def embed_fast():
    return _row(0.999)


ROWS = dict(embed=embed, embed_fast=embed_fast)


def kept(speed, cosine):
    "Whether the fastest backend that agrees is as fast as promised."
    fine = True
    for least, times in PROMISED.items():
        good = {n: s for n, s in speed.items() if not n.startswith("usual") and cosine[n] >= least}
        best = max(good, key=good.get)
        ratio = good[best] / speed["usual script"]
        fine &= ratio >= times
        print(
            f"at cosine {least:g}: {best} is {ratio:.2f} times as fast as the usual script"
            f" (promised: {times:g})" + ("" if ratio >= times else "  MISSED")
        )
    return fine


if __name__ == "__main__":
    main()
