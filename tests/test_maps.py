"""Maps of voices as a reader meets them: for any number of clips, and in a real browser, where a
click must be heard."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, chromium

from xtts_ka.core.audio import write_audio
from xtts_ka.core.errors import MissingError, XttsKaError
from xtts_ka.speaker.embedding_visualization import PROJECTIONS, EmbeddingVisualizer
from xtts_ka.speaker.map_figure import voice_numbers
from xtts_ka.speaker.projections import tsne_2d, umap_2d

EVIL = '<img src=x onerror="window.bad=1"></script>'
SPEAKERS = ["ნინო", "გიორგი ბერიძე", f"ქეთი {EVIL}"]
needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine; install one to hear the maps tested"
)


def crowd(n, speakers=3, dim=24, noise=0.3, seed=0):
    "Vectors around a centre for each speaker, and the speaker's number."
    r = np.random.default_rng(seed)
    centres, who = r.normal(size=(speakers, dim)), np.arange(n) % speakers
    return (centres[who] + noise * r.normal(size=(n, dim))).astype(np.float32), who


# any number of clips


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 30])
def test_maps_of_any_size(tmp_path, n):
    x, who = crowd(n)
    show, names = EmbeddingVisualizer(tmp_path), [f"ხმა {i}" for i in range(n)]
    maps = show.project(x, tuple(PROJECTIONS))
    assert {k: (v.shape, bool(np.isfinite(v).all())) for k, v in maps.items()} == dict.fromkeys(
        ("t-SNE", "UMAP", "PCA"), ((n, 2), True)
    )
    again = show.project(x, tuple(PROJECTIONS))
    assert all((maps[k] == again[k]).all() for k in maps)  # same seed, same picture
    speakers = [SPEAKERS[i] for i in who]
    fig = show.visualize_embeddings(maps["t-SNE"], names, speakers, "ხმები", "a.png", x)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and fig.axes[
        0
    ].get_xlabel().startswith(f"{n} clip")
    page = show.visualize_embeddings_interactive(maps, names, speakers, title="ხმები", embeddings=x)
    assert len(points_of(page)) == n


def points_of(page):
    text = Path(page).read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
    )["names"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [tsne_2d, umap_2d])
def test_five_thousand_clips(tmp_path, method):
    x, who = crowd(5000, 40, 192)
    xy = method(x)
    assert xy.shape == (5000, 2) and np.isfinite(xy).all()
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=2).fit(xy).kneighbors(xy, return_distance=False)[:, 1]
    assert (who[near] == who).mean() > 0.99
    whole_page(tmp_path, xy, x, who)


def whole_page(folder, xy, x, who):
    show, names, speakers = (
        EmbeddingVisualizer(folder),
        [f"{i:05}" for i in range(len(x))],
        [f"მთქმელი {k}" for k in who],
    )
    show.visualize_embeddings(xy, names, speakers, "ხმები", "b.png", x)
    page = show.visualize_embeddings_interactive(xy, names, speakers, path="b.html", embeddings=x)
    assert len(points_of(page)) == len(x) and page.stat().st_size < 8e6
    return page


def test_identical_and_degenerate_clips():
    for f in (tsne_2d, umap_2d):
        assert not f(np.ones((40, 8))).any()
        assert np.isfinite(f(np.r_[np.ones((20, 8)), crowd(5, dim=8)[0], np.zeros((2, 8))])).all()
        assert np.isfinite(f(crowd(12, dim=1)[0])).all()
        with pytest.raises(XttsKaError, match="n, D"):
            f(np.zeros((0, 8)))
        with pytest.raises(XttsKaError, match="embedding 3"):
            f(np.where(np.arange(5)[:, None] == 3, np.nan, crowd(5)[0]))


# numbers


def test_numbers_find_the_wrong_label():
    x, who = crowd(30)
    names, speakers = [f"c{i}" for i in range(30)], [SPEAKERS[i] for i in who]
    clean = voice_numbers(x, speakers, names)
    assert (clean["clips"], clean["speakers"], clean["outliers"], clean["eer"]) == (
        30,
        3,
        [],
        0,
    ) and clean["silhouette"] > 0.6
    speakers[7] = SPEAKERS[(who[7] + 1) % 3]
    wrong = voice_numbers(x, speakers, names)
    assert (
        [o.name for o in wrong["outliers"]] == ["c7"]
        and wrong["silhouette"] < clean["silhouette"]
        and wrong["eer"] > 0
    )


def test_numbers_that_cannot_be_said():
    x, _ = crowd(4)
    one = voice_numbers(x, ["ნინო"] * 4, list("abcd"))
    assert (one["silhouette"], one["eer"], one["outliers"]) == (None, None, None)
    alone = voice_numbers(
        x, list("abcd"), list("abcd")
    )  # every speaker once: no pair of the same voice
    assert (alone["speakers"], alone["silhouette"], alone["eer"]) == (4, None, None)
    assert voice_numbers(x, [""] * 4, list("abcd"))["speakers"] == 0


# the page in a browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A page of 24 clips: one has the wrong label, one has no sound, one is damaged; and the sounds
    are gone when it is opened."""
    folder = tmp_path_factory.mktemp("maps")
    x, who = crowd(24)
    who[5] = (who[5] + 1) % 3
    names = [f"{SPEAKERS[who[i]].split()[0]}_{i:02}{EVIL if i == 9 else ''}" for i in range(24)]
    audio = [folder / f"ხმა {i}.wav" for i in range(24)]
    t = np.arange(16000 * 3) / 16000
    for i, path in enumerate(audio):
        write_audio(
            path,
            (
                0.2 * np.sin(2 * np.pi * (120 + 60 * who[i] + i) * t) * (1 + np.sin(6 * t)) / 2
            ).astype(np.float32),
            16000,
        )
    audio[3] = None
    audio[4].write_bytes(b"RIFF no sound")
    show, speakers = EmbeddingVisualizer(folder / "out"), [SPEAKERS[i] for i in who]
    rows = np.stack(np.divmod(np.arange(24), 6), 1)[
        :, ::-1
    ]  # no point on another: what is clicked is what was meant
    maps = {"t-SNE": rows * [10.0, 7.0], "PCA": rows[::-1] * [0.1, 0.1]}
    page = show.visualize_embeddings_interactive(
        maps, names, speakers, audio, "ხმების რუკა", embeddings=x
    )
    for path in filter(None, audio):
        path.unlink()
    return page, names, speakers


