"""Who reads Georgian text rightly: `make bench ARGS=readers`, or `python bench/readers.py`.

The rows are those of tests/golden: a text and the readings that are accepted. A peer that knows
only numbers gets its chance with every number of the text; what it leaves as it is counts as read
if the accepted reading has it so, too. Punctuation and hyphens do not count. espeak-ng reads to
phonemes, so its phonemes of the text are compared with its own phonemes of the accepted reading,
aspiration aside: only its reading is judged, not its pronunciation. A peer that is not installed is
named and left out."""

import csv
import re
import sys
from collections import Counter
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/golden"
TABLES = ("ka_norm_numbers", "ka_norm_words", "ka_hard")  # Those that are there
ALTERNATIVES = " || "
NUMBER = re.compile("[0-9]+")


def golden_rows():
    "(table, text, accepted readings) of every row."
    out = []
    for name in TABLES:
        path = GOLDEN / f"{name}.tsv"
        if not path.is_file():
            continue
        with open(path, encoding="utf-8", newline="") as f:
            for row in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE):
                text = row.get("source") or row["input"].replace("\\n", "\n")
                accepted = row.get("expected") or row.get("accepted") or ""
                values = [v.removeprefix("=") for v in accepted.split(ALTERNATIVES)]
                out.append((name, text, values))
    return out


def plain(text):
    "Forms of a text in which readings are compared: without marks, hyphens as blanks or nothing."
    bare = re.sub(r'[.,!?:;"“”„]', " ", text.replace("\xad", ""))
    joined = re.sub("(?<=[ა-ჰ])-(?=[ა-ჰ])", "", bare).replace("-", " ")
    return {" ".join(bare.replace("-", " ").split()), " ".join(joined.split())}


def by_words(read):
    "Judge of a reader that writes words."

    def right(text, accepted):
        return any(plain(read(text)) & plain(value) for value in accepted)

    return right


def each_number(spell):
    "A reader of texts from one of numbers."
    return lambda text: NUMBER.sub(lambda m: f" {spell(int(m[0]))} ", text)


def ours():
    from xtts_ka.text.normalize import normalize

    return by_words(lambda text: normalize(text).text), ""


def espeak_ng():
    from g2p import espeak

    read = HELD.enter_context(espeak())

    def sounds(text):
        words = "".join(c if c.isalnum() or c in "%₾$€.,:/+-–— " else " " for c in text)
        return [p.replace("ʰ", "") for p in read(words)]

    def right(text, accepted):
        said = sounds(text)
        return any(said == sounds(value) for value in accepted)

    return right, read.version.split()[0]


def icu():
    import icu

    spell = icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale("ka"))
    return by_words(each_number(spell.format)), icu.ICU_VERSION


def icu_and_anbani():
    import icu
    from anbani.nlp.contractions import expand_text

    spell = icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale("ka"))
    numbers = each_number(spell.format)
    return by_words(lambda text: numbers(expand_text(text))), version("anbani")


def num2words2():
    from num2words2 import num2words

    return by_words(each_number(lambda n: num2words(n, lang="ka"))), version("num2words2")


def num2geotext():
    from num2geotext import int_num_to_geo_text

    return by_words(each_number(int_num_to_geo_text)), version("num2geotext")


def georgian_numbers():
    from georgian_numbers import text_converter

    return by_words(text_converter), version("georgian-numbers")


READERS = {
    "xtts_ka": ours,
    "espeak-ng": espeak_ng,
    "ICU": icu,
    "ICU and anbani": icu_and_anbani,
    "num2words2": num2words2,
    "num2geotext": num2geotext,
    "georgian-numbers": georgian_numbers,
}


HELD = ExitStack()  # What peers keep open until all are heard


def safely(right, text, accepted):
    "A peer that fails at a text has not read it."
    try:
        return right(text, accepted)
    except Exception:  # whatever a peer raises
        return False


def scores(rows):
    "Reader -> (version, table -> rows right); and those that are not installed."
    found, missing = {}, {}
    for name, make in READERS.items():
        try:
            right, its_version = make()
        except (ImportError, PackageNotFoundError) as e:
            missing[name] = (getattr(e, "name", "") or str(e)).partition(".")[0]
            continue
        counts = Counter(t for t, text, accepted in rows if safely(right, text, accepted))
        found[name] = (its_version, counts)
    HELD.close()
    return found, missing


def table(rows, found, missing):
    "Lines of the table."
    of = Counter(t for t, _, _ in rows)
    names = [t for t in TABLES if t in of]
    lines = [f"{'':26}" + "".join(f"{t:>20}" for t in names) + f"{'all':>14}"]
    for name, (its_version, counts) in found.items():
        cells = "".join(f"{f'{counts[t]} of {of[t]}':>20}" for t in names)
        share = sum(counts.values()) / max(1, len(rows))
        lines.append(f"{f'{name} {its_version}'.strip():26}{cells}{share:>14.1%}")
    for name, package in missing.items():
        lines.append(f"{name}: left out, for {package} is not installed (uv sync --group bench)")
    return lines


def main():
    sys.path.insert(0, str(ROOT / "bench"))
    rows = golden_rows()
    print(*table(rows, *scores(rows)), sep="\n")


if __name__ == "__main__":
    main()
