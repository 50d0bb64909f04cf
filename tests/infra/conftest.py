"""Some tests need a program that pip and npm do not bring. They are collected where it is."""

import shutil

from tests.infra.compiler import program

collect_ignore = [
    *([] if program() else ["test_compiler.py"]),
    *([] if shutil.which("kubectl") else ["test_kustomize.py"]),
]
