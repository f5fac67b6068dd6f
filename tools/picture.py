"""The picture in README: the first page of a run's report, as a browser shows it. Needs chromium or
chrome, which nothing else here does.

python tools/picture.py outputs/demo         writes nbs/images/report.png
python tools/picture.py outputs/benchmark    of a benchmark, writes nbs/images/benchmark.png"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "nbs/images"
REPORT = (860, 800, 2)  # Window in CSS pixels; pixels of the picture for each of them
BENCHMARK = (1240, 960, 1.5)


def shoot(page, picture, browser, size):
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
            f"--window-size={size[0]},{size[1]}",
            f"--force-device-scale-factor={size[2]}",
            "--virtual-time-budget=3000",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)


def main(args):
    folder = Path(args[0] if args else ROOT / "outputs/demo")
    other = (folder / "benchmark.json").is_file()
    page = folder / ("index.html" if other else "report/index.html")
    size = BENCHMARK if other else REPORT
    picture = IMAGES / ("benchmark.png" if other else "report.png")
    if not page.is_file():
        sys.exit(f"{page}: no report there; `make run` writes one")
    browser = next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
        ),
        None,
    )
    if browser is None:
        sys.exit("neither chromium nor chrome is on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        shoot(page, raw := Path(folder) / "raw.png", browser, size)
        picture.parent.mkdir(exist_ok=True)
        Image.open(raw).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
            picture, optimize=True
        )
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
