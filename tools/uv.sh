#!/usr/bin/env bash
# Call uv with the given arguments; put it into .tools first when there is none.
# Needs Python 3.11 with venv, or with pip alone (Debian's externally managed one has no ensurepip).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="$here/.tools"
# an activated environment of another project is not the place to install into
unset VIRTUAL_ENV

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

find_python() {
  local name
  for name in python3 python3.11 python; do
    if is_311 "$name"; then echo "$name"; return; fi
  done
  echo "make: Python 3.11 is needed and none was found as python3, python3.11 or python on the PATH" >&2
  echo "      install it (python.org, your distribution, conda env create -f environment.yml), or install uv: it brings its own" >&2
  exit 1
}

bootstrap() {
  local python; python="$(find_python)"
  echo "make: no uv on the PATH; installing it into .tools with $("$python" --version)" >&2
  rm -rf "$tools"; mkdir -p "$tools"
  if "$python" -m venv "$tools/env" >"$tools/venv.log" 2>&1; then
    "$tools/env/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2
    return
  fi
  rm -rf "$tools/env" # half a venv: Debian makes the folder before it misses ensurepip
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$tools/lib" uv >&2
    return
  fi
  echo "make: $python has neither venv (see .tools/venv.log) nor pip; on Debian and Ubuntu: apt install python3.11-venv" >&2
  exit 1
}

find_uv() {
  local found
  for found in "$(command -v uv || true)" "$tools/env/bin/uv" "$tools/lib/bin/uv"; do
    if [ -n "$found" ] && "$found" --version >/dev/null 2>&1; then echo "$found"; return; fi
  done
  return 1
}

uv="$(find_uv)" || { bootstrap; uv="$(find_uv)" || { echo "make: uv was installed into .tools but does not start" >&2; exit 1; }; }
cd "$here"
exec "$uv" "$@"
