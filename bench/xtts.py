"""Rows for bench/run.py: speech by xtts_ka beside coqui-tts, same weights, same greedy tokens. What
counts is CPU seconds for a second of audio.
The full shape has random weights (30 layers of 1,024): speed does not depend on their values.
Alone: `python bench/xtts.py`, or `python bench/xtts.py xtts_full_int8 --rounds 3`.

coqui: `Xtts.inference` part by part: tokens by `GPT.generate`, latents by a second pass, waveform.
Ours: tokens and latents from one pass, waveform without weight norm."""

import functools
import time
from importlib.metadata import version

TEXT = 45  # Text ids of a sentence


class Case:
    "A GPT, a waveform decoder and a sentence, with random weights."

    def __init__(self, layers, dim, heads, rows, codes, channels=512):
        import torch

        from xtts_ka.core.randomness import seeded_step, torch_rng
        from xtts_ka.xtts.config import DecodeConfig, GptConfig
        from xtts_ka.xtts.gpt import make_gpt, quiet
        from xtts_ka.xtts.waveform_decoder import make_decoder, pad_to_official_width

        torch.set_num_threads(1)
        seeded_step(1, "bench xtts")
        self.codes, self.gpt = (
            codes,
            make_gpt(
                GptConfig(layers=layers, dim=dim, heads=heads, max_text=402, max_codes=605),
                rows,
                261,
                0,
                1024,
            ).eval(),
        )
        with torch.no_grad():
            self.gpt.mel_head.bias[
                -2:
            ] = -50.0  # neither START nor STOP: the number of codes is given
        with quiet():
            self.gpt.init_gpt_for_inference()
        self.hifi = make_decoder(dim, 512).eval()
        if channels < 512:
            self.hifi.waveform_decoder.load_state_dict(
                pad_to_official_width(
                    make_decoder(dim, channels).waveform_decoder.state_dict(),
                    self.hifi.waveform_decoder.state_dict(),
                )
            )
        g = torch_rng(1, "bench xtts")
        self.cond, self.voice = (
            torch.randn(1, 32, dim, generator=g),
            torch.nn.functional.normalize(torch.randn(1, 512, 1, generator=g), dim=1),
        )
        self.ids = torch.randint(300, rows, (TEXT,), generator=g).tolist()
        self.cfg = DecodeConfig(temperature=0, max_codes_per_id=1e-3, guard_extra=codes)

    def coqui(self):
        "As `Xtts.inference` does it."
        import torch

        gpt, text = self.gpt, torch.tensor([self.ids])
        with torch.inference_mode():
            gpt.max_gen_mel_tokens, most = self.codes, gpt.max_gen_mel_tokens
            codes = gpt.generate(
                self.cond,
                text,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                num_return_sequences=1,
                output_attentions=False,
            )
            gpt.max_gen_mel_tokens = most
            latents = gpt(
                text,
                torch.tensor([TEXT]),
                codes,
                torch.tensor([codes.shape[1] * 1024]),
                cond_latents=self.cond,
                return_latent=True,
            )
            return codes[0], latents[0], self.hifi(latents, g=self.voice)

    def ours(self, engine, wave, batch=1):
        "All that `KaXtts` does after the text is written in ids."
        from xtts_ka.xtts.sampling import decode_batch

        done = decode_batch(
            engine, [self.cond] * batch, [self.ids[n:] for n in range(batch)], self.cfg
        )
        return done, [wave.speak(d.latents, self.voice) for d in done]


def wall(call):
    "Seconds by the clock."
    start = time.monotonic()
    call()
    return time.monotonic() - start


@functools.lru_cache(1)
def full():
    return Case(30, 1024, 16, 6681, 48)


@functools.lru_cache(1)
def tiny():
    return Case(4, 128, 4, 400, 96, channels=64)


@functools.lru_cache(2)
def parts(case, precision):
    from xtts_ka.xtts.fast import FastDecoder, FastGPT

    return FastGPT(case.gpt, precision), FastDecoder(case.hifi.waveform_decoder, precision)


def threaded(call, threads):
    "The same call with so many threads of torch's."
    import torch

    def go(*args):
        torch.set_num_threads(threads)
        try:
            return call(*args)
        finally:
            torch.set_num_threads(1)

    return go


