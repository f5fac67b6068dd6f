"""Pictures of the pages of a run's report for the documentation. Needs chromium or chrome, which
nothing else here does.

python tools/gallery.py outputs/demo    writes nbs/images/gallery/*.png and gallery.json"""

import json
import re
import shutil
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import Browser, chromium

SHELF = ROOT / "nbs/images/gallery"
WIDTH, TALLEST = 900, 2400  # Of a picture in pixels


class Words(HTMLParser):
    "The first heading of a page, and the first paragraph that a person would read."

    def __init__(self, text):
        super().__init__()
        self.tag, self.heading, self.says = "", "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("h1", "p") and not (
            tag == "p" and dict(attrs).get("class") in ("kicker", "crumbs")
        ):
            self.tag = tag
            self.says += [""] * (tag == "p")

    def handle_endtag(self, tag):
        if tag == self.tag:
            self.tag = ""

    def handle_data(self, data):
        if self.tag == "h1":
            self.heading += data
        if self.tag == "p":
            self.says[-1] += data


def order(report):
    "The pages in the order in which the first one links to them."
    text = (report / "index.html").read_text(encoding="utf-8")
    return [
        Path("index.html"),
        *dict.fromkeys(
            Path(h)
            for h in re.findall(r'href="([\w.-]+\.html)', text)
            if h != "index.html" and (report / h).is_file()
        ),
    ]


def shoot(browser, page, picture):
    "A page, as long as it is but not longer than `TALLEST`."
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=WIDTH,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.open(page, "true")
    height = min(TALLEST, browser.run("document.documentElement.scrollHeight"))
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=WIDTH,
        height=height,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.shot(raw := picture.with_suffix(".raw.png"))
    Image.open(raw).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        picture, optimize=True
    )
    raw.unlink()


def main(args):
    run = Path(args[0] if args else ROOT / "outputs/demo")
    if not (run / "report/index.html").is_file():
        sys.exit(f"{run}/report: no report there; `make run` writes one")
    if not chromium():
        sys.exit("neither chromium nor chrome is on the PATH")
    config, pages = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")), []
    with tempfile.TemporaryDirectory() as folder, Browser(WIDTH, 900) as browser:
        for n, name in enumerate(order(run / "report")):
            words, picture = (
                Words((run / "report" / name).read_text(encoding="utf-8")),
                f"{n:02d}_{name.stem}.png",
            )
            shoot(browser, run / "report" / name, Path(folder) / picture)
            pages.append(
                dict(
                    picture=picture,
                    title=" ".join(words.heading.split()),
                    says=next((" ".join(s.split()) for s in words.says if len(s.split()) > 3), ""),
                )
            )
        shutil.rmtree(SHELF, ignore_errors=True)
        SHELF.mkdir(parents=True)
        for page in pages:
            shutil.copyfile(Path(folder) / page["picture"], SHELF / page["picture"])
    (SHELF / "gallery.json").write_text(
        json.dumps(
            dict(run=config["run"], seed=config["seed"], pages=pages), ensure_ascii=False, indent=1
        )
        + "\n",
        encoding="utf-8",
    )
    print(
        f"{len(pages)} pictures of the report of {config['run']}:"
        f" {sum(p.stat().st_size for p in SHELF.iterdir()) / 1000:.0f} kB in"
        f" {SHELF.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
