"""The scorers of speech: equal to the packages they stand for, deaf to bad files, cached, and clear
about what is missing."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from xtts_ka.core.audio import write_audio
from xtts_ka.core.errors import CheckpointError, ConfigError, MissingError
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
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
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
    import torch
    from transformers import (
        SeamlessM4TFeatureExtractor,
        Wav2Vec2BertConfig,
        Wav2Vec2BertForCTC,
        Wav2Vec2CTCTokenizer,
    )

    torch.manual_seed(0)
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
    import torch
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
    torch.manual_seed(0)
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
