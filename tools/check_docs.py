"""Look at the documentation site as a visitor does: every link and anchor, and in a headless
Chromium every page, the search and the dark mode.

python tools/check_docs.py            after `make docs`, which calls it; without Chromium the
browser's part is skipped, and says so"""

import functools
import http.server
import re
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_docs"
WORDS = {
    "GradientReversal or resample": "resample",
    "a word of a heading": "checkpoint",
    "a command": "create-metadata",
    "a command of two words": "train-tokenizer",
    "Georgian, as it stands": "გამარჯობა",
    "Georgian, the beginning of a word": "თბილის",
}
DARK = "getComputedStyle(document.body).backgroundColor"


class Page(HTMLParser):
    "Addresses and anchors of a page."

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.anchors |= {held[k] for k in ("id", "name") if held.get(k)}
        if tag == "a" and held.get("href"):
            self.links.append(held["href"])
        if tag in ("script", "img", "audio", "source", "iframe", "video") and held.get("src"):
            self.loads.append(held["src"])
        if tag == "link" and held.get("href"):
            self.loads.append(held["href"])


@functools.cache
def page(path):
    return Page(path)


def fault(site, here, address):
    "Why an address of a page leads nowhere, or ''."
    if re.match(r"(https?|mailto):", address):
        return ""
    if re.match(r"[a-z]+:(?!//)|//", address) and not address.startswith("data:"):
        return "an address of a kind that is not known"
    if address.startswith("data:"):
        return ""
    name, _, anchor = address.partition("#")
    target = (here.parent / unquote(name.partition("?")[0])).resolve() if name else here
    if not target.is_relative_to(site):
        return "leads out of the site"
    if not target.is_file():
        return "no such file"
    return (
        f"no anchor {anchor}"
        if anchor and target.suffix == ".html" and unquote(anchor) not in page(target).anchors
        else ""
    )


def broken(site):
    """Links, anchors and files of the pages that are not there: ([lines], how many addresses were
    looked at)."""
    found, n = [], 0
    page.cache_clear()
    for here in sorted(site.rglob("*.html")):
        for address in [*page(here).links, *page(here).loads]:
            n += 1
            if why := fault(site, here, address):
                found.append(f"{here.relative_to(site)}: {address}: {why}")
    return found, n


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def served(site):
    "Give the site out on this machine; (server, address)."
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def visit(browser, address):
    "Show an address and wait until it is there."
    browser.events.clear()
    browser.call("Page.navigate", url=address)
    browser.wait(
        f"location.href.startsWith({address.partition('#')[0]!r}) && document.readyState ==="
        " 'complete'",
        60,
    )


def complaints(browser, base):
    "What the page asked for elsewhere, and what its console says."
    return [f"asks for {u}" for u in browser.asked if not u.startswith(base)] + [
        f"console: {e}" for e in browser.errors
    ]


def searched(browser, base, word):
    "Titles that the search finds for a word."
    visit(browser, f"{base}search.html?q={quote(word)}")
    browser.wait(
        "document.querySelector('#search-results .search-summary')?.innerText.length > 12 &&"
        " !/Searching/.test(document.querySelector('#search-results h2')?.innerText)",
        60,
    )
    return browser.run(
        "[...document.querySelectorAll('#search-results li a')].map(a => a.innerText)"
    )


def toggled(browser, base):
    "Backgrounds of the first page for the themes that the button goes through."
    visit(browser, f"{base}index.html")
    seen = [browser.run(DARK)]
    for _ in range(2):
        browser.run(
            "[...document.querySelectorAll('button.theme-toggle')].find(b =>"
            " b.offsetParent).click()"
        )
        seen.append(browser.run(DARK))
    browser.run("localStorage.clear()")
    return seen


def looked_at(site):
    "What is wrong in a browser: [lines]; and what was done."
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import Browser

    wrong, pages, found = [], sorted(site.rglob("*.html")), {}
    server, http_base = served(site)
    with Browser() as b:
        for p in pages:  # From the folder, as a reader opens them
            visit(b, p.as_uri())
            wrong += [f"{p.relative_to(site)}: {c}" for c in complaints(b, f"{site.as_uri()}/")]
        for base in (f"{site.as_uri()}/", http_base):
            for what, word in WORDS.items():
                found[word] = searched(b, base, word)
                wrong += (
                    []
                    if found[word]
                    else [f"search for {word} ({what}) finds nothing under {base}"]
                )
                wrong += [f"search for {word}: {c}" for c in complaints(b, base)]
            if searched(b, base, "qqqzzzxxx"):
                wrong.append("the search finds a word that is nowhere")
            if len(set(colours := toggled(b, base))) < 2:
                wrong.append(f"the dark mode does nothing: {colours}")
    server.shutdown()
    return (
        wrong,
        (
            f"{len(pages)} pages without a complaint or a request elsewhere; found:"
            f" {', '.join(f'{w} {len(t)}' for w, t in found.items())}; dark mode toggles"
        ),
    )


def main(site=SITE):
    if not (site / "index.html").is_file():
        sys.exit(f"{site}: no site there; `make docs` builds it")
    site = site.resolve()
    wrong, n = broken(site)
    if wrong:
        sys.exit("\n".join(["the site has links that lead nowhere:", *wrong]))
    print(f"links: {n} addresses on {len(list(site.rglob('*.html')))} pages lead somewhere")
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import chromium

    if not chromium():
        print("browser: skipped, neither chromium nor chrome is here")
        return
    wrong, done = looked_at(site)
    if wrong:
        sys.exit("\n".join(["in the browser:", *wrong]))
    print(f"browser: {done}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
