"""GPT-SoVITS2: the models learn what they must, write the same with and without a cache, and refuse
what they cannot use."""

import json

import numpy as np
import pytest
import torch
from calls import called

from xtts_ka.core.audio import write_audio
from xtts_ka.core.errors import AudioError, CheckpointError, ConfigError, MissingError, XttsKaError
from xtts_ka.core.loop import fit
from xtts_ka.core.manifest import Row
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.core.randomness import rng, seeded_step, torch_rng
from xtts_ka.corpus.clips import Clips
from xtts_ka.sovits.ar import Segment, collate, pointer_positions, to_grid
from xtts_ka.sovits.config import (
    ArConfig,
    ArLoop,
    QuantizerConfig,
    SamplingConfig,
    SemanticConfig,
    TextConfig,
)
from xtts_ka.sovits.infer import Reference, Sovits, load_model, proportional_weights
from xtts_ka.sovits.sampling import generate
from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
from xtts_ka.sovits.text_encoder import Bpe
from xtts_ka.sovits.train_ar import ArTask, load_ar, save_ar
from xtts_ka.sovits.train_semantic import SemanticTokenizer

TEXTS = [
    "დილა მშვიდობისა",
    "როგორ ხარ",
    "წვიმს",
    "დღეს ცივა",
    "ბავშვი თამაშობს",
    "ძაღლი ყეფს",
    "მზე ანათებს",
    "წიგნი მაგიდაზეა",
]
TEXT = TextConfig(vocab_size=320, dim=48, heads=2)


def tokenizer(**quantizer):
    "Untrained: its codes are as good as any where only their order counts."
    seeded_step(0, "tokenizer")
    letters = CharVocabulary.of(TEXTS)
    return SemanticTokenizer(
        SemanticNet(
            SemanticConfig(
                dim=32, heads=2, before=1, kernel=5, quantizer=QuantizerConfig(**quantizer)
            ),
            len(letters),
        ).eval(),
        letters,
    )


def task(tmp_path, steps, tok=None, **cfg):
    "Eight utterances of two speakers with tokens drawn by lot, so that nothing can be guessed."
    tok = tok or tokenizer(levels=[4, 4, 4])
    codes = RaggedArray.write(
        tmp_path / "codes",
        (
            rng(0, "code", k)
            .integers(tok.codebook_size, size=(10 + k, tok.n_codebooks))
            .astype(np.int16)
            for k in range(8)
        ),
        sum(10 + k for k in range(8)),
    )
    clips = Clips(
        [Row(f"{k}.wav", t, "ab"[k % 2], split="train") for k, t in enumerate(TEXTS)], tmp_path
    )
    loop = ArLoop(
        steps=steps,
        batch_size=8,
        lr=4e-3,
        warmup=20,
        ema=0,
        validate_every=0,
        save_every=steps,
        bucket=False,
        precision="32-true",
    )
    return ArTask(
        ArConfig(
            **(
                dict(
                    layers=2, dim=64, heads=2, kv_heads=1, ffn=128, corrupt=0, free_run=0, loop=loop
                )
                | cfg
            )
        ),
        TEXT,
        clips,
        codes,
        Bpe.train(TEXTS, TEXT),
        tok,
    )


@pytest.mark.parametrize(
    "books,pattern,layout,pointer",
    [
        (1, "delay", "interleaved", True),
        pytest.param(1, "delay", "interleaved", False, marks=pytest.mark.slow),
        pytest.param(2, "delay", "text_first", True, marks=pytest.mark.slow),
    ],
)
def test_overfits_eight_utterances_to_exact_tokens(tmp_path, books, pattern, layout, pointer):
    t = task(
        tmp_path,
        160,
        tokenizer(levels=[4, 4, 4], codebooks=books),
        pattern=pattern,
        layout=layout,
        pointer=pointer,
    )
    fit(t, t.cfg.loop, tmp_path / "out")
    for references in (True, False):
        written = t.sample_clips(list(range(8)), SamplingConfig(temperature=0), references)
        assert all(w.stopped for w in written)
        assert all((w.codes.numpy() == t.codes[k]).all() for k, w in enumerate(written)), (
            f"with references: {references}"
        )


