"""Rows for bench/run.py: training steps and inference of the vocoders beside the published order of
work, coqui-tts and Griffin-Lim.
Alone: `python bench/vocoder.py`, or `python bench/vocoder.py vocoder_step_bf16 vocoder_v1 --rounds
3`. Two further words measure what is no row:

`python bench/vocoder.py gpu`: steps a second of V1, batch 16 x 8192, in bf16 and fp32 against the
published order; needs CUDA.
`python bench/vocoder.py quality [KEY=VALUE ...]`: trains configs/vocoder/demo.yaml on 20 real clips
(`ljspeech_mini`, beside the repository) and scores 4 others beside Griffin-Lim.
`python bench/vocoder.py quality SEGMENTS OUT [--long] [KEY=VALUE ...]`: the same on the clips of a
run, for example outputs/demo/segments, with --long by configs/vocoder/demo_long.yaml; scored are
those of the split `test`, with several numbers of
refining rounds, and the table goes to nbs/results/vocoder.json. Exits with 1 when a promise is
missed."""

import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 215  # Of a mel: 2.5 s


def some_mel(frames=FRAMES, batch=1):
    import torch

    from xtts_ka.core.randomness import torch_rng

    return torch.randn(batch, 80, frames, generator=torch_rng(0, "mel")) - 5


# a training step


class Step:
    "One GAN step on the same segments, ours and as published. Both start from the same weights."

    def __init__(self, preset, batch, precision="32-true", device="cpu", **more):
        import torch

        from xtts_ka.core.config import build
        from xtts_ka.core.randomness import rng
        from xtts_ka.vocoder.config import VocoderConfig
        from xtts_ka.vocoder.data import Source, VocoderClip
        from xtts_ka.vocoder.train import VocoderTask

        self.torch, self.device, self.bf16 = torch, device, precision == "bf16-mixed"
        self.cfg = build(VocoderConfig, dict(preset=preset, loop=dict(batch_size=batch), **more))
        clips = [
            VocoderClip(
                Source(Path(), str(k)),
                22050,
                wav=(0.1 * rng(0, "clip", k).standard_normal(22050)).astype("float32"),
            )
            for k in range(batch)
        ]
        self.task = VocoderTask(self.cfg, clips)
        self.models = {k: m.to(device) for k, m in self.task.models().items()}
        self.optimizers = self.task.optimizers(self.models, self.cfg.loop)
        self.batch = {
            "wav": torch.stack([self.task.item(i, 0)["wav"] for i in range(batch)]).to(device)
        }

    def autocast(self):
        return self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.bf16)

    def ours(self):
        "As the loop does it."
        from xtts_ka.vocoder.sweep import step_once

        return step_once(self.task, self.models, self.optimizers, self.batch, bf16=self.bf16)

    def original(self):
        "As published: nothing is frozen, the recording's branch has a graph."
        from xtts_ka.vocoder.data import make_training_pair
        from xtts_ka.vocoder.losses import lsgan_d, lsgan_g

        net, judge = self.task.net.requires_grad_(True), self.task.judge.requires_grad_(True)
        self.task.log_mel.to(self.device), self.task.regression.to(self.device)
        with self.autocast():
            mel, wav = make_training_pair(self.batch, self.task.log_mel)
            fake = net(mel)
            self.optimizers["d"].zero_grad(set_to_none=True)
            d = lsgan_d(judge(wav), judge(fake.detach()))
        d.backward()
        self.optimizers["d"].step()
        self.optimizers["g"].zero_grad(set_to_none=True)
        with self.autocast():
            real, made = judge(wav), judge(fake)
            near = sum(
                (a - b).abs().mean() for (_, x), (_, y) in zip(real, made) for a, b in zip(x, y)
            )
            g = lsgan_g(made) + 2 * near + self.task.regression(fake, wav)[0]
        g.backward()
        self.optimizers["g"].step()
        return {"d": d.detach(), "g": g.detach()}


