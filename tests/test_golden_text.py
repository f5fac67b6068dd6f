"""Tables of readings, reasoned out row by row from the grammar, not from the code: what a Georgian
newsreader would say."""

import re
from pathlib import Path

import pytest

from xtts_ka.text.normalize import ALPHABET, KaNormalizer
from xtts_ka.text.numbers import cardinal, parse_cardinal

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared/data"


def table(name):
    header, *lines = (GOLDEN / f"{name}.tsv").read_text(encoding="utf-8").split("\n")
    rows = [dict(zip(header.split("\t"), line.split("\t"))) for line in lines if line.strip("\t ")]
    assert all(row["expected"] or row.get("category") == "emoji" for row in rows)
    return rows


@pytest.mark.parametrize(
    "name, least, share",
    [("ka_inflect", 150, 1.0), ("ka_norm_numbers", 400, 0.99), ("ka_norm_words", 240, 0.99)],
)
def test_readings(name, least, share):
    rows, normalizer = table(name), KaNormalizer()
    wrong = [
        (r["source"], r["expected"], said)
        for r in rows
        if (said := normalizer.normalize(r["source"]).text) != r["expected"]
    ]
    print(f"\n{name}: {len(rows) - len(wrong)} of {len(rows)}")
    assert len(rows) >= least and len({r["source"] for r in rows}) == len(rows)
    assert len(rows) - len(wrong) >= share * len(rows), "\n".join(
        f"{s!r}\n  expected {e}\n  said     {g}" for s, e, g in wrong
    )


def test_all_golden_readings_are_a_fixed_point():
    normalizer = KaNormalizer()
    for name in ("ka_inflect", "ka_norm_numbers", "ka_norm_words"):
        for row in table(name):
            once = normalizer.normalize(row["source"]).text
            assert normalizer.normalize(once).text == once and set(once) <= set(ALPHABET)


def test_real_sentences_leave_nothing_unread():
    path = SHARED / "text_ka/ud_sentences.tsv"
    if not path.is_file():
        pytest.skip(f"no real sentences at {path}")
    sentences = [line.split("\t")[2] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    normalizer, spans = KaNormalizer(), 0
    for sentence in sentences:
        result = normalizer.normalize(sentence)
        assert not re.search(r"[^ა-ჰ .,!?:;\"-]", result.text) and not result.warnings, (
            sentence,
            result,
        )
        assert all(sentence[s.start : s.end] == s.source for s in result.spans)
        spans += len(result.spans)
    print(f"\n{len(sentences)} sentences, {spans} spans")
    assert len(sentences) > 1400 and spans > 300


def test_cardinals_against_icu():
    """ICU spells eighteen wrongly and writes soft hyphens; apart from that it must agree on every
    number."""
    icu = pytest.importorskip(
        "icu", reason="ICU is in the `bench` group: uv run --group bench pytest"
    )
    spell = icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale("ka"))

    def plain(words):
        return words.replace("\u00ad", "").replace(" ", "").replace("თრვამეტი", "თვრამეტი")

    wrong = [n for n in range(100_001) if plain(spell.format(n)) != cardinal(n).replace(" ", "")]
    assert not wrong, wrong[:10]


def test_cardinals_come_back_as_numbers():
    import random

    draw = random.Random(0)
    large = [draw.randrange(10 ** draw.randrange(6, 16)) for _ in range(5000)]
    for n in [*range(100_001), *large]:
        assert parse_cardinal(cardinal(n)) == n
    assert len({cardinal(n) for n in large}) == len(set(large))


def test_any_string_is_read_and_reading_is_a_fixed_point():
    """10,000 strings: pieces of Georgian text put together at random, letters and signs, anything
    in Unicode, lone surrogates."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from xtts_ka.text.readings import ABBREVIATIONS, ACRONYMS, UNITS

    normalizer, seen = KaNormalizer(), []
    pieces = [
        *ABBREVIATIONS,
        *ACRONYMS,
        *UNITS,
        "5",
        "10,5",
        "მე-",
        "-ში",
        "-ე",
        "XIX",
        "ს.",
        "წ.",
        "წწ.",
        "ა.",
        "თბილისში",
        "კაცი",
        "წელს",
        "Google",
        "10:30",
        "1/2",
        "%",
        "$",
        "₾",
        "(",
        ")",
        "„",
        "“",
        '"',
        "-",
        "—",
        " ",
        ". ",
        ", ",
        "ბ-ნი",
        "ცსკ",
        "ჰმ",
        "test@mail.ge",
        "+995",
        "№",
        "[2]",
        "🙂",
        "Лев",
        "βίος",
        "<b>",
        "&amp;",
        "'",
        "ქ-ნ",
        "x²",
        "10⁶",
        "√2",
        "= 4",
        "41°43′",
        "rogor xar",
        "საqართველო",
        "Totаl",
        "სოჳლი",
        "/100 კმ",
        "გ-ლ-ე",
    ]
    texts = st.one_of(
        st.lists(st.sampled_from(pieces), max_size=8).map("".join),
        st.lists(st.sampled_from(pieces), max_size=8).map(" ".join),
        st.text(),
        st.text(alphabet='წსქმეა.-5X 2:/,₾%კმ"ზშიდ'),
        st.text(alphabet=ALPHABET + "0123456789IVXabc"),
        st.text(st.characters(categories=None)),
    )

    @settings(
        max_examples=10_000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(texts)
    def holds(text):
        once = normalizer.normalize(text)
        assert set(once.text) <= set(ALPHABET) and normalizer.normalize(once.text).text == once.text
        assert all(text[s.start : s.end] == s.source for s in once.spans)
        seen.append(once.text)

    holds()
    assert len(set(seen)) > 2000


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000,
        "ა." * 50_000,
        "5-" * 50_000,
        "a" * 100_000,
        "ბ" * 100_000,
        "1/" * 50_000,
        "+995 " * 20_000,
        "(" * 100_000,
        "I" * 100_000,
        "\ud800" * 10_000,
        "x@" * 50_000,
        "a.b" * 30_000,
        "მე-" * 30_000,
        "10:" * 30_000,
        "1 000 " * 20_000,
        "\u0301" * 100_000,
        "№" * 60_000,
        "gamarjoba, " * 10_000,
        "1=" * 30_000,
        "ა/" * 50_000,
        "პროფ. ი. " * 10_000,
        "5, " * 30_000,
    ],
)
def test_long_lines_take_linear_time(text):
    import time

    normalizer, half = KaNormalizer(), text[: len(text) // 4]

    def seconds(t):
        start = time.process_time()
        assert set(normalizer.normalize(t).text) <= set(ALPHABET)
        return time.process_time() - start

    seconds(half)
    # four times the text: 4 when linear, 16 when quadratic; the least of three, for a busy machine
    part = min(seconds(half) for _ in range(3))
    assert any(seconds(text) < 12 * max(part, 0.02) for _ in range(3))
