"""GPT-SoVITS2: rows of `make bench` (writing tokens with and without a cache, text to sound beside
Piper's shape), and what is no row.

`python bench/sovits.py tokenizer SEGMENTS OUT [KEY=VALUE ...]`: trains the tokenizer and prints its
errors on seen voices and strangers, use of codes and CPU seconds.
`python bench/sovits.py written SEGMENTS OUT CONFIG [KEY=VALUE ...]`: trains tokenizer and
autoregressive model as CONFIG says (configs/sovits/demo_long.yaml, say; what `xtts-ka sovits
train-ar` has left in OUT is taken), lets it write the held-out sentences, and adds a row to
nbs/results/sovits.json.
`python bench/sovits.py compare SEGMENTS OUT`: layouts, codebook counts and the way codes enter,
each trained alike; writes nbs/results/sovits.json, which nbs/sovits/compare.ipynb shows.
`python bench/sovits.py fusion RUN_DIR`: mixes two voices of a finished run (stages speaker_encoder
and sovits2) and adds the curve to that file.
`python bench/sovits.py decoder RUN_DIR [LABEL=MODEL ...]`: lets decoders speak eight validation
clips of each voice from the recordings' own tokens (*prior*) and from the recordings themselves
(*posterior*), listens to both, and adds the rows to that file and a sentence of each to
nbs/results/audio/decoder. Without LABEL=MODEL it takes RUN_DIR's own model as `now`. Wants `pip
install --no-deps distillmos xls-r-sqa` for DistillMOS.
SEGMENTS is a folder as the stage `segments` leaves it, for example outputs/demo/segments."""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "nbs/results/sovits.json"
TOKENS = 500

# the row


def cache():
    """An untrained model of the demonstration's size writes 500 tokens; the cache changes none of
    them (tests/test_sovits.py)."""
    import torch
    from compare import Row, cpu

    from xtts_ka.core.randomness import seeded_step, torch_rng
    from xtts_ka.sovits.ar import ArModel, Segment
    from xtts_ka.sovits.config import ArConfig, QuantizerConfig, SamplingConfig, TextConfig
    from xtts_ka.sovits.quantize import Quantizer
    from xtts_ka.sovits.sampling import generate
    from xtts_ka.sovits.text_encoder import TextEncoder

    torch.set_num_threads(1)
    seeded_step(0, "bench")
    net = ArModel(
        ArConfig(),
        TextEncoder(TextConfig(), 512),
        Quantizer(QuantizerConfig(levels=[4, 4, 4, 4]), 192),
    ).eval()
    sampling = SamplingConfig(temperature=1.0, min_per_piece=TOKENS / 25, max_per_piece=TOKENS / 25)

    def go(cached):
        return generate(
            net, [[Segment(list(range(300, 325)))]], sampling, [torch_rng(0, "bench")], cached
        )

    assert len(go(True)[0].codes) == TOKENS
    return Row(
        f"writing {TOKENS} tokens, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M"
        " parameters",
        lambda: cpu(go, True),
        {"without a cache": lambda: cpu(go, False)},
        {"without a cache": 1 / 5},
        "the same tokens; one thread",
        [net],
    )


SAID = "დილა მშვიდობისა, დღეს ქალაქში ძალიან ცივა და თოვლი მოდის"
SECONDS = 4.0  # Of the sentence, at the pace of the demonstration's voices


