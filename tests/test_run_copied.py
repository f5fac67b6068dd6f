"""A run that was copied or renamed: what it shows is its own."""

import json
import shutil

import numpy as np
import pytest

from xtts_ka.core.audio import write_audio
from xtts_ka.pipeline import report
from xtts_ka.pipeline.run_index import read_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "Run `one` with a sentence of half a second, and its copy `two` whose sentence lasts a second."
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    outputs = tmp_path / "outputs"

    def make(name, seconds):
        wav = np.sin(np.arange(int(22050 * seconds)) / 20).astype(np.float32)
        write_audio(outputs / name / "evaluate/wavs/a.wav", wav, 22050)

    make("one", 0.5)
    (outputs / "one/pretrain_progress.json").write_text(json.dumps({"schema": 1, "stages": {}}))
    shutil.copytree(outputs / "one", outputs / "two")
    make("two", 1.0)
    return outputs


@pytest.mark.parametrize("said", ["evaluate/wavs/a.wav", "outputs/one/evaluate/wavs/a.wav"])
def test_a_copied_run_shows_its_own_sounds(runs, said):
    for name, seconds in (("one", 0.5), ("two", 1.0)):
        run = runs / name
        (run / "spoken.tsv").write_text(f"{said}\tა\tნინო\txtts\n", encoding="utf-8")
        media = report.Media(run / "report/media", [runs.parent])
        assert [s["seconds"] for s in report.read_spoken(run, media)["sounds"]] == [seconds]
        assert read_run(run)["spoken"][0]["href"] == f"{name}/evaluate/wavs/a.wav"
    (runs / "two/evaluate/wavs/a.wav").unlink()  # Not there: not that of the other run
    found = report.read_spoken(runs / "two", media)["sounds"][0]
    assert (
        found["href"] == ""
        and found["problem"]
        and read_run(runs / "two")["spoken"][0]["href"] is None
    )


def test_players_of_its_notebooks_too(runs):
    media = report.Media(runs / "two/report/media", [runs.parent], runs / "two")
    assert media.audio("outputs/one/evaluate/wavs/a.wav")["seconds"] == 1.0


def test_stages_write_paths_relative_to_the_run(runs):
    from types import SimpleNamespace

    from xtts_ka.sovits.stage import write_sentences

    out = runs / "one/sovits2"
    out.mkdir()
    wav = SimpleNamespace(name="0.wav")
    spoken = SimpleNamespace(
        paths={"spoken": out / "wavs/0.wav"},
        result=SimpleNamespace(stopped=True, pieces=[], positions=[]),
        text="ა",
        speaker="ნინო",
    )
    write_sentences([spoken], None, out)
    assert (out / "spoken.tsv").read_text(encoding="utf-8").startswith("sovits2/wavs/0.wav\t")
    assert json.loads((out / "endings.json").read_text()) == {wav.name: True}
