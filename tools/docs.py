"""Build the documentation site from the notebooks and tutorials into _docs/: nbdev prepares the
pages, Sphinx renders them, check_docs looks at them. Nothing is fetched, Quarto is not needed.

nbdev's own `proc_nbs` would run every cell that holds an import to fill `show_doc`; here the names
are taken from the exported module instead,
so a page needs no test to run, and all pages are made in one process."""

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lean  # noqa: F401
import nbformat
from nbdev import processors as procs
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.showdoc import show_doc

sys.path.insert(0, str(Path(__file__).resolve().parent))
import check_docs

ROOT = Path(__file__).resolve().parents[1]
WORK, SITE = ROOT / "_proc", ROOT / "_docs"
NBS, MEDIA = ROOT / "nbs", (".png", ".svg", ".jpg", ".wav", ".ogg")
PAGES = WORK / "pages"  # What Sphinx reads; what it leaves lying about stays in WORK too
STEPS = [
    # without FrontmatterProc: it drops what stands below the title in the same cell
    procs.populate_language,
    procs.add_show_docs,
    procs.strip_ansi,
    procs.hide_line,
    procs.rm_header_dash,
    procs.rm_export,
    procs.clean_magics,
    procs.hide_,
    procs.add_links,
]
FOLDERS = dict(
    tutorials="Tutorials",
    guides="Guides",
    runs="The stages",
    core="core",
    text="text",
    corpus="corpus",
    speaker="speaker",
    vocoder="vocoder",
    xtts="xtts",
    sovits="sovits",
    evaluate="evaluate",
    curate="curate",
    pipeline="pipeline",
    speech="speech",
)
CONF = """
project, author, html_title = {title!r}, {author!r}, {title!r}
extensions = ["myst_nb"]
html_theme = "furo"
html_show_sphinx = html_show_copyright = html_copy_source = html_show_sourcelink = False
nb_execution_mode, nb_merge_streams = "off", True
myst_heading_anchors, myst_enable_extensions = 4, []   # no math: MathJax would come from outside
html_static_path, html_css_files, html_js_files = ["_static"], ["house.css"], ["house.js"]
html_favicon = "_static/icon.svg"  # otherwise browsers ask for one that is not there
language = "en"        # of the words around the pages; the index holds words of every script
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
"""

CSS = """
:root { --font-stack: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Noto Sans Georgian", "DejaVu Sans", Sylfaen, sans-serif; }
article h1 { font-size: 2em; }
article h2 { font-size: 1.5em; }
article h3 { font-size: 1.15em; }
article h4 { font-size: 1em; }
article h3 code.literal,
article h4 code.literal { background: none; border: 0; padding: 0; font-size: 1em; }
/* capitals would make Mtavruli of Mkhedruli */
.sidebar-tree .caption, .toc-title { text-transform: none !important; }
div.highlight pre, div.cell_output pre { white-space: pre-wrap; overflow-wrap: anywhere; }
div.cell div.cell_input { border-left: 3px solid var(--color-brand-primary); }
article img { border-radius: 4px; } div.cell_output img { background: white; padding: 4px; }
article table td, article table th { vertical-align: top; }
/* tables of pandas */
div.cell_output table { border: 0; border-collapse: collapse; font-size: .9em; }
div.cell_output td, div.cell_output th { border: 0; padding: .25em .7em; text-align: left;
  border-bottom: 1px solid var(--color-background-border); }
"""

ORDER = {  # Pages of a folder in the order in which a newcomer reads them
    "tutorials": (
        "first_run",
        "newcomer",
        "own_recordings",
        "audiobook",
        "common_voice",
        "hub_data",
        "score_your_tts",
        "several_machines",
        "another_language",
        "first_run_ka",
        "own_recordings_ka",
        "audiobook_ka",
        "score_your_tts_ka",
    ),
    "guides": (
        "running",
        "speaking",
        "georgian_text",
        "voices",
        "xtts_v2",
        "vocoder",
        "sovits2",
        "demonstration",
        "tested",
        "glossary",
        "old_names",
        "old_names_ka",
    ),
}