def demo_shaped(config="configs/demo.yaml"):
    "(an untrained model in the sizes of a run's configuration, sampling that speaks `SECONDS`)."
    from dataclasses import replace

    import yaml

    from xtts_ka.core.config import build
    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.corpus.sentences import load_sentences
    from xtts_ka.sovits.ar import ArModel
    from xtts_ka.sovits.config import Sovits2Config
    from xtts_ka.sovits.features import TOKEN_RATE
    from xtts_ka.sovits.infer import Sovits, load_model, save_model
    from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
    from xtts_ka.sovits.text_encoder import Bpe, TextEncoder
    from xtts_ka.sovits.train_decoder import Decoder
    from xtts_ka.sovits.train_semantic import SemanticTokenizer
    from xtts_ka.sovits.vits2 import Vits2
    from xtts_ka.text.chunks import habits

    cfg = build(Sovits2Config, yaml.safe_load((ROOT / config).read_text("utf-8"))["sovits2"])
    plain = {chr(c) for c in range(ord("ა"), ord("ჰ") + 1)} | set(" ,.?!")
    texts = [s.text for s in load_sentences() if set(s.text) <= plain]
    letters, bpe = CharVocabulary.of(texts), Bpe.train(texts, cfg.text)
    seeded_step(1, "bench sovits")
    net = SemanticNet(cfg.semantic, len(letters)).eval()
    ar = ArModel(cfg.ar, TextEncoder(cfg.text, bpe.size), net.quantizer).eval()
    decoder = replace(cfg.decoder, semantic_dim=cfg.semantic.dim, text_dim=cfg.text.dim)
    decoder = Decoder(Vits2(decoder), TextEncoder(cfg.text, bpe.size))
    parts = (SemanticTokenizer(net, letters), ar, bpe, decoder, "ka")
    with tempfile.TemporaryDirectory() as folder:  # As it is loaded: by our own layers of Qwen2
        model = load_model(save_model(Sovits(*parts, texts=habits(texts)), Path(folder) / "model"))
    pace = SECONDS * TOKEN_RATE / len(bpe.encode(SAID))
    return model, replace(cfg.sampling, min_per_piece=pace, max_per_piece=pace)


def speech():
    """A sentence to sound: normaliser, tokens with pointer and checks, decoder; Piper's part begins
    behind its phonemes."""
    import numpy as np
    import torch
    from compare import Row, cpu
    from piper import Voice

    from xtts_ka.sovits.infer import ReferencePrompt

    torch.set_num_threads(1)
    model, sampling = demo_shaped()
    hum = 0.1 * np.sin(np.arange(3 * 22050) * 0.05).astype(np.float32)
    codes = torch.from_numpy(model.tokenizer.encode(hum, 22050)).long()
    references = [ReferencePrompt(hum, 22050, codes, "დილა მშვიდობისა", 1.0)]

    def go():
        return model.speak(SAID, references, sampling, retries=0)

    found, peer = go(), Voice(SECONDS)
    spoken = sum(len(codes) for codes in found.codes) / 25
    assert 0.8 * SECONDS < spoken < 1.2 * SECONDS, spoken

    def piper():
        spent = cpu(lambda: samples.append(peer.speak()))
        return spent / (samples.pop() / 22050)

    samples: list = []
    return Row(
        f"GPT-SoVITS2, the demonstration's sizes, text to sound, {spoken:.1f} s: CPU seconds a"
        " second of audio",
        lambda: cpu(go) / spoken,
        {"Piper": piper},
        {"Piper": 3.5},
        f"one thread, random weights, one take of each piece; Piper's medium shape (VITS), its"
        f" phonemes given, in onnxruntime {version('onnxruntime')}",
        [model, peer],
    )


ROWS = dict(sovits_cache=cache, sovits_speech=speech)

# what is no row


def stage(segments, out, **options):
    from xtts_ka.core.config import build
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.config import Sovits2Config
    from xtts_ka.sovits.stage import Sovits2Stage

    return Sovits2Stage(build(Sovits2Config, options), resolve(segments), resolve(out), 1)


VOICES, TEXT = dict(voices=8, strangers=2, voice_clips=60), dict(vocab_size=300)


def tokenizer(segments, out, overrides):
    import torch

    from xtts_ka.core.config import to_dict
    from xtts_ka.sovits.config import load_sovits

    torch.set_num_threads(1)
    cfg = to_dict(load_sovits(None, [*(f"prepare.{k}={v}" for k, v in VOICES.items()), *overrides]))
    s = stage(segments, out, prepare=cfg["prepare"], text=cfg["text"], semantic=cfg["semantic"])
    s.prepare()
    result = s.train_tokenizer()
    for k, v in s.tokenize().items():
        print(f"{k:28} {v:.4f}")
    print(f"{result.step} steps, {result.cpu_seconds:.0f} CPU s")


