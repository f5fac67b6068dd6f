"""Model folders of strangers: no code of theirs runs, and what is wrong is said in one line."""

import json

import numpy as np
import pytest

from xtts_ka.core.errors import XttsKaError


def test_code_beside_a_speech_model_is_not_run_whatever_is_answered(tmp_path, monkeypatch):
    from xtts_ka.sovits.features import _load_hubert

    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    ran = tmp_path / "it ran"
    (tmp_path / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor\n"
        "class C(PretrainedConfig): model_type = 'evil'\n"
        "class M(PreTrainedModel): config_class = C\n"
        "class F(SequenceFeatureExtractor): pass\n"
    )
    own = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoFeatureExtractor": "evil.F"}
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "evil", "auto_map": own}))
    with pytest.raises(XttsKaError):
        _load_hubert(str(tmp_path), 9)
    assert not ran.exists() and not asked


# ---- XTTS exports


@pytest.fixture
def folder(tmp_path):
    "What stands in an export, as small as its checks let it be."
    import torch

    from xtts_ka.xtts.vocabulary import make_vocab

    (tmp_path / "vocab.json").write_text(json.dumps(make_vocab("ka")), encoding="utf-8")
    args = {"gpt_layers": 2, "gpt_n_heads": 2, "input_sample_rate": 22050}
    (tmp_path / "config.json").write_text(json.dumps({"model_args": args}))
    state = {f"gpt.gpt.h.{i}.ln_1.weight": torch.ones(4) for i in range(2)}
    torch.save({"model": state}, tmp_path / "model.pth")
    voice = {
        "gpt_cond_latent": torch.zeros(1, 32, 4),
        "speaker_embedding": torch.zeros(1, 512, 1),
    }
    torch.save({"ნინო": voice}, tmp_path / "speakers_xtts.pth")
    return tmp_path


def test_a_cut_model_without_a_record_is_one_line(folder):
    "Its `model.pth` ends early, and no `export.json` says what it should be."
    from xtts_ka.xtts.infer import KaXtts

    whole = (folder / "model.pth").read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (folder / "model.pth").write_bytes(whole[:size])
        with pytest.raises(XttsKaError, match="model.pth"):
            KaXtts(folder)


def tensors(name, make):
    def change(folder):
        import torch

        torch.save(make(torch), folder / name)

    return change


def values(name, *keys, to):
    def change(folder):
        content = at = json.loads((folder / name).read_text(encoding="utf-8"))
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = to
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def text(name, to):
    return lambda folder: (folder / name).write_text(to)


def rule(**given):
    rules = {"type": "Sequence", "normalizers": [{"type": "Replace", "content": "a"} | given]}
    return values("vocab.json", "normalizer", to=rules)