def place(name):  # Of a page in the contents: those that ORDER names first
    folder, _, stem = name.rpartition("/")
    order = ORDER.get(folder, ())
    return order.index(stem) if stem in order else len(order), name


def default_exp(source):
    return (re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M) or [None, None])[1]


def signature(obj, level=3):
    "Name, signature with units and shapes, and docstring, as markdown."
    text = (
        show_doc(obj, title_level=level)
        ._repr_markdown_()
        .removeprefix("---")
        .strip()
        .removesuffix("*Call self as a function.*")
    )
    text = (
        re.sub(r"^(#+) (\S+)$", r"\1 `\2`", text, count=1, flags=re.M)
        .replace(":NoneType=None", "=None")
        .replace("pathlib.Path", "Path")
    )
    return (
        re.sub(
            r"^\)->None:",
            "):",
            re.sub("^def ", "class ", text, count=1, flags=re.M),
            count=1,
            flags=re.M,
        )
        if inspect.isclass(obj)
        else text
    )


def members(cls):
    "Documented public methods and properties of a class, in the order they were written."
    found = {
        n: getattr(m, "fget", None) or getattr(m, "__func__", m)
        for n, m in vars(cls).items()
        if not n.startswith("_")
    }
    return [
        m
        for m in found.values()
        if inspect.isfunction(m) and m.__doc__ and m.__module__ == cls.__module__
    ]


def value(default):
    "A default as the user types it, with its bounds where it has any."
    signs = dict(Ge="≥", Gt=">", Le="≤", Lt="<")
    bounds = [
        f"{signs[type(m).__name__]}\u00a0{getattr(m, type(m).__name__.lower())}"
        for m in getattr(default, "metadata", [])
        if type(m).__name__ in signs
    ]
    default = getattr(default, "default", default)
    return "" if default is ... else ", ".join([f"`{default!r}`", *bounds])


def options(cls):
    """A configuration class as a table of its options; those of other classes it holds or extends
    stand in their own tables."""
    from fastcore.docments import docments

    from xtts_ka.core.config import describe

    own, notes = vars(cls).get("__annotations__", {}), docments(cls, returns=False)
    rows = {
        o.key: f"| `{o.key}` | {o.type.replace('|', '¦')} | {value(o.default)} | {o.comment} |"
        for o in describe(cls)
        if o.key in own
    }
    parts = {
        n: f"| `{n}.…` | `{t.__name__}` | | {notes.get(n) or ''} |"
        for n, t in own.items()
        if hasattr(t, "__pydantic_config__")
    }
    base = "".join(
        f" Further options: those of `{b.__name__}`."
        for b in cls.__bases__
        if hasattr(b, "__pydantic_config__")
    )
    table = [(rows | parts)[n] for n in own if n in rows or n in parts]
    return "\n".join(
        [
            f"### `{cls.__name__}`\n\n*{cls.__doc__}*{base}\n",
            "| option | type | default | meaning |",
            "|---|---|---|---|",
            *table,
        ]
    )


def documented(call, module):
    """What `show_doc(name)` shows, as markdown; configurations get a table of their options,
    classes their methods."""
    obj = importlib.import_module(f"{get_config().lib_name}.{module}")
    for part in re.match(r"show_doc\(([\w.]+)", call)[1].split("."):
        obj = getattr(obj, part)
    if hasattr(obj, "__pydantic_config__"):
        return options(obj)
    return "\n\n".join(
        [signature(obj), *(signature(m, 4) for m in (members(obj) if inspect.isclass(obj) else []))]
    )


def relinked(text, page, here):
    """Addresses of the future site as paths between pages, so that the site works from any folder;
    links to files that are not on the site as their names."""
    cfg, up = get_config(), "../" * (len(page.parts) - 1)
    text = re.sub(
        rf"\]\({re.escape(cfg.doc_host + cfg.doc_baseurl)}/([^)#\s]*?)\.html(#[^)\s]*)?\)",
        lambda m: f"]({up}{m[1]}.ipynb{(m[2] or '').lower()})",
        text,
    )

    def kept(m):
        target = (here / m[2].partition("#")[0]).resolve()
        on_site = (
            re.match(r"[a-z]+:|#", m[2])
            or target.is_relative_to(NBS)
            and target.suffix in (".ipynb", ".md", *MEDIA)
        )
        return m[0] if on_site else m[1]

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", kept, text)