def freely(s, sampling):
    """What a stage's model writes for the held-out sentences of the seen voices, and what its
    tokenizer reads in it."""
    from xtts_ka.sovits.semantic import normalize_transcript
    from xtts_ka.sovits.train_semantic import char_error_rate

    rows, start = s.data.test_rows(unseen=False), time.process_time()
    written = s.ar_task.sample_clips(rows, sampling)
    spent = time.process_time() - start
    read = s.tokenizer.transcribe([w.codes for w in written])
    return {
        "CER of what is written": char_error_rate(
            (normalize_transcript(s.data.clips.rows[i].text), t) for i, t in zip(rows, read)
        ),
        "sentences": len(rows),
        "stopped": sum(w.stopped for w in written) / len(rows),
        "tokens a CPU second": sum(len(w.codes) for w in written) / spent,
        "length ratio": sum(len(w.codes) for w in written) / sum(len(s.codes[i]) for i in rows),
    }


def written(segments, out, config, overrides):
    import torch

    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.config import SamplingConfig, load_sovits
    from xtts_ka.sovits.stage import Sovits2Stage

    torch.set_num_threads(1)
    cfg = load_sovits(config, overrides)
    s = Sovits2Stage(cfg, resolve(segments), resolve(out), cfg.seed, cfg.language)
    s.prepare()
    tokens = s.train_tokenizer()
    kept = dict(s.tokenize())
    result = s.train_ar()
    row = {
        "preset": Path(config).stem,
        **dict(kept.items()),
        "tokenizer, CPU seconds": tokens.cpu_seconds,
        "autoregressive, CPU seconds": result.cpu_seconds,
        **freely(s, SamplingConfig(temperature=0)),
        "sampled": freely(s, cfg.sampling)["CER of what is written"],
    }
    keep(presets=[r for r in held().get("presets", []) if r["preset"] != row["preset"]] + [row])
    for k, v in row.items():
        print(f"{k:34} {v:.4f}" if isinstance(v, float) else f"{k:34} {v}")


def variant(name, segments, out, shared, semantic, ar):
    "Train tokenizer (or take that of `shared`) and autoregressive model; a row of figures."
    from xtts_ka.sovits.config import SamplingConfig

    s = stage(segments, Path(out) / shared, prepare=VOICES, text=TEXT, semantic=semantic, ar=ar)
    s.prepare()
    s.train_tokenizer()
    kept = dict(s.tokenize())
    s.out = Path(out) / name
    result = s.train_ar()
    task = s.ar_task
    loss, right = task.score((task.val or task.train)[:96])
    free = freely(s, SamplingConfig(temperature=0))
    return {
        "variant": name,
        "tokens' CER": kept["CER of tokens, seen voices"],
        "codes' perplexity": kept["codes perplexity"],
        "nats a token": loss * s.tokenizer.n_codebooks,
        "guessed right": right,
        **{k: free[k] for k in ("CER of what is written", "stopped", "tokens a CPU second")},
        "CPU seconds": result.cpu_seconds,
        "steps": result.step,
    }


def compare(segments, out):
    import torch

    torch.set_num_threads(1)
    loop = dict(steps=320, validate_every=0, save_every=320)

    def semantic(**q):
        return dict(
            quantizer=q, dropout=0.05, loop=dict(steps=450, validate_every=0, save_every=450)
        )

    one, ar = semantic(levels=[4, 4, 4, 4]), dict(loop=loop, free_run=0)
    table = [
        ("interleaved", "one", one, ar),
        ("no pointer", "one", one, ar | dict(pointer=False)),
        ("text_first", "one", one, ar | dict(layout="text_first")),
        ("learned table", "one", one, ar | dict(codes_in="learned")),
        ("2 codebooks, delay", "two", semantic(levels=[4, 4], codebooks=2), ar),
        ("4 codebooks, delay", "four", semantic(levels=[4], codebooks=4), ar),
    ]
    for name, shared, sem, a in table:
        keep(
            variants=[r for r in held().get("variants", []) if r["variant"] != name]
            + [row := variant(name, segments, out, shared, sem, a)]
        )
        print(
            "  ".join(
                f"{k}: {v:.3g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()
            ),
            flush=True,
        )


