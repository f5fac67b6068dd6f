"""The picture in README: the first page of a run's report, as a browser shows it. Needs chromium or
chrome, which nothing else here does.

python tools/picture.py outputs/demo    writes nbs/images/report.png"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "nbs/images/report.png"
WIDTH, HEIGHT, SCALE = (
    860,
    800,
    2,
)  # Of the window in CSS pixels; pixels of the picture for each of them


def shoot(page, picture, browser):
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
            f"--window-size={WIDTH},{HEIGHT}",
            f"--force-device-scale-factor={SCALE}",
            "--virtual-time-budget=3000",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ]
        subprocess.run([browser, *options], check=True, capture_output=True, timeout=120)


def main(args):
    page = Path(args[0] if args else ROOT / "outputs/demo") / "report/index.html"
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
        shoot(page, raw := Path(folder) / "raw.png", browser)
        PICTURE.parent.mkdir(exist_ok=True)
        Image.open(raw).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
            PICTURE, optimize=True
        )
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
