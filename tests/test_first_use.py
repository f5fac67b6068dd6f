"""What a new user meets: a look at the corpus before the run, estimates, hints, notes, and a report
that says the same thing everywhere."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_runner import shelf, toys  # noqa: F401, fixtures

from xtts_ka.core.errors import ConfigError, MissingError, XttsKaError
from xtts_ka.core.manifest import read_rejects

ROOT = Path(__file__).resolve().parents[1]
KA = "ა ბ გ დ ე ვ ზ თ ი კ ლ მ ნ ო პ ჟ რ ს ტ უ".split()


def recordings(root, n, mark="|", seconds=0.5):
    "A folder of tones with different Georgian sentences."
    (root / "wavs").mkdir(parents=True)
    tone = 0.2 * np.sin(np.arange(int(16000 * seconds)) * 0.1)
    lines = [mark.join(("audio_file", "text", "speaker_name"))]
    for i in range(n):
        soundfile.write(root / f"wavs/{i}.wav", tone, 16000)
        lines.append(mark.join((f"wavs/{i}.wav", f"ეს არის {KA[i % 20]}{KA[i // 20]}", "ნინო")))
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty repository with the configurations, and calls of `xtts-ka` in it."
    import shutil

    for name in ("configs", "nbs/runs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *words):
    from xtts_ka.pipeline.cli import main

    code = main([str(w) for w in words])
    return code, *capsys.readouterr()


# ---- looking before the run


def test_dry_run_looks_at_the_corpus(home, capsys):
    "Header, files, minutes, and the stages that it is enough for."
    recordings(home / "recordings", 8)
    (home / "recordings/wavs/3.wav").write_bytes(b"RIFF")
    words = ("run", "--config", "configs/smoke.yaml", "--dry-run", "run=nino")
    words += ("corpus.source=folder", "corpus.path=recordings")
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert "read as manifest, columns audio_file|text|speaker_name" in out
    assert "8 lines, 7 usable: 7 clips, 0.1 minutes, 7 different sentences, 1 speaker" in out
    assert re.search(r"metadata\.csv:5: wavs/3\.wav: ", out)
    assert "not for language: 7 different sentences, a language model needs 12; left out" in out
    assert re.search(r"– +6/11 language +left out: 7 different sentences", out)
    assert re.search(r"▶ +1/11 corpus +would run: first time, about 5 s", out)
    assert "11 stages, 10 to run, about" in out and not (home / "outputs").exists()
    (home / "recordings/metadata.csv").write_text("audio_file|text\na.wav|ა\n", encoding="utf-8")
    assert call(capsys, *words, "corpus.format=manifest")[0] == 2


def test_a_list_of_a_spreadsheet_is_read(home, capsys):
    for mark in (",", ";", "\t"):
        folder = recordings(home / f"list{ord(mark)}", 3, mark)
        text = (folder / "metadata.csv").read_text(encoding="utf-8")
        quoted = text.replace("ეს არის აა", f'"ეს{mark} ""არის"" აა"')
        (folder / "metadata.csv").write_text("\ufeff" + quoted, encoding="utf-8")
        from xtts_ka.core.manifest import read_manifest

        rows = read_manifest(folder).rows
        assert [r.text for r in rows][0] == f'ეს{mark} "არის" აა' and len(rows) == 3 or mark == "\t"


def test_all_rejected_leaves_the_list_of_rejects(home):
    from xtts_ka.corpus.sources import CorpusConfig, build_corpus
    from xtts_ka.pipeline.runner import gather_rejects
    from xtts_ka.pipeline.stages import STAGES

    folder = recordings(home / "recordings", 3)
    for wav in (folder / "wavs").iterdir():
        wav.write_bytes(b"RIFF")
    run = home / "outputs/nino"
    with pytest.raises(XttsKaError, match="all 3 lines were rejected"):
        build_corpus(CorpusConfig(source="folder", path=str(folder)), run / "corpus")
    assert gather_rejects(run, STAGES) == 3
    assert [r.item for r in read_rejects(run / "rejects.csv")] == [f"wavs/{i}.wav" for i in "012"]


def test_a_corpus_that_nobody_named_is_not_written(home, monkeypatch):
    "`embed` reads the user's own metadata.csv; only a list that is named gets a column."
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder
    from xtts_ka.speaker.generate_embeddings import main

    folder = recordings(home / "recordings", 3)
    save_encoder(home / "encoder", new_ecapa(EncoderConfig(channels=16, dim=24)))
    given = (folder / "metadata.csv").read_bytes()
    words = ["--segmented_dir", "recordings", "--model", "ecapa:encoder", "--no_visualize"]
    assert main(words) == 0 and (folder / "metadata.csv").read_bytes() == given
    assert main([*words, "--update_metadata"]) == 0
    assert b"|embedding" in (folder / "metadata.csv").read_bytes()


def test_a_read_only_data_set_is_embedded_whole(home, capsys):
    "Vectors and map are there; the list with the vectors is written beside them, and that is said."
    from faults import read_only

    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder
    from xtts_ka.speaker.generate_embeddings import main

    folder = recordings(home / "recordings", 3)
    save_encoder(home / "encoder", new_ecapa(EncoderConfig(channels=16, dim=24)))
    words = ["--segmented_dir", "recordings", "--metadata", "recordings/metadata.csv"]
    words += ["--output_dir", "vectors", "--model", "ecapa:encoder"]
    with read_only(folder) as closed:
        if not closed:
            pytest.skip("root may write everywhere, and no folder can be mounted read-only here")
        assert main(words) == 0
    said = capsys.readouterr()
    assert "cannot be written" in said.out and "vectors/metadata.csv" in said.out, said
    rows = read_manifest(home / "vectors/metadata.csv", check_audio=False).rows
    assert all((home / "vectors" / r.extra["embedding"]).is_file() for r in rows) and len(rows) == 3
    assert list((home / "vectors").rglob("*.html"))


# ---- the terminal


def test_estimates_numbers_and_one_word_on_precision(toys, capsys):  # noqa: F811
    toys.finish()
    assert toys.run("second.scale=9") == 0
    out = capsys.readouterr().out
    assert re.search(r"outputs/t: 3 stages, 2 to run, about \d+ s", out)
    assert re.search(r"▶ 2/3 second multiplies.* \(parameters changed, about \d+ s\)", out), out
    from xtts_ka.pipeline.runner import Screen

    screen = Screen(out := __import__("io").StringIO())
    for _ in range(3):
        screen.relay("", "precision: bfloat16 where it is safe, float32 elsewhere")
    assert out.getvalue().count("precision") == 1


def test_a_side_stage_that_is_too_small_is_left_out(toys, capsys):  # noqa: F811
    "Whichever stage says so, when no other needs it; the run goes on and ends well."
    from test_runner import NOTEBOOKS, write_notebook

    first = NOTEBOOKS["30_third"][0]
    small = "from xtts_ka.core.errors import TooSmallError\nraise TooSmallError('8 are too few')"
    write_notebook(toys.root, "30_third", (first, small))
    assert toys.run() == 0
    assert "left out: 8 are too few" in capsys.readouterr().out
    assert toys.status()["third"] == "blocked" and toys.status()["second"] == "done"


def test_hints_name_make_to_those_who_called_make(toys, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XTTS_KA_MAKE", "1")
    assert toys.run("first.mode=bad") == 1
    said = capsys.readouterr().out
    assert "to go on:    make run CONFIG=" in said and "ARGS=first.mode=bad" in said
    assert "XTTS_KA_MAKE" in launchers()


def test_explain_says_what_options_are_for(capsys):
    out = call(capsys, "config", "--explain", "segments")[1]
    assert "segments.vad=true\n    bool. Find speech" in out and "corpus.path=" not in out
    assert "run=demo" in call(capsys, "config", "--explain")[1]
    code, _, err = call(capsys, "config", "--explain", "segmnts")
    assert code == 2 and "did you mean segments?" in err


# ---- notebooks alone


def test_a_notebook_alone_refuses_unknown_parameters_and_names_the_one_before(home):
    from xtts_ka.pipeline.stages import STAGES, check_notebook

    with pytest.raises(ConfigError, match="no parameter `vocies`; did you mean `voices`"):
        check_notebook("corpus", {"run_dir": "outputs/x", "vocies": 4})
    with pytest.raises(MissingError, match=r"execute nbs/runs/20_segments\.ipynb first"):
        check_notebook("xtts_init", {"run_dir": "outputs/x"})
    for stage in STAGES:
        source = (ROOT / stage.notebook).read_text(encoding="utf-8")
        assert f'check_notebook(\\"{stage.name}\\", globals())' in source


def test_papermill_understands_every_parameter(caplog):
    from papermill.inspection import _infer_parameters
    from papermill.iorw import load_notebook_node

    with caplog.at_level(logging.WARNING):
        for path in sorted((ROOT / "nbs/runs").glob("*.ipynb")):
            assert _infer_parameters(load_notebook_node(str(path)), name=None, language="python")
    assert [r.message for r in caplog.records if "parse" in r.message] == []


# ---- what a reader sees


def test_report_and_page_of_runs_give_the_same_time(tmp_path):
    from xtts_ka.pipeline.report import _about, read_stages
    from xtts_ka.pipeline.run_index import read_run

    at = "2026-11-20T20:4{}:00+00:00"
    stages = {
        "corpus": {"status": "done", "seconds": 50.0, "started": at.format(0)},
        "vocoder": {"status": "done", "seconds": 100.0, "started": at.format(1)},
        "sovits2": {"status": "done", "seconds": 90.0, "started": at.format(1)},
    }
    (tmp_path / "r").mkdir()
    (tmp_path / "r/pretrain_progress.json").write_text(
        json.dumps({"schema": 1, "run": "r", "stages": stages})
    )
    assert read_run(tmp_path / "r")["seconds"] == 150.0  # two of them at the same time
    spoken = {"sounds": [], "voices": 0}
    about = _about(tmp_path / "r", read_stages(tmp_path / "r"), spoken, {})
    assert "2 min 30 s" in about["facts"]


def test_one_error_rate_for_each_set_of_sentences(tmp_path):
    from xtts_ka.pipeline.report import _error_rates, _headlines

    (tmp_path / "evaluate").mkdir()
    rates = {"CER, XTTS": 0.2, "CER, XTTS, by the vocoder": 0.1, "CER, sovits2": 0.3}
    (tmp_path / "evaluate/metrics.json").write_text(json.dumps(rates))
    found = _error_rates(tmp_path)  # spoken.tsv holds what the vocoder has made
    assert found == {"sovits2": 0.3, "xtts": 0.1}
    spoken = {"sounds": [1], "seconds": 1.0, "rates": found}
    labels = [h["label"] for h in _headlines([], spoken, {"rates": {"XTTS": 0.2}})]
    assert labels[0] == "CER of everyday texts, XTTS"
    assert "CER of held-out sentences, xtts" in labels


def test_pictures_say_what_is_seen():
    from matplotlib.figure import Figure

    from xtts_ka.pipeline.figures import plot_mel, plot_wave, style
    from xtts_ka.pipeline.report import _alt, _image

    described = repr(plot_wave(np.sin(np.arange(3000) / 9), 22050, "გამარჯობა"))
    assert described == "გამარჯობა: amplitude over time, s" and isinstance(
        plot_mel(np.random.rand(80, 30)), Figure
    )

    class Shelf:
        def put(self, *_):
            return "media/x.png"

    png = (ROOT / "nbs/images/report.png").read_bytes()
    import base64

    data = {"image/png": base64.b64encode(png).decode(), "text/plain": described}
    assert _image(data, Shelf(), "corpus", "plot")["alt"] == described
    data["text/plain"] = "<Figure size 10x10>"
    assert _image(data, Shelf(), "corpus", "The voices: Length")["alt"] == "The voices: Length"
    assert _alt('plot(x, title="Length")', "The voices") == "The voices: Length"
    import matplotlib as mpl

    with style():
        colours = mpl.colormaps[mpl.rcParams["image.cmap"]]
    quiet, loud = (sum(colours(x)[:3]) for x in (0.0, 1.0))
    assert quiet < loud  # as spectrograms usually are


def test_evaluation_begins_with_its_table_and_compares_both_models():
    cells = json.loads((ROOT / "nbs/runs/95_evaluate.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    first = next(
        i for i, s in enumerate(code) if re.search(r"table\(|plot_|players\(", s) and i > 1
    )
    assert "table(" in code[first] and "everyday_row" in code[first]
    tagged = [c for c in cells if "headline" in c["metadata"].get("tags", [])]
    assert any("everyday_row" in "".join(c["source"]) for c in tagged)
    text = "\n".join(code)
    for wanted in ("plot_closeups(", "plot_confusions(", "paired(", '"sovits2"', "the recording"):
        assert wanted in text, wanted


def test_notebooks_show_the_run_of_the_user(smoke, monkeypatch):
    "`show_run`, which nbs/results.ipynb calls for the run that its first cell names."
    import IPython.display

    from xtts_ka.pipeline import report
    from xtts_ka.pipeline.show_run import show_run

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setattr(report, "_show", shown.append)
    show_run(smoke.dir, sentences=2)
    head, rows, picture, sounds = shown
    assert smoke.dir.name in head.data and picture.axes
    assert {"XTTS", "sovits2", "recording"} <= {r[1] for r in rows.rows}
    takes = [p.caption.split(",")[0] for p in sounds.items]
    assert takes[0] == "recording" and takes.count("recording") == 2 and "sovits2" in takes
    cells = json.loads((ROOT / "nbs/results.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert code[0].startswith('run_dir = ""') and "show_run(run_dir)" in json.dumps(cells)


def test_every_path_says_how_it_ended_on_every_kind_of_text(smoke):
    "In the table of the report: texts without marks, single words, titles, lists, and all others."
    from xtts_ka.evaluate.everyday_texts import KINDS

    held = json.loads((smoke.dir / "evaluate/everyday.json").read_text(encoding="utf-8"))
    ended = {(s["path"], s["kind"]): (s["stopped"], s["texts"]) for s in held["summary"]}
    paths = {path for path, _ in ended}
    assert {"XTTS", "XTTS, by the vocoder", "sovits2"} <= paths
    assert {"no_mark", "word", "title", "list"} <= set(KINDS)
    assert {kind for _, kind in ended} == {"all", *KINDS}
    assert all((path, kind) in ended for path in paths for kind in KINDS)
    assert all(0 <= stopped <= texts for stopped, texts in ended.values())
    page = (smoke.dir / "report/evaluate.html").read_text(encoding="utf-8")
    assert page.count("ended by itself") >= 2


def test_the_page_of_a_stage_shows_its_table_first():
    from xtts_ka.pipeline.report import StagePage, _environment, _stage_html, _table_block

    block = _table_block({"columns": ["path", "CER"], "rows": [["XTTS", 0.1]]}) | {"headline": True}
    page = StagePage("evaluate", metrics={f"figure {i}": i for i in range(30)})
    run = {"name": "r", "facts": [], "sentence": "", "folder": "outputs/r"}
    html = _stage_html(_environment(), 0, [page], [block], run, {})
    assert html.index('<th scope="col">path') < html.index("all 30 figures") and "Results" in html


def launchers():
    "The files that say what `make` does."
    found = [ROOT / "Makefile", ROOT / "tools/do.py"]
    return "\n".join(p.read_text(encoding="utf-8") for p in found if p.is_file())


def test_lab_opens_at_the_root():
    text = launchers()
    assert re.search(r"jupyter.{1,6}lab", text) and not re.search(r"lab\W{1,6}nbs", text)
