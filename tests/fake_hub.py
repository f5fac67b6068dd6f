"""The part of the hub's API that `datasets` asks when it streams a data set, served from a folder
on this machine."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "0" * 40


class Hub(ThreadingHTTPServer):
    "A data set of one name; `asked` holds the requests, `broken` makes the sound unreachable."

    daemon_threads = True

    def __init__(self, name, root):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.root, self.asked, self.broken = name, root, [], False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, data=b"", **headers):
        self.send_response(code)
        for key, value in {
            "X-Repo-Commit": SHA,
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        kind, _, rest = path.removeprefix("/api").partition(f"/datasets/{hub.name}")
        if kind or path.count(hub.name) != 1:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if re.fullmatch(r"(/revision/\w+)?", rest):
            return self.answer(200, json.dumps({"id": hub.name, "sha": SHA}).encode())
        if m := re.fullmatch(r"/tree/\w+/?(.*)", rest):
            folder = hub.root / m[1]
            listed = [self.entry(p) for p in folder.iterdir()] if folder.is_dir() else []
            return self.answer(200, json.dumps(listed).encode())
        if (m := re.fullmatch(r"/resolve/\w+/(.+)", rest)) and (hub.root / m[1]).is_file():
            return self.file((hub.root / m[1]).read_bytes())
        return self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def entry(self, path):
        name, kind = path.relative_to(self.server.root).as_posix(), "directory"
        kind = kind if path.is_dir() else "file"
        return {"type": kind, "oid": "1" * 40, "size": path.stat().st_size, "path": name}

    def file(self, data):
        tag = {"ETag": f'"{"a" * 40}"', "Accept_Ranges": "bytes"}
        if not (m := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
            return self.answer(200, data, **tag)
        if self.server.broken:
            return self.answer(403)
        first, last = int(m[1]), min(int(m[2] or len(data)), len(data) - 1)
        span = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], Content_Range=span, **tag)