def test_written_files_come_back_and_misfits_are_named(tmp_path):
    t = task(tmp_path, 2)
    net = t.models()["ar"].eval()
    save_ar(net, t.bpe, tmp_path / "m")
    t.tokenizer.save(tmp_path / "m")
    again, bpe = load_ar(tmp_path / "m", SemanticTokenizer.load(tmp_path / "m"))
    jobs = [[Segment(t.ids[0])]]
    assert torch.equal(
        *(
            generate(n, jobs, SamplingConfig(temperature=0, max_per_piece=3), [torch_rng(0, "x")])[
                0
            ].codes
            for n in (net, again)
        )
    )
    with pytest.raises(MissingError, match="train-ar"):
        load_ar(tmp_path / "nothing", t.tokenizer)
    older = task(tmp_path / "older", 2, pointer=False)
    save_ar(older.models()["ar"].eval(), older.bpe, tmp_path / "o")
    about = json.loads((tmp_path / "o/ar.json").read_text(encoding="utf-8"))
    del about["ar"]["pointer"]  # as files were before there was one
    (tmp_path / "o/ar.json").write_text(json.dumps(about), encoding="utf-8")
    del about["qwen"]  # and before the base of the rotary positions was kept
    (tmp_path / "o/ar.json").write_text(json.dumps(about), encoding="utf-8")
    assert load_ar(tmp_path / "o", t.tokenizer)[0].point is None
    seeded_step(1, "another")
    other = SemanticTokenizer(
        SemanticNet(t.tokenizer.net.cfg, len(t.tokenizer.letters)).eval(), t.tokenizer.letters
    )
    with pytest.raises(CheckpointError, match="another tokenizer"):
        load_ar(tmp_path / "m", other)
    raw = bytearray((tmp_path / "m/ar.safetensors").read_bytes())
    (tmp_path / "m/ar.safetensors").write_bytes(raw[:-50])
    with pytest.raises(CheckpointError, match="does not fit"):
        load_ar(tmp_path / "m", t.tokenizer)
    with pytest.raises(MissingError, match="no GPT-SoVITS2 model here"):
        load_model(tmp_path / "m")


def test_weights_of_another_qwen_speak_with_their_own_positions(tmp_path):
    "Qwen2-0.5B turns its vectors by a base of 1,000,000: training and speech must use the same."
    from transformers import Qwen2Config, Qwen2Model

    t = task(tmp_path, 2)
    c = t.cfg
    sizes = dict(hidden_size=c.dim, num_hidden_layers=c.layers, num_attention_heads=c.heads)
    sizes |= dict(num_key_value_heads=c.kv_heads, intermediate_size=c.ffn, vocab_size=1)
    odd = dict(rope_theta=1e6, rms_norm_eps=1e-2)
    Qwen2Model(Qwen2Config(**sizes, **odd)).save_pretrained(tmp_path / "qwen")
    begun = task(tmp_path / "begun", 2, init=str(tmp_path / "qwen"))
    net = begun.models()["ar"].eval()
    save_ar(net, begun.bpe, tmp_path / "m")
    again, _ = load_ar(tmp_path / "m", begun.tokenizer)
    both = [begun.data.segment(0), begun.data.segment(1)]
    batch = collate([both], begun.cfg, begun.tokenizer.n_codebooks)
    with torch.no_grad():
        trained, spoken = net(batch)[0], again(batch)[0]
    assert torch.allclose(trained, spoken, atol=1e-5)
    path = tmp_path / "m/ar.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    assert about["qwen"] == odd
    for wrong in ({"rope_theta": "1e6", "rms_norm_eps": 1e-6}, {"rope_theta": 1e6}, 3):
        path.write_text(json.dumps(about | {"qwen": wrong}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="rope_theta above 1"):
            load_ar(tmp_path / "m", begun.tokenizer)
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "qwen"}), encoding="utf-8")
    with pytest.warns(UserWarning, match="10,000 is taken"):
        older, _ = load_ar(tmp_path / "m", begun.tokenizer)
    assert older.qwen.rope_theta == 10_000


def test_cache_equals_no_cache_at_length(tmp_path):
    t = task(tmp_path, 2)
    net = t.models()["ar"].eval()

    def go(cache):
        return generate(
            net,
            [[t.data.segment(1), Segment(t.ids[0])]],
            SamplingConfig(temperature=1, min_per_piece=15, max_per_piece=15),
            [torch_rng(0, "y")],
            cache,
        )[0].codes

    assert len(go(True)) >= 60 and torch.equal(go(True), go(False))


