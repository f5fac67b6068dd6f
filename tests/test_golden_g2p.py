"""Narrow transcriptions worked out by hand from the six rules, and what a G2P may never do."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_ka.text.g2p import GraphemeToPhoneme, PhonemeProcessor, read_pronunciations
from xtts_ka.text.letters import LETTERS, SYSTEMS, deromanize, romanize
from xtts_ka.text.phoneme_inventory import edits, inventory, p2g

GOLDEN = Path(__file__).parent / "golden/ka_narrow.tsv"
many = settings(max_examples=2000, deadline=None, database=None, derandomize=True)


def rows():
    header, *lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["word", "phones", "rule"]
    return [line.split("\t") for line in lines]


def test_golden_table_is_what_it_says():
    """At least 120 words, each once, every rule with words for it and words against it, no symbol
    outside the inventory."""
    words, kinds = Counter(r[0] for r in rows()), Counter(r[2] for r in rows())
    assert len(words) == len(rows()) >= 120
    assert all(
        kinds[k] >= 3
        for k in (
            "labialisation",
            "final_v",
            "v_devoicing",
            "v_stays",
            "initial_devoicing",
            "no_initial_devoicing",
            "final_devoicing",
            "dark_l",
            "velar_nasal",
        )
    )
    assert {p for r in rows() for p in r[1].split()} <= set(inventory("narrow")) and set(
        "".join(words)
    ) == set(LETTERS)
    assert read_pronunciations(GOLDEN).rejects == []


@pytest.mark.parametrize("word, phones, rule", rows())
def test_golden_narrow(word, phones, rule):
    assert " ".join(GraphemeToPhoneme("narrow")(word)) == phones


def test_golden_table_needs_every_rule():
    "Broad symbols with the narrow letters alone would fail on most of it."
    plain = {c: p for c in LETTERS for p in [GraphemeToPhoneme("narrow")("ა" + c + "ა")[1]]}
    assert (
        sum([plain[c] for c in word] != phones.split() for word, phones, _ in rows())
        > len(rows()) / 2
    )


@many
@given(st.text(st.sampled_from(LETTERS), max_size=40))
def test_spelling_comes_back(word):
    for convention in ("wikipron", "sigmorphon2021"):
        assert p2g(GraphemeToPhoneme("broad", convention)(word)) == word
    for system in ("reversible", "scholarly"):
        assert deromanize(romanize(word, system), system) == word


READ = PhonemeProcessor(GraphemeToPhoneme("narrow"), normalizer=str)


@settings(many, max_examples=500)
@given(
    st.text(st.one_of(st.sampled_from(LETTERS + "ᲐႠⴀჱჴ-'"), st.characters(codec=None)), max_size=80)
)
def test_any_text_is_read(text):
    "Unpaired surrogates, control characters, mixed scripts: places fit, symbols are known."
    known, result = set(inventory("narrow")), READ(text)
    assert result.text == text and all(
        set(w.phonemes) <= known and w.phonemes for w in result.words
    )
    assert all(
        text[w.start : w.end] == w.text
        and all(i < len(w.text) and j < len(w.phonemes) for i, j in w.letters)
        for w in result.words
    )
    assert bool(result.words) != ("no speakable letter" in result.warnings)
    for system in SYSTEMS:
        romanize(text, system), deromanize(text, system)


@pytest.mark.parametrize(
    "unit", ["გვფრცქვნი", "გამარჯობა ", "ა\u0301", "ა-", "\u0301", "\u00ad", "' ", "ᲐႠ", "x"]
)
@pytest.mark.parametrize("mode", ["broad", "narrow"])
def test_time_is_linear(unit, mode):
    "A line of a megabyte takes about ten times as long as a tenth of it."
    import gc
    import time

    process = PhonemeProcessor(GraphemeToPhoneme(mode), normalizer=str)

    def seconds(n):
        start = time.process_time()
        process(unit * (n // len(unit)))
        return time.process_time() - start

    seconds(1000)

    gc.disable()  # what it looks through grows with all that other tests have left
    try:  # the least of some: the first of a size grows the heap, and the machine may be busy
        part = min(seconds(40_000) for _ in range(3))
        assert any(seconds(400_000) < 30 * max(part, 0.003) for _ in range(3))
    finally:
        gc.enable()


@many
@given(st.text("abc", max_size=9), st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_edits_is_a_distance(a, b, c):
    assert edits(a, b) == edits(b, a) <= max(len(a), len(b)) and (edits(a, b) == 0) == (a == b)
    assert edits(a, c) <= edits(a, b) + edits(b, c)


def test_g2p_needs_no_torch(root):
    import subprocess

    code = (
        "import sys, xtts_ka.text.g2p, xtts_ka.text.config; print([m for m in ('torch',"
        " 'pandas', 'hypothesis') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