def _equal(ours, original, within):
    "The first step of both loses the same."
    a, b = ours.ours(), original.original()
    apart = max(abs(a[k] - b[k]).item() / abs(b[k]).item() for k in b)
    assert apart < within, f"losses differ: {a} {b}"
    return apart


def _step(preset, batch, precision, target):
    import torch
    from compare import NotHereError, Row, cpu, multiplies_bfloat16

    if precision == "bf16-mixed" and not multiplies_bfloat16():
        raise NotHereError("this processor only emulates bfloat16: a step would take minutes")
    torch.set_num_threads(1)
    ours, original = Step(preset, batch, precision), Step(preset, batch)
    apart = _equal(ours, original, 1e-3 if precision == "32-true" else 2e-2)
    return Row(
        f"training step of {preset.upper()}, {batch} x 8192, full discriminators, {precision}",
        lambda: cpu(ours.ours),
        {"published order, 32-true": lambda: cpu(original.original)},
        {"published order, 32-true": target},
        f"losses of the first step differ by {apart:.1e}; one thread",
        [ours, original],
    )


def step_fp32():
    return _step("v3", 2, "32-true", 0.85)


def step_bf16():
    return _step("v3", 2, "bf16-mixed", 1 / 1.6)


def step_bf16_v1():
    return _step("v1", 2, "bf16-mixed", 1 / 2.2)


# inference


def coqui(net):
    "coqui's generator with the same weights; it must say the same."
    import torch
    from TTS.vocoder.models.hifigan_generator import HifiganGenerator

    c = net.cfg
    peer = HifiganGenerator(
        80,
        1,
        c.resblock,
        c.resblock_dilation_sizes,
        c.resblock_kernel_sizes,
        c.upsample_kernel_sizes,
        c.upsample_initial_channel,
        c.upsample_rates,
    )
    peer.load_state_dict(net.state_dict())
    peer.eval()
    with torch.inference_mode():
        assert torch.equal(peer(some_mel(20)).flatten(1), net(some_mel(20))), (
            "coqui's output differs"
        )
    return peer


def speechbrain(net):
    "SpeechBrain's generator of the same sizes, with weights of its own."
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator

    from xtts_ka.core.randomness import seeded_step

    seeded_step(0, "bench")
    c = net.cfg
    peer = HifiganGenerator(
        80,
        1,
        c.resblock,
        c.resblock_dilation_sizes,
        c.resblock_kernel_sizes,
        c.upsample_kernel_sizes,
        c.upsample_initial_channel,
        c.upsample_rates,
        inference_padding=0,
    )
    peer.remove_weight_norm()
    return peer.eval()


def vocos():
    "Vocos at its published size, with weights of its own: (its mel, the function)."
    import torch
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    from xtts_ka.core.randomness import seeded_step, torch_rng

    seeded_step(0, "bench")
    net = torch.nn.Sequential(VocosBackbone(100, 512, 1536, 8), ISTFTHead(512, 1024, 256)).eval()
    return torch.randn(
        1, 100, FRAMES, generator=torch_rng(0, "bench", "mel")
    ), torch.inference_mode()(net)


def generator(preset):
    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.vocoder.config import GeneratorConfig
    from xtts_ka.vocoder.generators import build_generator

    seeded_step(0, "bench")
    return build_generator(
        GeneratorConfig(kind="spec") if preset == "spec" else GeneratorConfig(preset=preset)
    ).eval()


