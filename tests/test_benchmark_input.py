"""`xtts-ka benchmark` with what strangers bring: odd lists and folders, sounds that were replaced,
files of listeners that were mended by hand. Sounds are tones; no network but the rules."""

import json
import shlex
import sys

import numpy as np
import pytest
import soundfile

WORDS = ["ერთი", "ორი", "სამი", "ოთხი"]


def tone(path, hz=200.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(16000) * hz * 2 * np.pi / 16000), 16000)


@pytest.fixture
def home(tmp_path):
    "A list of four texts and two folders that have them all."
    lines = [f"{n}\t{w}" for n, w in enumerate(WORDS)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for n in range(4):
        tone(tmp_path / f"a/{n}.wav", 200 + n)
        tone(tmp_path / f"b/{n}.wav", 300 + n)
    return tmp_path


@pytest.fixture
def call(home, capsys):
    "`xtts-ka benchmark` in this process: (exit status, out, err)."
    from xtts_ka.pipeline.cli import main

    def run(*words, systems=("a", "b"), texts="texts.tsv", scorer="prosody"):
        lines = [s if ":" in s else f"{s}=folder:{home / s}" for s in systems]
        more = [w for line in lines for w in ("--system", line)]
        if more:
            more += ["--texts", home / texts, "--scorer", scorer]
        capsys.readouterr()
        try:
            code = main(["benchmark", *map(str, [*more, "--out", home / "out", *words])])
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()

    return run


def result_of(home):
    return json.loads((home / "out/benchmark.json").read_text(encoding="utf-8"))


def exported(home, listener, value=4.0, **changes):
    "What the page saves: an answer to each single rating of a form."
    plan = json.loads((home / "out/listening_key.json").read_text(encoding="utf-8"))
    trials = [t for t in plan["forms"][0] if plan["trials"][t]["kind"] == "mos"]
    answers = [
        {"trial": t, "stimuli": plan["trials"][t]["stimuli"], "values": [value]} for t in trials
    ]
    held = {
        "format": "xtts_ka listening test 1",
        "test": plan["test"],
        "listener": listener,
        "about": {"native": True, "headphones": True},
        "answers": answers,
    } | changes
    path = home / f"answers-{listener}.json"
    path.write_text(json.dumps(held), encoding="utf-8")
    return path


def test_answers_belong_to_the_sounds_that_were_heard(home, call):
    """Listeners are pooled; with other sounds under the old names, their answers are not shown
    beside the new figures, and those who heard the old ones are refused; with the old ones back,
    they count again."""
    listen = ("--listen", "mos", "--trials", "2")
    assert call(*listen)[0] == 0
    first, second = exported(home, "nino"), exported(home, "gia", 2.0)
    code, out, err = call("--answers", first, systems=())
    assert code == 0 and "1 listener, 2 answers" in out, err
    assert "2 listeners, 4 answers" in call("--answers", second, systems=())[1]
    again = call(*listen)[1]
    assert result_of(home)["listening"]["listeners"] == 2 and "another listening" not in again
    old = (home / "a/0.wav").read_bytes()
    tone(home / "a/0.wav", 500)
    code, out, err = call(*listen)
    assert code == 0 and "listening" not in result_of(home)
    assert "answers of 2 listeners are about another listening test" in out
    page = (home / "out/index.html").read_text(encoding="utf-8")
    assert "MOS, 1 to 5" not in page and "another listening test" in page
    code, out, err = call("--answers", first, systems=())
    assert code == 2 and "of another test" in err
    (home / "a/0.wav").write_bytes(old)
    out = call(*listen)[1]
    assert result_of(home)["listening"]["listeners"] == 2 and "another listening" not in out
    out = call(*listen, "--seed", "2")[1]
    assert "listening" not in result_of(home) and "another listening test" in out
    call("--listen", "none")
    assert not (home / "out/listen").exists() and (home / "out/answers").is_dir()


def test_answers_that_were_mended_by_hand(home, call):
    "Each refused answer is named with its file and reason; the others count, each trial once."
    call("--listen", "mos", "--trials", "2")
    good = json.loads(exported(home, "x").read_text())["answers"]
    bad = [
        good[0] | {"values": [99]},
        good[0] | {"stimuli": ["nosuch"]},
        good[0] | {"values": "five"},
        7,
    ]
    many = [good[0] | {"values": [1]}, good[0] | {"values": [2]}, *bad, *good]
    path = exported(home, "nino", answers=many)
    code, out, err = call("--answers", path, systems=())
    assert code == 1 and "1 listener, 2 answers" in out
    for said in (
        "99 is not on the scale",
        "its sounds are not",
        "is a text where",
        "answered before",
    ):
        assert said in out, out
    assert good[0]["trial"] in out and path.name in out
    assert {r["value"] for r in result_of(home)["listening"]["mos"].values()} == {4.0}
    code, out, err = call("--answers", exported(home, "empty", answers=[]), systems=())
    assert code == 2 and "no answer in it" in err
    (home / "cut.json").write_text("{", encoding="utf-8")
    code, out, err = call("--answers", home / "cut.json", systems=())
    assert code == 2 and "mend it" in err and "delete" not in err


SAY = """import sys, wave
if "--fail" in sys.argv: sys.exit("no voice today")
with wave.open(sys.argv[1], "wb") as f:
    f.setnchannels(1); f.setsampwidth(2); f.setframerate(16000)
    f.writeframes(b"\\1\\20\\1\\320" * 4000)
"""


def test_a_program_that_changes_is_called_again(home, call):
    "The files of a template belong to it; what an earlier call spoke is said, and can be redone."
    say = home / "say.py"
    say.write_text(SAY, encoding="utf-8")
    line = f"p=command:{shlex.quote(sys.executable)} {say} {{out}} {{text}}"
    wav = home / "out/systems/p/wavs/0.wav"
    listen = ("--listen", "none")
    code, out, err = call(*listen, systems=[line])
    assert code == 0 and "earlier call" not in out
    first = wav.stat().st_mtime_ns
    assert "p: 4 texts spoken by an earlier call; --again p" in call(*listen, systems=[line])[1]
    assert wav.stat().st_mtime_ns == first
    assert "earlier" not in call(*listen, "--again", "p", systems=[line])[1]
    second = wav.stat().st_mtime_ns
    say.write_text(SAY.replace("4000", "5000"), encoding="utf-8")
    assert "earlier" not in call(*listen, systems=[line])[1] and first < second
    assert wav.stat().st_mtime_ns > second and soundfile.info(wav).frames == 10000
    code, out, err = call(*listen, "--again", "nobody", systems=[line])
    assert code == 2 and "no such system that speaks; there are p" in err
    code, out, err = call(*listen, systems=[line + " --fail", "a"])
    assert code == 1 and "p: no sound that can be judged: exit status 1: no voice today" in err


def test_what_a_table_stands_on(home, call):
    "Texts in common, missing and stray files, broken links and folders named as a sound."
    for n in (1, 2):
        (home / f"b/{n}.wav").unlink()
    (home / "b/0.wav").rename(home / "b/0.WAV")
    (home / "b/3.wav").unlink()
    (home / "b/3.wav").symlink_to("nosuch")
    (home / "a/1.wav").unlink()
    (home / "a/1.wav").mkdir()
    tone(home / "b/four.wav")
    (home / "b/1.m4a").write_bytes(b"x")
    code, out, err = call("--listen", "none")
    assert code == 0 and "on the 2 texts that all systems have, of 4" in out, err
    assert "1 of 2, 2 missing" in out and "1 of 4" in out
    assert "b: 2 in the folder belong to no text (1.m4a, four.wav)" in out
    failed = {s["name"]: s["failures"] for s in result_of(home)["systems"]}
    assert failed["b"][0]["id"] == "3" and failed["a"][0]["id"] == "1"
    assert "a folder or a broken link" in failed["a"][0]["problem"]
    for name in ("table.md", "table.tex"):
        table = (home / "out" / name).read_text(encoding="utf-8")
        assert "1 of 2, 2 missing" in table and "2 texts that all systems have" in table


def test_columns_and_ids_of_a_list(home):
    from xtts_ka.core.errors import ManifestError
    from xtts_ka.evaluate.benchmark_systems import open_systems
    from xtts_ka.evaluate.benchmark_texts import read_test_set

    def read(text):
        (home / "own.tsv").write_text(text, encoding="utf-8")
        return read_test_set(str(home / "own.tsv"))

    swapped = read("text\tid\nერთი\t01\nორი\t02\n")
    assert [(t.id, t.text) for t in swapped.texts] == [("01", "ერთი"), ("02", "ორი")]
    for text, said in (
        ("id\tsentence\n01\tერთი\n", ":1: which column is what?"),
        ("01\tერთი\nორი\t\n", ":2: the text is empty"),
        ("\tერთი\n", ":1: the id is empty"),
    ):
        with pytest.raises(ManifestError, match=said.replace("?", r"\?")):
            read(text)
    own = read("ორი წინადადება\tორი\n")
    assert "'ორი წინადადება' is ორი-წინადადება-" in own.notes[0]
    tone(home / "named/ორი წინადადება.wav")
    (system,) = open_systems([f"x=folder:{home}/named"], own)
    assert system.find(own.texts[0]).name == "ორი წინადადება.wav" and not system.notes()


def test_a_configuration_with_everything(home, call):
    lines = [
        "scorers: [prosody]",
        "listen: [none]",
        f"out: {home}/there",
        f"texts: {home}/texts.tsv",
    ]
    lines += [f"systems: ['a=folder:{home}/a']"]
    (home / "all.yaml").write_text("\n".join(lines), encoding="utf-8")
    from xtts_ka.pipeline.cli import main

    assert main(["benchmark", "--config", str(home / "all.yaml")]) == 0
    assert (home / "there/benchmark.json").is_file() and not (home / "there/listen").exists()


def test_a_broken_line_of_the_scores_is_judged_anew(home, call):
    call("--listen", "none")
    before = result_of(home)["texts"]
    (cache,) = (home / "out/scores").glob("*.jsonl")
    lines = cache.read_text(encoding="utf-8").splitlines()
    cache.write_text("\n".join([lines[0], "{junk", '{"sound": 3}', *lines[3:]]) + "\n")
    code, out, err = call("--listen", "none")
    assert code == 0 and "lines that are no results (2); judged anew" in err
    assert result_of(home)["texts"] == before


@pytest.mark.parametrize(
    "systems, said",
    [
        (["m=folder:"], "nothing behind the colon"),
        (["m=model:outputs/demo?bogus=1"], "no option 'bogus'"),
        (["card"], "card.json: `parameters` is a list where a text is expected"),
        (["broken"], "mend it"),
    ],
)
def test_wrong_systems_are_one_sentence(home, call, systems, said):
    for name, text in (("card", '{"parameters": [1]}'), ("broken", "{")):
        tone(home / f"{name}/0.wav")
        (home / f"{name}/card.json").write_text(text, encoding="utf-8")
    code, out, err = call(systems=systems)
    assert code == 2 and said in err and err.count("\n") == 1, err
    assert "restore or delete" not in err


@pytest.mark.parametrize(
    "name, said",
    [("ecapa", "the hub could not be asked"), ("own..er/na--me", "not a name of the hub")],
)
def test_weights_without_a_network(capsys, monkeypatch, name, said):
    "Whatever HTTP library the hub's client uses: one sentence."
    from xtts_ka.pipeline.cli import main

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["fetch", name, "--accept-licence"]) != 0
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err


def test_a_folder_without_an_encoder(home, call):
    code, out, err = call(scorer=f"wavlm-sv:{home / 'a'}")
    assert code == 2 and "no files of a speaker encoder in this folder" in err, err
