"""Decoding against coqui's own: the same greedy tokens, the same latents; batches, precisions, streams and the guard against babble."""
import argparse
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from xtts_ka.core.errors import ConfigError, XttsKaError
from xtts_ka.core.randomness import rng, seeded_step
from xtts_ka.xtts.config import DecodeConfig, GptConfig
from xtts_ka.xtts.decode import Pace, decode_batch, decode_best, decode_codes, fit_pace, teacher_latents
from xtts_ka.xtts.fast import FastDecoder, FastGPT, fast_latents, plain_generator, settled, stretched
from xtts_ka.xtts.gpt import make_gpt, quiet
from xtts_ka.text.chunks import chunks
from xtts_ka.xtts.speak import KaXtts
from xtts_ka.xtts.speak_command import add_arguments, main

DEMO = Path(__file__).resolve().parents[1]/"outputs/demo"
FREE = dict(temperature=1.0, top_k=0, top_p=1.0, max_codes_per_id=100)

@pytest.fixture(autouse=True)
def one_thread():
    "Small nets are no faster with more, and crawl on a busy machine."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def random_gpt(layers, dim, heads, text=60, books=64, most=80, stop=-1.0):
    "coqui's GPT with random weights, lively enough to say different things; never START."
    seeded_step(11, layers, dim)
    gpt = make_gpt(GptConfig(layers=layers, dim=dim, heads=heads, max_text=60, max_codes=most), text, 1, 0, books)
    torch.nn.init.normal_(gpt.mel_head.weight, 0, 4 / dim ** 0.5)
    with torch.no_grad(): gpt.mel_head.bias[-2:] = torch.tensor([-50.0, stop])
    gpt.eval()
    with quiet(): gpt.init_gpt_for_inference()
    return gpt

def prompts(n, text):
    r = rng(5, "prompts")
    return [r.integers(4, text, int(k)).tolist() for k in r.integers(2, 30, n)]

def by_coqui(gpt, cond, ids, penalty, most):
    "coqui's greedy tokens and the latents of its second pass."
    with torch.inference_mode():
        gpt.max_gen_mel_tokens, before = most, gpt.max_gen_mel_tokens
        codes = gpt.generate(cond, torch.tensor([ids]), do_sample=False, num_beams=1, repetition_penalty=penalty, num_return_sequences=1, output_attentions=False)[0]
        gpt.max_gen_mel_tokens = before
        said = codes[codes < gpt.start_audio_token]
        full = torch.cat([said, torch.tensor([gpt.stop_audio_token])])[None]  # so that no latent is cut off
        return said, gpt(torch.tensor([ids]), torch.tensor([len(ids)]), full, torch.tensor([full.shape[1] * 1024]), cond_latents=cond, return_latent=True)[0]

def same_as_coqui(gpt, engines, sentences, most):
    "Counts equal sentences of each engine; the largest difference of latents."
    cond, equal, worst, lengths = torch.randn(1, 32, gpt.model_dim), [0] * len(engines), 0.0, []
    for n, ids in enumerate(sentences):
        penalty = (1.0, 10.0)[n % 2]
        tokens, second = by_coqui(gpt, cond, ids, penalty, most)
        lengths.append(len(tokens))
        for k, engine in enumerate(engines):
            ours = decode_codes(engine, cond, ids, DecodeConfig(temperature=0, max_codes_per_id=1e-3, guard_extra=most, repetition_penalty=penalty))
            equal[k] += torch.equal(ours.codes, tokens)
            if len(tokens): worst = max(worst, float((ours.latents - second[: len(tokens)]).abs().max()))
    return equal, worst, lengths

def test_greedy_tokens_are_coquis():
    gpt = random_gpt(3, 96, 6)
    equal, worst, lengths = same_as_coqui(gpt, [gpt, FastGPT(gpt)], prompts(20, 60), 70)
    assert equal == [20, 20] and worst < 1e-4 and len(set(lengths)) >= 3  # sentences end at different places

@pytest.mark.slow
def test_greedy_tokens_are_coquis_at_full_shape():
    gpt = random_gpt(30, 1024, 16, text=6681, books=1024, most=605, stop=-50.0)
    sentences = prompts(20, 6681)
    equal, worst, _ = same_as_coqui(gpt, [FastGPT(gpt)], sentences, 16)
    assert equal == [20] and worst < 1e-4
    cond, codes = torch.randn(1, 32, 1024), torch.randint(0, 1024, (24,))
    truth = teacher_latents(gpt, cond, sentences[0], codes)
    for precision in ("int8", "bfloat16"):
        assert torch.cosine_similarity(fast_latents(FastGPT(gpt, precision), cond, sentences[0], codes), truth).min() > 0.999

