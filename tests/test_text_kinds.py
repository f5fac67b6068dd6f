"""Hard rows by kind, each an input and the readings a newsreader could give it: no kind may fall
below its floor, and what is read wrong must at least be flagged."""

import collections
import re
from pathlib import Path

import pytest

from xtts_ka.text.normalize import ALPHABET, KaNormalizer

GOLDEN = Path(__file__).parent / "golden"
LEAST = {"ka_hard": 0.97, "ka_hard_kinds": 0.97}  # Share of all rows
FLOOR = 0.9  # Share of each kind


def rows(name):
    lines = (GOLDEN / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    found = [line.split("\t") for line in lines if line.strip()]
    return [(r[0].replace("\\n", "\n"), r[1].split(" || "), r[2]) for r in found]


def plain(text):
    "Without punctuation; hyphens as spaces, and hyphens left out."
    text = re.sub(r'[.,!?:;"“”„]', " ", text)
    joined = re.sub(r"(?<=[ა-ჰ])-(?=[ა-ჰ])", "", text)
    return {" ".join(t.replace("-", " ").split()) for t in (text, joined)}


def is_right(said, accepted):
    "An accepted reading that starts with `=` must be met to the letter."
    return any(said == a[1:] if a[0] == "=" else plain(said) & plain(a) for a in accepted)


@pytest.fixture(scope="module", params=sorted(LEAST))
def read(request):
    "(name of the table, [(source, accepted, kind, result, right)])."
    normalizer = KaNormalizer()
    found = []
    for source, accepted, kind in rows(request.param):
        result = normalizer.normalize(source)
        found.append((source, accepted, kind, result, is_right(result.text, accepted)))
    return request.param, found


def test_every_kind_keeps_its_floor(read):
    name, found = read
    good, of = collections.Counter(), collections.Counter()
    for _, _, kind, _, right in found:
        of[kind] += 1
        good[kind] += right
    print(f"\n{name}: " + ", ".join(f"{k} {good[k]}/{of[k]}" for k in of))
    wrong = [f"{kind}: {s!r}: {r.text}" for s, _, kind, r, right in found if not right]
    assert len(found) > 150 and len({s for s, *_ in found}) == len(found)
    assert sum(good.values()) >= LEAST[name] * len(found), "\n".join(wrong)
    assert not [k for k in of if good[k] < FLOOR * of[k]], "\n".join(wrong)


def test_few_failures_are_silent(read):
    _, found = read
    wrong = [(s, r) for s, _, _, r, right in found if not right]
    silent = [s for s, r in wrong if not r.warnings and not any(x.uncertain for x in r.spans)]
    assert len(silent) <= max(1, 0.1 * len(wrong)), silent


def test_hard_rows_are_a_fixed_point(read):
    normalizer = KaNormalizer()
    for source, _, _, result, _ in read[1]:
        assert set(result.text) <= set(ALPHABET), source
        assert normalizer.normalize(result.text).text == result.text, source