def page_cells(notebook, page):
    """The cells of a page: prose, documented names, and cells that show something, with their saved
    outputs."""
    module = next(
        filter(
            None,
            (default_exp("".join(c.source)) for c in nbformat.read(notebook, as_version=4).cells),
        ),
        None,
    )
    for cell in NBProcessor(notebook, procs=STEPS, process=True).nb.cells:
        source = (cell.get("source") or "").strip()
        if not source:
            continue
        if cell.cell_type == "markdown":
            yield nbformat.v4.new_markdown_cell(relinked(source, page, notebook.parent))
        elif source.startswith("show_doc("):
            yield nbformat.v4.new_markdown_cell(documented(source, module))
        else:
            lines = "\n".join(line for line in source.splitlines() if not line.startswith("#|"))
            yield nbformat.v4.new_code_cell(
                lines, outputs=[nbformat.from_dict(o) for o in cell.get("outputs", [])]
            )


JS = """// A page opened from a folder may not fetch others, so the excerpts below search results
// are for sites that a server gives out.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
"""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M1 8h2l2-5 3 11 3-9 1'
    ' 3h3" fill="none" stroke="#1c5d6b" stroke-width="1.6"/></svg>\n'
)


def toctree(caption, names):
    return "\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *names, "```"])


RESULTS = ("results", "guides/demonstration", "gallery", "scaling")  # What a visitor wants first
COMMANDS = "commands"  # Page of the command line


def contents(pages):
    """Tables of contents for the first page: results first, then one a folder, the tutorials in the
    order that their page gives."""
    names = [p.with_suffix("").as_posix() for p in pages]
    first = [n for n in RESULTS if n in names]
    blocks = [toctree("Results", first)] if first else []
    names = [n for n in names if n not in first]
    for folder, caption in FOLDERS.items():
        if found := [n for n in names if n.partition("/")[0] == folder and "/" in n]:
            blocks.append(toctree(caption, sorted(found, key=place)))
        if folder == "guides" and COMMANDS in names:
            blocks.append(toctree("Reference", [COMMANDS]))
    rest = [n for n in names if "/" not in n and n not in ("index", COMMANDS)]
    return nbformat.v4.new_markdown_cell("\n\n".join([*blocks, toctree("More", rest)]))


def command_help(command, parser):
    "A command as markdown: how it is called, what it does, its options with their defaults."
    import argparse

    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    lines = [f"## `{parser.prog}`", "", parser.description or "", ""]
    lines += ["```", " ".join(parser.format_usage().removeprefix("usage: ").split()), "```", ""]
    rows = []
    for a in parser._actions:
        if a.help in (None, argparse.SUPPRESS) or a in inner or a.dest == "help":
            continue
        name = ", ".join(f"`{o}`" for o in a.option_strings) or f"`{a.metavar or a.dest}`"
        plain = a.default in (None, "", argparse.SUPPRESS, [], ()) or a.default is False
        meaning = " ".join((a.help % {**vars(a), "prog": parser.prog}).split())
        rows.append(
            f"| {name} | {'' if plain else f'`{a.default}`'} | {meaning} |".replace("\n", " ")
        )
    if rows:
        lines += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    for group in inner:
        for name, sub in group.choices.items():
            lines += command_help(f"{command} {name}", sub)
    return lines


def write_commands():
    """The page of all commands, from the parsers themselves: every command, such as
    `create-metadata` or `sovits speak`, is a heading, so that the search finds it."""
    import argparse

    from xtts_ka.pipeline import cli
    from xtts_ka.pipeline.stages import STAGES

    parser = cli.parser(list(cli._MODULES))
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    lines = [
        "# Command line",
        "",
        "> Every command of `xtts-ka`, with its options and their defaults.",
        "",
        "The same is printed by `xtts-ka COMMAND --help`. What a run can be told by `KEY=VALUE` is"
        " printed by `xtts-ka config --explain SECTION`, for the sections "
        + ", ".join(f"`{s.name}`" for s in STAGES)
        + "; their tables stand on the pages of the configurations.",
        "",
    ]
    for name, sub in commands.items():
        lines += command_help(name, sub)
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{COMMANDS}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(commands)


def write_gallery(nbs):  # Whether there is one
    "The page of pictures that tools/gallery.py took of a run's report."
    kept = nbs / "images/gallery/gallery.json"
    if not kept.is_file():
        return False
    found = json.loads(kept.read_text(encoding="utf-8"))
    lines = [
        "# A report, page by page",
        "",
        (
            f"> What a run leaves to read: the pages of `outputs/{found['run']}/report`, as a"
            " browser shows them."
        ),
        "",
        (
            f"The pictures are of the run `{found['run']}` (seed {found['seed']}), taken by"
            f" `tools/gallery.py outputs/{found['run']}`. In the report itself every sentence and"
            " every clip can be heard, and nothing is loaded from outside its folder."
        ),
    ]
    for page in found["pages"]:
        lines += [
            "",
            f"## {page['title']}",
            "",
            f"{page['says']}",
            "",
            f"![The page {page['title']} of the report](images/gallery/{page['picture']})",
        ]
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return True


def prepare(nbs):
    "Write every page into `PAGES`, with what Sphinx needs beside them."
    pages = sorted(
        p.relative_to(nbs)
        for suffix in ("ipynb", "md")
        for p in nbs.rglob(f"*.{suffix}")
        if not any(x[0] in "._" for x in p.relative_to(nbs).parts)
    )
    if Path("index.ipynb") not in pages:
        sys.exit(f"{nbs / 'index.ipynb'} is missing: the site needs its first page")
    write_commands()
    made = [Path(f"{COMMANDS}.md"), *[Path("gallery.md")] * write_gallery(nbs)]
    for page in pages:
        (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".md":
            (PAGES / page).write_text(
                relinked((nbs / page).read_text(encoding="utf-8"), page, (nbs / page).parent),
                encoding="utf-8",
            )
            continue
        cells = list(page_cells(nbs / page, page)) + (
            [contents(pages + made)] if page == Path("index.ipynb") else []
        )
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=dict(language_info=dict(name="python"))),
            PAGES / page,
        )
    for extra in (p for p in nbs.rglob("*") if p.suffix in MEDIA):
        (PAGES / extra.relative_to(nbs)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(extra, PAGES / extra.relative_to(nbs))
    (PAGES / "_static").mkdir()
    (PAGES / "_static/house.css").write_text(CSS.lstrip(), encoding="utf-8")
    (PAGES / "_static/house.js").write_text(JS, encoding="utf-8")
    (PAGES / "_static/icon.svg").write_text(ICON, encoding="utf-8")
    (PAGES / "conf.py").write_text(
        CONF.format(title=get_config().title, author=get_config().author), encoding="utf-8"
    )


def outside(site):
    "Pages that load something from another address (links for people to click are fine)."
    address = r"""=["']?(?:https?:)?//"""
    loads = re.compile(
        rf"<(?:script|img|iframe|audio|source)[^>]+src{address}"
        rf"|<link[^>]+href{address}"
        r"""|@import\s+(?:url\()?["']?(?:https?:)?//"""
    )

    return [
        p.relative_to(site).as_posix()
        for p in sorted(site.rglob("*"))
        if p.suffix in (".html", ".css") and loads.search(p.read_text(encoding="utf-8"))
    ]


def main():
    sys.path.insert(0, str(ROOT))
    shutil.rmtree(WORK, ignore_errors=True)
    prepare(ROOT / "nbs")
    code = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-b",
            "html",
            "-q",
            "-W",
            "--keep-going",
            "-d",
            WORK / "doctrees",
            PAGES,
            WORK / "html",
        ]
    ).returncode
    if code:
        sys.exit(code)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(WORK / "html", SITE)
    shutil.rmtree(WORK)
    if found := outside(SITE):
        sys.exit(f"these pages load something from outside: {', '.join(found)}")
    check_docs.main(SITE)
    print(f"docs: {SITE.relative_to(ROOT)}/index.html, {len(list(SITE.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()