@pytest.mark.parametrize("seed", range(6))
def test_every_letter_gets_its_tokens_in_order(seed):
    """An alignment goes through all pieces that can be heard, never back; too few tokens are spread
    evenly."""
    tok, bpe = tokenizer(levels=[4, 4, 4]), Bpe.train(TEXTS, TEXT)
    for text in TEXTS:
        for spoken in (f"{text}.", f"«{text}», {text}"):
            pieces, T = bpe.pieces(spoken), int(rng(seed, text, spoken).integers(1, 60))
            at = tok.align(
                rng(seed, "codes", text).integers(tok.codebook_size, size=(T, 1)), pieces
            )
            heard = {k for k, p in enumerate(pieces) if any(c in tok.letters.ids for c in p)}
            assert len(at) == T and at == sorted(at) and 0 <= at[0] and at[-1] < len(pieces)
            if T > 2 * len(spoken):
                assert heard <= set(at) and set(at) <= heard | {
                    k for k, p in enumerate(pieces) if "▁" in p
                }


def test_pointer_in_training_and_in_use():
    """The pointer begins at the first piece and ends at the last, in each pattern; a jump is
    learned as far as it can be told."""
    codes = torch.arange(8).view(4, 2)
    assert pointer_positions([1, 1, 3, 4], 6, to_grid(codes, "parallel", 16)) == [0, 1, 3, 4, 5]
    assert pointer_positions([1, 1, 3, 4], 6, to_grid(codes, "delay", 16)) == [
        0,
        1,
        3,
        4,
        5,
    ] and pointer_positions([0, 2], 3, to_grid(codes[:2], "flat", 16), 2) == [0, 0, 2, 2, 2]
    grid = to_grid(codes, "parallel", 16)
    batch = collate(
        [[Segment(None, grid), Segment([5, 6, 7, 8, 9, 4], grid, at=[0, 0, 1, 5, 5])]],
        ArConfig(),
        2,
    )
    assert batch["moves"].tolist() == [-100] * 5 + [0, 1, 3, 0, -100]
    points = batch["points"][0]
    assert (
        (points[: 1 + 5] == 3).all()
        and (points[-6:] - batch["begins"][0]).tolist()[:5] == [0, 0, 1, 5, 5]
        and points[-1] == 3
    )  # nothing is said after the end


def test_long_text_is_refused_before_work(tmp_path):
    net = task(tmp_path, 2, max_positions=64).models()["ar"].eval()
    with pytest.raises(ConfigError, match="ar.max_positions"):
        generate(net, [[Segment(list(range(40)))]], SamplingConfig(), [torch_rng(0, "z")])
    with pytest.raises(ConfigError, match="no text to speak"):
        generate(net, [[Segment(None)]], SamplingConfig(), [torch_rng(0, "z")])


@pytest.fixture
def speaker(tmp_path):
    t = task(tmp_path, 2)
    return Sovits(t.tokenizer, t.models()["ar"].eval(), t.bpe, None, "ka")


def tone(path, seconds, rate=16000, level=0.1):
    write_audio(
        path, (level * np.sin(np.arange(int(seconds * rate)) * 0.1)).astype(np.float32), rate
    )
    return str(path)


def test_a_recording_that_is_missing_is_a_reject(tmp_path):
    from xtts_ka.sovits.config import PrepareConfig
    from xtts_ka.sovits.data import collect_clips

    data = tmp_path / "data"
    data.mkdir()
    tone(data / "a.wav", 1.0, 22050)
    (data / "b.wav").write_bytes(b"no sound")
    rows = [f"{name}.wav|დილა|nino" for name in "abc"]
    text = "\n".join(["audio_file|text|speaker_name", *rows])
    (data / "metadata.csv").write_text(text + "\n", encoding="utf-8")
    found = collect_clips(PrepareConfig(), data, tmp_path / "out", 1)
    assert [r.audio_file for r in found.clips.rows] == ["data/a.wav"]
    assert [(r.line, r.reason.split(":")[0]) for r in found.rejects] == [
        (3, "unreadable"),
        (4, "missing"),
    ]


def test_references_of_any_rate_and_length(speaker, tmp_path):
    made = [
        Reference(tone(tmp_path / f"{k}.wav", s, rate), w)
        for k, (s, rate, w) in enumerate([(0.3, 8000, 1), (2, 44100, 2), (120, 16000, 1)])
    ]
    heard = speaker.encode_references(made)
    assert (
        [h.share for h in heard] == [0.25, 0.5, 0.25]
        and len(heard[0].codes) == 8
        and len(heard[2].codes) == 60 * 25
    )  # a minute says it all
    prompt = speaker.prompt(heard)
    assert sum(len(s.grid) for s in prompt) <= speaker.prompt_tokens + 3 * 13 and len(prompt) == 3


