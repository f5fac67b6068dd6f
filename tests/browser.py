"""A headless Chromium for the tests, driven over its DevTools protocol through a pipe: no port, no
package, a real mouse."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Chromium reads commands from file 3 and answers on file 4; the numbers are given in a process of
# its own, where nothing else uses them.
_START = """import fcntl, os, sys
r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"""


def chromium():
    "The browser's path, or None."
    return next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))),
        None,
    )


class Browser:
    "One window; leaves nothing behind."

    def __init__(self, width=1280, height=900, mobile=False):
        self.profile = tempfile.mkdtemp(prefix="browser-")
        (theirs_in, self.out), (self.inn, theirs_out) = os.pipe(), os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
            "--disable-component-update",
            "--hide-scrollbars",
            f"--user-data-dir={self.profile}",
            f"--window-size={width},{height}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), chromium(), *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.events, self.last, self.rest, self.session = [], 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if mobile:
            self.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=2,
                mobile=True,
            )
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        os.close(self.out)  # the end of the pipe ends the browser
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        os.close(self.inn)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _message(self, seconds):
        "The next message, or None when none comes in time."
        until = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.inn], [], [], max(0, until - time.monotonic()))[0]:
                return None
            if not (part := os.read(self.inn, 1 << 20)):
                raise RuntimeError(f"the browser ended with {self.process.poll()}")
            self.rest += part
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, **params):
        "One command and its result; events that come meanwhile are kept."
        self.last += 1
        message = {"id": self.last, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        while (answer := self._message(90)) and answer.get("id") != self.last:
            self.events.append(answer)
        if answer is None:
            raise TimeoutError(f"{method}: no answer within 90 s")
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def run(self, script):
        "The value of an expression in the page; a promise is awaited."
        r = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in r:
            raise RuntimeError(f"{script}: {r['exceptionDetails']}")
        return r["result"].get("value")

    def wait(self, script, seconds=30):
        "Until an expression is true; its value."
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"not within {seconds} s: {script}")
            time.sleep(0.1)
        return value

    def open(self, path, ready="document.documentElement.dataset.ready"):
        "Show a page, and forget what earlier ones did."
        self.events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait(f"document.readyState === 'complete' && {ready}", 60)

    def click(self, x, y):
        "A real press and release of the left button: what browsers count as a gesture."
        for kind, buttons in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="none" if kind == "mouseMoved" else "left",
                buttons=buttons,
                clickCount=int(kind != "mouseMoved"),
            )

    def press(self, where):
        "A click on the middle of an element, once it stands still."
        box, before = f"document.querySelector({json.dumps(where)})", None
        place = f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box}.getBoundingClientRect())"
        hit = f"(p => {box}.contains(document.elementFromPoint(...p)))({place})"
        until = time.monotonic() + 30
        while (now := self.run(place)) != before or not self.run(hit):
            if time.monotonic() > until:
                raise TimeoutError(f"{where} is covered, or does not stand still")
            self.run(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            before = self.run(place)
            time.sleep(0.25)
        self.click(*now)

    def fill(self, where, text):
        "The text of an input, as if it had been typed."
        self.run(f"""(box => {{
            const kind = box.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
            Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(
                box, {json.dumps(text)});
            for (const name of ['input', 'change', 'blur'])
                box.dispatchEvent(new Event(name, {{bubbles: true}}));
        }})(document.querySelector({json.dumps(where)}))""")

    def tap(self, x, y):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def shot(self, path, whole=False):
        "What is seen, as a PNG."
        Path(path).write_bytes(
            base64.b64decode(
                self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
                    "data"
                ]
            )
        )

    @property
    def asked(self):
        "Addresses the page asked for, apart from itself and what it holds."
        self.run("1")
        return [
            u
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
            and not (u := e["params"]["request"]["url"]).startswith(("file:", "data:", "blob:"))
        ]

    @property
    def errors(self):
        "Exceptions and errors in the page's console, refused addresses among them."
        self.run("1")
        thrown = [
            e["params"]["exceptionDetails"]
            for e in self.events
            if e["method"] == "Runtime.exceptionThrown"
        ]
        logged = [
            e["params"]["entry"]["text"]
            for e in self.events
            if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"
        ]
        return (
            thrown
            + logged
            + [
                e["params"]["args"]
                for e in self.events
                if e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] == "error"
            ]
        )