def _inference(preset, times=1.7):
    import torch
    from compare import Row, cpu

    from xtts_ka.vocoder.generators import FastGenerator

    torch.set_num_threads(1)
    net, mel = generator(preset), some_mel()
    fast, exact, peer, other = (
        FastGenerator(net),
        FastGenerator(net, "float32"),
        coqui(net),
        speechbrain(net),
    )
    apart = _mel_distance(fast.generate(mel), net.generate(mel))
    assert apart < 0.03, apart
    return Row(
        f"{preset.upper()}, {FRAMES} frames",
        lambda: cpu(fast.generate, mel),
        {
            "coqui": lambda: cpu(peer.inference, mel),
            "speechbrain": lambda: cpu(other.inference, mel, padding=False),
            "the same in float32": lambda: cpu(exact.generate, mel),
        },
        {"coqui": 1 / times, "speechbrain": 1 / 1.7},
        f"{fast.dtype}; mel distance to fp32 {apart:.4f}; one thread; coqui-tts"
        f" {version('coqui-tts')}, which generates 10 frames more; speechbrain"
        f" {version('speechbrain')}",
        [net, fast, exact, peer, other],
    )


def _mel_distance(a, b):
    from xtts_ka.vocoder.config import MelConfig
    from xtts_ka.vocoder.features import LogMel

    log_mel = LogMel(MelConfig())
    return (log_mel(a) - log_mel(b)).abs().mean().item()


def v1():
    return _inference("v1", 2.6)


def v2():
    return _inference("v2")


def light():
    "The demo's generator beside V1 and Griffin-Lim."
    import librosa
    import torch
    from compare import Row, cpu

    from xtts_ka.vocoder.features import inverse_bands, mel_amplitude
    from xtts_ka.vocoder.generators import FastGenerator

    torch.set_num_threads(1)
    mel, spec, big = some_mel(), FastGenerator(generator("spec")), FastGenerator(generator("v1"))
    amplitude = mel_amplitude(mel[0], inverse_bands(spec.mel)).numpy()

    def lim():
        return librosa.griffinlim(
            amplitude, n_iter=60, hop_length=256, win_length=1024, random_state=0
        )

    wide, peer = vocos()
    return Row(
        f"light generator, {FRAMES} frames",
        lambda: cpu(lambda: [spec.generate(mel) for _ in range(10)]) / 10,
        {
            "V1": lambda: cpu(big.generate, mel),
            "Vocos": lambda: cpu(peer, wide),
            "Griffin-Lim, 60 rounds (librosa)": lambda: cpu(lim),
        },
        {"V1": 1 / 10, "Griffin-Lim, 60 rounds (librosa)": 1 / 10},
        f"{spec.dtype} inside ours; one thread; librosa {version('librosa')}; vocos"
        f" {version('vocos')}, 13.5 M parameters",
        [spec, big, peer],
    )


ROWS = dict(
    vocoder_step_fp32=step_fp32,
    vocoder_step_bf16=step_bf16,
    vocoder_step_bf16_v1=step_bf16_v1,
    vocoder_v1=v1,
    vocoder_v2=v2,
    vocoder_light=light,
)

# what is no row


