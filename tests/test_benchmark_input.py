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
    assert "b: 2 in the folder belong to none of the texts of this test (1.m4a, four.wav)" in out
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


# ---- what a sound was made of


def data_set(home, count=4, rate=16000):
    "Recordings with their texts, of one speaker."
    rows = ["audio_file|text|speaker_name|split"]
    for n in range(count):
        tone(home / f"set/{n}.wav", 220 + 10 * n)
        rows.append(f"{n}.wav|{WORDS[n % 4]}|ნინო|test")
    (home / "set/metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return home / "set"


def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("*.wav"))}


COPY = """import shutil, sys
recording, out, text = sys.argv[1:]
open(sys.argv[0] + ".log", "a").write(out + "\\n")
shutil.copy(recording, out)
"""


def test_a_replaced_recording_is_copied_anew(home, call):
    "By a vocoder, and by a program that is told of it; sounds of other recordings stay."
    data_set(home)
    (home / "copy.py").write_text(COPY, encoding="utf-8")
    python = shlex.quote(sys.executable)
    told = f"told=command:{python} {home}/copy.py {{recording}} {{out}} {{text}}"
    systems = ["copy=vocoder:griffin-lim", told, "espeak:nino"]
    words = dict(systems=systems, texts="set")
    code, out, err = call("--listen", "none", **words)
    assert code == 0 and "earlier call" not in out, err
    places = [home / f"out/systems/{s}/wavs" for s in ("copy", "told", "espeak-ng")]
    before = [stamps(p) for p in places]
    out = call("--listen", "none", **words)[1]
    for name in ("copy", "told", "espeak-ng"):
        assert f"{name}: 4 texts spoken by an earlier call; --again {name}" in out
    assert [stamps(p) for p in places] == before
    tone(home / "set/2.wav", 400)
    out = call("--listen", "none", **words)[1]
    assert "copy: 3 texts spoken" in out and "espeak-ng: 4 texts spoken" in out
    for old, place, changed in zip(before, places, (["2.wav"], ["2.wav"], [])):
        now = stamps(place)
        assert [n for n in now if now[n] != old[n]] == changed
    asked = (home / "copy.py.log").read_text().splitlines()
    assert len(asked) == 5 and all(a.startswith(f"{home}/out/systems/told/.tmp-") for a in asked)
    assert not list((home / "out/systems").rglob(".tmp-*"))


def test_a_copy_is_of_its_vocoder(home):
    from xtts_ka.evaluate.benchmark_systems import VocoderCopy, parse_system
    from xtts_ka.evaluate.benchmark_texts import read_test_set

    texts = read_test_set(str(data_set(home)))
    for place in ("voc", "voc/generator"):
        weights = home / place / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        copy = VocoderCopy(parse_system(f"copy=vocoder:{home}/voc"), texts)
        made = []
        for content in (b"one", b"two", b"one"):
            weights.write_bytes(content)
            made.append(copy.made_of)
        assert made[0] == made[2] != made[1]


def test_a_program_that_was_too_slow_is_called_again(home, call):
    (home / "slow.py").write_text(
        "import pathlib, sys, time\n"
        f"flag = pathlib.Path({str(home / 'ready')!r})\n"
        "if not flag.exists(): time.sleep(60)\n" + SAY,
        encoding="utf-8",
    )
    (home / "texts.tsv").write_text("0\tერთი\n", encoding="utf-8")
    line = f"p=command:{shlex.quote(sys.executable)} {home}/slow.py {{out}} {{text}}"
    code, out, err = call("--listen", "none", "--timeout", "1", systems=[line])
    assert code == 1 and "stopped after 1 s" in err
    (home / "ready").write_text("")
    code, out, err = call("--listen", "none", systems=[line])
    assert code == 0 and result_of(home)["systems"][0]["failures"] == [], err


# ---- what is left out is said


def test_clips_that_a_scorer_cannot_judge(home, call, monkeypatch):
    "Are named, and a clip that is too short for any scorer is a failure of its system."
    from xtts_ka.evaluate.recognisers import Builtin

    soundfile.write(home / "a/2.wav", np.full(80, 0.3), 16000)
    soundfile.write(home / "b/1.wav", 0.3 * np.sin(np.arange(40000) / 9), 16000)
    monkeypatch.setattr(Builtin, "longest", 2.0)
    code, out, err = call("--listen", "none", scorer="builtin")
    said = "built-in: 1 of 4 clips of b could not be judged and are left out of its figures (1: "
    assert code == 0 and said in out and "longer than 2 s" in out, out + err
    assert "clips of a could not" not in out
    result = result_of(home)
    failed = result["systems"][0]["failures"]
    assert [f["id"] for f in failed] == ["2"] and failed[0]["problem"].startswith("too_short")
    cer = next(c["key"] for c in result["columns"] if c["label"] == "CER, built-in")
    assert result["texts"][2]["spoken"]["a"]["values"][cer] == 1.0
    assert result["common"]["b"][cer]["n"] == 3


