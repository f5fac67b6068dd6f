"""The scorers of speech: equal to the packages they stand for, deaf to bad files, cached, and clear
about what is missing."""

import ast
import ensurepip
import importlib.util
import json
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xtts_ka.core.audio import write_audio
from xtts_ka.core.errors import CheckpointError, ConfigError, MissingError, XttsKaError
from xtts_ka.core.files import sha256_file
from xtts_ka.core.randomness import seeded_step
from xtts_ka.evaluate.scorers import Scorer, ScorerCard, open_scorer, scored


def speech(seconds=2.0, seed=0):
    "A buzz whose pitch and level move, as far as a voice encoder and a recogniser care."
    r = np.random.default_rng(seed)
    t = np.arange(int(16000 * seconds)) / 16000
    f0 = 120 + 40 * seed + 20 * np.sin(2 * np.pi * 1.3 * t)
    phase = 2 * np.pi * np.cumsum(f0) / 16000
    wav = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(9 * t))
    return (0.1 * wav + 0.002 * r.normal(size=len(t))).astype(np.float32)


# the interface


class Loud(Scorer):
    card = ScorerCard("loud", "naturalness", "1", "none", "nothing", "dB", "higher")
    calls = 0

    def _score(self, wavs):
        Loud.calls += len(wavs)
        if any(abs(float(np.abs(w).max()) - 0.25) < 1e-3 for w in wavs):
            raise RuntimeError("this one\nand its trace")
        return [{"db": round(float(np.abs(w).max()), 3)} for w in wavs]


def test_one_bad_clip_stops_nothing_and_errors_are_not_cached(tmp_path):
    peaks = (0.5, 0.25, 0.0, 0.125)
    for n, peak in enumerate(peaks):
        write_audio(tmp_path / f"{n}.wav", np.tile([peak, -peak], 8000).astype(np.float32), 16000)
    (tmp_path / "4.wav").write_bytes(b"RIFF nothing")
    files = [tmp_path / f"{n}.wav" for n in range(6)]
    rows = scored(Loud(), files, tmp_path / "cache")
    assert [r.get("error", "")[:20] for r in rows] == [
        "",
        "RuntimeError: this o",
        "silent",
        "",
        rows[4]["error"][:20],
        "no such file",
    ]
    assert rows[4]["error"] and rows[0]["db"] == 0.5
    before = Loud.calls
    assert scored(Loud(), files, tmp_path / "cache") == rows
    assert Loud.calls - before == 1  # the failing clip alone is tried again

    other = Loud()
    other.card = ScorerCard("loud", "naturalness", "2", "none", "nothing", "dB", "higher")
    before = Loud.calls
    scored(other, files, tmp_path / "cache")
    assert Loud.calls > before + 1  # another version has a cache of its own
    assert len(list((tmp_path / "cache").glob("loud-*.jsonl"))) == 2


def test_a_cache_cut_by_a_kill_goes_on(tmp_path):
    write_audio(tmp_path / "a.wav", np.full(8000, 0.5, np.float32), 16000)
    scored(Loud(), [tmp_path / "a.wav"], tmp_path)
    path = next(tmp_path.glob("loud-*.jsonl"))
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-7], encoding="utf-8")
    assert scored(Loud(), [tmp_path / "a.wav"], tmp_path)[0] == {"db": 0.5}
    assert path.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("mos", ConfigError, "known: builtin, ctc"),
        ("ctc", ConfigError, "name a folder"),
        ("ctc:no/such", MissingError, "xtts-ka fetch no/such"),
        ("ctc:x?", ConfigError, "options are written"),
        ("ctc:x?language=ka", ConfigError, "no option 'language'"),
        ("utmos:no.pt", MissingError, "SpeechMOS"),
        ("wvmos:no.ckpt", MissingError, "wv_mos.ckpt"),
        ("resemblyzer:no.pt", MissingError, "no such file"),
        ("run:outputs", MissingError, "speaker_encoder"),
        ("omnilingual", MissingError, "pip install omnilingual-asr"),
        ("nemo:x", MissingError, "nemo_toolkit"),
    ],
)
def test_what_is_missing_is_named(name, kind, words):
    with pytest.raises(kind, match=words):
        open_scorer(name)


