"""Rows for bench/run.py: the most memory that a process held, in GiB (Linux). Each is measured in a
process of its own, once: it hardly changes from run to run.
Alone: `python bench/memory.py`; `python bench/memory.py part decode` is what such a process runs.

The weights are random and made in place, so that what making them takes is not counted: the highest
mark is set back before the work (`/proc/self/clear_refs`)."""

import gc
import os
import subprocess
import sys
from pathlib import Path

from targets import ITSELF

ROOT = Path(__file__).resolve().parents[1]
CODES, CLIPS = 48, 2  # Of the sentence that is decoded; clips of a training step
NEEDED = 13  # GiB that must be free for a training step of all 30 layers


def highest():
    "GiB that this process held at most since the mark was set back."
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    raise SystemExit("bench/memory.py: this system does not say what a process held at most")


def decode(precision="int8"):
    "A sentence by the full shape, the float32 weights given back first, as a loaded model has it."
    import torch
    from xtts import Case

    torch.set_num_threads(1)
    case = Case(30, 1024, 16, 6681, CODES)
    if precision == "coqui":
        return case.coqui
    from xtts_ka.xtts.fast import FastDecoder, FastGPT

    engine, wave = FastGPT(case.gpt, precision), FastDecoder(case.hifi.waveform_decoder, precision)
    case.gpt = case.hifi = None
    return lambda: case.ours(engine, wave)


def train(layers=30):
    "Steps of the full shape by AdamW in float32, as on a CPU."
    import torch

    from xtts_ka.core.randomness import seeded_step, torch_rng
    from xtts_ka.xtts.config import GptConfig
    from xtts_ka.xtts.gpt import gpt_losses, make_gpt, quicken, sequences

    torch.set_num_threads(1)
    seeded_step(1, "bench memory")
    sizes = GptConfig(layers=layers, dim=1024, heads=16, max_text=402, max_codes=605)
    net, g = quicken(make_gpt(sizes, 6681, 1, 0, 1024)).train(), torch_rng(1, "bench memory")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    text = [torch.randint(4, 50, (50,), generator=g) for _ in range(CLIPS)]
    codes = [torch.randint(0, 1024, (120,), generator=g) for _ in range(CLIPS)]
    batch = {**sequences(text, codes, net), "reference": torch.randn(CLIPS, 80, 517, generator=g)}

    def steps():
        for _ in range(2):  # The optimiser makes its moments in the first
            text_loss, code_loss = gpt_losses(net, batch)
            optimizer.zero_grad(set_to_none=True)
            (code_loss + 0.01 * text_loss).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    return steps


def part(name, *words):
    "Print what a part of the work held at most, as the child process of a row does."
    call = {"decode": decode, "train": lambda n: train(int(n))}[name](*words)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    call()
    print(f"\n{highest():.3f}")


def held(*words):
    "GiB of a part, in a process of its own."
    call = [sys.executable, __file__, "part", *map(str, words)]
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(call, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)}\n{done.stdout}{done.stderr}")
    return float(done.stdout.split()[-1])


def free():
    "GiB that may be taken; `NotHereError` on another system."
    from compare import NotHereError

    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as e:
        raise NotHereError("memory is read from /proc, which this system has not") from e
    return next(int(r.split()[1]) / 2**20 for r in lines if r.startswith("MemAvailable"))


def _row(what, words, peers, promises, notes):
    from compare import Row

    return Row(what, lambda: held(*words), peers, promises, notes, unit="GiB", once=True)


def decoding():
    free()
    return _row(
        f"memory at most, decoding in full shape, int8, {CODES} codes",
        ["decode", "int8"],
        {"coqui": lambda: held("decode", "coqui"), "bfloat16": lambda: held("decode", "bfloat16")},
        {"coqui": 0.8, ITSELF: 2.0},
        "libraries, matrices in int8, embeddings and waveform decoder in float32; coqui's modules"
        " are float32",
    )


def training():
    layers = 30 if free() >= NEEDED else 10
    size = "full shape" if layers == 30 else f"full shape but {layers} of its 30 layers"
    return _row(
        f"memory at most, a training step in {size}, float32, {CLIPS} clips",
        ["train", layers],
        {},
        {ITSELF: 12.0 if layers == 30 else 5.5},
        "weights, gradients and both moments of AdamW take 16 bytes a parameter"
        + f"; all 30 layers are measured where {NEEDED} GiB are free" * (layers < 30),
    )


ROWS = dict(memory_decode_int8=decoding, memory_train_step=training)

if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        part(*sys.argv[2:])
    else:
        from compare import main

        main(ROWS)
