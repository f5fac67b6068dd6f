"""Models to the hub and back: what a machine pulls is what another pushed, byte for byte, and
speaks the same; nothing that could carry code travels. The hub is one of our own, on this
machine."""

import base64
import hashlib
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from test_cli import call, refused
from test_decode import call as speak  # noqa: F401 a tiny XTTS export, as a fixture
from test_decode import export  # noqa: F401 a fixture

from xtts_ka.core.errors import CheckpointError, ConfigError, PathError
from xtts_ka.core.files import sha256_file
from xtts_ka.pipeline.cli import main
from xtts_ka.pipeline.hub import pull, push


class Handler(BaseHTTPRequestHandler):
    """The hub's protocol as far as a push and a pull need it: LFS for weights, commits for the
    rest, a token for writing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def say(self, data=b"", status=200, **headers):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        hub, path = self.server.hub, unquote(self.path.partition("?")[0])
        hub.asked.append(path)
        if hub.files is None:
            return self.say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if path.startswith("/nino/voice/resolve/"):
            data = hub.files.get(path.split("/", 5)[5])
            return (
                self.say(data, X_Repo_Commit=hub.sha, ETag=f'"{hashlib.sha256(data).hexdigest()}"')
                if data is not None
                else self.say({}, 404, X_Error_Code="EntryNotFound")
            )
        if "/tree/" in path:
            return self.say([hub.listed(n, d) for n, d in hub.files.items()])
        if path.startswith("/api/models/nino/voice/revision/") and not path.endswith(
            ("main", hub.sha)
        ):
            return self.say({}, 404, X_Error_Code="RevisionNotFound")
        self.say(
            {
                "id": "nino/voice",
                "modelId": "nino/voice",
                "sha": hub.sha,
                "siblings": [],
                "tags": [],
                "private": True,
            }
        )

    do_HEAD = do_GET

    def do_PUT(self):
        self.server.hub.store[self.path.rpartition("/")[2]] = self.body()
        self.say()

    def do_POST(self):
        hub, body = self.server.hub, self.body()
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.say({"error": "Invalid credentials"}, 401)
        if self.path.endswith("/repos/create"):
            hub.made, hub.files = json.loads(body), hub.files or {}
            return self.say({"url": f"{hub.address}/nino/voice", "id": "nino/voice"})
        if self.path.endswith("/validate-yaml"):
            return self.say({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            return self.say(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": (
                                "lfs"
                                if Path(f["path"]).suffix in (".pth", ".safetensors")
                                else "regular"
                            ),
                            "shouldIgnore": False,
                        }
                        for f in json.loads(body)["files"]
                    ]
                }
            )
        if self.path.endswith("/objects/batch"):
            return self.say(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            **o,
                            "actions": {
                                "upload": {"href": f"{hub.address}/lfs/{o['oid']}", "header": {}}
                            },
                        }
                        for o in json.loads(body)["objects"]
                    ],
                }
            )
        if "/commit/" in self.path:
            hub.commit([json.loads(line) for line in body.splitlines()])
            return self.say(
                {
                    "commitUrl": f"{hub.address}/nino/voice/commit/{hub.sha}",
                    "commitOid": hub.sha,
                    "success": True,
                }
            )
        self.say({}, 404)


class Hub:
    "A hub with one model."

    def __init__(self):
        self.files, self.store, self.made, self.asked, self.sha = None, {}, None, [], "0" * 40
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub, self.address = self, f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commit(self, lines):
        for key, value in ((line["key"], line["value"]) for line in lines[1:]):
            if key == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                self.files[value["path"]] = self.store[value["oid"]]
            elif key == "deletedFile":
                del self.files[value["path"]]
        self.sha = hashlib.sha1(json.dumps([self.sha, lines]).encode()).hexdigest()

    def edit(self, **files):  # By somebody, on its pages
        self.files |= {k.replace("_", "."): v for k, v in files.items()}
        self.sha = hashlib.sha1(self.sha.encode()).hexdigest()

    def listed(self, name, data):
        held = {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        return held | (
            {
                "lfs": {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 130,
                }
            }
            if name.endswith((".pth", ".safetensors"))
            else {}
        )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "The library's client, in this process, talks to a hub of ours; `monkeypatch` may change how."
    from huggingface_hub import constants

    h = Hub()
    for name, value in (
        ("ENDPOINT", h.address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", h.address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "hf")),
        ("HF_TOKEN_PATH", str(tmp_path / "token")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    yield h
    h.server.shutdown()
    h.server.server_close()


@pytest.fixture
def there(hub, capsys):
    "`xtts-ka hub ...` as (status, what it said, what it complained)."

    def there(*words):
        code = main(["hub", *map(str, words)])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return there


@pytest.fixture
def small(tmp_path):
    "Something to send where it need not be a model."
    (tmp_path / "small/deep").mkdir(parents=True)
    torch.save({"w": torch.ones(3)}, tmp_path / "small/w.pth")
    (tmp_path / "small/vocab.json").write_text('{"ა": 1}', encoding="utf-8")
    (tmp_path / "small/deep/a.txt").write_text("a")
    return tmp_path / "small"


def digests(folder):
    return {
        p.relative_to(folder).as_posix(): sha256_file(p)
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def test_an_export_goes_to_the_hub_and_back(export, hub, there, tmp_path):
    """By the library's own client: made private, weights by LFS; what comes back is equal; a second
    push changes what changed."""
    model = tmp_path / "model"
    shutil.copytree(export, model)
    (model / "train.py").write_text("import os")
    plan = there("push", "model", "nino/voice", "--licence", "cc0-1.0", "--dry-run")
    assert (
        plan.returncode == 0
        and "train.py" in plan.stdout
        and "nothing was sent" in plan.stdout
        and hub.asked == []
        and hub.made is None
    )
    run = there("push", "model", "nino/voice", "--licence", "cc0-1.0")
    assert run.returncode == 0, run.stderr
    assert (
        hub.made["name"] == "voice"
        and hub.made.get("visibility", "private") == "private"
        and (hub.made.get("private") or hub.made.get("visibility"))
    ), hub.made
    assert (
        set(hub.files) == set(digests(export)) | {"README.md", "hub.json"}
        and b"license: cc0-1.0" in hub.files["README.md"]
        and "/commit/" in run.stdout
    )
    back = there("pull", "nino/voice", "back")
    assert back.returncode == 0, back.stderr
    assert {
        k: v for k, v in digests(tmp_path / "back").items() if k not in ("README.md", "hub.json")
    } == digests(export)
    assert json.loads((tmp_path / "back/hub.json").read_text())["revision"] == hub.sha
    hub.edit(eval_py=b"import os", README_md=hub.files["README.md"] + b"\nEdited on the hub.\n")
    assert (
        there("push", "model", "nino/voice", "--licence", "cc0-1.0").returncode == 0
        and b"Edited on the hub" in hub.files["README.md"]
    )
    hub.asked.clear()
    back = there("pull", "nino/voice", "back", "--revision", "main")
    assert (
        back.returncode == 0
        and "not fetched: eval.py" in back.stdout
        and not any("eval.py" in a for a in hub.asked)
    )
    refused(there("pull", "nino/voice", "other", "--revision", "v9"), "no such revision")


def test_without_network_login_or_repository(small, hub, there, tmp_path, monkeypatch):
    "One line that says what to do; nothing is left behind."
    from huggingface_hub import constants

    go = ("push", small, "nino/voice", "--licence", "mit")
    refused(
        there("pull", "nino/voice", "new"),
        "no such model on the hub, or it is private",
        "hf auth login",
    )
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    refused(there(*go), "401", "hf auth login")
    monkeypatch.delenv("HF_TOKEN")
    refused(there(*go), "nobody is logged in", "hf auth login", "HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(there("pull", "nino/voice", "new"), "cannot be reached", "file:///")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(there("pull", "nino/voice", "new"), "cannot be reached", "Look at the network")
    assert (
        hub.files is None and not (tmp_path / "new").exists() and not list(tmp_path.glob(".tmp-*"))
    )


def test_the_program(tmp_path):
    "In a process of its own."
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.txt").write_text("x")
    refused(
        call(
            "hub", "push", "m", "nino/voice", "--licence", "mit", cwd=tmp_path, root=tmp_path, **env
        ),
        "no model in it",
    )
    torch.save(torch.zeros(3), tmp_path / "m/w.pth")
    refused(call("hub", "push", "m", "nino/voice", cwd=tmp_path, root=tmp_path, **env), "--licence")
    refused(
        call(
            "hub", "push", "m", "nino/voice", "--licence", "mit", cwd=tmp_path, root=tmp_path, **env
        ),
        "hf auth login",
        "HF_TOKEN",
    )


def test_damage_on_the_way_is_noticed(small, hub, there, tmp_path):
    assert there("push", small, "nino/voice", "--licence", "mit").returncode == 0
    good = dict(hub.files)
    hub.files["vocab.json"] = good["vocab.json"].replace(b"1", b"2", 1)
    refused(there("pull", "nino/voice", "new"), "vocab.json", "not as pushed")
    del hub.files["vocab.json"]
    refused(there("pull", "nino/voice", "new"), "vocab.json", "not as pushed")
    hub.files = good | {"../up.json": b"{}"}
    refused(there("pull", "nino/voice", "new"), "`..` in the path")
    assert not (tmp_path / "new").exists() and not (tmp_path / "up.json").exists()


def test_what_was_pulled_speaks_the_same(export, tmp_path):
    push(export, f"file://{tmp_path}/disk", "cc-by-4.0")
    pull(str(tmp_path / "disk"), tmp_path / "here")
    for name, model in (
        ("before", export),
        ("after", tmp_path / "here"),
        ("disk", tmp_path / "disk"),
    ):  # a folder that was pushed to speaks as it lies
        assert (
            speak(
                "დილა მშვიდობისა",
                "--checkpoint",
                model,
                "--out",
                tmp_path / f"{name}.wav",
                "--temperature",
                "0.6",
                "--allow-incomplete",
            )
            == 0
        )
    assert len({(tmp_path / f"{n}.wav").read_bytes() for n in ("before", "after", "disk")}) == 1


def test_a_sovits_model_writes_the_same_tokens(tmp_path):
    from test_sovits import task, tokenizer

    from xtts_ka.core.randomness import torch_rng
    from xtts_ka.sovits.ar import Segment
    from xtts_ka.sovits.config import SamplingConfig
    from xtts_ka.sovits.sampling import generate
    from xtts_ka.sovits.train_ar import load_ar, save_ar
    from xtts_ka.sovits.train_semantic import SemanticTokenizer

    t = task(tmp_path, 2, tokenizer())
    t.tokenizer.save(tmp_path / "m")
    save_ar(t.models()["ar"].eval(), t.bpe, tmp_path / "m")
    push(tmp_path / "m", str(tmp_path / "disk"), "mit")
    pull(str(tmp_path / "disk"), tmp_path / "back")
    said = []
    for folder in ("m", "back"):
        net, bpe = load_ar(tmp_path / folder, SemanticTokenizer.load(tmp_path / folder))
        said.append(
            generate(
                net,
                [[Segment(bpe.encode("დილა"))]],
                SamplingConfig(max_per_piece=3),
                [torch_rng(0, "x")],
            )[0].codes
        )
    assert (
        torch.equal(*said) and "xtts-ka sovits speak" in (tmp_path / "back/README.md").read_text()
    )


def test_a_run_tells_its_numbers_and_its_base_binds(export, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(export, run / "xtts")
    (run / "evaluate").mkdir()
    (run / "pretrain_progress.json").write_text("{}")
    (run / "evaluate/metrics.json").write_text('{"xtts": {"CER": 0.125}, "voice": "nino"}')
    (run / "xtts/readme_of_ours.txt").write_text(f"made in {Path.home()}/work")
    done = push(run / "xtts", str(tmp_path / "disk"), "mit")
    card = (tmp_path / "disk/README.md").read_text()
    assert (
        "| evaluate: xtts, CER | 0.125 |" in card
        and "language:\n- ka" in card
        and done.notes[0].startswith("readme_of_ours.txt names")
    )
    record = json.loads((run / "xtts/export.json").read_text())
    record["about"]["base"] = {"name": "coqui/XTTS-v2"}
    (run / "xtts/export.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="--licence cpml"):
        push(run / "xtts", str(tmp_path / "other"), "mit")
    push(run / "xtts", str(tmp_path / "other"), "cpml")
    assert (
        "base_model: coqui/XTTS-v2" in (tmp_path / "other/README.md").read_text()
        and "coqui-public-model-license" in (tmp_path / "other/README.md").read_text()
    )


def test_an_export_that_cannot_travel_whole_stays(export, tmp_path):
    model = tmp_path / "m"
    shutil.copytree(export, model)
    with open(model / "mel_stats.pth", "r+b") as f:
        f.seek(300)
        f.write(b"\xff")
    with pytest.raises(CheckpointError, match="mel_stats.pth"):
        push(model, str(tmp_path / "disk"), "mit")
    shutil.copy(export / "mel_stats.pth", model)
    (model / "evil.json").symlink_to("/etc/hosts")
    with pytest.raises(PathError, match="leads out of the folder"):
        push(model, str(tmp_path / "disk"), "mit")
    assert not (tmp_path / "disk").exists()


def test_a_push_that_fails_leaves_the_old_state(small, tmp_path):
    "A folder is exchanged as a whole: an error in the middle of the copy changes nothing."
    push(small, str(tmp_path / "disk"), "mit")
    before = digests(tmp_path / "disk")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            shutil,
            "copyfile",
            lambda a, b: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        with pytest.raises(OSError):
            push(small, str(tmp_path / "disk"), "mit")
        with pytest.raises(OSError):
            pull(str(tmp_path / "disk"), tmp_path / "new")
    assert (
        digests(tmp_path / "disk") == before
        and not (tmp_path / "new").exists()
        and not list(tmp_path.glob(".tmp-*"))
    )