def test_a_folder_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(CheckpointError, match="BertModel"):
        open_scorer(f"ctc:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architectures": ["Wav2Vec2ForCTC"]}')
    with pytest.raises(MissingError, match="no weights"):
        open_scorer(f"ctc:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    (tmp_path / "vocab.json").write_text('{"ka": {"ა": 1}, "en": {"a": 1}}')
    with pytest.raises(ConfigError, match="add .lang=, one of en, ka"):
        open_scorer(f"ctc:{tmp_path}")
    with pytest.raises(ConfigError, match="adapter.ka.safetensors"):
        open_scorer(f"ctc:{tmp_path}?lang=ka")
    (tmp_path / "adapter.ka.safetensors").write_bytes(b"neither")
    with pytest.raises(CheckpointError, match="not a whole model"):
        open_scorer(f"ctc:{tmp_path}?lang=ka").score([speech(0.5)])


# recognisers: equal to the pipeline of transformers


def network(**changes):
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    seeded_step(0, "random network")
    sizes = dict(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    return Wav2Vec2ForCTC(Wav2Vec2Config(**sizes | changes))


def pipeline_of(scorer):
    from transformers import pipeline

    extractor, tokenizer, model = scorer.net
    return pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=extractor,
    )


def test_adapter_folder_reads_as_the_pipeline(tmp_path):
    from xtts_ka.evaluate.recognisers import save_as_hub

    net = network(feat_extract_norm="layer", do_stable_layer_norm=True, adapter_attn_dim=4)
    save_as_hub(net, list("აბგდევზ"), "ka", tmp_path)
    scorer = open_scorer("ctc", where=str(tmp_path), lang="ka", window="2", margin="0.5")
    theirs = pipeline_of(scorer)
    for seconds in (0.4, 1.9, 5.3):  # in one window, and in several
        wav = speech(seconds)
        want = theirs(wav, chunk_length_s=2, stride_length_s=0.5)["text"]
        heard = scorer.transcribe([wav])[0]
        assert heard.text == want and 0 < heard.confidence <= 1
    held = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert list(held) == ["ka"] and (tmp_path / "adapter.ka.safetensors").is_file()
    version = scorer.card.version
    (tmp_path / "adapter.ka.safetensors").write_bytes(b"changed")
    assert open_scorer(f"ctc:{tmp_path}?lang=ka").card.version != version


def test_plain_folder_with_bin_weights_and_no_adapter(tmp_path):
    import torch
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"აბგდევზ"]
    (tmp_path / "v.json").write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    Wav2Vec2CTCTokenizer(str(tmp_path / "v.json")).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    net = network()
    net.config.architectures = ["Wav2Vec2ForCTC"]
    net.config.auto_map = {"AutoModelForCTC": "evil.Model"}  # remote code is not run
    net.config.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    older = {"original0": "weight_g", "original1": "weight_v"}  # as older files name them
    state = {
        re.sub(r"parametrizations\.weight\.(original\d)", lambda m: older[m[1]], k): v
        for k, v in net.state_dict().items()
    }
    assert any(k.endswith("weight_g") for k in state)
    torch.save(state, tmp_path / "pytorch_model.bin")
    scorer = open_scorer(f"ctc:{tmp_path}")
    wavs = [speech(1.0), speech(2.0, 1)]
    theirs = pipeline_of(scorer)
    assert [h.text for h in scorer.transcribe(wavs)] == [theirs(w)["text"] for w in wavs]
    for key, value in net.state_dict().items():
        assert torch.equal(scorer.net[2].state_dict()[key], value), key

    torch.save(
        {k: v for k, v in state.items() if "lm_head" not in k}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(CheckpointError, match="lm_head.bias; they are not made up"):
        open_scorer(f"ctc:{tmp_path}").score(wavs)

    class Code:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    torch.save({"a": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        open_scorer(f"ctc:{tmp_path}").score(wavs)


def test_w2v_bert(tmp_path):
    from transformers import (
        SeamlessM4TFeatureExtractor,
        Wav2Vec2BertConfig,
        Wav2Vec2BertForCTC,
        Wav2Vec2CTCTokenizer,
    )

    seeded_step(0, "random network")
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"აბგდევზ"]
    (tmp_path / "v.json").write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    Wav2Vec2CTCTokenizer(str(tmp_path / "v.json")).save_pretrained(tmp_path)
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    Wav2Vec2BertForCTC(Wav2Vec2BertConfig(vocab_size=12, **sizes)).save_pretrained(tmp_path)
    scorer = open_scorer(f"ctc:{tmp_path}")
    for wav in (speech(1.0), speech(1.63)):
        assert scorer.transcribe([wav])[0].text == pipeline_of(scorer)(wav)["text"]


def whisper_folder(folder):
    "A tiny Whisper with bytes as its vocabulary, in the hub's layout."
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    letters = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab={**letters, "<|endoftext|>": 256}, merges=[])
    names = "startoftranscript ka transcribe translate notimestamps startofprev nospeech".split()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{n}|>" for n in names]})
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    ids = {n: tokenizer.convert_tokens_to_ids(f"<|{n}|>") for n in names}
    ends = dict(eos_token_id=256, pad_token_id=256, bos_token_id=256)
    ends["decoder_start_token_id"] = ids["startoftranscript"]
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    seeded_step(0, "random network")
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, max_target_positions=64, **sizes, **ends
    )
    net = WhisperForConditionalGeneration(config)
    net.generation_config = GenerationConfig(
        **ends,
        max_length=40,
        is_multilingual=True,
        lang_to_id={"<|ka|>": ids["ka"]},
        task_to_id={n: ids[n] for n in ("transcribe", "translate")},
        no_timestamps_token_id=ids["notimestamps"],
        max_initial_timestamp_index=50,
    )
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


