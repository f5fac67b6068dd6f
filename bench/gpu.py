"""What one GPU does: `make bench ARGS=gpu`, or `python bench/gpu.py [PART ...] [--small]`.

Parts: XTTS-v2's shape in training (audio seconds a second, batches doubled until memory ends) and
in speaking (1, 8, 32, 64 sentences at once; first sound), HiFi-GAN V1's training step, the parts of
GPT-SoVITS2, WavLM base-plus embeddings; beside them coqui-tts's own training step and decoding,
which takes one sentence at a time. Weights and inputs are random: speed does not depend on them.
Promised: twice coqui's training throughput at equal precision, and ten times its decoding.

Figures are wall time, the GPU waited for. Everything goes to nbs/results/gpu.json (`--json FILE`)
as it comes, so that what was measured stays if the time runs out (`--minutes`, 9); a part that
fails says why and the next begins. Without a GPU, or with --small, the same parts run in small:
a test of the script, not a measurement. `--speak FOLDER` also lets an export speak on CPU and GPU.
Exit code 1 when a promise is missed or a part failed."""

import argparse
import contextlib
import gc
import json
import math
import os
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xtts_ka.core.files import read_json, write_json

os.environ.setdefault("OMP_NUM_THREADS", "4")
os.environ["XTTS_KA_PROGRESS"] = "off"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "nbs/results/gpu.json"
CODE = 1024 / 22050  # Seconds of a code
PROMISED = {"training": 2.0, "decoding": 10.0}  # Times coqui's


class Bench:
    "Device, sizes and time of one run."

    def __init__(self, small: bool, minutes: float):
        import torch

        self.torch = torch
        self.cuda = torch.cuda.is_available() and not small
        self.small = not self.cuda
        self.device = "cuda" if self.cuda else "cpu"
        self.end = time.monotonic() + 60 * minutes
        self.until = self.end  # Of the part under way

    def left(self) -> float:  # Seconds for the part under way
        return min(self.end, self.until) - time.monotonic()

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def clean(self):
        "Memory of what is gone, back to the device."
        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def peak(self):  # GB of tensors at most since `clean`; None on a CPU
        return round(self.torch.cuda.max_memory_allocated() / 1e9, 2) if self.cuda else None

    def seconds(self, call, warm=2, times=5) -> float:
        "Median wall seconds of a call."
        taken = []
        for n in range(warm + times):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - start)
            if n >= warm and self.left() < 0:
                break
        return statistics.median(taken[warm:])


def failed(error) -> dict:
    return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}


# XTTS-v2's shape


def shape(b: Bench) -> dict:
    if b.small:
        return dict(layers=2, dim=64, heads=4, texts=60)
    return dict(layers=30, dim=1024, heads=16, texts=6681)


def new_gpt(b: Bench):
    "coqui's GPT in the official shape."
    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.xtts.config import GptConfig
    from xtts_ka.xtts.gpt import make_gpt

    s = shape(b)
    seeded_step(1, "bench gpu")
    cfg = GptConfig(layers=s["layers"], dim=s["dim"], heads=s["heads"], max_text=402, max_codes=605)
    with b.torch.device(b.device):  # its weights are drawn there, which takes no time on a GPU
        return make_gpt(cfg, s["texts"], 1, 0, 1024).to(b.device)