def fusion(run_dir):
    import torch

    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.fusion import fusion_curve
    from xtts_ka.sovits.infer import Reference, load_model
    from xtts_ka.speaker.encoders import SpeakerEncoder, load_encoder

    torch.set_num_threads(1)
    run = resolve(run_dir)
    model, judge = (
        load_model(run / "sovits2/model"),
        SpeakerEncoder(load_encoder(run / "speaker_encoder"), "ecapa", "cpu"),
    )
    manifest = read_manifest(run / "segments", check_audio=False)

    def train(s):
        return next(
            manifest.audio_path(r)
            for r in manifest.rows
            if r.speaker_name == s and r.split == "train" and r.duration > 2.5
        )

    names = sorted({r.speaker_name for r in manifest.rows})[:2]
    texts = list(dict.fromkeys(r.text for r in manifest.rows if r.split == "test"))[:8]
    a, b = (model.encode_references([Reference(train(n))])[0] for n in names)
    rows = [
        {k: v for k, v in r.items() if k != "said"}
        for r in fusion_curve(model, a, b, texts, judge.embed, judge.sample_rate)
    ]
    keep(fusion={"voices": names, "sentences": len(texts), "curve": rows})
    for r in rows:
        print("  ".join(f"{k}: {v:.2f}" for k, v in r.items()))


