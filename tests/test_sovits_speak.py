"""GPT-SoVITS2 speaks all of a text, ends where the text ends, and says so when it does not."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch

from xtts_ka.core.audio import read_audio, write_audio
from xtts_ka.core.errors import ConfigError
from xtts_ka.core.loop import fit
from xtts_ka.core.manifest import Row
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.core.randomness import seeded_step, torch_rng
from xtts_ka.corpus.clips import Clips
from xtts_ka.pipeline.cli import both_spellings
from xtts_ka.sovits import commands
from xtts_ka.sovits.ar import ArModel, Segment
from xtts_ka.sovits.config import (
    ArConfig,
    ArLoop,
    DecoderConfig,
    QuantizerConfig,
    SamplingConfig,
    SemanticConfig,
    TextConfig,
)
from xtts_ka.sovits.infer import (
    Reference,
    Sovits,
    join_with_pauses,
    load_model,
    save_model,
    sound_edges,
    trim_silence,
)
from xtts_ka.sovits.quantize import Quantizer
from xtts_ka.sovits.sampling import Limits, generate
from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
from xtts_ka.sovits.text_encoder import Bpe, TextEncoder
from xtts_ka.sovits.train_ar import ArTask, free_run_texts
from xtts_ka.sovits.train_decoder import Decoder
from xtts_ka.sovits.train_semantic import SemanticTokenizer
from xtts_ka.sovits.vits2 import Vits2
from xtts_ka.speech.commands import add_sovits_speak
from xtts_ka.speech.voice import SpeechStream
from xtts_ka.text.chunks import closed

TEXTS = [
    "დილა მშვიდობისა",
    "როგორ ხარ?",
    "წვიმს",
    "დღეს ცივა",
    "ბავშვი თამაშობს",
    "ძაღლი ყეფს",
    "მზე ანათებს",
    "წიგნი მაგიდაზეა",
]
TEXT = TextConfig(vocab_size=320, dim=48, heads=2)
GREEDY = SamplingConfig(temperature=0)


def swayed(end: float, stay: float):
    "A network that always, or never, wants to end, and whose pointer wants to stay, or to run."
    seeded_step(0, "swayed")
    net = ArModel(
        ArConfig(layers=1, dim=32, heads=2, kv_heads=1, ffn=64),
        TextEncoder(TextConfig(dim=32, heads=2), 300),
        Quantizer(QuantizerConfig(levels=[4, 4]), 16),
    )
    with torch.no_grad():
        net.heads[0].bias[-1], net.move.bias[0] = end, stay
    return net.eval()


@pytest.mark.parametrize("end,stay", [(50.0, 50.0), (50.0, -50.0), (-50.0, 50.0), (-50.0, -50.0)])
def test_the_pointer_decides_about_the_end(end, stay):
    """Whatever the network wants: never before the last letter, never long after it, and no drone
    on the way."""
    limits, n = Limits(stay=5, tail=7, after=2, pace=20.0), 9

    def go(limits):
        return generate(
            swayed(end, stay),
            [[Segment(list(range(n)))]],
            GREEDY,
            [torch_rng(0, "p")],
            limits=limits,
        )[0]

    w, runs = go(limits), {}
    for at in w.path:
        runs[at] = runs.get(at, 0) + 1
    assert w.stopped and len(w.path) == len(w.codes) and w.path == sorted(w.path)
    assert w.path[-1] >= n - 2 and max(runs.values()) <= limits.tail
    assert all(k <= limits.stay for at, k in runs.items() if at < n - 2)
    assert end < 0 or len(go(None).codes) < n  # alone it would have ended early
    assert end > 0 or not go(None).stopped  # or not at all


def test_limits_come_from_the_alignments():
    "One in a thousand exceeds them; the mean pace has room."
    paths = [([0] * 3 + [1] * 2 + [2] * 9, 4)] * 50
    assert Limits.of(paths) == Limits(stay=5, tail=11, after=2, pace=round(1.5 * 14 / 4, 2))
    assert Limits.of([]) == Limits()


def test_silence_goes_and_pauses_are_what_is_asked():
    rate, tone = 16000, np.sin(np.arange(8000) * 0.2).astype(np.float32)
    padded = np.concatenate([np.zeros(4000, np.float32), tone, np.zeros(9000, np.float32)])
    short = trim_silence(padded, rate)
    assert abs(len(short) - len(tone)) <= 2 * int(0.02 * rate) + 320 and not len(
        trim_silence(padded[:4000], rate)
    )
    wav = join_with_pauses([short, short], [0.5, 0.0], rate)
    quiet = np.flatnonzero(np.abs(wav) > 0.01)
    assert np.diff(quiet).max() == pytest.approx(0.5 * rate + 2 * 0.02 * rate, abs=400)


def test_everyday_forms_of_sentences():
    asked = free_run_texts([closed(t) for t in TEXTS])
    assert {a.kind for a in asked} == {"sentence", "no mark", "word", "comma", "two"}
    assert (
        asked[0].text == "დილა მშვიდობისა."
        and asked[1].text == "როგორ ხარ"
        and asked[2].text == "წვიმს"
    )
    assert asked[3].text == "დღეს ცივა, ბავშვი თამაშობს." and asked[3].of == [3, 4]


def corner(
    n: int,
) -> int:  # Code at a corner of the cube of the quantiser: corners can be told apart by a line
    return sum(2 * 3**k * (n >> k & 1) for k in range(6))


def speller() -> SemanticTokenizer:
    """A tokenizer whose corner n spells letter n, so that what is written can be read without
    errors."""
    letters = CharVocabulary.of(TEXTS)
    cfg = SemanticConfig(
        dim=32, heads=2, before=0, after=0, kernel=5, quantizer=QuantizerConfig(levels=[3] * 6)
    )
    seeded_step(0, "speller")
    net = SemanticNet(cfg, len(letters))
    codes, classes = (
        torch.tensor([corner(k) for k in range(len(letters))]),
        torch.arange(len(letters)),
    )
    optimizer = torch.optim.Adam([*net.norm.parameters(), *net.letters.parameters()], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        scores = net.letters(net.norm(net.quantizer.vectors(codes[None, :, None])))[0]
        torch.nn.functional.cross_entropy(scores, classes).backward()
        optimizer.step()
    assert (scores.argmax(-1) == classes).all()
    return SemanticTokenizer(net.eval(), letters)


def spelled(tokenizer, text) -> np.ndarray:  # [T, 1]: each letter twice, then nothing
    return np.array(
        [[corner(c)] for k in tokenizer.letters.encode(text) for c in (k, k, 0)], np.int16
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "Eight texts learned by heart; the decoder hums."
    out = tmp_path_factory.mktemp("speak")
    tokenizer = speller()
    bpe = Bpe.train([closed(t) for t in TEXTS], TEXT)
    codes = [spelled(tokenizer, t) for t in TEXTS]
    clips = Clips([Row(f"{k}.wav", t, "a", split="train") for k, t in enumerate(TEXTS)], out)
    loop = ArLoop(
        steps=150,
        batch_size=8,
        lr=4e-3,
        warmup=20,
        ema=0,
        validate_every=0,
        save_every=150,
        bucket=False,
        precision="32-true",
    )
    cfg = ArConfig(
        layers=2,
        dim=64,
        heads=2,
        kv_heads=1,
        ffn=128,
        corrupt=0,
        references=0,
        free_run=8,
        loop=loop,
    )
    task = ArTask(
        cfg,
        TEXT,
        clips,
        RaggedArray.write(out / "codes", codes, sum(map(len, codes))),
        bpe,
        tokenizer,
    )
    fit(task, loop, out / "ar")
    small = dict(
        hidden=32,
        heads=2,
        ffn=32,
        latent=16,
        flow_hidden=16,
        posterior_hidden=16,
        speaker_dim=16,
        speaker_hidden=16,
        generator=dict(kind="spec", dim=32, inter=64, layers=1),
    )
    vits = Vits2(DecoderConfig(semantic_dim=32, text_dim=TEXT.dim, **small))
    decoder = Decoder(vits, TextEncoder(TEXT, bpe.size))
    said = Sovits(
        tokenizer, task.net.cpu().eval(), bpe, decoder, "ka", 4.0, None, task.limits(), task.habits
    )
    said.task = task
    return said


@pytest.fixture
def voice(tmp_path):
    wav = 0.1 * np.sin(np.arange(32000) * 0.1) * np.sin(np.arange(32000) * 0.003)
    write_audio(tmp_path / "voice.wav", wav.astype(np.float32), 16000)
    return str(tmp_path / "voice.wav")


def test_all_of_a_text_is_said(model, voice):
    """What the old way lost: no mark at the end, words behind a comma, a second sentence, a single
    word."""
    texts = [
        "დილა მშვიდობისა, როგორ ხარ",
        "წვიმს",
        "დღეს ცივა. მზე ანათებს",
        "„ძაღლი ყეფს“, ბავშვი თამაშობს!",
    ]
    for text in texts:
        said = model.speak(text, [Reference(voice)], GREEDY)
        assert said.complete and said.stopped and not said.missing, (text, said.warnings)
        assert said.transcript == " ".join("".join(c if c.isalpha() else " " for c in text).split())
        assert len(said.positions) == len(said.pieces) == len(said.codes)
        assert all(len(p) == len(c) for p, c in zip(said.positions, said.codes))
    for speed in (1.0, 1.7):
        whole = model.speak(texts[2], [Reference(voice)], GREEDY, speed=speed)
        parts = model.stream(texts[2], [Reference(voice)], GREEDY, speed=speed)
        for said in (whole, SpeechStream(parts)):
            wavs = [said.wav] if said is whole else list(said)
            said = said if said is whole else said.speech
            times = [t for w in said.words for t in (w.start, w.end)]
            begin, end = sound_edges(np.concatenate(wavs), said.sample_rate, keep=0.0)
            assert times == sorted(times) and len(times) == 8
            rate = said.sample_rate
            assert begin / rate - 0.02 <= times[0] and times[-1] <= end / rate + 0.02
    free = model.task.free_run(list(range(8)))
    assert free["free/cer, sentence"] == free["free/cer, no mark"] == free["free/cer, two"] == 0
    assert free["free/stopped"] == 1 and free["free/cer, word"] > 0  # words alone were not learned


@pytest.fixture
def jumpy(model):
    "The same model, whose pointer leaps over letters."
    before = model.ar.move.bias.detach().clone()
    with torch.no_grad():
        model.ar.move.bias[3] += 60.0
    yield model
    with torch.no_grad():
        model.ar.move.bias.copy_(before)


def test_what_is_not_said_is_named(jumpy, voice):
    said = jumpy.speak("დილა მშვიდობისა, როგორ ხარ", [Reference(voice)], GREEDY, retries=1)
    assert not said.complete and "მშვიდობისა" in said.missing
    assert any("not said" in w and "მშვიდობისა" in w for w in said.warnings)


def test_a_bad_take_is_written_again_and_the_best_is_kept(model):
    "Hot draws stumble; further takes can only make it better, and stop when all is well."
    hot, part = SamplingConfig(temperature=4.0, top_p=1.0, top_k=0), model.split("ბავშვი თამაშობს")
    once = [model.best_takes(part, [], hot, seed, 0)[0] for seed in range(6)]
    more = [model.best_takes(part, [], hot, seed, 4)[0] for seed in range(6)]
    assert any(not t.good for t in once) and sum(t.good for t in more) > sum(t.good for t in once)
    assert all(b.rank <= a.rank for a, b in zip(once, more))
    assert all(torch.equal(a.tokens.codes, b.tokens.codes) for a, b in zip(once, more) if a.clear)


def test_a_model_without_a_pointer_speaks_with_a_warning(model, voice):
    net = model.ar
    held = net.point, net.move, net.cfg
    try:
        net.point = net.move = None
        net.cfg = replace(net.cfg, pointer=False)
        said = model.speak("წვიმს", [Reference(voice)], replace(GREEDY, max_per_piece=4), retries=0)
    finally:
        net.point, net.move, net.cfg = held
    assert any("no pointer" in w for w in said.warnings) and said.positions == [[]]


def test_the_folder_keeps_limits_and_habits(model, tmp_path):
    again = load_model(save_model(model, tmp_path / "m"))
    assert again.limits == model.limits and again.texts == model.texts == {
        "words": 2,
        "inside": "",
        "ends": ".?",
    }
    about = (tmp_path / "m/config.json").read_text(encoding="utf-8")
    (tmp_path / "m/config.json").write_text(
        "{" + about.split("{", 1)[1].replace('"limits"', '"x"').replace('"texts"', '"y"'),
        encoding="utf-8",
    )
    old = load_model(tmp_path / "m")
    assert old.limits == Limits() and old.texts["words"] == 5 and "…" not in old.texts["ends"]


def test_the_command_says_whether_all_was_said(jumpy, voice, tmp_path, capsys):
    folder = save_model(jumpy, tmp_path / "m")
    parser = argparse.ArgumentParser()
    commands.add_arguments(parser)
    add_sovits_speak(parser)
    both_spellings(parser)

    def call(*more):
        return commands.main(
            parser.parse_args(
                ["speak", "--model", str(folder), "--reference", voice, "--retries", "0", *more]
            )
        )

    text = ["--text", "დილა მშვიდობისა", "--out", str(tmp_path / "a.wav")]
    assert (
        call(*text) == 1
        and len(read_audio(tmp_path / "a.wav")[0])
        and "მშვიდობისა" in capsys.readouterr().out
    )
    assert call(*text, "--allow-incomplete") == 0
    (tmp_path / "link.wav").symlink_to(voice)
    before = (tmp_path / "voice.wav").read_bytes()
    with pytest.raises(ConfigError, match="the same file as"):
        call("--text", "წვიმს", "--out", str(tmp_path / "link.wav"))
    assert (tmp_path / "voice.wav").read_bytes() == before
