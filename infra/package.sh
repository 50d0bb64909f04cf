#!/bin/sh
# Lays out the function app as it will run, in .local/package: its files, and the wheels of requirements.txt for
# Python 3.13 on Linux, each held to its hash. azd calls it before it packages (azure.yaml).
set -eu
cd "$(dirname "$0")/.."
package=${1:-.local/package}

python=$(sh local/find-python.sh)
rm -rf "$package"
mkdir -p "$package"
cp -R function_app.py host.json requirements.txt shared "$package"
# The configuration is a setting of the app; a file is packaged for those who prefer one.
[ ! -f gateway.yaml ] || cp gateway.yaml "$package"
find "$package" -name __pycache__ -type d -prune -exec rm -rf {} +
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --target "$package/.python_packages/lib/site-packages" \
    --requirement requirements.txt --require-hashes --only-binary :all: --implementation cp --python-version 3.13 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
rm -rf "$package/.python_packages/lib/site-packages/bin"
