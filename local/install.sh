#!/bin/sh
# Installs what the Makefile's commands need: install.sh runtime | dev | audit | azurite | page | chromium | kusto | agents | libraries | runtimes | sdks.
# A copy of each list is kept with what was installed from it. While the two are equal, there is nothing to do.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

# quietly NAME SENTENCE COMMAND...: prints a dot every second while COMMAND runs; its output and SENTENCE if it fails.
quietly() {
    log=.local/logs/$1.log
    sentence=$2
    shift 2
    mkdir -p "${log%/*}"
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
        echo "The Python of .venv is missing or is not 3.13: creating .venv again."
        rm -rf .venv
    fi
    printf 'Creating .venv with %s ' "$python"
    quietly venv "The virtual environment could not be created: see above. Debian and Ubuntu need the package python3.13-venv." \
        "$python" -m venv .venv
}

# packages LIST [OPTION...]: installs the packages of LIST into .venv; the options go to pip.
packages() {
    list=$1
    shift
    stamp=.venv/installed-$list
    cmp -s "$list" "$stamp" && return
    # A virtual environment that uv created, or whose creation was interrupted, has no pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    printf 'Installing the %s packages of %s ' "$(grep -c '==' "$list")" "$list"
    quietly pip "The packages of $list could not be installed: see above, fix the cause (often the network or a proxy), and run the command again." \
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$list" "$@"
    cp "$list" "$stamp"
}

# The command line as .venv/bin/tollgate, in any folder.
command_line() {
    cat >.venv/bin/tollgate <<END
#!/bin/sh
PYTHONPATH="$PWD\${PYTHONPATH:+:\$PYTHONPATH}" exec "$PWD/.venv/bin/python" -m shared.cli "\$@"
END
    chmod +x .venv/bin/tollgate
}

# node_packages FOLDER NAME WHAT COMMAND...: installs the npm packages of FOLDER, which are NAME, by a command of npm;
# WHAT describes them.
node_packages() {
    folder=$1
    name=$2
    what=$3
    shift 3
    command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 ||
        fail "Node.js 20 or newer with npm is needed for $name, $what, and was not found: install it, and run the command again."
    version=$(node --version 2>/dev/null) || version=
    major=${version#v}
    major=${major%%.*}
    [ "${major:-0}" -ge 20 ] 2>/dev/null ||
        fail "Node.js 20 or newer is needed for $name, $what, but found ${version:-a broken one}: install a newer one, and run the command again."
    stamp=$folder/node_modules/.installed-package-lock.json
    cmp -s "$folder/package-lock.json" "$stamp" && return
    printf 'Installing %s into %s/node_modules ' "$name" "$folder"
    quietly npm "$name could not be installed: see above, fix the cause (often the network or a proxy), and run the command again." \
        npm --prefix "$folder" "$@" --omit=dev --loglevel=error
    cp "$folder/package-lock.json" "$stamp"
}

# The browser of the page's tests: Debian's package, since playwright's own builds are not on its registry.
chromium() {
    [ -x "${CHROMIUM:-/usr/bin/chromium}" ] && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 ||
        fail "Chromium is needed for the tests of the page: install it, or set CHROMIUM to its path."
    printf 'Installing Chromium '
    quietly chromium "Chromium could not be installed: see above, or set CHROMIUM to the path of one." \
        sh -c 'apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends chromium fonts-dejavu-core fonts-wqy-microhei'
}

# apart NAME LIST WHAT [VERSION]: installs the packages of LIST, which are WHAT, into the virtual environment .local/NAME,
# with Python VERSION: the packages of .venv are others.
apart() {
    name=$1
    list=$2
    what=$3
    stamp=.local/$name/installed.txt
    cmp -s "$list" "$stamp" && return
    python=$(sh local/find-python.sh ${4:+"$4"}) || exit 1
    rm -rf ".local/$name"
    printf 'Installing %s into .local/%s ' "$what" "$name"
    quietly "$name" "$what could not be installed: see above, fix the cause (often the network or a proxy), and run the command again." \
        sh -c '"$1" -m venv "$2" && "$2/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$3"' \
        sh "$python" ".local/$name" "$list"
    cp "$list" "$stamp"
}

# Microsoft's worker library in its earlier versions, each in a folder of its own beside what it needs in .venv.
runtimes() {
    for list in tests/runtimes/*.txt; do
        release=$(basename "$list" .txt)
        folder=.local/runtimes/$release
        cmp -s "$list" "$folder/installed.txt" && continue
        rm -rf "$folder"
        printf 'Installing azure-functions-runtime %s into %s ' "$release" "$folder"
        quietly runtimes "The worker library could not be installed: see above, fix the cause (often the network or a proxy), and run the command again." \
            .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target "$folder" --requirement "$list"
        cp "$list" "$folder/installed.txt"
    done
}

# OpenAI's clients of earlier days, each in a virtual environment of its own.
sdks() {
    for list in tests/sdks/openai-*.txt; do
        version=$(basename "$list" .txt)
        apart "sdks/$version" "$list" "$version"
    done
}

case ${1:-} in
runtime)
    environment
    packages requirements.txt
    packages requirements-container.txt --constraint requirements.txt
    command_line
    ;;
dev)
    environment
    packages requirements-dev.txt --constraint requirements.txt --constraint requirements-container.txt
    ;;
audit)
    # Apart from .venv, which must hold what the tests need and nothing else.
    python=$(sh local/find-python.sh) || exit 1
    rm -rf .local/audit
    "$python" -m venv .local/audit
    .local/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-audit.txt
    audit() {
        .local/audit/bin/python -m pip_audit --require-hashes --disable-pip --progress-spinner off \
            --requirement requirements.txt --requirement requirements-container.txt "$@"
    }
    audit --format cyclonedx-json --output .local/sbom.json || true # the list of packages; the next line judges them
    audit --strict
    ;;
azurite) node_packages local Azurite "the storage emulator" ci ;;
agents)
    # Not `ci`: the lock file lacks the programs for other systems, whose versions their packages say.
    node_packages tests/agents "Codex, Claude Code, Copilot, OpenCode, Continue and Cline" "the coding agents" install --no-save
    apart aider tests/agents/requirements.txt aider 3.12 # which runs on no newer one
    ;;
libraries)
    node_packages tests/libraries "OpenAI's and LangChain's libraries" "the libraries for Node.js" ci
    apart libraries tests/libraries/requirements.txt "LangChain, LiteLLM and OpenAI's agents"
    apart llama-index tests/libraries/llama-index.txt LlamaIndex
    ;;
page) node_packages local/page "the page's libraries" "and what checks its modules" ci ;;
chromium) chromium ;;
runtimes) runtimes ;;
sdks)
    sdks
    node_packages tests/sdks "npm's openai 3.3 and 6" "clients of callers" ci
    ;;
kusto) node_packages tests/infra/kusto "The KQL parser" "which checks the queries of alerts" ci ;;
*) fail "usage: local/install.sh runtime | dev | audit | azurite | page | chromium | kusto | agents | libraries | runtimes | sdks" ;;
esac
