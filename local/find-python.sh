#!/bin/sh
# find-python.sh [VERSION]: prints the path of a Python 3.13, or VERSION, or says in one sentence what to install. Each
# candidate is really run: a pyenv shim may be on PATH and yet fail, because it finds its versions through HOME or
# through the current folder.
set -u
version=${1:-3.13}

try() {
    path=$("$1" -c 'import sys; "%d.%d" % sys.version_info[:2] == sys.argv[1] and print(getattr(sys, "_base_executable", sys.executable))' \
        "$version" 2>/dev/null </dev/null) || return 0
    [ -n "$path" ] || return 0
    printf '%s\n' "$path"
    exit 0
}

[ -z "${PYTHON:-}" ] || try "$PYTHON"
try "python$version"

pyenv=$(command -v pyenv 2>/dev/null) || pyenv=
for root in "${PYENV_ROOT:-}" "${HOME:-}/.pyenv" "${pyenv:+$(dirname "$pyenv")/..}"; do
    for python in "$root"/versions/"$version"*/bin/"python$version"; do
        [ ! -x "$python" ] || try "$python"
    done
done

if command -v uv >/dev/null 2>&1; then
    python=$(uv python find --no-project "$version" 2>/dev/null </dev/null) || python=
    [ -z "$python" ] || try "$python"
fi

try python3

echo "Tollgate needs Python $version, and none was found: install it (for example with 'uv python install $version', \
'pyenv install $version' or your system's packages), or name one with PYTHON=/path/to/python$version." >&2
exit 1
