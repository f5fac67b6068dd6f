"""The official size of XTTS-v2: the recipe for it, and the whole way there and back with random
weights.

What takes minutes, 14 GB of memory and 11 GB of disk runs only when it is asked for: pytest -m slow
tests/test_full_size.py"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import house
import pytest
import soundfile

RECIPE = "configs/xtts_v2_ka.yaml"


# ---- the recipe


@pytest.fixture(scope="module")
def recipe(root):
    from xtts_ka.pipeline.stages import load_run

    return load_run(root / RECIPE)


@pytest.fixture(scope="module")
def text(root):
    return (root / RECIPE).read_text(encoding="utf-8")


def leaves(text):
    "`(line number, key, value, comment)` of every line that sets a value."
    found = (re.match(r"\s*([\w]+):\s*(.*?)\s*(?:#\s(.*))?$", line) for line in text.splitlines())
    return [(n, m[1], m[2], m[3] or "") for n, m in enumerate(found, 1) if m and m[2]]


def bare(text):
    return [f"{n}: {key}" for n, key, _, why in leaves(text) if len(why.split()) < 3]


def test_every_choice_has_a_reason(text):
    assert len(leaves(text)) > 60 and bare(text) == []
    assert bare(
        "steps: 10\nlr: 1e-5  # low\nclip: 1.0 # as everywhere else\nloop: # nothing is set here"
    ) == ["1: steps", "2: lr"]


def test_recipe_is_of_one_piece(recipe):
    from xtts_ka.xtts.features import CODE_STRIDE, SAMPLE_RATE

    init, train = recipe.xtts_init, recipe.full_pretrain
    assert (
        recipe.corpus.source == "folder"
        and recipe.corpus.format == "common_voice"
        and recipe.segments.split == "given"
    )
    assert init.base and not init.preset and not train.preset  # a base brings its sizes
    assert not init.accept_licence  # that is the user's word, not a file's
    assert (
        init.vocabulary.mode == "bpe" and init.vocabulary.size == recipe.language.vocab_size == 2000
    )
    padded = recipe.segments.max_seconds + 2 * recipe.segments.pad_seconds
    assert (
        recipe.segments.max_seconds <= init.max_seconds
        and padded * SAMPLE_RATE / CODE_STRIDE < 605 - 2
    )
    assert (
        train.decoder.start == "keep"
        and train.gpt.reference == "other"
        and 0 < train.replay.share < 0.5
    )
    loop = train.gpt.loop
    assert (
        loop.precision == "bf16-mixed"
        and loop.warmup < loop.steps / 10
        and loop.steps % loop.validate_every == 0
    )
    assert loop.patience * loop.validate_every < loop.steps  # else it could never end early


def test_the_figures_in_its_comments_are_those_of_its_values(recipe, text):
    "Epochs, codes and adjusted steps as the comments have them, worked out again."
    loop, share = recipe.full_pretrain.gpt.loop, recipe.full_pretrain.replay.share
    epochs, clips, hours, fewer, steps = re.search(
        r"about ([\d.]+) epochs of ([\d,]+) clips .*; of (\d+) h \(([\d,]+) clips\) take ([\d,]+)",
        text,
    ).groups()
    number, batch = (lambda t: int(t.replace(",", ""))), loop.batch_size * loop.accumulate
    assert (
        f"{batch} clips a step" in text
        and abs(loop.steps * batch * (1 - share) / number(clips) - float(epochs)) < 0.1
    )
    assert (
        1 <= number(steps) * batch * (1 - share) / number(fewer) <= 10
        and number(steps) % loop.validate_every == 0
    )
    assert f"{int(recipe.xtts_init.max_seconds * 22050 / 1024)} of the 605 codes" in text
    assert recipe.full_pretrain.gpt.reference_frames == round(6 * 22050 / 256)
    spread, drift = (
        0.02,
        loop.lr * (loop.steps - loop.warmup) * (1 + loop.final_lr) / 2,
    )  # mean of the cosine
    assert drift > spread, f"new rows could move {drift:.3f} at most, less than their spread"


def commands(text):
    "The words of every `xtts-ka run` in the comments."
    return [
        shlex.split(m[1], comments=True) for m in re.finditer(r"^#.*?xtts-ka run (.*)$", text, re.M)
    ]


def test_its_commands_are_understood(root, text):
    "Every `xtts-ka run` in the comments, with its overrides."
    from xtts_ka.pipeline.stages import find_stage, load_run

    assert len(commands(text)) == 4
    for words in commands(text):
        assert words[0] == "--config" and (root / words[1]).is_file()
        if "--to" in words:
            find_stage(words[words.index("--to") + 1])
        load_run(root / words[1], [w for w in words if "=" in w])
    for name in re.findall(r"(?:nbs|configs)/[\w/]+\.\w+", text):
        assert (root / name).is_file(), name
    assert load_run(root / RECIPE, ['full_pretrain.replay.path=""']).full_pretrain.replay.path == ""


def common_voice(folder, wav, language, parts):
    "A release of Common Voice: `parts` names the sentences of each table; two speakers a table."
    (folder / "clips").mkdir(parents=True)
    for part, sentences in parts.items():
        rows = [
            f"{part}{'ab'[i % 2] * 20}\t{part}{i}.mp3\t{said}\t2\t0\t{language}"
            for i, said in enumerate(sentences)
        ]
        for i in range(len(rows)):
            soundfile.write(folder / f"clips/{part}{i}.mp3", wav, 22050)
        (folder / f"{part}.tsv").write_text(
            "\n".join(["client_id\tpath\tsentence\tup_votes\tdown_votes\tlocale", *rows, ""]),
            encoding="utf-8",
        )


@pytest.fixture
def releases(tmp_path):
    """Common Voice and FLEURS as they are unpacked, with a few clips of espeak-ng's, where the
    recipe looks for them."""
    from xtts_ka.corpus.synthetic import Synthesizer

    wav = Synthesizer().speak("გამარჯობა, როგორ ხარ", "nino").wav
    common_voice(
        tmp_path / "data/common_voice_en",
        wav,
        "en",
        {
            "dev": [
                f"The {n} sentence is here."
                for n in "first second third fourth fifth sixth".split()
            ]
        },
    )
    common_voice(
        tmp_path / "data/common_voice_ka",
        wav,
        "ka",
        {
            "train": ["გამარჯობა, როგორ ხარ?", "დღეს კარგი ამინდია.", "მე 25 წლის ვარ.", "კარგი."],
            "dev": ["ხვალ წვიმა იქნება."],
            "test": ["სად მიდიხარ?"],
        },
    )
    fleurs = tmp_path / "data/fleurs/ka_ge"
    for part, n in (("train", 2), ("test", 3)):
        (fleurs / "audio" / part).mkdir(parents=True)
        for i in range(n):
            soundfile.write(fleurs / f"audio/{part}/{i}.wav", wav, 22050)
        lines = [
            f"{i}\t{i}.wav\tგამარჯობა, როგორ ხარ?\tგამარჯობა როგორ ხარ\tგ\t{len(wav)}\tFEMALE\n"
            for i in range(n)
        ]
        (fleurs / f"{part}.tsv").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_its_further_corpora_become_what_they_are_for(root, releases, text, monkeypatch):
    "Replay needs the language of each clip; of FLEURS, the test part stays what it is."
    from xtts_ka.corpus.segment import segment_corpus
    from xtts_ka.corpus.sources import build_corpus
    from xtts_ka.pipeline.stages import load_run

    monkeypatch.setenv("XTTS_KA_ROOT", str(releases))
    made = {}
    for words in (w for w in commands(text) if "--to" in w):
        cfg = load_run(root / words[1], [w for w in words if "=" in w])
        build_corpus(cfg.corpus, releases / cfg.run / "corpus", 1)
        made[cfg.run] = segment_corpus(
            cfg.segments, releases / cfg.run / "corpus", releases / cfg.run / "segments", 1
        ).rows
    assert (
        len(made["replay"]) == 6
        and {r.extra["language"] for r in made["replay"]} == {"en"}
        and {r.split for r in made["replay"]} == {"train", "val"}
    )
    assert sorted(r.split for r in made["fleurs_ka"]) == ["test"] * 3 + ["train"] * 2


def test_it_runs_on_a_small_base(root, releases, text, monkeypatch):
    """The recipe with all its options, from unpacked releases to an export, on a base of random
    weights; smaller are only the base and the number of steps."""
    from xtts_ka.core.files import read_json, read_jsonl
    from xtts_ka.corpus.segment import segment_corpus
    from xtts_ka.corpus.sources import build_corpus
    from xtts_ka.pipeline.stages import load_run
    from xtts_ka.xtts.base import find_base, write_random_base
    from xtts_ka.xtts.stage import Pretrain
    from xtts_ka.xtts.stage_init import XTTSModelInitializer

    monkeypatch.setenv("XTTS_KA_ROOT", str(releases))
    write_random_base(releases / "models/xtts_v2", "tiny")
    few = [
        f"full_pretrain.gpt.loop.{k}"
        for k in (
            "steps=2",
            "batch_size=2",
            "accumulate=2",
            "warmup=0",
            "validate_every=1",
            "save_every=2",
            "log_every=1",
            "workers=0",
        )
    ]
    few.append("full_pretrain.gpt.alignment.forced_steps=2")
    runs = [[w for w in words if "=" in w] for words in commands(text) if "run=replay" in words] + [
        few
    ]
    for cfg in (load_run(root / RECIPE, words) for words in runs):
        out = releases / "outputs" / cfg.run
        build_corpus(cfg.corpus, out / "corpus", cfg.seed)
        segment_corpus(cfg.segments, out / "corpus", out / "segments", cfg.seed)
    cfg.xtts_init.base = str(find_base(cfg.xtts_init.base, cfg.xtts_init.accept_licence))
    init = XTTSModelInitializer(
        cfg.xtts_init, out / "segments", out / "xtts_init", cfg.corpus.language, cfg.seed
    )
    for step in (init.vocabulary, init.mels, init.dvae):
        step()
    init.finish(init.codes())
    cfg.full_pretrain.replay.path = str(releases / cfg.full_pretrain.replay.path)
    stage = Pretrain(
        cfg.full_pretrain, out / "segments", out / "xtts_init", out / "full_pretrain", cfg.seed
    )
    result = stage.gpt()
    for step in (stage.compute_speaker_latents, stage.latents, stage.decoder):
        step()
    export = stage.export(out / "xtts", "a few clips")
    values = [r for r in read_jsonl(result.log_path) if r["kind"] == "val"]
    assert (
        result.step == 2
        and len(values) == 2
        and all({"val/code", "val/replay", "free/stopped", "free/length"} <= set(r) for r in values)
    ), values
    assert len(list((out / "full_pretrain/gpt/samples").glob("step-*/*.wav"))) >= 1
    record = read_json(export / "export.json")
    assert (
        record["dtype"] == "float16"
        and record["about"]["base"]["folder"] == "xtts_v2"
        and record["greedy_codes_equal_to_coqui"] >= 8
    )
    assert (
        str(releases)
        not in (export / "export.json").read_text()
        + (export / "xtts_v2_ka_config.json").read_text()
        + (export / "MODEL_CARD.md").read_text()
    )


def test_without_what_it_needs_it_says_so(root, tmp_path, monkeypatch):
    "Neither the corpus nor the base is here: the first message names the path."
    from xtts_ka.core.errors import XttsKaError
    from xtts_ka.corpus.sources import build_corpus
    from xtts_ka.pipeline.stages import load_run
    from xtts_ka.xtts.base import find_base

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    recipe = load_run(root / RECIPE)
    with pytest.raises(XttsKaError, match="data/common_voice_ka"):
        build_corpus(recipe.corpus, tmp_path / "corpus", 1)
    with pytest.raises(XttsKaError, match="models/xtts_v2"):
        find_base(recipe.xtts_init.base, recipe.xtts_init.accept_licence)


# ---- there and back


@pytest.fixture(scope="module")
def full(root, request, tmp_path_factory):
    "nbs/xtts/full_size.ipynb in full, in a process of its own; the folder it leaves."
    out = tmp_path_factory.mktemp("full")
    begin = time.monotonic()
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(root / "nbs/xtts/full_size.ipynb"),
            str(out / "executed.ipynb"),
            "-p",
            "preset",
            "full",
            "-p",
            "out_dir",
            str(out / "run"),
            "--no-progress-bar",
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    facts = json.loads((out / "run/full_size.json").read_text(encoding="utf-8"))
    print(
        f"\n{time.monotonic() - begin:.0f} s on {facts['device']}",
        *facts["costs"],
        *(f"{k}: {v}" for k, v in facts.items() if k != "costs"),
        sep="\n",
    )
    yield out / "run"
    if not request.session.testsfailed:
        shutil.rmtree(out)  # 11 GB; after a failure it is what one wants to look at


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_size_there_and_back(full):
    facts, args = (
        json.loads((full / "full_size.json").read_text(encoding="utf-8")),
        json.loads((full / "xtts/config.json").read_text(encoding="utf-8"))["model_args"],
    )
    assert (
        facts["base"] == "2.0.3"
        and facts["text ids"] == 6681
        and facts["text ids, extended"] == args["gpt_number_text_tokens"] == 8681
    )
    assert [
        args[f"gpt_{k}"]
        for k in (
            "layers",
            "n_model_channels",
            "n_heads",
            "num_audio_tokens",
            "max_audio_tokens",
            "max_text_tokens",
        )
    ] == [30, 1024, 16, 1026, 605, 402]
    assert facts["GPT parameters, extended"] - facts["GPT parameters"] == 2000 * (
        2 * 1024 + 1
    )  # a row of the embedding, one of the head, a bias
    assert len(facts["losses"]) == 3 and facts["greedy codes equal to coqui's"] >= 8
    assert max(c["highest memory, GB"] for c in facts["costs"]) < 16
    assert house.walk_outputs(full / "xtts") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size_by_the_tts_command(full, tmp_path):
    """The unmodified command of coqui-tts, which says `en`. Noise does not end by itself: the
    model's own limit, 602 codes, ends it after minutes."""
    folder, out = full / "xtts", tmp_path / "tts.wav"
    speaker = json.loads((folder / "export.json").read_text(encoding="utf-8"))["speakers"][0]
    run = subprocess.run(
        [
            Path(sys.executable).with_name("tts"),
            "--model_path",
            folder,
            "--config_path",
            folder / "config.json",
            "--speaker_idx",
            speaker,
            "--language_idx",
            "en",
            "--text",
            "კი.",
            "--out_path",
            out,
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    wav, rate = soundfile.read(out)
    assert rate == 24000 and len(wav) > 2400 and abs(wav).max() > 1e-4
