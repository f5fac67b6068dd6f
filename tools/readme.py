"""Render README.md from nbs/index.ipynb (`--check` only compares). Hidden cells are left out, links
count from the root."""

import os
import re
import sys
from pathlib import Path

import lean  # noqa: F401
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r"^#\|\s*(hide|export|exporti|default_exp)\b", re.M)
NOTE = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: edit the notebook. -->\n\n"


def relink(text):
    """Links of a notebook in nbs/ as links of a page in the root; addresses, anchors and absolute
    paths stay."""

    def moved(m):
        if re.match(r"[a-z]+:|#|/", m[2]):
            return m[0]
        path, mark, anchor = m[2].partition("#")
        return f"{m[1]}{os.path.normpath(os.path.join('nbs', path))}{mark}{anchor}{m[3]}"

    text = re.sub(r"(!?\[[^\]]*\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))", moved, text)
    return re.sub(r"(<(?:img|a|source)\s[^>]*?(?:src|href)=\")([^\"]+)(\")", moved, text)


def render(notebook):
    "Markdown of a notebook as it was saved; nothing is executed."
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in nb.cells if c.source.strip() and not HIDDEN.search(c.source)]
    for c in nb.cells:
        if c.cell_type == "code":
            lines = c.source.splitlines()
            c.source = "\n".join(line for line in lines if not line.startswith("#|"))
        else:
            c.source = relink(c.source)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return NOTE + re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n"


def main(args):
    readme, text = ROOT / "README.md", render(ROOT / "nbs/index.ipynb")
    if "--check" not in args:
        readme.write_text(text, encoding="utf-8")
    elif readme.read_text(encoding="utf-8") != text:
        sys.exit(
            "README.md differs from nbs/index.ipynb: edit the notebook, then run: uv run python"
            " tools/readme.py"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