def test_recordings_that_are_no_measure(home, call):
    """Not finite: left out with its text, and said. Silent, or at another rate: failures of the
    recordings; nothing is compared with what cannot be heard."""
    data_set(home, 11)
    wav = np.full(16000, 0.1, np.float32)
    wav[5] = np.nan
    soundfile.write(home / "set/10.wav", wav, 16000, subtype="FLOAT")
    soundfile.write(home / "set/3.wav", np.zeros(16000), 16000)
    soundfile.write(home / "set/5.wav", 0.3 * np.sin(np.arange(22050) / 9), 22050)
    code, out, err = call("--listen", "none", systems=["recordings:", "espeak:nino"], texts="set")
    assert "1 rows cannot be used; the first: 10.wav (non_finite" in out, out + err
    failed = {f["id"]: f["problem"] for f in result_of(home)["systems"][0]["failures"]}
    assert failed == {"3": "silent", "5": "rate: 22050 Hz, the others 16000 Hz"}
    said = "1 of 10 recordings cannot be used, so nothing is compared with them (3: silent)"
    assert said in out, out + err
    assert "prosody of recordings: 2 failures of 10 clips cannot be measured" in out
    lengths = [t["spoken"]["espeak-ng"]["values"].get("length|") for t in result_of(home)["texts"]]
    assert len(lengths) == 10 and lengths[3] is None and None not in lengths[:3]


def test_prosody_of_few_clips(home, call):
    data_set(home, 5)
    out = call("--listen", "none", systems=["recordings:", "espeak:nino"], texts="set")[1]
    assert "prosody: espeak-ng has pitch of 5, melody of 5, letters/s of 5," in out
    assert out.count("prosody: the recordings that others are compared with have pitch of 5") == 1
    assert "clips, and a figure needs 8" in out


def test_lines_of_a_list_that_cannot_be_read(home, call):
    lines = (home / "texts.tsv").read_bytes().splitlines()
    (home / "texts.tsv").write_bytes(b"\n".join([lines[0], b"9\t\xff\xfe", *lines[1:]]) + b"\n")
    code, out, err = call("--listen", "none")
    assert code == 0 and "texts.tsv:2: not UTF-8; the line is left out" in out, err
    (home / "texts.tsv").write_bytes(b"9\t\xff\xfe\n")
    code, out, err = call("--listen", "none")
    assert code == 2 and "no text that can be said; " in err and "texts.tsv:1: not UTF-8" in err


def test_voices_that_a_model_does_not_have(home):
    "One note, and one refusal before anything is spoken."
    from dataclasses import replace

    from xtts_ka.core.errors import ConfigError
    from xtts_ka.evaluate.benchmark_systems import Model, open_systems, parse_system
    from xtts_ka.evaluate.benchmark_texts import TestSet, TestText

    names = ["fleurs-1", "fleurs-2", "ნინო"]
    texts = [TestText(n, w, w, n, f"{n}.wav") for n, w in zip(names, WORDS)]
    fleurs = TestSet("fleurs", "", "ka", texts)
    model = Model(parse_system("XTTS=model:x"), fleurs)
    model.speakers = ["გია", "ნინო"]
    assert [model._speaker(t) for t in texts] == ["გია", "გია", "ნინო"]
    (note,) = model.notes()
    assert "XTTS: 2 of 3 texts are of speakers that it does not know (fleurs-1, fleurs-2)" in note
    assert "its first voice, გია" in note
    chosen = Model(parse_system("XTTS=model:x?speaker=19"), fleurs)
    chosen.speakers = ["გია", "19"]
    assert chosen._speaker(texts[2]) == "19" and not chosen.notes()
    same = TestSet("own", "", "ka", [replace(t, speaker="გია") for t in texts])
    cloned = Model(parse_system("x=model:x?clone=1"), same)
    cloned.speakers = []  # as GPT-SoVITS2 outside a run
    assert cloned.voice_of(same.texts[0]) == {"references": ["fleurs-2.wav", "ნინო.wav"]}
    assert not cloned.notes() and cloned.hears(same.texts[2]) == ["fleurs-1.wav", "fleurs-2.wav"]
    with pytest.raises(ConfigError, match="clone=1 needs two recordings"):
        open_systems([f"x=model:{home}?clone=1"], fleurs)
    with pytest.raises(ConfigError, match="no option 'proportion'"):
        Model(parse_system("x=model:x?proportion=1"), fleurs).check("xtts")
    Model(parse_system("x=model:x?proportion=1&top_k=3"), fleurs).check("sovits2")


# ---- what is written, and what is not


def test_the_answered_test_stays(home, call):
    "Whatever lies in the folders today: answers are added, and the test is not touched."
    listen = ("--listen", "mos", "--trials", "2")
    assert call(*listen)[0] == 0

    def state():
        files = [home / "out/listening_key.json", *(home / "out/listen").rglob("*")]
        return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}

    before = state()
    assert call(*listen)[0] == 0 and state() == before
    answers = exported(home, "nino")
    tone(home / "a/0.wav", 500)
    (home / "b/1.wav").unlink()
    code, out, err = call("--answers", answers, systems=())
    assert code == 0 and "1 listener, 2 answers" in out and state() == before, err
    page = (home / "out/index.html").read_text(encoding="utf-8")
    assert page.count("changed or removed since it was judged") == 2 and "MOS, 1 to 5" in page
    assert "1 listener" in page and page.count("<audio") == 6