PLACE = """(i => {
  const gd = document.getElementById("map"), box = gd.getBoundingClientRect();
  const {xaxis, yaxis} = gd._fullLayout;
  const points = gd.data.flatMap(
    t => t.customdata ? t.customdata.map((j, k) => [j, t.x[k], t.y[k]]) : []);
  const [x, y] = points.find(p => p[0] === i).slice(1);
  return [box.left + gd.clientLeft + xaxis._offset + xaxis.d2p(x),
          box.top + gd.clientTop + yaxis._offset + yaxis.d2p(y)]; })"""
SOUND = (
    "(() => { const a = document.getElementById('audio'); return {time: a.currentTime, paused:"
    " a.paused, error: a.error && a.error.message, kind: a.src.slice(0, 16)}; })()"
)


def point(b, i):
    "Where a point is in the window; the map is scrolled into it first."
    b.run("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")
    return b.run(f"{PLACE}({i})")


def said(b):
    return b.run("document.querySelector('#now p').innerText")


@pytest.fixture
def window(home):
    with Browser() as b:
        b.open(home[0])
        yield b
        assert (
            b.errors == [] and b.asked == []
        )  # whatever a test did: no error, nothing from outside
        assert b.run("window.bad === undefined && document.querySelectorAll('img').length") == 0


@needs_browser
def test_a_click_is_heard(home, window):
    page, names, speakers = home
    for i in (0, 7):
        window.click(*point(window, i))
        window.wait("document.getElementById('audio').currentTime > 0.4")
        state = window.run(SOUND)
        assert (
            not state["paused"] and state["error"] is None and state["kind"] == "data:audio/mpeg;"
        )
        assert said(window).split("\n") == [names[i], speakers[i]]
    before = window.run(SOUND)["time"]
    window.wait(f"document.getElementById('audio').currentTime > {before} + 0.5")