def gpu(steps=20):
    "Steps a second on a GPU, by the clock."
    import torch

    if not torch.cuda.is_available():
        print("bench: no CUDA device; nothing measured", file=sys.stderr)
        return 0
    print(f"V1, 16 x 8192, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    for precision in ("32-true", "bf16-mixed"):
        rates = {}
        for name in ("original", "ours"):
            step = Step("v1", 16, precision, "cuda")
            go = getattr(step, name)
            for _ in range(5):
                go()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.monotonic()
            for _ in range(steps):
                go()
            torch.cuda.synchronize()
            rates[name] = steps / (time.monotonic() - start)
            print(
                f"{precision:10} {name:8} {rates[name]:6.2f} steps/s,"
                f" {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
            )
            del step, go
        print(f"{precision:10} ours / original {rates['ours'] / rates['original']:.2f}")
    return 0


def trained(data, out, overrides, config="demo"):
    "A light generator on some clips."
    import torch

    from xtts_ka.vocoder.config import load_vocoder_config
    from xtts_ka.vocoder.stage import VocoderStage

    torch.set_num_threads(1)
    stage = VocoderStage(
        load_vocoder_config(ROOT / f"configs/vocoder/{config}.yaml", overrides), data, out, 0
    )
    print((result := stage.train()).summary())
    return stage, result


# of the demonstration's own clips; beside them, half of Griffin-Lim's mrstft
ASKED = {
    "demo": (300, dict(mel_l1=("at most", 0.22), pesq=("at least", 2.6), stoi=("at least", 0.94))),
    "demo_long": (
        1200,
        dict(mel_l1=("at most", 0.22), pesq=("at least", 3.0), stoi=("at least", 0.966)),
    ),
}


def judged(scores, result, limit, asked=None):
    "Every method a line; the promises of both tables."
    from xtts_ka.vocoder.stage import METHODS

    for name, row in scores.items():
        print(f"{name:28}" + "".join(f"{k} {v:.4f}   " for k, v in row.items()))
    ours, lim = scores[METHODS[0]], scores[METHODS[1]]
    missed = [k for k in ("mel_l1", "mrstft") if ours[k] >= lim[k]] + [f"{limit} CPU seconds"] * (
        result.fit.cpu_seconds > limit
    )
    missed += [
        f"{k} {words} {v}"
        for k, (words, v) in (asked or {}).items()
        if (ours[k] > v if words == "at most" else ours[k] < v)
    ]
    if asked and ours["mrstft"] > lim["mrstft"] / 2:
        missed.append("half of Griffin-Lim's mrstft")
    print("missed: " + ", ".join(missed) if missed else "all promises kept")
    return bool(missed)


def quality(words):
    "On real speech: 20 clips to learn from, 4 to judge by."
    if words and "=" not in words[0]:
        return quality_of_run(words[0], words[1], words[2:])
    data = ROOT.parent / "shared/data/ljspeech_mini"
    if not data.is_dir():
        print(
            "bench: ljspeech_mini is not beside the repository; nothing measured", file=sys.stderr
        )
        return 0
    with tempfile.TemporaryDirectory() as out:
        stage, result = trained(data, out, ["data.val_fraction=0.1667", *words])
        return judged(stage.compare(), result, 600)


def quality_of_run(segments, out, overrides, rounds=(0, 4, 8, 16)):
    "On the clips of a run: the split `test`, which took no part in anything."
    import json

    from xtts_ka.core.paths import resolve
    from xtts_ka.vocoder.data import find_sources, read_clips
    from xtts_ka.vocoder.generators import FastGenerator
    from xtts_ka.vocoder.stage import METHODS

    config = "demo_long" if "--long" in overrides else "demo"
    stage, result = trained(
        resolve(segments), resolve(out), [w for w in overrides if w != "--long"], config
    )
    stage.task.val, _ = read_clips(
        [s for s in find_sources(segments)[0] if s.split == "test"], stage.cfg.mel, stage.cfg.data
    )
    scores, asked = stage.compare(), stage.result.net.cfg.refine
    names = [n for n in scores[METHODS[1]] if n != "CPU s / s"]
    for n in rounds:
        if n == asked:
            continue
        stage.result.net.cfg.refine = n
        stage.fast = FastGenerator(stage.result.net)
        scores[f"generator, {n} rounds"] = stage._scored(METHODS[0], names)
    kept = {
        "steps": result.fit.step,
        "CPU seconds": round(result.fit.cpu_seconds),
        "clips": len(stage.task.val),
        "rounds": asked,
        "scores": {k: {n: round(v, 4) for n, v in row.items()} for k, row in scores.items()},
    }
    path = ROOT / "nbs/results/vocoder.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    from xtts_ka.core.files import write_json

    write_json(path, held | {Path(out).name: kept})
    return judged(scores, result, *ASKED[config])


if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:
        sys.exit(gpu())
    if sys.argv[1:2] == ["quality"]:
        sys.exit(quality(sys.argv[2:]))
    from compare import main

    main(ROWS)