def test_whisper_reads_short_and_long_clips(tmp_path):
    whisper_folder(tmp_path)
    short, long = speech(1.0), speech(33.0)
    scorer = open_scorer(f"whisper:{tmp_path}")
    rows = scorer.score([short, long])
    assert all(isinstance(r.get("text"), str) for r in rows) and rows[1]["text"]
    assert scorer.card.name.endswith("?lang=ka")
    with pytest.raises(ConfigError, match="no language 'kat'; it has ka"):
        open_scorer(f"whisper:{tmp_path}?lang=kat").score([short])


@pytest.mark.parametrize("gone", ["model.encoder.conv1.weight", "model.decoder.layer_norm.bias"])
def test_whisper_makes_no_weights_up(tmp_path, gone):
    from safetensors.torch import load_file, save_file

    whisper_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    assert "proj_out.weight" not in state  # tied to the embeddings: not missing
    del state[gone]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{re.escape(gone)}; they are not made up"):
        open_scorer(f"whisper:{tmp_path}").score([speech(0.5)])


def test_whisper_reads_at_its_rate_only(tmp_path):
    whisper_folder(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(held | {"sampling_rate": 8000}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="wants 8000 Hz, not 16000"):
        open_scorer(f"whisper:{tmp_path}").score([speech(0.5)])


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "tokenizer_config.json", "generation_config.json"]
)
def test_every_setting_is_in_the_version(tmp_path, name):
    whisper_folder(tmp_path)
    before = open_scorer(f"whisper:{tmp_path}").card.version
    with open(tmp_path / name, "a", encoding="utf-8") as f:
        f.write(" ")
    changed = open_scorer(f"whisper:{tmp_path}").card.version
    (tmp_path / name).unlink()
    assert len({before, changed, open_scorer(f"whisper:{tmp_path}").card.version}) == 3


# likeness: equal to Resemblyzer's own class


def resemblyzer_class():
    "`VoiceEncoder` of the package, whose `audio.py` is read without the line of `webrtcvad`."
    spec = importlib.util.find_spec("resemblyzer")
    if spec is None:
        pytest.skip("resemblyzer is not installed")
    home = Path(spec.submodule_search_locations[0])
    package = types.ModuleType("resemblyzer")
    package.__path__ = [str(home)]
    sys.modules["resemblyzer"] = package
    audio = types.ModuleType("resemblyzer.audio")
    tree = ast.parse((home / "audio.py").read_text(encoding="utf-8"))
    unused = ("webrtcvad", "scipy.ndimage.morphology")
    tree.body = [
        n
        for n in tree.body
        if not (isinstance(n, ast.Import) and n.names[0].name in unused)
        and not (isinstance(n, ast.ImportFrom) and n.module in unused)
    ]
    exec(compile(tree, "audio.py", "exec"), audio.__dict__)
    sys.modules["resemblyzer.audio"] = package.audio = audio
    import resemblyzer.voice_encoder as module

    return module.VoiceEncoder


