"""Old languages keep their ids when Georgian is appended, the grown model opens in unmodified
coqui-tts, and checkpoints of coqui's own trainer are read."""

import json
from pathlib import Path

import pytest

from xtts_ka.corpus.sentences import load_sentences
from xtts_ka.text.letters import LETTERS
from xtts_ka.text.normalize import PUNCTUATION, normalize
from xtts_ka.xtts.vocabulary import Vocabulary, extend_vocab

SENTENCES = Path(__file__).parent / "golden" / "sixteen_languages.tsv"


def sentences():
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines[1:]]


def georgian():
    return [normalize(s.text).text for s in load_sentences()]


@pytest.fixture(scope="module")
def official():
    """A multilingual vocabulary of the official form (START and the tags after the first letters,
    no normaliser), its pieces learned from the 200 sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    rows = sentences()
    tags = [f"[{line}]" for line in dict.fromkeys(line for line, _ in rows)]
    t = Tokenizer(models.BPE(unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(
        [text.lower() for _, text in rows],
        trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["[STOP]", "[UNK]", "[SPACE]"],
            initial_alphabet=[*PUNCTUATION, *"abcdefghijklmnopqrstuvwxyz'"],
            show_progress=False,
        ),
    )
    content = json.loads(t.to_str())
    names = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    names[200:200] = ["[START]", *tags]
    content["model"] |= {
        "vocab": {n: i for i, n in enumerate(names)},
        "merges": [" ".join(m) for m in content["model"]["merges"]],
    }
    like = content["added_tokens"][0]
    content["added_tokens"] = [
        like | {"id": names.index(n), "content": n, "normalized": False}
        for n in ["[SPACE]", *tags, "[START]", "[UNK]", "[STOP]"]
    ]
    return content


def test_the_list_is_two_hundred_sentences_of_sixteen_languages():
    rows = sentences()
    assert (
        len(set(rows)) == 200
        and len({line for line, _ in rows}) == 16
        and not any(c in LETTERS for _, t in rows for c in t)
    )


@pytest.mark.parametrize(
    "mode,size", [("bpe", 1500), ("bpe", 100), ("characters", 2000), ("romanised", 2000)]
)
def test_no_id_of_an_old_language_changes(official, mode, size):
    old, new = (
        Vocabulary(official, "en"),
        Vocabulary(extend_vocab(official, georgian(), "ka", mode, size), "ka"),
    )
    changed = [(line, t) for line, t in sentences() if new.encode(t, line) != old.encode(t, line)]
    assert not changed and old.ids.items() <= new.ids.items()
    assert (
        old.content["model"]["merges"]
        == new.content["model"]["merges"][: len(old.content["model"]["merges"])]
    )
    assert (
        len(new) - len(old) == {"bpe": size, "characters": 1 + len(LETTERS), "romanised": 0}[mode]
    )


def test_merges_learned_on_raw_text_would_change_them(official):
    """What the peers do: merges of Latin words in the training text are appended too. The list
    would notice."""
    from xtts_ka.xtts.vocabulary import _append_merges, learn_merges, settled

    raw = [t.lower() for line, t in sentences() if line in ("en", "de")] * 2
    content = settled(official)
    _append_merges(content["model"], learn_merges(raw, "abcdefghijklmnopqrstuvwxyz", 2000), 2000)
    old, new = Vocabulary(official, "en"), Vocabulary(content, "en")
    assert sum(new.encode(t, line) != old.encode(t, line) for line, t in sentences()) > 10


@pytest.mark.parametrize("mode", ["bpe", "characters", "romanised"])
def test_no_georgian_text_is_unknown(official, mode):
    v = Vocabulary(extend_vocab(official, georgian(), "ka", mode, 300), "ka")
    for text in [*georgian(), " ".join(LETTERS) + PUNCTUATION, LETTERS[::-1]]:
        assert v.ids["[UNK]"] not in v.encode(text)


def test_coqui_clients_read_both_languages_from_the_extended_file(official, tmp_path):
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    old, new = Vocabulary(official, "en"), Vocabulary(extend_vocab(official, georgian()), "ka")
    for v, name in ((old, "old.json"), (new, "new.json")):
        v.save(tmp_path / name)
    before, after = (VoiceBpeTokenizer(tmp_path / name) for name in ("old.json", "new.json"))
    for language, text in sentences():
        if language not in ("zh-cn", "ja", "ko"):
            assert after.encode(text, language) == before.encode(
                text, language
            )  # those three need further packages
    for text in georgian()[:50]:
        assert after.encode(text, "en") == after.encode(text, "fr") == new.encode(text)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import shutil

    from xtts_ka.xtts.base import write_random_base

    folder = tmp_path_factory.mktemp("base")
    yield write_random_base(folder / "xtts", "tiny", text_rows=300, seed=1)
    shutil.rmtree(folder)


def test_a_grown_base_opens_in_unmodified_coqui(base, tmp_path):
    """The size mismatch of every fork: vocabulary and rows grow in one step, and what is written
    agrees with itself."""
    import torch

    from xtts_ka.xtts.base import Base
    from xtts_ka.xtts.export import load_stock
    from xtts_ka.xtts.resize import resize_text

    b = Base(base)
    new = Vocabulary(extend_vocab(b.vocabulary.content, georgian(), size=200), "ka")
    gpt, report = resize_text(b.gpt(), b.vocabulary, new)
    assert (report["old_rows"], report["new_rows"], report["vocabulary"]) == (
        300,
        200,
        new.fingerprint,
    )
    kept = {k: v for k, v in b.state.items() if not k.startswith("gpt.")}
    torch.save(
        {"model": {**kept, **{f"gpt.{k}": v for k, v in gpt.state_dict().items()}}},
        tmp_path / "model.pth",
    )
    new.save(tmp_path / "vocab.json")
    args = b.config["model_args"] | dict.fromkeys(
        ("gpt_number_text_tokens", "gpt_start_text_token", "gpt_stop_text_token")
    )  # as in the release
    (tmp_path / "config.json").write_text(json.dumps(b.config | {"model_args": args}))
    stock = load_stock(tmp_path)
    assert (
        stock.gpt.text_head.bias.shape == (500,)
        and stock.gpt.start_text_token == new.start == b.vocabulary.start
    )
    assert (
        torch.equal(stock.gpt.text_embedding.weight, gpt.text_embedding.weight)
        and len(Base(tmp_path).vocabulary) == 500
    )
    voice, stock.gpt.max_gen_mel_tokens = (
        b.speakers["random"],
        20,
    )  # random weights do not stop by themselves
    wav = stock.inference(
        "დილა.",
        "en",
        voice["gpt_cond_latent"],
        voice["speaker_embedding"],
        do_sample=False,
        num_beams=1,
    )["wav"]
    assert len(wav) > 1000


def test_a_checkpoint_of_coquis_trainer_is_a_base(base, tmp_path, monkeypatch):
    """GPTTrainer, saved by coqui's own function: `xtts.gpt.gpt.` keeps its inner `gpt.`, the
    optimiser is left out, and coqui opens the folder made of it."""
    import shutil

    import torch

    from xtts_ka.xtts.base import Base, find_base, read_coqui_checkpoint

    threads = torch.get_num_threads()
    from trainer.io import save_checkpoint
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig

    torch.set_num_threads(threads)  # importing coqui's data set sets it to 1
    torch.save({}, tmp_path / "no_dvae.pth")
    args = GPTArgs(
        **{
            k: v
            for k, v in Base(base).config["model_args"].items()
            if k in GPTArgs.__dataclass_fields__
        }
    )
    args.tokenizer_file, args.mel_norm_file, args.dvae_checkpoint = (
        str(base / "vocab.json"),
        str(base / "mel_stats.pth"),
        str(tmp_path / "no_dvae.pth"),
    )
    trainer = GPTTrainer(GPTTrainerConfig(model_args=args))
    save_checkpoint(
        trainer.config,
        trainer,
        str(tmp_path),
        current_step=7,
        epoch=0,
        optimizer=[torch.optim.AdamW(trainer.parameters())],
        model_loss={"train_loss": 1.0},
    )
    state, want = read_coqui_checkpoint(tmp_path / "checkpoint_7.pth"), trainer.xtts.state_dict()
    assert state.keys() == want.keys() and all(torch.equal(v, want[k]) for k, v in state.items())
    from xtts_ka.xtts.export import load_stock

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    taken = find_base(tmp_path / "checkpoint_7.pth")
    assert (
        torch.equal(load_stock(taken).gpt.mel_head.weight, want["gpt.mel_head.weight"])
        and Base(taken).dvae_config().hidden == 512
    )
    shutil.rmtree(taken)  # 300 MB each, of which 200 are the DVAE
    (tmp_path / "checkpoint_7.pth").unlink()
