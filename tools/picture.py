"""Pictures of README and the guides, as a browser shows them: the first page of a run's report, and
the page that speaks. Needs chromium or chrome.

python tools/picture.py outputs/demo           writes nbs/images/report.png and page.png
python tools/picture.py outputs/demo page      one of them
python tools/picture.py outputs/benchmark benchmark    the page of a benchmark: benchmark.png"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "nbs/images"
TEXT = "შეხვედრა 14:30-ზეა, 2 ვაშლი 5%-ით იაფია."
sys.path.insert(0, str(ROOT / "tests"))
from browser import Browser, chromium  # noqa: E402

WIDTH, HEIGHT, SCALE = (
    860,
    800,
    2,
)  # Of the window in CSS pixels; pixels of the picture for each of them


def shoot(page, picture, browser, width=WIDTH, height=HEIGHT, scale=SCALE):
    "Let a browser draw a page into a PNG."
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--force-device-scale-factor={scale}",
            "--virtual-time-budget=3000",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)


def report(run, picture):
    "The beginning of the report."
    page = run / "report/index.html"
    if not page.is_file():
        sys.exit(f"{page}: no report there; `make run` writes one")
    shoot(page, picture, chromium())


def benchmark(folder, picture):
    "The beginning of a benchmark's page."
    page = folder / "index.html"
    if not page.is_file():
        sys.exit(f"{page}: no benchmark there; `xtts-ka benchmark` writes one")
    shoot(page, picture, chromium(), 1240, 960, 1.5)


def page(run, picture):
    "The page of `xtts-ka demo`, while it says a text."
    words = ["-m", "xtts_ka.cli", "demo", str(run), "--port", "0", "--device", "cpu"]
    served = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        address = served.stdout.readline().split()[0]
        with Browser(WIDTH + 300, HEIGHT) as browser:
            browser.call("Page.navigate", url=address)
            browser.wait("!!document.querySelector('#text textarea')", 120)
            browser.fill("#text textarea", TEXT)
            browser.wait("!!document.querySelector('#reading .chips')", 60)
            browser.press("#speak")
            browser.wait("!!document.querySelector('#result .now')", 120)
            browser.shot(picture, whole=True)
    finally:
        served.terminate()
        served.wait()


def main(args):
    run = Path(args[0] if args else ROOT / "outputs/demo")
    if chromium() is None:
        sys.exit("neither chromium nor chrome is on the PATH")
    IMAGES.mkdir(exist_ok=True)
    for make in (report, page, benchmark):
        if make.__name__ not in (args[1:] or ("report", "page")):
            continue
        with tempfile.TemporaryDirectory() as folder:
            make(run, raw := Path(folder) / "raw.png")
            image = Image.open(raw).convert("RGB").quantize(64, dither=Image.Dither.NONE)
            image.save(picture := IMAGES / f"{make.__name__}.png", optimize=True)
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