LAYER = "gpt.gpt.h.0.ln_1.weight"
HOSTILE = {
    "a list of weights": tensors("model.pth", lambda t: [t.ones(2)]),
    "weights of NaN": tensors("model.pth", lambda t: {"model": {LAYER: t.tensor([float("nan")])}}),
    "no tensors": tensors("model.pth", lambda t: {"model": {LAYER: [1.0, 2.0]}}),
    "a view of one number": tensors("model.pth", lambda t: {LAYER: t.ones(1).expand(10**12)}),
    "sparse": tensors("model.pth", lambda t: {LAYER: t.eye(3).to_sparse()}),
    "cut weights": lambda f: (f / "model.pth").write_bytes((f / "model.pth").read_bytes()[:-99]),
    "cut configuration": text("config.json", '{"model_args": {"gpt_la'),
    "a list of options": text("config.json", "[]"),
    "deep options": text("config.json", "[" * 100_000),
    "many layers": values("config.json", "model_args", "gpt_layers", to=10**9),
    "layers in words": values("config.json", "model_args", "gpt_layers", to="2"),
    "wide": values("config.json", "model_args", "gpt_n_model_channels", to=10**12),
    "another rate": values("config.json", "model_args", "output_sample_rate", to=10**9),
    "vocabulary of a list": text("vocab.json", "[]"),
    "ids that are words": values("vocab.json", "model", "vocab", to={"a": "b"}),
    "merges that are numbers": values("vocab.json", "model", "merges", to=[1, 2]),
    "merges of nothing": values("vocab.json", "model", "merges", to=["q w"]),
    "foreign rule": values("vocab.json", "normalizer", to={"type": "Precompiled", "x": 1}),
    "slow pattern": rule(pattern={"Regex": "^(a+)+$"}),
    "slow pattern inside a rule of ours": rule(pattern={"Regex": r"^\[[a-z-]+\](?=.*[a](a*)*$)"}),
    "long words": rule(pattern={"String": "a"}, content="a" * 10**6),
    "empty pattern": rule(pattern={"String": ""}),
    "slow split": values(
        "vocab.json",
        "pre_tokenizer",
        to={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},
    ),
    "a voice of words": tensors("speakers_xtts.pth", lambda t: {"ნინო": "voice"}),
    "a flat voice": tensors(
        "speakers_xtts.pth",
        lambda t: {"a": {"gpt_cond_latent": t.ones(4), "speaker_embedding": t.ones(512)}},
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_an_export_is_checked_before_anything_is_built_from_it(folder, what):
    from xtts_ka.xtts.export import check_folder

    assert check_folder(folder) == 8
    HOSTILE[what](folder)
    with pytest.raises(XttsKaError) as found:
        check_folder(folder)
    assert str(folder) in str(found.value) and "\n" not in str(found.value)


def test_rules_that_explode_are_noticed_before_the_library_applies_them():
    from xtts_ka.core.errors import CheckpointError
    from xtts_ka.xtts.vocabulary import Vocabulary, make_vocab

    content = make_vocab("ka")
    double = {"type": "Replace", "pattern": {"String": "გ"}, "content": "გგ"}
    content["normalizer"]["normalizers"] += [double] * 40
    with pytest.raises(CheckpointError, match="own rules make more than"):
        Vocabulary(content, "ka").encode("გამარჯობა")


@pytest.mark.parametrize(
    "about",
    [
        [],
        {"about": "me", "sha256": {}},
        {"about": {"pace": {"base": "1", "slope": 1, "spread": 1}}, "sha256": {}},
        {"about": {"pace": {"base": 1, "slope": 1, "spread": 1e9}}, "sha256": {}},
        {"about": {"alignment": {"heads": "all"}}, "sha256": {}},
        {"sha256": {"../../etc/passwd": "0"}},
        {"sha256": [1]},
    ],
)
def test_the_record_of_an_export_is_typed(folder, about):
    from xtts_ka.xtts.export import verify_export
    from xtts_ka.xtts.infer import read_heads, read_pace

    (folder / "export.json").write_text(json.dumps(about))
    with pytest.raises(XttsKaError, match="export.json|etc/passwd"):
        verify_export(folder)
        read_pace(folder)
        read_heads(folder)


# ---- GPT-SoVITS2


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a"}},
        {"pre_tokenizer": None},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": ["q w"]}},
        {"model": [], "normalizer": None},
    ],
)
def test_a_foreign_bpe_is_refused(tmp_path, change):
    from xtts_ka.sovits.config import TextConfig
    from xtts_ka.sovits.text_encoder import Bpe

    path = Bpe.train(["გამარჯობა მზე"] * 3, TextConfig(vocab_size=300)).save(tmp_path / "bpe.json")
    Bpe.load(path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(XttsKaError, match="bpe.json"):
        Bpe.load(path)


@pytest.mark.parametrize(
    "change", [{"language": 7}, {"prompt_seconds": "3"}, {"limits": [1]}, {"texts": {"words": "x"}}]
)
def test_the_configuration_of_a_model_is_typed(tmp_path, change):
    from xtts_ka.sovits.infer import load_model

    good = {"language": "ka", "prompt_seconds": 3.0, "bge": ""}
    (tmp_path / "config.json").write_text(json.dumps(good | change))
    with pytest.raises(XttsKaError, match="config.json: .* is expected"):
        load_model(tmp_path)


# ---- archives and names


def packed(path, size=2**26):
    "torch's archive of zeros, compressed: it unpacks to a thousand times its bytes."
    import zipfile

    import torch

    torch.save({"w": torch.zeros(size // 4)}, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name in plain.namelist():
                z.writestr(name, plain.read(name))
    path.with_suffix(".plain").unlink()
    return path


def test_a_compressed_archive_is_refused_wherever_weights_are_read(tmp_path):
    from xtts_ka.core.checkpoint import read_tensors
    from xtts_ka.pipeline.hub import unfit
    from xtts_ka.speaker.pretrained import read_state
    from xtts_ka.vocoder.checkpoint import _read_pt
    from xtts_ka.xtts.base import load_tensors

    path = packed(tmp_path / "model.pth")
    assert path.stat().st_size < 2**17
    for read in (read_tensors, load_tensors, read_state, _read_pt):
        with pytest.raises(XttsKaError, match="compressed parts"):
            read(path)
    assert unfit(path)


def pushed(tmp_path, record, monkeypatch):
    "A model in a shared folder."
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/notes.txt").write_text("a")
    (tmp_path / "shared/hub.json").write_text(record)
    return f"file://{tmp_path}/shared"


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "7",
        '{"files": []}',
        '{"files": {"notes.txt": 3}}',
        '{"files": {"notes.txt": {"bytes": "1", "sha256": []}}}',
        "[" * 100_000,
        '{"files": ' + "9" * 5000 + "}",
        '{"files": {"notes.txt": {"bytes": 1, "sha256": "0"}}}',
    ],
    ids=lambda record: record[:40],
)
def test_a_hostile_record_of_a_push_is_one_line(tmp_path, record, monkeypatch):
    from xtts_ka.pipeline.hub import pull, push

    place = pushed(tmp_path, record, monkeypatch)
    with pytest.raises(XttsKaError, match="hub.json") as found:
        pull(place, tmp_path / "new")
    assert "\n" not in str(found.value) and not (tmp_path / "new").exists()
    if "sha256" not in record:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/a.txt").write_text("a")
        np.save(tmp_path / "mine/a.npy", np.zeros(2))
        with pytest.raises(XttsKaError, match="hub.json"):
            push(tmp_path / "mine", place, "mit")


@pytest.mark.parametrize(
    "record", ['{"sha256": {"../../etc/passwd": "0"}}', '{"sha256": 1}', "[]", "{}"]
)
def test_an_export_that_names_files_outside_is_not_pulled(tmp_path, record, monkeypatch):
    from xtts_ka.pipeline.hub import pull

    place = pushed(tmp_path, "{}", monkeypatch)
    (tmp_path / "shared/export.json").write_text(record)
    with pytest.raises(XttsKaError, match="export.json|etc/passwd"):
        pull(place, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a\x1b[31m.txt", "a\nb.txt", "a\udc80.txt", "../a.txt"])
def test_names_that_no_honest_model_has(name):
    from xtts_ka.pipeline.hub import Held, choose_there

    with pytest.raises(XttsKaError) as found:
        choose_there([Held(name, 1)])
    assert str(found.value).isprintable()


@pytest.mark.parametrize(
    "value, like, why",
    [
        ({"a": [1, "b"]}, {"a": [int]}, "`a[1]` is a text where a whole number is expected"),
        ({"a": {"b": True}}, {"a": {str: int}}, "`a.b` is true or false where a whole number"),
        ({"a": 1}, {"b": int}, "`b` is missing"),
        ([], {"a?": int}, "it is a list where an object is expected"),
        (float("nan"), float, "it is no finite number"),
        ({"a": None, "b": 2}, {"a": (type(None), str), "b": float, "c?": str}, ""),
    ],
)
def test_what_a_json_file_should_hold(value, like, why):
    from xtts_ka.core.files import misfit

    assert misfit(value, like).startswith(why) and bool(why) == bool(misfit(value, like))