@needs_browser
def test_a_clip_without_sound_says_why(home, window):
    for i, why in ((3, "no recording is known"), (4, "recording unreadable")):
        said = f"document.querySelector('#now p').innerText.endsWith('{home[2][i]} · {why}')"
        for _ in range(3):  # a click while the map is being drawn goes astray on a busy machine
            window.click(*point(window, i))
            with contextlib.suppress(TimeoutError):
                window.wait(said, 10)
                break
        window.wait(said, 1)
        assert window.run(SOUND)["paused"]


@needs_browser
def test_outliers_are_listed_and_play(home, window):
    assert window.run(
        "[...document.querySelectorAll('.outliers tbody tr')].map(r => r.cells[1].innerText)"
    ) == [home[1][5]]
    assert window.run("document.querySelector('.numbers').innerText").count("\n") >= 7
    window.run(
        "document.querySelector('.outliers').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    window.click(
        *window.run(
            "(r => [r.left + r.width/2, r.top +"
            " r.height/2])(document.querySelector('.go').getBoundingClientRect())"
        )
    )
    window.wait("document.getElementById('audio').currentTime > 0.2")
    assert said(window).startswith(home[1][5])


@needs_browser
def test_nothing_is_uploaded(window):
    "plotly offers a button that sends the data away; it is not here."
    titles = window.run(
        "[...document.querySelectorAll('#map .modebar-btn')].map(b => b.dataset.title)"
    )
    assert "Pan" in titles and not [
        t for t in titles if re.search("share|cloud|edit|plotly", t, re.I)
    ]


@needs_browser
def test_a_ring_does_not_move_the_map(window):
    before = point(window, 11)
    window.click(*before)
    window.wait("document.getElementById('map').data.at(-1).x.length === 1")
    assert point(window, 11) == before


@needs_browser
def test_speakers_and_projections_switch(home, window):
    visible = (
        "document.getElementById('map').data.map(t => t.customdata && t.visible ?"
        " t.customdata.length : 0).reduce((a, b) => a + b)"
    )
    assert window.run(visible) == 24
    window.run("document.querySelector('#who button').click()")
    window.wait(f"{visible} < 24")
    window.run("document.getElementById('all').click()")
    window.wait(f"{visible} === 24")
    before = window.run("document.getElementById('map').data[0].x")
    window.run("document.querySelector('[data-map=PCA]').click()")
    window.wait(f"document.getElementById('map').data[0].x[0] !== {before[0]}")
    window.click(*point(window, 11))  # on the new map
    window.wait("document.getElementById('audio').currentTime > 0.2")
    assert said(window).startswith(home[1][11])
    window.run("document.querySelector('details').open = true")
    window.wait("document.querySelectorAll('.clips button').length === 24")


@needs_browser
def test_on_a_phone(home):
    with Browser(390, 780, mobile=True) as b:
        b.open(home[0])
        assert b.run("document.documentElement.scrollWidth <= innerWidth")
        b.tap(*point(b, 8))
        b.wait("document.getElementById('audio').currentTime > 0.3")
        assert said(b).startswith(home[1][8]) and b.errors == [] and b.asked == []


@needs_browser
def test_an_outside_address_would_be_found(home, tmp_path):
    with Browser() as b:
        b.open(home[0])
        b.run(
            "document.body.append(Object.assign(new Image(), {src:"
            " 'http://outside.invalid/a.png'}))"
        )
        b.wait("new Promise(r => setTimeout(() => r(true), 300))")
        assert any(
            "Content Security Policy" in str(e) for e in b.errors
        )  # the page's own policy refuses it
        (tmp_path / "loose.html").write_text(
            "<html data-ready=1><img src='http://outside.invalid/b.png'></html>"
        )
        b.open(tmp_path / "loose.html")
        assert b.asked == ["http://outside.invalid/b.png"]


# JupyterLab


