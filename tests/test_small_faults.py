"""Small things that cost an hour: long names, formulas, a full HOME, opposite phases."""

import contextlib
import csv
import io

import numpy as np
import pytest

from xtts_ka.core.errors import AudioError


@pytest.mark.parametrize(
    "words",
    [
        ["speak", "გამარჯობა", "--checkpoint", "m", "--out", "ა" * 90 + ".wav"],
        ["hub", "pull", "a/b", "x" * 256],
        ["normalize", "ა", "--out", "d/" + "x" * 300],
        ["sweep", "--config", "c.yaml", "--name", "x" * 300],
    ],
)
def test_a_name_that_no_disk_takes_is_refused_before_the_work(words, capsys):
    from xtts_ka.pipeline.cli import main

    assert main(words) == 2
    assert "at most 255 are possible" in capsys.readouterr().err


def test_texts_of_the_package_are_found_from_every_folder(tmp_path, monkeypatch, capsys):
    from xtts_ka.core.paths import resolve
    from xtts_ka.pipeline.cli import main

    text = "xtts_ka/data/sentences_ka.txt"
    monkeypatch.chdir(tmp_path)
    assert resolve(text).is_file() and not (tmp_path / "xtts_ka").exists()
    (tmp_path / text).parent.mkdir(parents=True)
    (tmp_path / text).touch()
    assert resolve(text) == tmp_path / text  # a clone's own comes first
    config = tmp_path / "c.yaml"
    config.write_text("run: a\nlanguage: {texts: [xtts_ka/data/none.txt]}\n", encoding="utf-8")
    assert main(["run", "--config", str(config), "--dry-run"]) == 2
    assert "language.texts: xtts_ka/data/none.txt: no such file" in capsys.readouterr().err


def test_no_table_holds_a_formula():
    from types import SimpleNamespace

    from xtts_ka.pipeline.sweep import as_csv
    from xtts_ka.vocoder.score import _csv

    evil = '=HYPERLINK("http://x")'
    scores = SimpleNamespace(
        names=["mcd"], files={evil: {"+a.wav": {"mcd": -1.5}}}, notes={"+a.wav": ["@x"]}
    )
    for text in (as_csv([{"run": "-a", evil: evil, "loss": -1.5}]), _csv(scores)):
        rows = list(csv.reader(io.StringIO(text)))[1:]
        cells = [c for row in rows for c in row]
        assert "-1.5" in cells and not [c for c in cells if c and c[0] in "=+@-" and c != "-1.5"]


def test_a_stream_is_a_wav_of_open_length(tmp_path):
    from xtts_ka.core.audio import read_audio, wav_header

    samples = np.arange(-500, 500, dtype="<i2")
    (tmp_path / "a.wav").write_bytes(wav_header(24000) + samples.tobytes())
    wav, rate = read_audio(tmp_path / "a.wav")
    assert rate == 24000 and np.array_equal(wav * 32768, samples)


def test_channels_that_cancel_each_other_are_not_called_silent(tmp_path):
    import soundfile as sf

    from xtts_ka.core.audio import read_audio

    tone = (0.3 * np.sin(np.arange(22050) / 20)).astype(np.float32)
    sf.write(tmp_path / "a.wav", np.stack([tone, -tone], 1), 22050)
    with pytest.raises(AudioError, match="opposite phases"):
        read_audio(tmp_path / "a.wav")
    sf.write(tmp_path / "b.wav", np.stack([tone, 0 * tone], 1), 22050)
    assert len(read_audio(tmp_path / "b.wav")[0]) == 22050


def test_lock_files_are_not_shared_between_runs(tmp_path):
    from xtts_ka.pipeline.sweep import copy_stage

    (tmp_path / "a/x").mkdir(parents=True)
    for name in ("index.lock", ".lock", "w.bin"):
        (tmp_path / "a/x" / name).touch()
    (tmp_path / "a/x/link").symlink_to(".")
    copy_stage(tmp_path / "a/x", tmp_path / "b/x", "a", "b")
    assert sorted(p.name for p in (tmp_path / "b/x").iterdir()) == ["link", "w.bin"]


def test_a_kernel_starts_where_home_is_full(tmp_path, monkeypatch):
    from faults import Disk
    from test_runner import write_notebook

    from xtts_ka.pipeline.execute import execute

    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "XDG_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    notebook = write_notebook(tmp_path, "10_first", ("n = 1",))
    with Disk(tmp_path / "home", 1 << 16) as disk:
        if not disk.mounted:
            pytest.skip("no right to mount a small tmpfs here")
        (tmp_path / "home/.local/share/jupyter/runtime").mkdir(parents=True)
        (tmp_path / "home/.ipython/profile_default").mkdir(parents=True)
        with contextlib.suppress(OSError), open(tmp_path / "home/full", "wb") as f:
            while True:
                f.write(bytes(4096))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        done = execute(notebook, tmp_path / "out.ipynb", {"n": 2}, tmp_path)
    assert done, (done.name, done.message)