def clips(b: Bench, size: int) -> tuple:
    "Made-up clips of like length, as bucketing gives them: 5.1 to 6 s, 45 to 55 text ids."
    from xtts_ka.core.randomness import rng, torch_rng

    draw, g = rng(1, "clips", size), torch_rng(1, "clips", size)
    few = 10 if b.small else 1
    text = [
        b.torch.randint(4, 50, (int(n) // few,), generator=g) for n in draw.integers(45, 56, size)
    ]
    codes = [
        b.torch.randint(0, 1024, (int(m) // few,), generator=g)
        for m in draw.integers(110, 130, size)
    ]
    return text, codes, b.torch.randn(size, 80, 517 // few, generator=g)


def our_step(b: Bench, size: int, precision: str, compiled: bool):
    "A step as `core.loop` does it with the recipe's losses on text and codes: a function."
    from xtts_ka.xtts.gpt import gpt_losses, quicken, sequences

    net = quicken(new_gpt(b)).train()
    net.compiled = compiled
    parameters = list(net.parameters())
    optimizer = b.torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def prepared(size):
        text, codes, reference = clips(b, size)
        batch = {**sequences(text, codes, net), "reference": reference}
        return {k: v.to(b.device) for k, v in batch.items()}, sum(map(len, codes)) * CODE

    def step(batch):
        with b.torch.autocast(b.device, b.torch.bfloat16, enabled=precision == "bf16"):
            text, code = gpt_losses(net, batch)
            loss = code + 0.01 * text
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        b.torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return prepared, step


def coqui_step(b: Bench, size: int, precision: str, compiled: bool):
    """A step of coqui's `GPTTrainer` on codes that are there already (its own also makes them by
    the DVAE): its forward pass and losses, and AdamW as its trainer makes it."""
    net = new_gpt(b).train()
    optimizer = b.torch.optim.AdamW(net.parameters(), lr=5e-6, betas=(0.9, 0.96), weight_decay=0.01)

    def prepared(size):
        pad = b.torch.nn.utils.rnn.pad_sequence
        text, codes, reference = clips(b, size)
        lengths = [b.torch.tensor([len(x) for x in xs]) for xs in (text, codes)]
        batch = [pad(text, True), lengths[0], pad(codes, True), lengths[1] * 1024]
        given = {"cond_mels": reference[:, None], "cond_idxs": b.torch.tensor([[0, 9]] * size)}
        given = {k: v.to(b.device) for k, v in given.items()}
        return ([t.to(b.device) for t in batch], given), sum(map(len, codes)) * CODE

    def step(batch):
        inputs, given = batch
        with b.torch.autocast(b.device, b.torch.bfloat16, enabled=precision == "bf16"):
            text, code, _ = net(inputs[0], inputs[1], inputs[2].clone(), inputs[3], **given)
            loss = code + 0.01 * text
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return prepared, step


TRAININGS = {
    "ours, compiled": (our_step, "bf16", True),
    "ours": (our_step, "bf16", False),
    "coqui": (coqui_step, "bf16", False),
    "coqui, float32": (coqui_step, "fp32", False),
}


def training(b: Bench) -> dict:
    "Batches doubled until memory or time ends; the compiled way begins where it pays."
    rows, sizes = [], [2] if b.small else [32, 64, 128, 256, 512]
    for name, (make, precision, compiled) in TRAININGS.items():
        if compiled and b.small:
            continue  # compilation takes longer than the whole test
        start = time.perf_counter()
        try:
            prepared, step = make(b, sizes[0], precision, compiled)
            for size in sizes[compiled:] if precision == "bf16" else sizes[:2]:
                row = {"way": name, "precision": precision, "batch": size}
                try:
                    row |= one_batch(b, prepared, step, size)
                except b.torch.OutOfMemoryError:
                    rows.append(row | {"error": "out of memory"})
                    break
                rows.append(row)
                if b.left() < 0:
                    break
        except Exception as error:
            rows.append({"way": name} | failed(error))
        prepared = step = None
        b.clean()
        rows.append({"way": name, "wall seconds in all": round(time.perf_counter() - start, 1)})
    best = {r["way"]: 0.0 for r in rows}
    for r in rows:
        best[r["way"]] = max(best[r["way"]], r.get("audio seconds a second", 0.0))
    ours = max(best.get("ours", 0), best.get("ours, compiled", 0))
    theirs = best.get("coqui", 0)
    return {"rows": rows, "best": best, "ratio": ours / theirs if theirs else None}


def one_batch(b: Bench, prepared, step, size: int) -> dict:
    b.clean()
    batch, audio = prepared(size)
    start = time.perf_counter()
    seconds = b.seconds(lambda: step(batch), warm=1 if b.small else 3, times=1 if b.small else 6)
    return {
        "seconds a step": round(seconds, 5),
        "audio seconds a second": round(audio / seconds, 1),
        "memory, GB": b.peak(),
        "wall seconds": round(time.perf_counter() - start, 1),
    }


# Speaking


class Voice:
    "GPT, waveform decoder, sentences and a voice; as many codes as are asked for, and no STOP."

    def __init__(self, b: Bench):
        from xtts_ka.core.randomness import torch_rng
        from xtts_ka.xtts.config import DecodeConfig
        from xtts_ka.xtts.gpt import quiet
        from xtts_ka.xtts.waveform_decoder import make_decoder

        torch, s = b.torch, shape(b)
        self.b, self.codes = b, 6 if b.small else 150
        self.gpt = new_gpt(b).eval().requires_grad_(False)
        self.gpt.mel_head.bias[-2:] = -50.0
        with quiet():
            self.gpt.init_gpt_for_inference()
        made = make_decoder(s["dim"], 32 if b.small else 512).to(b.device)
        self.hifi = made.eval().requires_grad_(False)
        g = torch_rng(1, "bench gpu voice")
        vector = torch.randn(1, 512, 1, generator=g)
        self.vector = torch.nn.functional.normalize(vector, dim=1).to(b.device)
        self.cond = torch.randn(1, 32, s["dim"], generator=g).to(b.device)
        sizes = [45 + n % 11 for n in range(64)]
        self.ids = [torch.randint(2, s["texts"], (n,), generator=g).tolist() for n in sizes]
        drawn = dict(temperature=0.75, top_k=50, top_p=0.85, repetition_penalty=10.0)
        limits = dict(max_codes_per_id=1e-3, guard_extra=self.codes, length_prior=False)
        self.cfg = DecodeConfig(**drawn, **limits)  # Draws as coqui's defaults

    @property
    def seconds(self) -> float:  # Of a sentence
        return self.codes * CODE

    def ours(self, engine, wave, count: int):
        "All that `KaXtts` does after the texts are written in ids: waveforms on the CPU."
        from xtts_ka.xtts.sampling import decode_batch

        given = [self.cond] * count, self.ids[:count], self.cfg, list(range(count))
        done = decode_batch(engine, *given, size=count)
        assert all(len(d.codes) == self.codes for d in done)
        return [wave.speak(d.latents, self.vector).cpu() for d in done]

    def first(self, engine, wave):
        "The first piece of a stream, after 8 codes."
        from xtts_ka.xtts.infer import _portions
        from xtts_ka.xtts.sampling import decode_steps

        steps = decode_steps(engine, [self.cond], self.ids[:1], self.cfg, [1])
        return next(wave.stream(_portions(steps, [], 8), self.vector)).cpu()

    def options(self) -> dict:  # Of coqui's generation, as `Xtts.inference` sets them
        return dict(
            do_sample=True,
            top_p=0.85,
            top_k=50,
            temperature=0.75,
            num_return_sequences=1,
            num_beams=1,
            length_penalty=1.0,
            repetition_penalty=10.0,
            output_attentions=False,
        )

    def coqui(self, n: int):
        "A sentence as `Xtts.inference` speaks it: codes, a second pass for latents, waveform."
        torch, gpt = self.b.torch, self.gpt
        text = torch.tensor([self.ids[n]], device=self.b.device)
        with torch.inference_mode():
            gpt.max_gen_mel_tokens, most = self.codes, gpt.max_gen_mel_tokens
            codes = gpt.generate(self.cond, text, **self.options())
            gpt.max_gen_mel_tokens = most
            assert codes.shape[1] == self.codes
            lengths = [
                torch.tensor([x], device=self.b.device)
                for x in (text.shape[1], codes.shape[1] * 1024)
            ]
            given = dict(cond_latents=self.cond, return_latent=True)
            latents = gpt(text, lengths[0], codes, lengths[1], **given)
            return self.hifi(latents, g=self.vector).cpu()

    def coqui_first(self):
        "The first piece of `Xtts.inference_stream`, after its 20 codes."
        import TTS.tts.models.xtts  # noqa: F401  # gives transformers' models `generate_stream`

        torch, gpt = self.b.torch, self.gpt
        text = torch.tensor([self.ids[0]], device=self.b.device)
        with torch.inference_mode():
            options = self.options() | dict(output_hidden_states=True, return_dict_in_generate=True)
            steps = gpt.get_generator(gpt.compute_embeddings(self.cond, text), **options)
            latents = [next(steps)[1] for _ in range(min(20, self.codes))]
            return self.hifi(torch.cat(latents)[None], g=self.vector).cpu()


ENGINES = {  # Name -> (precision, compiled)
    "ours, bfloat16": ("bfloat16", False),
    "ours, bfloat16, compiled": ("bfloat16", True),
    "ours, float32": ("float32", False),
}


def decoding(b: Bench) -> dict:
    from xtts_ka.xtts.fast import FastDecoder
    from xtts_ka.xtts.static import open_gpt

    voice, rows, firsts = Voice(b), [], []
    times = dict(warm=1, times=1 if b.small else 3)

    def spoken(way, count, call, sentences=None, **more):
        b.clean()
        taken = b.seconds(call, **(times | more)) / (sentences or count)
        row = {"way": way, "sentences at once": count, "memory, GB": b.peak()}
        row |= {"seconds a sentence": round(taken, 5), "real-time factor": taken / voice.seconds}
        rows.append(row | {"audio seconds a second": round(voice.seconds / taken, 1)})

    def first(way, codes, call):
        firsts.append({"way": way, "codes": codes, "seconds": round(b.seconds(call, 2, 5), 4)})

    def part(way, *calls):
        for call in calls:
            try:
                call()
            except Exception as error:
                rows.append({"way": way} | failed(error))
        b.clean()

    part(
        "coqui",
        lambda: spoken("coqui", 1, lambda: voice.coqui(0), times=1 if b.small else 2),
        lambda: first("coqui", 20, voice.coqui_first),
    )
    for name, (precision, compiled) in ENGINES.items():
        if compiled and b.small or b.left() < 10:
            continue
        began = time.perf_counter()
        engine = open_gpt(voice.gpt, precision, compiled)
        wave = FastDecoder(voice.hifi.waveform_decoder, precision)
        first_at = [lambda: first(name, 8, lambda: voice.first(engine, wave))]
        counts = (1, 2) if b.small else (1, 8, 32, 64)
        calls = [lambda n=n: spoken(name, n, lambda: voice.ours(engine, wave, n)) for n in counts]
        part(name, *first_at, *calls)
        rows.append({"way": name, "wall seconds in all": round(time.perf_counter() - began, 1)})
        engine = wave = None
        b.clean()
    close = agreement(b, voice)
    return {"rows": rows, "first sound": firsts, "agreement": close, **ratios(rows)}


def ratios(rows) -> dict:
    "Throughput of every way beside coqui's; `ratio`: the best of 32 at once."
    rate = {
        (r["way"], r["sentences at once"]): r["audio seconds a second"]
        for r in rows
        if "audio seconds a second" in r
    }
    coqui = rate.get(("coqui", 1))
    if not coqui:
        return {"ratio": None}
    times = {f"{way}, {n} at once": round(v / coqui, 2) for (way, n), v in rate.items()}
    most = max((v for (way, n), v in rate.items() if way != "coqui" and n == 32), default=None)
    return {"times coqui": times, "ratio": most and most / coqui}


def agreement(b: Bench, voice: Voice) -> dict:
    "Latents along the same codes: how near the recorded steps are to coqui's float32 pass."
    from xtts_ka.xtts.fast import fast_latents
    from xtts_ka.xtts.sampling import decode_codes
    from xtts_ka.xtts.static import open_gpt

    try:
        engine = open_gpt(voice.gpt)
        codes = decode_codes(engine, voice.cond, voice.ids[0], voice.cfg).codes
        start = b.torch.tensor([voice.gpt.start_audio_token])
        inputs = b.torch.cat([start, codes[:-1]])[None].to(b.device)
        from xtts_ka.xtts.sampling import prefix

        with b.torch.inference_mode():
            said = voice.gpt.mel_embedding(inputs) + voice.gpt.mel_pos_embedding(inputs)
            x = b.torch.cat([prefix(voice.gpt, voice.cond, voice.ids[0]), said], 1)
            hidden = voice.gpt.gpt(inputs_embeds=x, return_dict=True).last_hidden_state
            wanted = voice.gpt.final_norm(hidden[0, -len(codes) :])
        out = {}
        for precision in ("float32", "bfloat16"):
            got = fast_latents(open_gpt(voice.gpt, precision), voice.cond, voice.ids[0], codes)
            out[precision] = float(b.torch.cosine_similarity(got, wanted).min())
        return {"least cosine of latents": out}
    except Exception as error:
        return failed(error)


# The vocoder


STEPS = [  # (way, precision, batch, cudnn.benchmark)
    ("ours", "bf16-mixed", 16, False),
    ("ours", "bf16-mixed", 16, True),
    ("original", "bf16-mixed", 16, False),
    ("ours", "32-true", 16, False),
    ("original", "32-true", 16, False),
    ("ours", "bf16-mixed", 64, False),
    ("ours", "bf16-mixed", 64, True),
    ("original", "bf16-mixed", 64, False),
]


def vocoder(b: Bench) -> dict:
    "A GAN step of HiFi-GAN V1 as `core.loop` does it, beside the published order of work."
    from vocoder import Step

    rows, preset, steps = [], "v3" if b.small else "v1", STEPS[:1] if b.small else STEPS
    more = {"discriminator": {"kinds": ["mpd"], "width": 0.1}} if b.small else {}
    many = dict(warm=0, times=1) if b.small else dict(warm=4, times=8)
    for way, precision, batch, tried in steps:
        if b.left() < 0:
            break
        batch = 1 if b.small else batch
        row = {"way": way, "precision": precision, "batch": batch, "cudnn.benchmark": tried}
        try:
            b.clean()
            b.torch.backends.cudnn.benchmark = tried
            step = Step(preset, batch, precision, b.device, **more)
            seconds = b.seconds(getattr(step, way), **many)
            row |= {"steps a second": round(1 / seconds, 2), "memory, GB": b.peak()}
            row |= {"audio seconds a second": round(batch * 8192 / 22050 / seconds, 1)}
        except Exception as error:
            row |= failed(error)
        step, b.torch.backends.cudnn.benchmark = None, False
        rows.append(row)
    return {"preset": preset, "rows": rows}


# GPT-SoVITS2


def sovits(b: Bench) -> dict:
    rows = []
    for name, run in {"autoregressive model": sovits_ar, "decoder": sovits_decoder}.items():
        try:
            rows += run(b)
        except Exception as error:
            rows.append({"part": name} | failed(error))
        b.clean()
    return {"rows": rows}


def sovits_ar(b: Bench) -> list:
    "Qwen2-0.5B's sizes (configs/xtts_v2_ka.yaml): a training step, and tokens written."
    from xtts_ka.core.randomness import seeded_step, torch_rng
    from xtts_ka.sovits.ar import ArModel, Segment, ar_loss, collate
    from xtts_ka.sovits.config import ArConfig, QuantizerConfig, SamplingConfig, TextConfig
    from xtts_ka.sovits.quantize import Quantizer
    from xtts_ka.sovits.sampling import generate
    from xtts_ka.sovits.text_encoder import TextEncoder

    seeded_step(1, "bench gpu ar")
    cfg = ArConfig() if b.small else ArConfig(layers=24, dim=896, heads=14, ffn=4864)
    pieces, codes, tokens = 512 if b.small else 8000, 4096, 20 if b.small else 150
    text = TextEncoder(TextConfig(vocab_size=pieces), pieces)
    net = ArModel(cfg, text, Quantizer(QuantizerConfig(), 192)).to(b.device)
    g = torch_rng(1, "bench gpu ar")

    def segment():
        grid = b.torch.randint(0, codes, (tokens, 1), generator=g)
        words = b.torch.randint(0, pieces, (25,), generator=g).tolist()
        return Segment(words, grid, at=[k * 25 // tokens for k in range(tokens)])

    size, rows = 2 if b.small else 32, []
    batch = collate([[segment(), segment()] for _ in range(size)], cfg, 1)
    batch = {k: v.to(b.device) for k, v in batch.items()}
    optimizer = b.torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def step():
        with b.torch.autocast(b.device, b.torch.bfloat16):
            loss = ar_loss(net(batch), batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    few = dict(warm=0, times=1) if b.small else dict(warm=3, times=5)
    seconds = b.seconds(step, **few)
    audio = round(2 * size * tokens / 25 / seconds, 1)
    row = {"part": "autoregressive model, training step, bf16", "batch": size}
    rows.append(
        row
        | {"seconds": round(seconds, 4), "audio seconds a second": audio, "memory, GB": b.peak()}
    )
    optimizer = None
    b.clean()
    net.eval()
    cfg = SamplingConfig(temperature=1.0, min_per_piece=tokens / 25, max_per_piece=tokens / 25)
    for count in (1, 2) if b.small else (1, 16):
        given = [[segment(), Segment(list(range(30, 55)))] for _ in range(count)]

        def write():
            return generate(net, given, cfg, [torch_rng(1, "w", k) for k in range(count)])

        seconds = b.seconds(write, warm=1 - b.small, times=1)
        audio = round(count * tokens / 25 / seconds, 1)
        row = {"part": "autoregressive model, writing tokens, float32", "batch": count}
        rows.append(
            row
            | {
                "seconds": round(seconds, 4),
                "audio seconds a second": audio,
                "memory, GB": b.peak(),
            }
        )
    return rows


def sovits_decoder(b: Bench) -> list:
    "VITS2 at 32 kHz with HiFi-GAN and its discriminators: a GAN step, and sound from tokens."
    from xtts_ka.core.config import build
    from xtts_ka.sovits.config import DecoderConfig, TextConfig
    from xtts_ka.sovits.text_encoder import TextEncoder
    from xtts_ka.sovits.train_decoder import SovitsDecoderTask
    from xtts_ka.vocoder.features import LogMel
    from xtts_ka.vocoder.losses import Regression
    from xtts_ka.vocoder.sweep import step_once

    torch, cfg = b.torch, build(DecoderConfig, {"preset": "demo" if b.small else "full32"})
    task = SovitsDecoderTask.__new__(SovitsDecoderTask)  # Without clips: the batch is made up
    task.cfg, task.text = cfg, TextEncoder(TextConfig(), 512)
    task.phases = ("d", "g") if cfg.discriminator.kinds else ("g",)
    task.front, task.voiced = LogMel(cfg.front), LogMel(cfg.voiced)
    task.regression, task._batch, task._out = Regression(cfg.loss, cfg.voiced), None, None
    models = {k: m.to(b.device) for k, m in task.models().items()}
    optimizers = task.optimizers(models, cfg.loop)
    size, T = (1, 24) if b.small else (16, 96)
    ones = torch.ones(size, dtype=torch.long)
    batch = {
        "vectors": torch.randn(size, T, cfg.semantic_dim),
        "lengths": ones * T,
        "ids": torch.randint(0, 512, (size, 40)),
        "text_lengths": ones * 40,
        "start": ones * 4,
        "wav": 0.1 * torch.randn(size, 2 * T * cfg.hop),
        "mels": torch.randn(size, 1, 80, 100),
        "mel_lengths": ones[:, None] * 100,
        "weights": torch.ones(size, 1),
    }
    batch = {k: v.to(b.device) for k, v in batch.items()}

    def step():
        step_once(task, models, optimizers, batch, step=10**6, bf16=True)
        task.after_step(0)

    few = dict(warm=0, times=1) if b.small else dict(warm=3, times=5)
    seconds, rows = b.seconds(step, **few), []
    row = {"part": f"decoder {cfg.preset}, training step, bf16", "batch": size}
    row |= {"seconds": round(seconds, 4), "memory, GB": b.peak()}
    rows.append(row | {"audio seconds a second": round(size * T / 25 / seconds, 1)})
    b.clean()
    net, given = task.net.eval().requires_grad_(False), [batch["vectors"], batch["lengths"]]
    with torch.inference_mode():
        text = task.text(batch["ids"], batch["text_lengths"])
        voice = net.speaker(batch["mels"], batch["mel_lengths"], batch["weights"])
        given += [text, batch["text_lengths"], voice]
        for count in sorted({1, size}):
            seconds = b.seconds(lambda n=count: net.infer(*(x[:n] for x in given)), **few)
            row = {"part": f"decoder {cfg.preset}, sound from tokens, float32", "batch": count}
            row |= {"seconds": round(seconds, 5), "memory, GB": b.peak()}
            rows.append(row | {"audio seconds a second": round(count * T / 25 / seconds, 1)})
    return rows


# Voice embeddings


def wavlm(b: Bench) -> dict:
    "Windows of 5 s: ours in batches, and transformers' model window by window."
    from xtts_ka.core.randomness import rng
    from xtts_ka.speaker.backends import open_backend
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.encoders import SpeakerEncoder
    from xtts_ka.speaker.wavlm import new_wavlm

    sizes = dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=64)
    cfg = EncoderConfig(name="wavlm-base-plus-untrained")
    encoder = SpeakerEncoder(new_wavlm(cfg, **(sizes if b.small else {})), cfg.name, b.device)
    rate, count = encoder.sample_rate, 2 if b.small else 64
    seconds = 1.0 if b.small else 5.0
    wavs = [
        (0.1 * rng(1, "wavlm", k).standard_normal(int(rate * seconds))).astype("float32")
        for k in range(count)
    ]
    rows, ways = [], ["torch"] if b.small else ["torch", "bf16", "bf16-fine"]
    plain = open_backend(encoder, "torch")
    wanted = plain(wavs)
    few = dict(warm=1, times=1 if b.small else 5)

    def row(way, size, taken, cosine):
        many = round(size * seconds / taken, 1)
        rows.append({"way": way, "windows at once": size, "audio seconds a second": many})
        rows[-1] |= {"memory, GB": b.peak(), "cosine": cosine}

    b.clean()
    row("one by one, float32", 1, b.seconds(lambda: plain(wavs[:1]), **few), 1.0)
    for way in ways:
        try:
            b.clean()
            backend = open_backend(encoder, way)
            taken = b.seconds(lambda: backend(wavs), **few)
            cosine = float((backend(wavs) * wanted).sum(1).min())
            row(f"ours, {way}", count, taken, cosine)
        except Exception as error:
            rows.append({"way": way} | failed(error))
    return {"rows": rows}


# An export that speaks


def speak(b: Bench, folder: str) -> dict:
    "`xtts_ka.load` on CPU and GPU: the same sentence, whole, many and streamed."
    import numpy as np

    import xtts_ka

    texts = ["გამარჯობა, როგორ ხარ?", "დღეს კარგი ამინდია.", "წიგნი მაგიდაზე დევს."]
    out: dict = {}
    for device in ["cpu", b.device] if b.cuda else ["cpu"]:
        voice = xtts_ka.load(folder, device=device)
        voice.speak(texts[0])
        start = time.perf_counter()
        speeches = voice.batch(texts)
        taken = time.perf_counter() - start
        start = time.perf_counter()
        stream = iter(voice.stream(texts[0]))
        first = next(p for p in stream if np.abs(p).max() > 0)
        first_at = time.perf_counter() - start
        rest = sum(len(p) for p in stream)
        audio = sum(len(s.wav) / s.sample_rate for s in speeches)
        codes = [[c.tolist() for c in s.codes] for s in speeches]
        out[device] = {
            "device": str(voice.model.device),
            "audio seconds": round(audio, 2),
            "seconds": round(taken, 3),
            "first sound, seconds": round(first_at, 4),
            "streamed samples": len(first) + rest,
            "codes": codes,
        }
    if b.cuda:
        out["same codes"] = out["cpu"].pop("codes") == out[b.device].pop("codes")
    else:
        out["cpu"].pop("codes")
    return out


PARTS = {  # Name -> (function, share of the time)
    "decoding": (decoding, 0.35),
    "training": (training, 0.5),
    "vocoder": (vocoder, 0.2),
    "sovits": (sovits, 0.2),
    "wavlm": (wavlm, 0.1),
}


def about(b: Bench, commit: str) -> dict:
    import torch

    def held(name):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)

    names = ("torch", "transformers", "coqui-tts", "triton")
    out: dict = {
        "commit": commit,
        "small": b.small,
        "device": f"CPU, {torch.get_num_threads()} threads",
    }
    out["versions"] = {"python": sys.version.split()[0], **{n: held(n) for n in names}}
    if b.cuda:
        p = torch.cuda.get_device_properties(0)
        out |= {"device": p.name, "memory, GB": round(p.total_memory / 1e9, 1)}
        out["versions"]["cuda"] = torch.version.cuda
    return out


def shown(name: str, part: dict):
    "A part as lines."
    print(f"\n{name}", flush=True)
    for key, value in part.items():
        for row in value if isinstance(value, list) else [value]:
            if isinstance(row, dict):
                row = ", ".join(
                    f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
                )
            print(f"  {key}: {row}", flush=True)


def verdict(parts: dict, small: bool) -> dict:
    "Promise -> times coqui's, what was promised, and whether it is kept."
    out = {}
    for name, least in PROMISED.items():
        ratio = parts.get(name, {}).get("ratio")
        if ratio and not small:
            out[name] = {"times coqui": ratio, "promised": least, "kept": ratio >= least}
    return out


def main(words=None) -> int:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)} (all)")
    ap.add_argument("--small", action="store_true", help="in small, on the CPU")
    ap.add_argument("--minutes", type=float, default=9.0, help="when no new measurement begins (9)")
    ap.add_argument("--json", type=Path, help="file of the figures (nbs/results/gpu.json)")
    ap.add_argument("--speak", metavar="FOLDER", help="an export that speaks, too")
    ap.add_argument("--commit", default="", help="of a copy that is no git checkout")
    args = ap.parse_args(words)
    if unknown := set(args.parts) - set(PARTS):
        ap.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    b = Bench(args.small, args.minutes)
    if b.small and args.json is None:
        print("bench: no GPU here, so in small: a test of the script, no figures are kept")
    path = args.json or (None if b.small else RESULTS)
    record: dict = about(b, args.commit or _commit()) | {"parts": {}, "promises": {}}
    if path and path.is_file():  # other parts, measured before on the same device, stay
        before = read_json(path, {"parts?": dict})
        same = before.get("device") == record["device"] and before.get("small") == b.small
        record["parts"] = before.get("parts", {}) if same else {}
    jobs = {n: PARTS[n] for n in args.parts or PARTS}
    if args.speak:
        jobs = {"speak": (lambda b: speak(b, args.speak), 0.1)} | jobs
    for name, (run, share) in jobs.items():
        start = time.monotonic()
        b.until = start + share * 60 * args.minutes
        if b.end - start < 5 and not b.small:
            record["parts"][name] = {"error": "no time was left"}
            continue
        try:
            part = run(b)
        except Exception as error:
            part = failed(error)
        b.clean()
        part |= {"wall seconds": round(time.monotonic() - start, 1), "commit": record["commit"]}
        record["parts"][name] = _finite(part)
        shown(name, record["parts"][name])
        record["promises"] = verdict(record["parts"], b.small)
        if path:
            write_json(path, record)
    print(f"\n{record['device']}: {json.dumps(record['promises'])}")
    errors = list(_errors({n: record["parts"][n] for n in jobs}))
    for error in errors:
        print(f"bench: failed: {error}", file=sys.stderr)
    return int(bool(errors) or any(not p["kept"] for p in record["promises"].values()))


def _finite(found):
    "The same, with words for what JSON has no numbers for."
    if isinstance(found, dict):
        return {k: _finite(v) for k, v in found.items()}
    if isinstance(found, list):
        return [_finite(v) for v in found]
    return str(found) if isinstance(found, float) and not math.isfinite(found) else found


def _errors(found):
    "Everything that failed, somewhere in a record; the end of the memory ends a sweep."
    if isinstance(found, list):
        for row in found:
            yield from _errors(row)
    elif isinstance(found, dict):
        if found.get("error", "out of memory") != "out of memory":
            yield found["error"]
        for value in found.values():
            yield from _errors(value)


def _commit() -> str:
    from compare import commit

    with contextlib.suppress(Exception):
        now = commit()
        return now["commit"] + "+" * now["changed"]
    return ""


if __name__ == "__main__":
    sys.exit(main())