def test_widget(tmp_path):
    pytest.importorskip("anywidget")
    from types import SimpleNamespace

    x, who = crowd(9)
    t = np.arange(16000) / 16000
    for i in range(8):
        write_audio(tmp_path / f"{i}.wav", (0.1 * np.sin(900 * t)).astype(np.float32), 16000)
    names, speakers = [f"ხმა <{i}>" for i in range(9)], [["ნინო", "გია", ""][k] for k in who]
    show = EmbeddingVisualizer(tmp_path)
    view = show.widget(
        show.project(x, ("tsne", "pca")), names, speakers, [tmp_path / f"{i}.wav" for i in range(9)]
    ).map
    assert view.projection.options == ("t-SNE", "PCA") and view.chosen.options == (
        "გია",
        "ნინო",
        "speaker unknown",
    )
    trace = view.figure.data[1]  # ნინო: clips 0, 3, 6
    trace._dispatch_on_click(
        SimpleNamespace(point_inds=[1], xs=[], ys=[], trace_name="", trace_index=1), None
    )
    assert len(view.player.value) > 1000 and view.said.value == "ხმა &lt;3&gt; · ნინო"
    view.play(8)
    assert view.player.value == b"" and view.said.value.endswith("recording missing")
    before = tuple(trace.x)
    view.projection.value = "PCA"
    assert tuple(trace.x) != before
    view.chosen.value = ("ნინო",)
    assert [t.visible for t in view.figure.data] == [False, True, False]


NOTEBOOK = [
    """import numpy as np
from xtts_ka.core.audio import write_audio
from xtts_ka.speaker.embedding_visualization import EmbeddingVisualizer
x = np.random.default_rng(0).normal(size=(6, 8))
tone = (.1*np.sin(np.arange(8000)*.3)).astype(np.float32)
for i in range(5): write_audio(f"{i}.wav", tone, 16000)
show = EmbeddingVisualizer(".")
files = [f"{i}.wav" for i in range(5)] + [None]
view = show.widget(show.project(x, ("tsne", "pca")), list("აბგდევ"), ["ნინო", "გია"]*3, files)
view""",
    """from types import SimpleNamespace
m = view.map
before = [list(t.x) for t in m.figure.data]
m.projection.value, m.chosen.value = "PCA", ("გია",)
click = SimpleNamespace(point_inds=[1], xs=[], ys=[], trace_name="", trace_index=0)
m.figure.data[0]._dispatch_on_click(click, None)
moved = [list(t.x) for t in m.figure.data] != before
print([t.name for t in m.figure.data], [t.visible for t in m.figure.data], moved, m.said.value,
      len(m.player.value) > 500, m.player.layout.visibility)""",
]


def test_widget_in_a_notebook(tmp_path):
    "A real kernel shows the widget; what is done to it afterwards reaches the page by its state."
    pytest.importorskip("anywidget")
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in NOTEBOOK])
    client = NotebookClient(
        nb, timeout=300, store_widget_state=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.km = client.create_kernel_manager()
    client.km.transport_encryption = "auto"
    client.execute()
    (shown,) = [o.data for o in nb.cells[0].outputs if o.output_type == "execute_result"]
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert (
        nb.cells[1].outputs[0].text.strip()
        == "['გია', 'ნინო'] [True, False] True დ · გია True visible"
    )
    states = [
        s["state"]
        for s in nb.metadata["widgets"]["application/vnd.jupyter.widget-state+json"][
            "state"
        ].values()
    ]
    (figure,) = [s for s in states if "_data" in s or "_widget_data" in s]
    (chosen,) = [s for s in states if s.get("_model_name") == "SelectMultipleModel"]
    (audio,) = [s for s in states if s.get("_model_name") == "AudioModel"]
    assert (
        chosen["index"] == [0]
        and audio["autoplay"]
        and figure["_layout" if "_layout" in figure else "_widget_layout"]["hovermode"] == "closest"
    )


# what is asked for wrongly


def test_refusals(tmp_path):
    show = EmbeddingVisualizer(tmp_path)
    with pytest.raises(XttsKaError, match="tsne, umap, pca"):
        show.project(crowd(5)[0], ("tnse",))
    with pytest.raises(XttsKaError, match="2 speakers for 3 names"):
        show.visualize_embeddings(np.zeros((3, 2)), list("abc"), ["x", "y"])
    with pytest.raises(XttsKaError, match=r"\[3, 3\]"):
        show.visualize_embeddings(np.zeros((3, 3)), list("abc"))
    with pytest.raises(MissingError, match="xtts-ka embed"):
        show.load_embeddings(tmp_path)