def _row(what, case, precision, batch, promised, threads=1):
    import torch
    from compare import Row, cpu

    from xtts_ka.xtts.fast import FastGPT, fast_latents, vnni
    from xtts_ka.xtts.sampling import teacher_latents

    engine, wave = parts(case, precision)
    tokens, second, _ = case.coqui()
    first = case.ours(FastGPT(case.gpt), wave)[0][0]
    assert (
        torch.equal(first.codes, tokens[: len(first.codes)])
        and len(first.codes) == len(tokens) == case.codes
    ), "greedy tokens differ from coqui's"
    gap = float((first.latents[: len(second)] - second[: len(first.latents)]).abs().max())
    cosine = float(
        torch.cosine_similarity(
            fast_latents(engine, case.cond, case.ids, tokens),
            teacher_latents(case.gpt, case.cond, case.ids, tokens),
        ).min()
    )
    least = 0.997 if precision == "int8" and not vnni() else 0.999  # Then inputs keep 7 bits
    assert gap < 1e-4 and cosine > least, (gap, cosine)
    seconds, how = case.codes * 1024 / 22050, "one thread" if threads == 1 else f"{threads} threads"
    ours, theirs = threaded(case.ours, threads), threaded(case.coqui, threads)
    if threads > 1:
        clock = [wall(lambda: ours(engine, wave, batch)) / seconds / batch, wall(theirs) / seconds]
        how += f" (once by the clock: {clock[0]:.2f} and {clock[1]:.2f} s a second)"
    return Row(
        f"{what}, {precision}, batch {batch}"
        + f", {threads} threads" * (threads > 1)
        + f": CPU seconds a second of audio ({case.codes} codes, {TEXT} text ids)",
        lambda: cpu(ours, engine, wave, batch) / seconds / batch,
        {"coqui": lambda: cpu(theirs) / seconds},
        {"coqui": promised},
        f"float32 tokens equal coqui's, latents within {gap:.0e} of its second pass; {precision}"
        f" latents' cosine at least {cosine:.5f}; {how}, random weights; coqui-tts"
        f" {version('coqui-tts')}",
        [case],
    )


def full_float32():
    return _row("speech, full shape", full(), "float32", 1, 0.9)


def full_int8():
    return _row("speech, full shape", full(), "int8", 1, 1 / 3)


def full_int8_two_threads():
    "Both on two threads; whoever waits for the other thread spins, and that counts."
    return _row("speech, full shape", full(), "int8", 1, 1 / 2, threads=2)


def full_int8_batch():
    return _row("speech, full shape", full(), "int8", 4, 1 / 4)


def tiny_float32():
    return _row("speech, the demo's shape", tiny(), "float32", 1, 1 / 3)


def first_sound():
    "From ids to the first piece of waveform, against the whole sentence (100 codes)."
    from compare import Row, cpu

    case, long = full(), 100
    engine, wave = parts(case, "int8")
    from xtts_ka.xtts.config import DecodeConfig
    from xtts_ka.xtts.infer import _portions
    from xtts_ka.xtts.sampling import decode_steps

    cfg = DecodeConfig(temperature=0, max_codes_per_id=1e-3, guard_extra=long)

    def pieces():
        return wave.stream(
            _portions(decode_steps(engine, [case.cond], [case.ids], cfg, [0]), [], 8), case.voice
        )

    return Row(
        f"first sound, full shape, int8, {long} codes ({long * 1024 / 22050:.1f} s)",
        lambda: cpu(lambda: next(pieces())),
        {"whole": lambda: cpu(lambda: list(pieces()))},
        {"whole": 1 / 4},
        "the pieces together are the waveform of the whole to 1e-4 (tests/test_decode.py); one"
        " thread",
        [case],
    )


ROWS = dict(
    xtts_tiny_float32=tiny_float32,
    xtts_full_float32=full_float32,
    xtts_full_int8=full_int8,
    xtts_full_int8_batch=full_int8_batch,
    xtts_full_int8_two_threads=full_int8_two_threads,
    xtts_first_sound=first_sound,
)

if __name__ == "__main__":
    from compare import main

    main(ROWS)