def test_resemblyzer_equals_its_package():
    try:
        theirs = resemblyzer_class()("cpu", verbose=False)
        wavs = [speech(0.5), speech(1.6, 1), speech(2.9, 2), speech(4.77, 3)]
        wanted = [theirs.embed_utterance(w) for w in wavs]
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "resemblyzer"]:
            del sys.modules[name]
    for mine, want in zip(open_scorer("resemblyzer").net.embed(wavs), wanted):
        assert np.abs(mine - want).max() < 1e-5


def test_resemblyzer_without_its_compiled_helper():
    "Scoring imports neither the package nor `webrtcvad`."
    code = (
        "import sys, numpy as np; from xtts_ka.evaluate.scorers import open_scorer\n"
        "v = open_scorer('resemblyzer').embed([np.sin(np.arange(32000) / 20) / 3])[0]\n"
        "assert abs(v @ v - 1) < 1e-4\n"
        "assert not {'webrtcvad', 'resemblyzer', 'librosa'} & set(sys.modules)"
    )
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("resemblyzer is not installed")
    subprocess.run([sys.executable, "-c", code], check=True)


def wheel_of(folder, content):
    "A wheel of Resemblyzer's name, with its digest."
    path = folder / "Resemblyzer-0.1.4-py3-none-any.whl"
    about = "resemblyzer-0.1.4.dist-info"
    files = {
        "resemblyzer/pretrained.pt": content,
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: resemblyzer\nVersion: 0.1.4\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as z:
        for name, text in files.items():
            z.writestr(name, text)
    return sha256_file(path)


def test_a_wheel_of_another_digest_is_not_unpacked(tmp_path, monkeypatch):
    "By pip itself, from a folder that stands for the index."
    from xtts_ka.core.weights import _download_wheel

    own = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    if importlib.util.find_spec("pip") is None and not own:
        pytest.skip("no pip here")
    monkeypatch.setenv("PYTHONPATH", str(own[0]) if own else "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # Not by uv
    known = wheel_of(tmp_path, "weights")
    out = tmp_path / "out"
    out.mkdir()
    _download_wheel("Resemblyzer==0.1.4", known, out)
    assert (out / "resemblyzer/pretrained.pt").read_text() == "weights"

    wheel_of(tmp_path, "something else")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CheckpointError, match="another wheel .* nothing was unpacked"):
        _download_wheel("Resemblyzer==0.1.4", known, other)
    assert [p.name for p in other.iterdir()] == ["requirements.txt"]


def test_a_damaged_voice_encoder(tmp_path):
    import torch

    torch.save({"model_state": {"linear.weight": torch.zeros(2, 2)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not the encoder of Resemblyzer"):
        open_scorer(f"resemblyzer:{tmp_path}/x.pt").embed([speech()])
    (tmp_path / "y.pt").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError):
        open_scorer(f"resemblyzer:{tmp_path}/y.pt").embed([speech()])


def test_encoders_of_folders(tmp_path):
    from xtts_ka.evaluate.likeness import VoiceReferences
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder

    save_encoder(tmp_path / "speaker_encoder", new_ecapa(EncoderConfig(), 0))
    scorer = open_scorer(f"run:{tmp_path}")
    again = open_scorer("run", where=str(tmp_path / "speaker_encoder"))
    assert scorer.card.version == again.card.version
    assert "no independent witness" in scorer.card.language
    wavs = [speech(1.0, n // 2) for n in range(4)]
    known = VoiceReferences(scorer, wavs, 16000, ["a", "a", "b", "b"])
    assert known.spread.eer == 0 and known.spread.same > 0.99
    silent = types.SimpleNamespace(wav=np.zeros(16000, np.float32), rate=16000, speaker="a")
    assert known.similarity([silent]) == [0]


def test_an_encoder_of_another_rate(tmp_path, root):
    "A run whose encoder was trained at 22,050 Hz gets its clips at that rate."
    from xtts_ka.core.audio import resample, set_level
    from xtts_ka.evaluate.scorers import score_wavs, to_vector
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import build_encoder, save_encoder

    save_encoder(tmp_path / "speaker_encoder", new_ecapa(EncoderConfig(sample_rate=22050), 0))
    scorer = open_scorer(f"run:{tmp_path}")
    assert scorer.rate == 22050
    wav = speech(1.5)
    ours = to_vector(score_wavs(scorer, [wav], 16000)[0], scorer.dim)
    net = build_encoder(str(tmp_path / "speaker_encoder"), device="cpu")
    theirs = net.embed([set_level(resample(wav, 16000, 22050), -23.0)])[0]
    assert np.abs(ours - theirs).max() < 1e-5

    spec = importlib.util.spec_from_file_location("bench_listening", root / "bench/listening.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    assert np.abs(np.array(bench.vectors_by(scorer, [wav])) - theirs).max() < 1e-5
    with pytest.raises(SystemExit, match="1 clips fail, first: silent"):
        bench.vectors_by(scorer, [wav, 0 * wav])


class Deaf:
    "An encoder's network that fails on loud clips."

    def __init__(self, scorer):
        self.scorer, self.net = scorer, scorer.net

    def embed(self, wavs):
        if any(len(w) == 16001 for w in wavs):
            raise RuntimeError("out of memory")
        return self.net.embed(wavs)


def test_failures_of_an_encoder_are_no_likeness_of_zero(tmp_path):
    from xtts_ka.evaluate.likeness import VoiceReferences
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder

    save_encoder(tmp_path / "speaker_encoder", new_ecapa(EncoderConfig(), 0))
    scorer = open_scorer(f"run:{tmp_path}")
    whole = VoiceReferences(scorer, [speech(1.0), speech(1.0, 1), speech(2.0)], 16000, list("aba"))
    scorer.net = Deaf(scorer)
    fails = np.pad(speech(1.0), (0, 1))
    silent, tiny = np.zeros(16000, np.float32), speech(0.01)
    wavs = [speech(1.0), fails, silent, speech(1.0, 1), tiny, speech(2.0)]
    partly = VoiceReferences(scorer, wavs, 16000, list("aaabca"))
    assert partly.of.keys() == {"a", "b"} and partly.spread.clips == 3
    assert abs(partly.spread.same - whole.spread.same) < 1e-4
    assert abs(partly.spread.different - whole.spread.different) < 1e-4
    assert partly.note.startswith("3 of 6 recordings") and not whole.note
    assert all(w in partly.note for w in ("1 RuntimeError: out of memory", "1 silent", "too short"))

    def clip(wav, speaker="a"):
        return types.SimpleNamespace(wav=wav, rate=16000, speaker=speaker)

    found = partly.similarity([clip(w) for w in (speech(1.0), fails, silent, tiny, silent[:0])])
    assert found[0] > 0.99 and np.isnan(found[1]) and not found[2:].any()
    assert np.isnan(partly.similarity([clip(speech(1.0), "c")])).all()

    def damaged(wavs):
        raise XttsKaError("its weights are damaged")

    scorer.net.embed = damaged
    with pytest.raises(XttsKaError, match="its weights are damaged"):
        scorer.score([speech(1.0)])


def test_a_network_that_cannot_be_loaded_stops_everything():
    class Broken(Loud):
        @property
        def net(self):
            return [].no_such_attribute

    with pytest.raises(AttributeError, match="no_such_attribute"):
        Broken().score([speech(0.5)])


def test_cards_show_places_relative_to_the_root(tmp_path, monkeypatch, root):
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    save_encoder(tmp_path / "outputs/x/speaker_encoder", new_ecapa(EncoderConfig(), 0))
    whisper_folder(tmp_path / "models/w")
    for name, where in (
        ("run", "outputs/x"),
        ("whisper", "models/w"),
        ("ecapa", "outputs/x/speaker_encoder"),
    ):
        card = open_scorer(name, where=str(tmp_path / where)).card
        assert card.name.partition("?")[0] == f"{name}:{where}", card
        assert str(tmp_path) not in f"{card.name} {card.needs}"
