"""The run notebooks as they ran: python tools/runs.py outputs/demo takes what the executed
notebooks
of a finished run show and keeps it in nbs/runs, so that the hosting site and the docs show it too.

Pictures get 128 colours, sounds become Ogg Vorbis at 16 kHz; of many players the first are kept."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import execute
import nbformat

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "nbs/runs"
SOUNDS = 400_000  # Characters of all players of a notebook, in base64
SOUND = re.compile(r"data:audio/(?:x-)?wav;base64,([A-Za-z0-9+/=\s]+)")
PLAYER = re.compile(r"<audio[^>]*>.*?</audio>", re.S)
ELSEWHERE = "<i>in the report</i>"  # Instead of a player


def light_sound(wav):  # base64 of a WAV file -> base64 of an Ogg file
    "A sound as Ogg Vorbis, mono, 16 kHz."
    import soundfile as sf

    from xtts_ka.core.audio import resample

    sound, rate = sf.read(io.BytesIO(base64.b64decode(wav)), dtype="float32", always_2d=True)
    ogg = io.BytesIO()
    sf.write(ogg, resample(sound.mean(1), rate, 16000).clip(-1, 1), 16000, format="OGG")
    return base64.b64encode(ogg.getvalue()).decode()


class Players:
    "Makes players light, as long as the budget of a notebook lasts."

    def __init__(self, budget=SOUNDS):
        self.left = budget

    def one(self, match):
        sound = SOUND.search(match[0])
        if not sound or self.left <= 0:
            return match[0] if not sound else ELSEWHERE
        ogg = light_sound(sound[1])
        self.left -= len(ogg)
        return SOUND.sub(f"data:audio/ogg;base64,{ogg}", match[0])

    def of(self, html):
        return PLAYER.sub(self.one, html)


def lightened(outputs, players):
    "Outputs whose players are light."
    for output in outputs:
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = players.of(data["text/html"])
    return outputs


def taken(notebook, executed):
    "A run notebook with the outputs of its executed copy, and the cells that it lacks."
    players, notes = Players(), []
    shown = {c.source: c.outputs for c in executed.cells if c.cell_type == "code"}
    code = [c for c in notebook.cells if c.cell_type == "code"]
    missing = [c.source for c in code if c.source not in shown]
    for cell in code:
        outputs = lightened(shown.get(cell.source, []), players)
        cell.outputs = execute.cleaned(outputs, cell.source, notes)
        cell.execution_count = None
    return notebook, missing


def main(args):
    if len(args) != 1:
        sys.exit(__doc__)
    folder = Path(args[0]) / "notebooks"
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; a finished run has one")
    from xtts_ka.pipeline.stages import STAGES

    stages = {Path(s.notebook).name for s in STAGES}  # 96_benchmark is none
    for path in sorted(p for p in RUNS.glob("*.ipynb") if p.name in stages):
        executed = nbformat.read(folder / path.name, as_version=4)
        notebook, missing = taken(nbformat.read(path, as_version=4), executed)
        if missing:
            first = missing[0].splitlines()[0]
            sys.exit(f"{path.name}: the run is of other code, it lacks the cell `{first}`")
        path.write_text(execute.saved(notebook), encoding="utf-8")
        pictures = json.dumps(notebook).count("image/png")
        print(f"{path.name}: {path.stat().st_size // 1000} kB, {pictures} pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
