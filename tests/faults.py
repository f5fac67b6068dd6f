"""Ways in which the world goes wrong: full and read-only disks, a clock that goes back, sound files
that lie, paths that lead out, files that carry code."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import soundfile as sf
import test_kill

# ---- disks


def _mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0


class Disk:
    """A file system of a few bytes at `path`: a tmpfs where we may mount one; else a limit on the
    size of each file this process writes, which gives another number but the same kind of error."""

    def __init__(self, path, size: int):
        self.path, self.size = Path(path), size

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        self.mounted = _mount("-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.path)
        self.resize(self.size)
        return self

    def __exit__(self, *_):
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=True)
        else:
            self.resize(resource.RLIM_INFINITY)

    @property
    def kind(self):
        return "tmpfs" if self.mounted else "limit on the size of a file"

    @property
    def used(self):
        return (s := os.statvfs(self.path)).f_frsize * (s.f_blocks - s.f_bfree)

    def resize(self, size: int):
        self.size = size
        if self.mounted:
            assert _mount("-o", f"remount,size={size}", self.path)
        else:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            )


@contextlib.contextmanager
def read_only(path):
    "Nobody can write below `path`, not even root. Yields whether that could be arranged."
    path = Path(path)
    if os.geteuid() == 0:
        closed = _mount("--bind", path, path) and _mount("-o", "remount,bind,ro", path)
    else:
        path.chmod(0o555)
        closed = True
    try:
        yield closed
    finally:
        if os.geteuid() != 0:
            path.chmod(0o755)
        elif closed:
            subprocess.run(["umount", "-l", str(path)], check=True)


# ---- a clock that goes back

BACK = '''"""Every process finds the clock an hour behind the one that started before it,
and half an hour more after five seconds. Files keep the system's dates, so they lie in the
future."""
import os, time
from pathlib import Path
fd = os.open(Path(__file__).with_name("processes"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b".")
behind, begin = 3600*os.fstat(fd).st_size, time.monotonic()
clock, nanoseconds, steady = time.time, time.time_ns, time.monotonic
os.close(fd)
def now_behind(): return behind + 1800*(steady() - begin > 5)
time.time = lambda: clock() - now_behind()
time.time_ns = lambda: nanoseconds() - now_behind()*10**9
'''


# ---- a run that is disturbed

IGNORED = re.compile(
    r"^.*Exception ignored in:?.*\n(.*\n)*?.*KeyboardInterrupt:? *\n", re.M
)  # Python itself says so when a signal comes while it cleans up or imports


class Ways:
    "Ways to disturb the run in one home. What each does to it is checked on the spot, and counted."

    def __init__(self, home, draw):
        self.home, self.draw, self.count, self.damaged, self.said = home, draw, Counter(), [], []

    def plan(self, clock, kills: int, in_each: tuple):
        "So many kills over the whole run, and in each stage each of the ways named."
        found, begin = test_kill.kills(clock, self.draw, kills), 0
        found = [
            (clock.sooner(moment), partial(self.killed, **way.keywords)) for moment, way in found
        ]
        for name, length in clock.lengths.items():
            found += [(begin + self.draw.uniform(0, 0.5) * length, way) for way in in_each]
            if list((clock.folder / name).rglob("checkpoints")):
                found.append((begin + 0.1 * length, self.damaging))
            begin += length
        return sorted(found, key=lambda one: one[0])

    def at(self):
        "The stage that runs, or ''."
        return next((n for n, s in self.home.stages().items() if s["status"] == "running"), "")

    def kernel(self, process):
        "The kernel's process, as soon as there is one; None when the run is over before."
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                found = [
                    p
                    for p in psutil.Process(process.pid).children(recursive=True)
                    if "ipykernel_launcher" in " ".join(p.cmdline())
                ]
                if found and self.at():
                    return found[0]
            time.sleep(0.02)

    def ended(self, process, code: int, *words):
        "It ends soon, with its status and with what to do, and without a traceback."
        out, err = process.communicate(timeout=120)
        out = IGNORED.sub("", out)
        assert process.returncode == code and "Traceback" not in out + err, (
            f"{process.returncode} instead of {code}\n{out}{err}"
        )
        for w in words:
            assert w in out + err, f"{w!r} is not in\n{out}{err}"
        self.said.append(out)

    def killed(self, process, alone: bool):
        self.said.append(test_kill.kill(process, alone))
        self.count["kill -9"] += 1
        return f"kill -9 of {'the runner alone' if alone else 'runner and kernel'}"

    def damaging(self, process):
        """A kill as soon as a training of the stage that runs has two checkpoints; then the newer
        one is spoiled."""
        if self.kernel(process) is None:
            return self.late(process)
        stage = self.at()
        while process.poll() is None and self.at() == stage and not self.pairs():
            time.sleep(0.02)
        if process.poll() is not None:
            return self.late(process)
        self.said.append(test_kill.kill(process, alone=False))
        self.count["kill -9"] += 1
        return f"kill -9 of runner and kernel, {self.damage()} checkpoints damaged"

    def kernel_dies(self, process):
        kernel = self.kernel(process)
        if kernel is None:
            return self.late(process)
        stage = self.at()
        kernel.kill()
        self.ended(process, 1, f"{stage}", "failed after", "to go on:", "xtts-ka run")
        self.count[f"kernel died in {stage}"] += 1
        return "kill -9 of the kernel"

    def signalled(self, process, signum: int):
        "A signal while a stage runs; before it, a second run of the same folder is refused."
        if self.kernel(process) is None:
            return self.late(process)
        stage = self.at()
        if signum == signal.SIGTERM:
            self.second()
        process.send_signal(signum)
        self.ended(process, 128 + signum, "saving and stopping", "to go on: xtts-ka run")
        self.count[f"{signal.Signals(signum).name} in {stage}"] += 1
        return signal.Signals(signum).name

    def second(self):
        refused = self.home.run()
        assert (
            refused.returncode == 2
            and "is running in this folder. Wait for it, stop it, or give this run another name"
            in refused.stderr
        ), refused.stdout + refused.stderr
        self.count["second runs refused"] += 1

    def late(self, process):
        "The run was over: no way to disturb it."
        self.ended(process, 0)
        return "nothing: it was over"

    def pairs(self):
        "(newest, older) checkpoints of every training of a stage that is not done."
        from xtts_ka.core.checkpoint import checkpoints

        states = self.home.stages()
        roots = [
            r
            for n in states
            if states[n]["status"] != "done"
            for r in (self.home.dir / n).rglob("checkpoints")
        ]
        return [tuple(found[:2]) for r in roots if len(found := checkpoints(r)) > 1]

    def damage(self):
        """Spoil the newest checkpoint of a stage that is not done, where an older one is whole; how
        many."""
        from test_resume import damage

        from xtts_ka.core.checkpoint import refusal

        before = len(self.damaged)
        for newest, older in self.pairs():
            if refusal(newest) or refusal(older):
                continue
            path = self.draw.choice(sorted(newest.iterdir()))
            damage(self.draw, path, older / path.name)
            if refusal(newest):
                self.damaged.append(newest)
                self.count["damaged checkpoints"] += 1
        return len(self.damaged) - before

    def tidy(self, last):
        "Each damage was told; what was set aside goes, so that the rest can be compared."
        told = "".join([*self.said, last.stdout])
        silent = [str(p) for p in self.damaged if f"{p.name}: " not in told.partition("refused")[2]]
        assert not silent, f"not told: {silent}"
        for p in self.home.dir.rglob("refused-step-*"):
            self.count["set aside"] += 1
            test_kill.shutil.rmtree(p)


# ---- sound files that are none

RATE = 22050


def tone(seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * RATE)) / RATE)).astype(
        np.float32
    )


def _bytes(folder, suffix, **kw):
    sf.write(path := folder / f"good{suffix}", tone(), RATE, **kw)
    return path.read_bytes()


def _field(raw, at, value, size=4):
    return raw[:at] + int(value).to_bytes(size, "little") + raw[at + size :]


def _streaminfo(raw, total):  # FLAC: 36 bits of total samples from the low half of byte 21 on
    return (
        raw[:21]
        + bytes([raw[21] & 0xF0 | total >> 32])
        + (total & 0xFFFFFFFF).to_bytes(4, "big")
        + raw[26:]
    )


def _floats(folder, wav):
    sf.write(path := folder / "float.wav", wav, RATE, subtype="FLOAT")
    return path.read_bytes()


def malformed(folder, draw, n):
    """Yield (name, bytes, must be refused) of `n` sound files; the others may be readable, and then
    have to be sound."""
    good = {s: _bytes(folder, s) for s in (".wav", ".flac", ".ogg", ".mp3", ".aiff")}
    wav, flac = good[".wav"], good[".flac"]

    def spoilt(value):
        return _floats(
            folder, np.where(np.arange(RATE) == draw.randrange(RATE), np.float32(value), tone())
        )

    def cut(s):
        raw = good[s]
        return raw[: draw.randrange(1, len(raw))]

    def flipped(s):
        raw = bytearray(good[s])
        for _ in range(draw.randint(1, 8)):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return bytes(raw)

    kinds = {
        "longer.wav": lambda: (_field(wav, 40, len(wav) - 44 + draw.randrange(1, 2**31)), True),
        "shorter.wav": lambda: (_field(wav, 40, 2 * draw.randrange(300, RATE - 3000)), True),
        "longer.flac": lambda: (_streaminfo(flac, RATE + draw.randrange(1, 2**35)), True),
        "shorter.flac": lambda: (_streaminfo(flac, draw.randrange(300, RATE)), True),
        "nan.wav": lambda: (spoilt(np.nan), True),
        "infinite.wav": lambda: (spoilt(-np.inf), True),
        "loud.wav": lambda: (spoilt(draw.uniform(2, 1e30)), True),
        "empty.wav": lambda: (b"", True),
        "no_samples.wav": lambda: (wav[:40] + bytes(4), True),
        "one_sample.wav": lambda: (_field(wav, 40, 2)[:46], True),
        "rate.wav": lambda: (
            _field(
                wav,
                24,
                draw.choice([0, 1, 999, 768001, 2**31, 2**32 - 1, draw.randrange(10**6, 2**32)]),
            ),
            True,
        ),
        "channels.wav": lambda: (_field(wav, 22, draw.choice([0, 9, 255, 65535]), 2), True),
        "noise.wav": lambda: (draw.randbytes(draw.randrange(13, 20000)), True),
        "text.mp3": lambda: ("ეს ხმა არ არის. ".encode() * draw.randint(1, 200), True),
        **{
            f"cut{s}": lambda s=s: (cut(s), s != ".mp3") for s in good
        },  # An MP3 that ends between two frames is a shorter MP3
        **{f"flipped{s}": lambda s=s: (flipped(s), False) for s in good},
        "header.wav": lambda: (wav[:12] + draw.randbytes(32) + wav[44:], False),
        "header.flac": lambda: (flac[:8] + draw.randbytes(34) + flac[42:], False),
    }
    for i in range(n):
        kind = list(kinds)[i % len(kinds)]
        data, refused = kinds[kind]()
        yield f"{i:04d}_{kind}", data, refused


# ---- paths that lead out


def attacks(draw, n, secret):
    """`n` names for a file that lies outside: `secret`, as an absolute path, and things that some
    program takes for a way up."""
    ups = [
        "../",
        "..\\",
        "./../",
        "wavs/../../",
        "wavs/..\\../",
        ".//..//",
        "wavs/./../../",
        "link/",
        "link/../",
    ]
    starts = [
        "",
        "/",
        "//",
        "\\",
        "\\\\host\\share\\",
        "C:\\",
        "c:/",
        "~/",
        "~root/",
        "file://",
        "\0",
        "%2e%2e/",
        "．．/",
        "..;/",
        "wavs\0/",
    ]
    ends = [
        secret.name,
        secret.as_posix().lstrip("/"),
        "etc/passwd",
        "a.wav",
        secret.name + "\0.wav",
    ]
    for i in range(n):
        if i % 10 == 0:
            yield secret.as_posix()
        else:
            yield (
                draw.choice(starts)
                + draw.choice(["", *ups]) * draw.randint(0, 9)
                + draw.choice(ends)
            )
