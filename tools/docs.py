"""Build the documentation site from the notebooks into _docs/: nbdev prepares the pages, Sphinx renders them. Nothing is fetched, Quarto is not needed.

nbdev's own `proc_nbs` would run every cell that holds an import to fill `show_doc`; here the names are taken from the exported module instead,
so a page needs no test to run, and all pages are made in one process."""
import importlib, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, yaml
from nbdev import processors as procs
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
from nbdev.showdoc import show_doc

ROOT = Path(__file__).resolve().parents[1]
WORK, SITE = ROOT/"_proc", ROOT/"_docs"
PAGES = WORK/"pages" # What Sphinx reads; what it leaves lying about stays in WORK too
STEPS = [FrontmatterProc, procs.populate_language, procs.add_show_docs, procs.strip_ansi, procs.hide_line, procs.rm_header_dash, procs.rm_export,
         procs.clean_magics, procs.hide_, procs.add_links]
FOLDERS = dict(runs="The stages", core="core", text="text", corpus="corpus", speaker="speaker", vocoder="vocoder", xtts="xtts", sovits="sovits",
               evaluate="evaluate", pipeline="pipeline")
CONF = """
project, author, html_title = {title!r}, {author!r}, {title!r}
extensions = ["myst_nb"]
html_theme, html_show_sphinx, html_copy_source, html_show_sourcelink = "furo", False, False, False
nb_execution_mode, nb_merge_streams = "off", True
myst_heading_anchors, myst_enable_extensions = 4, []   # no math: MathJax would come from outside
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
"""

def default_exp(source): return (re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M) or [None, None])[1]

def documented(call, module):
    "What `show_doc(name)` shows, as markdown; configurations get a table of their options."
    obj = importlib.import_module(f"{get_config().lib_name}.{module}")
    for part in re.match(r"show_doc\(([\w.]+)", call)[1].split("."): obj = getattr(obj, part)
    text = show_doc(obj)._repr_markdown_().removeprefix("---").strip()
    if not hasattr(obj, "__pydantic_config__"): return text
    from xtts_ka.core.config import describe
    rows = [f"| `{o.key}` | {o.type.replace('|', '¦')} | {'' if o.default is ... else f'`{o.default!r}`'} | {o.comment} |" for o in describe(obj)]
    return f"### {obj.__name__}\n\n*{obj.__doc__}*\n\n| option | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)

def front_matter(source):
    "nbdev's first cell, a YAML block, as heading and sentence."
    values = yaml.safe_load(source.strip().strip("-")) or {}
    return "\n\n".join(filter(None, [f"# {values['title']}" if "title" in values else "", f"> {values['description']}" if "description" in values else ""]))

def relinked(text, page):
    "Addresses of the future site as paths between pages, so that the site works from any folder."
    cfg, up = get_config(), "../" * (len(page.parts) - 1)
    return re.sub(rf"\]\({re.escape(cfg.doc_host + cfg.doc_baseurl)}/([^)#\s]*?)\.html(#[^)\s]*)?\)", lambda m: f"]({up}{m[1]}.ipynb{(m[2] or '').lower()})", text)

def page_cells(notebook, page):
    "The cells of a page: prose, documented names, and cells that show something, with their saved outputs."
    module = next(filter(None, (default_exp("".join(c.source)) for c in nbformat.read(notebook, as_version=4).cells)), None)
    for cell in NBProcessor(notebook, procs=STEPS, process=True).nb.cells:
        source = (cell.get("source") or "").strip()
        if not source: continue
        if cell.cell_type == "raw": yield nbformat.v4.new_markdown_cell(front_matter(source))
        elif cell.cell_type == "markdown": yield nbformat.v4.new_markdown_cell(relinked(source, page))
        elif source.startswith("show_doc("): yield nbformat.v4.new_markdown_cell(documented(source, module))
        else:
            lines = "\n".join(l for l in source.splitlines() if not l.startswith("#|"))
            yield nbformat.v4.new_code_cell(lines, outputs=[nbformat.from_dict(o) for o in cell.get("outputs", [])])

def contents(pages):
    "Tables of contents for the first page, one a folder."
    blocks = []
    for folder, caption in FOLDERS.items():
        if names := [p.with_suffix("").as_posix() for p in pages if p.parts[0] == folder and len(p.parts) > 1]:
            blocks.append("\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *names, "```"]))
    return nbformat.v4.new_markdown_cell("\n\n".join(blocks))

def prepare(nbs):
    "Write every page into `PAGES`, with what Sphinx needs beside them."
    pages = sorted(p.relative_to(nbs) for p in nbs.rglob("*.ipynb") if not any(x[0] in "._" for x in p.relative_to(nbs).parts))
    if Path("index.ipynb") not in pages: sys.exit(f"{nbs/'index.ipynb'} is missing: the site needs its first page")
    for page in pages:
        cells = list(page_cells(nbs/page, page)) + ([contents(pages)] if page == Path("index.ipynb") else [])
        (PAGES/page).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(language_info=dict(name="python"))), PAGES/page)
    for extra in (p for p in nbs.rglob("*") if p.suffix in (".png", ".svg", ".jpg", ".wav")):
        (PAGES/extra.relative_to(nbs)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(extra, PAGES/extra.relative_to(nbs))
    (PAGES/"conf.py").write_text(CONF.format(title=get_config().title, author=get_config().author), encoding="utf-8")

def outside(site):
    "Pages that load something from another address (links for people to click are fine)."
    loads = re.compile(r"""<(?:script|img|iframe|audio|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//|@import\s+(?:url\()?["']?(?:https?:)?//""")
    return [p.relative_to(site).as_posix() for p in sorted(site.rglob("*")) if p.suffix in (".html", ".css") and loads.search(p.read_text(encoding="utf-8"))]

def main():
    sys.path.insert(0, str(ROOT))
    shutil.rmtree(WORK, ignore_errors=True)
    prepare(ROOT/"nbs")
    code = subprocess.run([sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", WORK/"doctrees", PAGES, WORK/"html"]).returncode
    if code: sys.exit(code)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(WORK/"html", SITE)
    if found := outside(SITE): sys.exit(f"these pages load something from outside: {', '.join(found)}")
    print(f"docs: {SITE.relative_to(ROOT)}/index.html, {len(list(SITE.rglob('*.html')))} pages")

if __name__ == "__main__": main()
