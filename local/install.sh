#!/bin/sh
# Installs one of the things that the Makefile's commands run on: install.sh runtime | dev | azurite | kusto.
# A copy of the list stands beside what was installed from it: while the two are equal there is nothing to do.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

# quietly NAME SENTENCE COMMAND...: a dot every second while COMMAND runs; all that it said, and SENTENCE, when it fails.
quietly() {
    log=.local/logs/$1.log
    sentence=$2
    shift 2
    mkdir -p .local/logs
    (while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do printf .; done) &
    dots=$!
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$dots" 2>/dev/null || true
    echo
    [ "$status" -eq 0 ] && return
    cat "$log" >&2
    fail "$sentence"
}

environment() {
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then
        return
    fi
    python=$(sh local/find-python.sh) || exit 1
    if [ -e .venv ]; then
        echo "The Python of .venv is gone or is not 3.13: it is made anew."
        rm -rf .venv
    fi
    printf 'Making .venv with %s ' "$python"
    quietly venv "The virtual environment could not be made: see above (on Debian and Ubuntu the package python3.13-venv is needed)." \
        "$python" -m venv .venv
}

# packages LIST [OPTION...]: what LIST names, into .venv; the options go to pip.
packages() {
    list=$1
    shift
    stamp=.venv/installed-$list
    cmp -s "$list" "$stamp" && return
    # A virtual environment that uv made, or whose making was cut short, has no pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    printf 'Installing the %s packages of %s ' "$(grep -c '==' "$list")" "$list"
    quietly pip "The packages of $list could not be installed: see above, mend it (often the network, or a proxy) and run the command again." \
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$list" "$@"
    cp "$list" "$stamp"
}

# node_packages FOLDER NAME: what FOLDER's package-lock.json lists, into its node_modules.
node_packages() {
    command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 ||
        fail "Node.js 20 or newer with npm is needed for $2, and was not found: install it and run the command again."
    version=$(node --version 2>/dev/null) || version=
    major=${version#v}
    major=${major%%.*}
    [ "${major:-0}" -ge 20 ] 2>/dev/null ||
        fail "$2 needs Node.js 20 or newer, and the one found is ${version:-broken}: install a newer one and run the command again."
    stamp=$1/node_modules/.installed-package-lock.json
    cmp -s "$1/package-lock.json" "$stamp" && return
    printf 'Installing %s into %s/node_modules ' "$2" "$1"
    quietly npm "$2 could not be installed: see above, mend it (often the network, or a proxy) and run the command again." \
        npm --prefix "$1" ci --omit=dev --loglevel=error
    cp "$1/package-lock.json" "$stamp"
}

case ${1:-} in
runtime)
    environment
    packages requirements.txt
    packages requirements-container.txt --constraint requirements.txt
    ;;
dev)
    environment
    packages requirements-dev.txt --constraint requirements.txt --constraint requirements-container.txt
    ;;
azurite) node_packages local "Azurite, the storage emulator," ;;
kusto) node_packages tests/infra/kusto "The parser of KQL" ;;
*) fail "usage: local/install.sh runtime | dev | azurite | kusto" ;;
esac