def test_a_page_that_cannot_be_written_leaves_the_old_one(home, call, monkeypatch):
    "With all its sounds; afterwards the folder has the sounds of the new one alone."
    import re

    from xtts_ka.pipeline import benchmark_page

    assert call("--listen", "none")[0] == 0
    page = home / "out/index.html"

    def sounds():
        return set(re.findall(r'src="media/([^"]+)"', page.read_text(encoding="utf-8")))

    old, first = page.read_bytes(), sounds()
    for n in range(4):
        tone(home / f"a/{n}.wav", 700 + n)
    write = benchmark_page.atomic_write

    def full(path, data):
        if path.name == "index.html":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(benchmark_page, "atomic_write", full)
    assert call("--listen", "none")[0] != 0
    assert page.read_bytes() == old and first
    assert first <= {p.name for p in (home / "out/media").iterdir()}
    monkeypatch.undo()
    assert call("--listen", "none")[0] == 0
    assert {p.name for p in (home / "out/media").iterdir()} == sounds() != first
    assert not list((home / "out").glob(".tmp-*"))


def test_a_note_stands_once(home, call):
    "However often the page is written."
    from xtts_ka.pipeline.benchmark_page import write_page

    assert call(systems=["a"])[0] == 0  # of one system there is no listening test
    for _ in range(3):
        write_page(home / "out")
    said = "listening test: no text that two systems"
    assert (home / "out/index.html").read_text(encoding="utf-8").count(said) == 1
    assert (home / "out/benchmark.json").read_text(encoding="utf-8").count(said) == 1
    assert call(systems=["a"])[1].count(said) == 1


def test_an_output_never_overwrites_an_input(home, call):
    own = (home / "texts.tsv").read_bytes()
    code, out, err = call("--texts", home / "texts.tsv", "--list", home / "texts.tsv", systems=())
    assert code == 2 and "the same file as" in err and (home / "texts.tsv").read_bytes() == own
    data_set(home)
    (home / "set/test.tsv").write_text("other", encoding="utf-8")
    code, out, err = call("--texts", home / "set", "--list", home / "set/test.tsv", systems=())
    assert code == 2 and "which is to be read" in err
    assert (home / "set/test.tsv").read_text(encoding="utf-8") == "other"
    assert call("--texts", home / "set", "--list", home / "new.tsv", systems=())[0] == 0


@pytest.mark.parametrize(
    "files, said",
    [
        ({"systems/x.txt": "", "media/photo.wav": ""}, "not empty, and no benchmark"),
        ({"benchmark.json": '{"machine_info": {}}', "media/a.wav": ""}, "no benchmark"),
        ({"benchmark.json": "{", "listen/a": ""}, "no benchmark"),
    ],
)
def test_folders_of_others(home, call, files, said):
    "Nothing is written into them, and nothing is lost."
    for name, text in files.items():
        (home / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "out" / name).write_text(text, encoding="utf-8")
    code, out, err = call("--listen", "none")
    assert code == 2 and said in err and err.count("\n") == 1
    found = {p.relative_to(home / "out").as_posix() for p in (home / "out").rglob("*")}
    assert {f for f in found if (home / "out" / f).is_file()} == set(files)


def test_a_result_that_was_deleted_is_made_anew(home, call):
    call("--listen", "none")
    (home / "out/benchmark.json").write_text("{", encoding="utf-8")
    code, out, err = call("--listen", "none")
    assert code == 2 and "restore or delete" in err
    (home / "out/benchmark.json").unlink()
    assert call("--listen", "none")[0] == 0


def test_labels_are_unique(home, call):
    from xtts_ka.evaluate.benchmark import Column, unique_labels

    def column(name, version):
        return Column(
            f"{name}|{version}|CER", "CER, CTC", name, version, "recogniser", "%", "lower"
        )

    three = unique_labels([column("ctc:a", "1"), column("ctc:b", "1"), column("ctc:b", "2")])
    assert [c.label for c in three] == [
        "CER, CTC (ctc:a)",
        "CER, CTC (ctc:b) (1)",
        "CER, CTC (ctc:b) (2)",
    ]
    code, out, err = call("--listen", "none", "--scorer", "prosody")
    assert code == 2 and "--scorer prosody: named twice" in err
    data_set(home, 9)
    out = call("--listen", "none", systems=["recordings:", "espeak:nino"], texts="set")[1]
    assert "length, × the recording" in out and "pitch, 0 to 100 ↑" in out
    code, out, err = call(systems=["a", f"A=folder:{home}/b"])
    assert code == 2 and "two systems are called" in err
