"""Every sentence of README and the guides, spoken by the run here: the demonstration's, else
the smoke run's."""

import shlex
from pathlib import Path

import pytest
import soundfile
from test_docs import commands

from xtts_ka.core.audio import read_audio
from xtts_ka.core.manifest import read_manifest
from xtts_ka.pipeline.cli import main
from xtts_ka.pipeline.stages import load_run

ROOT = Path(__file__).resolve().parents[1]
LOST = 0.40  # Letters that the recogniser may misread in what the demonstration's models say
A_LETTER, AROUND = (
    0.3,
    1.5,
)  # Longest time of a letter, and of the silence around a sentence, seconds


def spoken_words(text):
    "Calls of `xtts-ka speak` and `xtts-ka sovits speak` on a page."
    calls = [
        words
        for words in commands(text)
        if words[:1] == ["speak"] or words[:2] == ["sovits", "speak"]
    ]
    return [words for words in calls if words[1] != "speak" or "--text" in words]


def other_texts(text):
    "Sentences that coqui-tts speaks from our folder, and those of `evaluate.say`."
    lines = [
        shlex.split(line)
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("tts ")
    ]
    return [words[words.index("--text") + 1] for words in lines] + list(
        load_run(ROOT / "configs/demo.yaml").evaluate.say
    )


def pages():
    "README and the guides."
    files = [ROOT / "README.md", *sorted((ROOT / "nbs/guides").glob("*.md"))]
    return "\n".join(f.read_text(encoding="utf-8") for f in files)


def wanted():
    "(model, text, the words of the call without its folders and files), each once."
    page = pages()
    found = {}
    for words in spoken_words(page):
        sovits = words[0] == "sovits"
        said = words[words.index("--text") + 1] if sovits else words[1]
        kept = [w for w in words if w.startswith("nino.wav") or w.startswith("gia.wav")]
        found["sovits" if sovits else "xtts", said, len(kept)] = kept
    for said in other_texts(page):
        found.setdefault(("xtts", said, 0), [])
    return [(model, said, kept) for (model, said, _), kept in found.items()]


def test_readme_speaks():
    models = [model for model, *_ in wanted()]
    assert (
        models.count("xtts") >= 2 and models.count("sovits") >= 1
    )  # else the search above finds nothing any more


@pytest.fixture(scope="module")
def run():
    for name in ("demo", "smoke"):
        folder = ROOT / "outputs" / name
        if (folder / "xtts/export.json").is_file() and (
            folder / "sovits2/model/config.json"
        ).is_file():
            return folder
    pytest.skip(
        "no run has finished here: `make run` makes outputs/demo, and these sentences are spoken"
        " with it"
    )


def references(run, names):
    """Options for a call: a clip of a speaker of the run for each recording that README names, with
    its weight."""
    manifest = read_manifest(run / "segments", check_audio=False)
    clip = {
        r.speaker_name: manifest.audio_path(r)
        for r in reversed(manifest.rows)
        if r.split == "train"
    }
    out = []
    for speaker, name in zip(sorted(clip), names):
        out += ["--reference", f"{clip[speaker]}{name.partition('.wav')[2]}"]
    return out


def call(run, model, said, names, out):
    "The words of README's call, with this run's folders; the smoke run says few words."
    few = ["--allow-incomplete"] if run.name == "smoke" else []
    if model == "xtts":
        return ["speak", said, "--checkpoint", str(run / "xtts"), "--out", str(out), *few]
    return [
        "sovits",
        "speak",
        "--model",
        str(run / "sovits2/model"),
        "--text",
        said,
        *references(run, names),
        "--threads",
        "1",
        "--out",
        str(out),
        *few,
    ]


@pytest.fixture(scope="module")
def said(run, tmp_path_factory):
    "(model, text) -> file, of all sentences."
    folder, out = tmp_path_factory.mktemp("readme"), []
    for k, (model, text, names) in enumerate(wanted()):
        path = folder / f"{k}.wav"
        status = main(call(run, model, text, names, path))
        out.append((model, text, status, path))
    return out


def test_the_example_in_python(run, tmp_path, monkeypatch):
    "README's four lines, as they stand, beside the run that is here."
    import re

    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S)[1]
    if run.name == "smoke":  # It has other voices
        code = code.replace("ketevan", "nino")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/demo").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert 0.3 < soundfile.info("hello.wav").duration < 10 or run.name == "smoke"


@pytest.mark.timeout(300)
def test_every_sentence_is_spoken(said, run):
    for model, text, status, path in said:
        letters = sum(c.isalpha() for c in text)
        assert not status and path.is_file(), (model, text, status)
        seconds = soundfile.info(path).duration
        shortest = 0.3 if run.name == "demo" else 0.0
        assert shortest <= seconds <= A_LETTER * letters + AROUND, (
            model,
            text,
            f"{seconds:.1f} s for {letters} letters",
        )


def test_the_demonstration_is_understood(said, run, counted):
    if run.name != "demo":
        pytest.skip("the smoke run has learned to speak nothing that could be understood")
    from xtts_ka.evaluate.recogniser import Recogniser, error_rate

    recogniser = Recogniser()
    for model in ("xtts", "sovits"):
        pairs = [
            (text, recogniser.transcribe(*read_audio(path)))
            for m, text, _, path in said
            if m == model
        ]
        lost = error_rate(pairs, draws=0)[0]
        counted(
            f"{model}: {100 * lost:.0f} % of the letters of README's {len(pairs)} sentences are"
            " lost"
        )
        assert lost <= LOST, (model, pairs)
