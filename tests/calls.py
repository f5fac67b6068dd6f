"""Calls of `xtts-ka` in this process: a new one would spend a second on importing."""

import contextlib
import io
import os
from dataclasses import dataclass
from unittest import mock


@dataclass
class Called:
    "What a call ended with, as `subprocess.run` says it."

    returncode: int
    stdout: str
    stderr: str


def called(*argv, cwd=".", root=None, **env) -> Called:
    "`xtts-ka` with these words, from a folder and with a repository's root of its own."
    from xtts_ka.pipeline.cli import main

    out, err = io.StringIO(), io.StringIO()
    env |= {"XTTS_KA_ROOT": str(root)} if root else {}
    with (
        mock.patch.dict(os.environ, env),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([str(a) for a in argv])
        except SystemExit as e:
            code = e.code
    return Called(code, out.getvalue(), err.getvalue())