@pytest.mark.parametrize("wanted", [[0.25, 0.75], [0.5, 0.5], [0.1, 0.9], [0.2, 0.3, 0.5]])
def test_mixtures_are_heard_in_proportion_where_the_decoder_is_steep(wanted):
    """An ear to which the heavier voice drowns the lighter one; the weights make up for it. Voices
    that are the same stay as they are."""
    wanted, voices = torch.tensor(wanted), torch.eye(len(wanted), 7)

    def heard(weights):
        return (weights**2.2 / (weights**2.2).sum()) @ voices

    assert (heard(wanted)[: len(wanted)] - wanted).abs().max() > 0.05 or len(
        set(wanted.tolist())
    ) == 1
    assert (heard(proportional_weights(heard, wanted))[: len(wanted)] - wanted).abs().max() < 0.021
    assert torch.allclose(proportional_weights(lambda weights: voices[0], wanted), wanted)


@pytest.mark.parametrize(
    "make,why",
    [
        (lambda p: [], "no reference"),
        (lambda p: [Reference(p / "absent.wav")], "absent.wav"),
        (lambda p: [Reference(tone(p / "s.wav", 0.1))], "at least 0.2 s"),
        (lambda p: [Reference(tone(p / "q.wav", 2, level=0))], "nothing is heard"),
        (lambda p: [Reference(tone(p / "w.wav", 2), float("nan"))], "0 or more"),
    ],
)
def test_bad_references_say_why(speaker, tmp_path, make, why):
    with pytest.raises((AudioError, ConfigError), match=why):
        speaker.encode_references(make(tmp_path))


@pytest.mark.parametrize(
    "text,why",
    [("", "nothing to say"), ("!!", "nothing to say"), ("日本語", "never learned: 日 本 語")],
)
def test_bad_texts_say_why(speaker, text, why):
    speaker.language = ""
    with pytest.raises(XttsKaError, match=why):
        speaker.normalize(text)


def test_command_line(tmp_path):
    def call(*words):
        return called("sovits", *words, cwd=tmp_path)

    told = call("speak", "--help")
    assert (
        told.returncode == 0
        and "--reference" in told.stdout
        and "default 0.3" in " ".join(told.stdout.split())
        and "--allow-incomplete" in told.stdout
    )
    bad = call("train-ar", "dataset_path=nowhere", "path_to_save=out", "ar.layer=2")
    assert bad.returncode == 2 and "did you mean `ar.layers`" in bad.stderr
    missing = call("speak", "--model", "nowhere", "--text", "დილა")
    assert missing.returncode == 2 and "nowhere: no such folder" in missing.stderr


@pytest.mark.slow
def test_full_shapes_take_a_step(tmp_path):
    "Qwen2-0.5B's sizes and BGE-M3's architecture with random weights; memory is printed."
    import resource

    from transformers import XLMRobertaConfig, XLMRobertaModel

    sizes = dict(layers=24, dim=896, heads=14, kv_heads=2, ffn=4864)
    t = task(tmp_path, 1, tokenizer(), **sizes)
    net = t.models()["ar"]
    n = sum(p.numel() for p in net.qwen.parameters())
    assert 350e6 < n < 370e6  # Qwen2-0.5B without its embedding
    batch = t.collate([t.item(k, 0) for k in range(2)])
    optimizer = t.optimizers({"ar": net}, t.cfg.loop)["main"]
    before = net.qwen.layers[0].mlp.up_proj.weight[0, :8].clone()
    loss = t.loss("main", batch, 0)[0]
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and not torch.equal(
        before, net.qwen.layers[0].mlp.up_proj.weight[0, :8]
    )
    del net, t, optimizer
    bge = XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=250002,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            max_position_embeddings=8194,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    ).eval()
    with torch.inference_mode():
        out = bge(torch.randint(5, 250000, (1, 30))).last_hidden_state
    assert out.shape == (1, 30, 1024) and 560e6 < sum(p.numel() for p in bge.parameters()) < 570e6
    print(
        f"\nQwen2-0.5B's sizes: {n / 1e6:.0f} M parameters; BGE-M3's 568 M; peak of the process"
        f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )
