"""The site's own checks find what they are for, and the tutorials name commands, options and files
that exist. The site itself is looked at by `make docs`."""

import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check_docs
import docs
import gallery
from test_house import readme_breaches

TUTORIALS = sorted((ROOT / "nbs/tutorials").glob("*.md"))
GUIDES = sorted((ROOT / "nbs/guides").glob("*.md"))


def commands(text):
    "Every command line of ours in the shell blocks of a page, and in code between the lines."
    for block in re.findall(r"```sh\n(.*?)```", text, re.S) + re.findall(
        r"`((?:xtts-ka|make) [^`]+)`", text
    ):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r'"\$(\w+)[^"]*"', "2", line)
            if m := re.search(r"(?:^|\s)(?:-m xtts_ka\.cli|xtts-ka) (.*)", line):
                yield shlex.split(m[1], comments=True)


def fault(words):
    "Why a call of `xtts-ka` would be refused before it does anything, or ''."
    from xtts_ka.core.config import parse_override
    from xtts_ka.core.errors import ConfigError
    from xtts_ka.pipeline.cli import parse
    from xtts_ka.pipeline.stages import load_run
    from xtts_ka.vocoder.config import load_vocoder_config, plain_overrides

    named_alone = [*words, "--help"] if len(words) == 1 else words  # a command, not a call
    try:
        args = parse(named_alone)
        if words[0] == "run" and args.config:
            load_run(ROOT / args.config, args.overrides)
        elif words[:2] == ["vocoder", "train"] and args.config:
            load_vocoder_config(
                ROOT / args.config,
                [w for w in plain_overrides(args.overrides) if not w.startswith("path_to_save=")],
            )
        else:
            [parse_override(w) for w in getattr(args, "overrides", [])]
    except (SystemExit, ConfigError) as e:
        helped = isinstance(e, SystemExit) and not e.code
        return "" if helped else f"{shlex.join(words)}: {e}"
    return ""


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_tutorials_say_what_works(page):
    text = page.read_text(encoding="utf-8")
    assert list(commands(text)), "a tutorial without a command"
    assert page_faults(text) == [] and text.startswith("# ") and "\n> " in text


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_guides_say_what_works(page):
    text = page.read_text(encoding="utf-8")
    assert page_faults(text) == [] and text.startswith("# ") and "\n> " in text


LIMIT = 10_000  # Bytes: README is a door


def test_readme_leads_on():
    "Small; commands that run; links that lead somewhere; sounds one click away."
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size <= LIMIT and page_faults(text) == []
    assert dead_links(text) == [] and len(set(re.findall(r"\]\((\S+\.ogg)\)", text))) >= 3
    assert dead_links("[a](nbs/none.ipynb) [b](README.md#speak) [c](README.md#sing)") == [
        "nbs/none.ipynb",
        "README.md#sing",
    ]


def dead_links(text):
    "Links of a page in the root that lead to no file or heading; addresses are not asked."
    found = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", t)]
    return [t for t in found if not leads_somewhere(*t.partition("#")[::2])]


def leads_somewhere(path, anchor):
    file = ROOT / (path or "README.md")
    if not file.is_file():
        return False
    heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M) if anchor else [""]
    return anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]


def page_faults(text):
    "Commands that would be refused, and files and targets that do not exist."
    return [f for words in commands(text) if (f := fault(words))] + readme_breaches(text, ROOT)


def test_wrong_commands_would_be_found():
    wrong = (
        "```sh\nxtts-ka run --config configs/demo.yaml corpus.vocies=2\nxtts-ka rnu\ntorchrun --x 1"
        " -m xtts_ka.cli vocoder train --config configs/vocoder/v2.yaml loop.nodes=2\n```"
    )
    assert [bool(fault(w)) for w in commands(wrong)] == [True] * 3
    assert [
        fault(w) for w in commands("`xtts-ka run --config configs/demo.yaml corpus.voices=2`")
    ] == [""]


def test_every_tutorial_is_on_the_site_in_the_order_given():
    assert {p.stem for p in TUTORIALS} == set(docs.ORDER["tutorials"])
    assert {p.stem for p in GUIDES} == set(docs.ORDER["guides"])
    blocks = docs.contents(
        [
            Path("index.ipynb"),
            Path("cli.ipynb"),
            Path("core/a.ipynb"),
            *(p.relative_to(ROOT / "nbs") for p in TUTORIALS),
        ]
    ).source
    places = [blocks.index(f"tutorials/{name}") for name in docs.ORDER["tutorials"]]
    assert places == sorted(places) and places[-1] < blocks.index("core/a") < blocks.index("cli")