def test_a_batch_says_what_each_says_alone():
    gpt = random_gpt(3, 96, 6)
    lean, sentences = FastGPT(gpt), prompts(11, 60)
    conds, cfg = [torch.randn(1, 32, 96) for _ in sentences], DecodeConfig(**FREE)
    alone = [decode_codes(gpt, c, i, cfg, s) for s, (c, i) in enumerate(zip(conds, sentences))]
    for size in (1, 4, 11):
        done = decode_batch(lean, conds, sentences, cfg, range(11), size=size)
        assert [d.codes.tolist() for d in done] == [d.codes.tolist() for d in alone] and [d.stopped for d in done] == [d.stopped for d in alone]
        assert max(float((a.latents - d.latents).abs().max()) for a, d in zip(alone, done) if len(a.codes)) < 1e-4
        assert max(abs(a.score - d.score) for a, d in zip(alone, done)) < 1e-4

def test_precisions_stay_close():
    gpt = random_gpt(6, 384, 6)
    cond, ids, codes = torch.randn(1, 32, 384), prompts(1, 60)[0], torch.randint(0, 64, (60,))
    truth = teacher_latents(gpt, cond, ids, codes)
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.999), ("int8", 0.999)):
        assert torch.cosine_similarity(fast_latents(FastGPT(gpt, precision), cond, ids, codes), truth).min() > least, precision
    with pytest.raises(ConfigError, match="give one of float32, bfloat16, int8"): FastGPT(gpt, "int4")

# length

def test_the_guard_ends_babble_and_the_best_of_several_stops():
    gpt = random_gpt(2, 64, 4, stop=-50.0)  # cannot stop
    cond, pace = torch.randn(1, 32, 64), Pace(base=5, slope=1.5, spread=0.15)
    for ids in prompts(6, 60)[:6]:
        cut = decode_codes(FastGPT(gpt), cond, ids, DecodeConfig(**FREE), 1, pace)
        assert not cut.stopped and len(cut.codes) == min(pace.most(len(ids)), gpt.max_gen_mel_tokens)
        loose = decode_codes(FastGPT(gpt), cond, ids, DecodeConfig(**FREE, length_prior=False), 1, pace)
        assert len(loose.codes) == gpt.max_gen_mel_tokens
    gpt = random_gpt(2, 64, 4, stop=0.5)
    ids = [[5, 6, 7]] * 30
    one, best = (decode_best(FastGPT(gpt), [cond] * 30, ids, DecodeConfig(**FREE, best_of=n), range(30), pace) for n in (1, 8))
    far = lambda done: np.mean([abs(pace.z(3, len(d.codes))) for d in done])
    assert sum(d.stopped for d in best) >= sum(d.stopped for d in one) and far(best) < 0.7 * far(one)

def test_pace_needs_different_texts():
    with pytest.raises(XttsKaError, match="different lengths"): fit_pace([5, 5, 5], [10, 11, 12])

@pytest.fixture(scope="session")
def demo():
    if not (DEMO/"xtts/model.pth").is_file() or not (DEMO/"xtts_init/codes").is_dir(): pytest.skip("no demo export here; make run writes one")
    from xtts_ka.corpus.clips import Shelf
    from xtts_ka.xtts.dataset import load_clips
    model = KaXtts(DEMO/"xtts", precision="float32")
    clips, codes = load_clips(DEMO/"segments", model.vocabulary)[0], Shelf(DEMO/"xtts_init/codes")
    train = clips.split("train")
    model.pace = fit_pace([len(model.vocabulary.encode(clips.rows[i].text)) for i in train], [len(codes[i]) for i in train])
    model.words = sorted({w.strip(".,!?") for i in train for w in clips.rows[i].text.split()})
    return model

def test_short_prompts_do_not_babble(demo):
    r, cfg, ratios = rng(1, "short"), DecodeConfig(best_of=4), []
    for n in range(24):
        spoken = demo.speak(" ".join(r.choice(demo.words, 1 + n % 3)), demo.voice(demo.speakers[n % len(demo.speakers)]), cfg)
        ratios.append(sum(map(len, spoken.codes)) / demo.pace.expected(len(demo.vocabulary.encode(spoken.text))) if spoken.stopped else np.inf)
    assert sum(0.7 <= x <= 1.4 for x in ratios) >= 22, ratios

# waveform