class Ears:
    "What is measured of a sound beside its recording; one row for all clips of a way."

    def __init__(self):
        try:
            import distillmos
        except ImportError as e:
            raise SystemExit(
                f"{e}: pip install --no-deps distillmos xls-r-sqa, then run this again"
            ) from e
        from xtts_ka.evaluate.recogniser import Recogniser
        from xtts_ka.vocoder.config import MelConfig
        from xtts_ka.vocoder.features import LogMel

        self.recogniser, self.mos = Recogniser(), distillmos.ConvTransformerSQAModel().eval()
        self.mel = LogMel(MelConfig())

    def opinion(self, wav):  # [T] at 22,050 Hz -> DistillMOS
        import torch

        from xtts_ka.core.audio import resample

        with torch.no_grad():
            return float(self.mos(torch.from_numpy(resample(wav, 22050, 16000))[None]))

    def hum(self, wav, lag):  # [T] -> likeness of loud stretches to what is `lag` samples later
        import numpy as np

        size = 2048
        pairs = [
            (wav[a : a + size], wav[a + lag : a + lag + size])
            for a in range(0, len(wav) - size - lag, size // 2)
        ]
        loud = [(x, y) for x, y in pairs if min((x**2).mean(), (y**2).mean()) > 4e-4]
        return float(np.median([x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in loud]))

    def in_tune(
        self, wav, recording
    ):  # Share of the recording's voiced frames with its pitch, within 6 %
        import librosa
        import numpy as np

        def yin(x):
            return librosa.yin(
                x.astype(float), fmin=60, fmax=400, sr=22050, frame_length=1024, hop_length=441
            )

        frames = librosa.util.frame(np.pad(recording, 512), frame_length=1024, hop_length=441)
        crossings = (np.diff(np.sign(frames), axis=0) != 0).mean(0)
        voiced = (np.sqrt((frames**2).mean(0)) > 0.03) & (crossings < 0.15)
        ours, theirs = yin(wav), yin(recording)
        n = min(len(ours), len(theirs), len(voiced))
        off = np.abs(np.log2(ours[:n] / theirs[:n]))[voiced[:n]]
        return float((off < np.log2(1.06)).mean())

    def clip(self, row, wav, recording):  # Figures of one clip
        import torch

        from xtts_ka.core.audio import set_level

        wav, n = set_level(wav, -23.0), min(len(wav), len(recording))
        mels = [self.mel(torch.from_numpy(x[:n])) for x in (wav, recording)]
        return {
            "speaker": row.speaker_name,
            "pair": (row.text, self.recogniser.transcribe(wav, 22050)),
            "DistillMOS": self.opinion(wav),
            "log-mel L1": float((mels[0] - mels[1]).abs().mean()),
            "pitch right": self.in_tune(wav[:n], recording[:n]),
            "likeness at 441 samples": self.hum(wav, 441),
            "at 882": self.hum(wav, 882),
        }


def summary(found):
    "Means of what `Ears.clip` gave, and DistillMOS and pitch of each voice."
    import numpy as np

    from xtts_ka.evaluate.recogniser import error_rate

    numbers = [k for k, v in found[0].items() if isinstance(v, float)]
    row = {k: round(float(np.mean([f[k] for f in found])), 3) for k in numbers}
    names = ("CER", "CER, low", "CER, high")
    row |= {k: round(v, 4) for k, v in zip(names, error_rate([f["pair"] for f in found]))}
    for name in sorted({f["speaker"] for f in found}):
        own = [f for f in found if f["speaker"] == name]
        row |= {
            f"{k}, {name}": round(float(np.mean([f[k] for f in own])), 3)
            for k in ("DistillMOS", "pitch right")
        }
    return row


def decoded(model, wav, row, reference):
    "A clip by its tokens (prior), and by the latent of its recording (posterior)."
    import torch

    from xtts_ka.sovits.train_decoder import cut

    net = model.decoder.net
    codes = torch.from_numpy(model.tokenizer.encode(wav, 22050)).long()
    voice = model.decoder.voice([(reference, 22050)])
    yield "prior", model.sound(codes, row.text, voice)
    length = 2 * len(codes)
    with torch.no_grad():
        spec = model.decoder.front.stft(cut(torch.from_numpy(wav), 0, length * 441)[None]).abs()
        latent, _ = net.posterior(spec, torch.ones(1, 1, length, dtype=torch.bool), voice)
        yield "posterior", net.sound(latent, voice)[0].numpy()


def keep_sound(name, wav):
    import soundfile

    (folder := ROOT / "nbs/results/audio/decoder").mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.ogg", wav, 22050)


def decoder(run_dir, words, clips=8):
    import torch

    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.infer import load_model

    torch.set_num_threads(1)
    run, ears, rows = resolve(run_dir), Ears(), []
    manifest = read_manifest(run / "segments", check_audio=False)

    def read(r):
        return read_audio(manifest.audio_path(r), 22050)[0]

    names = sorted({r.speaker_name for r in manifest.rows})

    def of(name, split):
        return [r for r in manifest.rows if (r.speaker_name, r.split) == (name, split)]

    chosen = [r for name in names for r in of(name, "val")[:clips]]
    first = {name: next(r for r in of(name, "train") if r.duration > 2) for name in names}
    models = dict(w.split("=", 1) for w in words) or {"now": run / "sovits2/model"}
    ways = {"recording": [ears.clip(r, read(r), read(r)) for r in chosen]}
    for label, folder in models.items():
        model = load_model(resolve(folder))
        for r in chosen:
            for way, wav in decoded(model, read(r), r, read(first[r.speaker_name])):
                ways.setdefault(f"{label}, {way}", []).append(ears.clip(r, wav, read(r)))
                if r in (chosen[0], chosen[-1]) and way == "prior":
                    keep_sound(f"{label}-{r.speaker_name}", wav)
    for r in (chosen[0], chosen[-1]):
        keep_sound(f"recording-{r.speaker_name}", read(r))
    rows = [{"way": way, **summary(found)} for way, found in ways.items()]
    for row in rows:
        print("  ".join(f"{k}: {v}" for k, v in row.items()), flush=True)
    keep(decoder={"clips": len(chosen), "rows": rows})


def held():
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def keep(**values):
    from xtts_ka.core.files import write_json

    write_json(RESULTS, held() | values)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["tokenizer"]:
        tokenizer(words[1], words[2], words[3:])
    elif words[:1] == ["written"]:
        written(words[1], words[2], words[3], words[4:])
    elif words[:1] == ["compare"]:
        compare(words[1], words[2])
    elif words[:1] == ["fusion"]:
        fusion(words[1])
    elif words[:1] == ["decoder"]:
        decoder(words[1], words[2:])
    else:
        from compare import main

        main(ROWS)
