#!/bin/sh
# Prints the path of a Python 3.13, or says in one sentence what to install. Each candidate is really run: a pyenv shim
# may stand on PATH and yet fail, because it finds its versions through HOME or through the folder it is called in.
set -u

try() {
    path=$("$1" -c 'import sys; sys.version_info[:2] == (3, 13) and print(getattr(sys, "_base_executable", sys.executable))' \
        2>/dev/null </dev/null) || return 0
    [ -n "$path" ] || return 0
    printf '%s\n' "$path"
    exit 0
}

[ -z "${PYTHON:-}" ] || try "$PYTHON"
try python3.13

pyenv=$(command -v pyenv 2>/dev/null) || pyenv=
for root in "${PYENV_ROOT:-}" "${HOME:-}/.pyenv" "${pyenv:+$(dirname "$pyenv")/..}"; do
    for python in "$root"/versions/3.13*/bin/python3.13; do
        [ ! -x "$python" ] || try "$python"
    done
done

if command -v uv >/dev/null 2>&1; then
    python=$(uv python find --no-project 3.13 2>/dev/null </dev/null) || python=
    [ -z "$python" ] || try "$python"
fi

try python3

echo "Tollgate needs Python 3.13, and none was found: install it (for example with 'uv python install 3.13', \
'pyenv install 3.13' or your system's packages), or name one with PYTHON=/path/to/python3.13." >&2
exit 1