def test_results_stand_first_and_come_from_the_demonstration():
    names = ["index", "results", "scaling", "gallery", "commands", "guides/demonstration"]
    found = docs.contents(
        [Path(f"{n}.md") for n in [*names, "tutorials/first_run", "guides/voices"]]
    )
    places = [
        found.source.index(x) for x in ("\nresults", "\nguides/demo", "tutorials/", "\ncommands")
    ]
    assert places == sorted(places)
    kept = ROOT / "nbs/images/gallery/gallery.json"
    assert '"run": "demo"' in kept.read_text(encoding="utf-8")
    assert '"run": "demo"' in (ROOT / "nbs/results/demo.json").read_text(encoding="utf-8")


def test_command_reference(tmp_path, monkeypatch):
    "A heading for every command and each of its parts, its options with their defaults."
    from xtts_ka.pipeline.cli import _MODULES

    monkeypatch.setattr(docs, "PAGES", tmp_path)
    names = docs.write_commands()
    page = (tmp_path / "commands.md").read_text(encoding="utf-8")
    assert {"run", "normalize", "config", *_MODULES} <= set(names)
    for command in [*names, "sovits speak", "sovits train-tokenizer", "vocoder train", "hub push"]:
        assert f"\n## `xtts-ka {command}`\n" in page, command
    assert "| `--explain` |" in page and "| `--mode` | `broad` |" in page
    assert "==SUPPRESS==" not in page


def test_broken_links_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="sub/a.html#b">1</a><a href="#top">2</a><a'
        ' href="https://e.ge">3</a><img src="data:,x"><a href="sub/a%20b.html">4</a>'
    )
    (tmp_path / "sub/a.html").write_text('<p id="b"></p><a href="../index.html#top">1</a>')
    (tmp_path / "sub/a b.html").write_text("")
    assert check_docs.broken(tmp_path) == ([], 6)
    (tmp_path / "sub/a.html").write_text(
        '<a href="../none.html">1</a><a href="../index.html#bottom">2</a><a'
        ' href="../../out.html">3</a><script src="../lost.js"></script><a'
        ' href="javascript:alert(1)">4</a>'
    )
    found, n = check_docs.broken(tmp_path)
    assert n == 10 and [f.rpartition(": ")[2] for f in found] == [
        "no anchor b",
        "no such file",
        "no anchor bottom",
        "leads out of the site",
        "an address of a kind that is not known",
        "no such file",
    ]


def test_gallery_takes_titles_from_the_pages(tmp_path):
    (tmp_path / "index.html").write_text(
        '<h1>demo</h1><p class="kicker">Run report</p><p>All stages are done.</p><a'
        ' href="b.html">b</a><a href="a.html#x">a</a><a href="gone.html">g</a><a'
        ' href="b.html">again</a>'
    )
    for name in "ab":
        (tmp_path / f"{name}.html").touch()
    assert [p.name for p in gallery.order(tmp_path)] == ["index.html", "b.html", "a.html"]
    words = gallery.Words((tmp_path / "index.html").read_text())
    assert words.heading == "demo" and words.says == ["All stages are done."]


def test_a_site_is_looked_at_in_the_browser(tmp_path):
    """A page that asks for something elsewhere, and one whose script fails, are complained about; a
    good one is not."""
    from browser import Browser, chromium

    if not chromium():
        pytest.skip("no chromium to look at the pages with")
    pages = {
        "good": "<p>x</p>",
        "asks": '<img src="http://127.0.0.1:9/x.png">',
        "fails": "<script>nobody()</script>",
    }
    for name, body in pages.items():
        (tmp_path / f"{name}.html").write_text(
            f'<!doctype html><link rel="icon" href="data:,">{body}'
        )
    with Browser() as b:
        found = {}
        for name in pages:
            check_docs.visit(b, (tmp_path / f"{name}.html").as_uri())
            found[name] = check_docs.complaints(b, tmp_path.as_uri())
    assert found["good"] == [] and found["asks"] and "nobody" in str(found["fails"])