def test_streams_join_without_a_seam(export):
    lean, stock = KaXtts(export, precision="float32"), KaXtts(export)
    text = "დილა მშვიდობისა, ჩემო კარგო!"
    for speed in (1.0, 0.75):
        whole = lean.speak(text, speed=speed).wav
        pieces = list(lean.stream(text, speed=speed))
        joined = np.concatenate(pieces)
        assert len(pieces) > 3 and joined.shape == whole.shape and np.abs(joined - whole).max() < 1e-4
        if speed != 1: assert np.abs(stock.speak(text, speed=speed).wav - whole).max() < 1e-4
        edges = np.cumsum([len(p) for p in pieces])[:-1]
        jumps = np.abs(np.diff(joined))
        assert max(jumps[e - 1] for e in edges) <= jumps.max()  # no click that is not in the sound itself

def test_the_first_sound_comes_before_the_sentence_is_done(export):
    lean = KaXtts(export, precision="float32")
    steps, real = [], FastGPT.session
    class Counted:
        def __init__(self, session): self.session = session
        def __getattr__(self, name): return getattr(self.session, name)
        def step(self, x): steps.append(1); return self.session.step(x)
    lean.engine.session = lambda: Counted(real(lean.engine))
    parts = lean.stream("დილა მშვიდობისა ჩემო კარგო მეგობარო", cfg=DecodeConfig(temperature=1.0, max_codes_per_id=3))
    next(parts)
    early = len(steps)
    list(parts)
    assert early < len(steps) / 4, (early, len(steps))

def test_what_is_settled_does_not_change():
    z = torch.randn(80, 24)
    for speed in (1.0, 0.5, 0.9, 0.99, 1.01, 2.0):
        whole = stretched(z, speed)
        for n in (1, 2, 3, 7, 31, 79):
            k = settled(n, speed)
            if n > 6: assert k > 0
            assert k <= whole.shape[2] and (k == 0 or torch.equal(stretched(z[:n], speed)[:, :, :k], whole[:, :, :k])), (speed, n)

def test_latents_are_stretched_as_coqui_does():
    for n in (3, 10, 77):
        z = torch.randn(n, 24)
        official = torch.nn.functional.interpolate(torch.nn.functional.interpolate(z.T[None], scale_factor=[4.0], mode="linear"), scale_factor=[24000 / 22050], mode="linear")
        assert torch.equal(stretched(z), official)

def test_coquis_modules_stay_as_they_were(export):
    stock = KaXtts(export)
    before = stock.speak("დილა")
    state = {k: v.clone() for k, v in stock.xtts.state_dict().items()}
    FastDecoder(stock.decoder.waveform_decoder, "bfloat16"); FastGPT(stock.gpt, "int8"); plain_generator(stock.decoder.waveform_decoder)
    assert np.array_equal(stock.speak("დილა").wav, before.wav) and all(torch.equal(v, state[k]) for k, v in stock.xtts.state_dict().items())

def test_a_decoder_of_full_width_is_not_cut():
    from xtts_ka.xtts.decoder import make_decoder
    seeded_step(2, "full width")
    net = make_decoder(32, 48).waveform_decoder.eval()
    fast, z, g = FastDecoder(net), torch.randn(1, 32, 40), torch.randn(1, 512, 1)
    with torch.inference_mode(): assert fast.net.conv_pre.out_channels == 48 and torch.allclose(fast.frames(z, g, 0, 40), net(z, g=g)[0, 0], atol=1e-5)

def test_a_decoder_of_free_widths_is_cut_to_them():
    from xtts_ka.xtts.decoder import make_decoder, make_generator, widen
    seeded_step(2, "free widths")
    sizes, kernels = [48, 32, 16, 16, 16], [[3, 7, 11], [7], [3, 7], []]
    narrow, official = make_generator(32, sizes, kernels).eval(), make_decoder(32).waveform_decoder.eval()
    official.load_state_dict(widen(narrow.state_dict(), official.state_dict()))
    fast, z, g = FastDecoder(official), torch.randn(1, 32, 40), torch.randn(1, 512, 1)
    assert [fast.net.conv_pre.out_channels, *(up.out_channels for up in fast.net.ups)] == sizes
    assert [hasattr(b, "convs1") for b in fast.net.resblocks] == [k in stage for stage in kernels for k in (3, 7, 11)]
    with torch.inference_mode():
        said, theirs = fast.frames(z, g, 0, 40), official(z, g=g)[0, 0]
        assert torch.allclose(said, theirs, atol=1e-5) and float((narrow(z, g=g)[0, 0] - theirs).abs().max()) < 1e-6
        assert torch.allclose(fast.frames(z, g, 18, 22), theirs[18 * 256: 22 * 256], atol=1e-5)   # within reach of what it needs

# text

