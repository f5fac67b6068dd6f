"""Text commands as processes of their own: rules in words, transcriptions, lexicons."""

import json
from pathlib import Path

import pytest

from xtts_ka.core.files import read_json
from xtts_ka.pipeline.cli import main
from xtts_ka.text.letters import SYSTEMS, deromanize, romanize, to_script
from xtts_ka.text.lexicons import read_mfa


def said(capsys, *words):
    "Exit status and standard output of a command."
    status = main(list(words))
    return status, capsys.readouterr().out


def test_explain_names_the_rule_of_each_change(capsys):
    status, out = said(capsys, "normalize", "XIX საუკუნე, 5 კმ", "--explain")
    lines = out.splitlines()
    assert status == 0 and lines[0] == "XIX საუკუნე, 5 კმ" and lines[-1].startswith("  = მეც")
    assert any("XIX -> მეცხრამეტე" in line and "Roman numeral" in line for line in lines)
    assert any(line.startswith("  13-") for line in lines)  # the place in the source


def test_explain_as_json(capsys):
    _, out = said(capsys, "normalize", "5 კმ", "--explain", "--format", "json")
    (span,) = json.loads(out)["spans"]
    assert span["source"] == "5 კმ" and "number" in span["rule"]
    _, out = said(capsys, "normalize", "5 კმ", "--format", "json")
    assert "rule" not in json.loads(out)["spans"][0]  # the form that programs know stays


@pytest.mark.parametrize(
    "options,expected",
    [
        ([], "r a | a r i s\n"),
        (["--punctuation"], "r a | a r i s?\n"),
        (["--stress"], "ˈr a | ˈa r i s\n"),
        (["--notation", "xsampa"], "r a | a r i s\n"),
    ],
)
def test_phonemize_options(capsys, options, expected):
    assert said(capsys, "phonemize", "რა არის?", *options) == (0, expected)


def test_aspiration_and_assimilation(capsys):
    assert said(capsys, "phonemize", "ცა", "--aspirated")[1] == "t͡sʰ a\n"
    fluent = said(capsys, "phonemize", "ფეხბურთი", "--mode", "narrow", "--assimilation")
    assert fluent == (0, "pʰ e ʁ b u ɾ tʰ i\n")
    assert main(["phonemize", "ა", "--assimilation"]) == 2


@pytest.mark.parametrize("form", ["mfa", "nemo", "piper"])
def test_lexicon(tmp_path, capsys, form):
    out = tmp_path / f"lexicon.{form}"
    status, told = said(capsys, "lexicon", "5 კატა", "--out", str(out), "--format", form)
    assert status == 0 and told.endswith("2 words\n")
    if form == "mfa":
        assert read_mfa(out)["კატა"] == ["kʼ", "a", "tʼ", "a"]
    else:
        entries = read_json(out)
        assert "კატა" in (entries["lexicon"] if form == "piper" else entries)


def test_catalogue_romanization_and_scripts_lose_nothing():
    text = "ღვინო, ჭყინტი ყველი, ძმა და მათსავით წყალი; ჩიტი, ცხენი, ჟანგი, ჯერ ჰო."
    for system in SYSTEMS[1:]:
        assert deromanize(romanize(text, system), system) == text
    for script in ("mtavruli", "asomtavruli", "nuskhuri"):
        assert to_script(to_script(text, script), "mkhedruli") == text


def test_readers_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "bench")
    import readers

    def absent():
        import no_such_reader_of_georgian  # noqa: F401

    ours = {"xtts_ka": readers.ours, "absent": absent}
    monkeypatch.setattr(readers, "READERS", ours)
    rows = readers.golden_rows()
    some = rows[::25]
    found, missing = readers.scores(some)
    lines = readers.table(some, found, missing)
    assert len(rows) > 800 and sum(found["xtts_ka"][1].values()) >= 0.97 * len(some)
    assert any("absent: left out, for no_such_reader_of_georgian" in line for line in lines)