@settings(deadline=None, max_examples=200)
@given(st.lists(st.text("აბგდე", min_size=1, max_size=14), min_size=1, max_size=40), st.lists(st.sampled_from([" ", ". ", ", ", "! ", " - "]), min_size=40, max_size=40), st.integers(4, 30))
def test_pieces_fit_and_are_the_text(words, gaps, most):
    text = "".join(w + g for w, g in zip(words, gaps)).strip()
    pieces = chunks(text, most)
    assert all(0 < len(p) <= most for p in pieces) and "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(len(f"{a} {b}") > most or not (a[-1] in ".!" or b) for a, b in zip(pieces, pieces[1:]) if all(len(w) <= most for w in text.split()) and not set(text) & set(".,!-"))

# command line

@pytest.fixture(scope="session")
def export(tmp_path_factory):
    "A model of random weights in the official layout."
    from xtts_ka.xtts.decoder import make_decoder
    from xtts_ka.xtts.export import write_export
    from xtts_ka.xtts.vocabulary import Vocabulary, make_vocab
    seeded_step(4, "export")
    ka = Vocabulary(make_vocab("ka"), "ka")
    gpt = make_gpt(GptConfig(layers=2, dim=64, heads=4, max_text=80, max_codes=150), len(ka), ka.start, ka.stop, 32).eval()
    torch.nn.init.normal_(gpt.mel_head.weight, 0, 0.5)
    with torch.no_grad(): gpt.mel_head.bias[-2:] = -50.0
    narrow = make_decoder(64, 16).eval()
    speakers = {"nino": {"gpt_cond_latent": torch.randn(1, 32, 64), "speaker_embedding": torch.randn(1, 512, 1)}}
    return write_export(tmp_path_factory.mktemp("export")/"x", gpt, narrow.waveform_decoder.state_dict(), narrow.speaker_encoder, torch.ones(80), ka, speakers)

def call(*words):
    p = argparse.ArgumentParser()
    add_arguments(p)
    return main(p.parse_args([str(w) for w in words]))

def test_speak_has_its_options(export, tmp_path, capsys):
    import soundfile as sf
    for extra in ((), ("--precision", "int8"), ("--stream",), ("--best_of", 2), ("--speed", 1.25)):
        out = tmp_path/f"{'_'.join(map(str, extra)) or 'plain'}.wav"
        assert call("დილა მშვიდობისა 25", "--checkpoint", export, "--out", out, *extra) == 0 and sf.info(out).samplerate == 24000
    assert "ოცდახუთი" in capsys.readouterr().out
    sounds = {p.stem: sf.read(p)[0] for p in tmp_path.glob("*.wav")}
    assert np.abs(sounds["plain"] - sounds["--stream"]).max() < 1e-3 and abs(len(sounds["plain"]) / len(sounds["--speed_1.25"]) - 1.25) < 0.05

def test_speak_streams_to_a_pipe(export, tmp_path, capsysbinary):
    assert call("დილა", "--checkpoint", export, "--out", tmp_path/"a.wav") == 0
    capsysbinary.readouterr()
    assert call("დილა", "--checkpoint", export, "--out", "-", "--stream") == 0
    import soundfile as sf
    pcm, said = capsysbinary.readouterr()
    assert np.abs(np.frombuffer(pcm, "<i2") / 32768 - sf.read(tmp_path/"a.wav")[0]).max() < 1e-3 and b"first sound after" in said

def test_speak_reads_a_file(export, tmp_path, capsys):
    (tmp_path/"t.txt").write_text("დილა\n\n!!!\nსაღამო მშვიდობისა", encoding="utf-8")
    assert call("--text_file", tmp_path/"t.txt", "--checkpoint", export, "--out", tmp_path/"many") == 1
    assert "t.txt:3: nothing to speak" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path/"many").iterdir()) == ["0001.wav", "0004.wav", "rejects.csv", "spoken.tsv"]

@pytest.mark.parametrize("words, message", [
    ((" ",), "the text is empty"), (("ა", "--text_file", "t.txt"), "not both"), (("--text_file", "none.txt"), "none.txt: no such file"),
    (("ა", "--speed", "5"), "--speed 5.0: give 0.5"), (("ა", "--stream", "--best_of", "3"), "--stream with --best_of"), (("ა", "--out", "-"), "--out -: the name must end in"),
    (("ა", "--reference", "a.wav", "--weight", "1", "--weight", "2"), "2 weights for 1 references"), (("ა", "--best_of", "0"), "best_of")])
def test_speak_refuses(export, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(XttsKaError, match=message): call(*words, "--checkpoint", export)
    assert not list(tmp_path.iterdir())
