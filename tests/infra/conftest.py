"""What needs the Bicep compiler is collected where there is one: .ci/run and the GitHub workflow bring it."""

from tests.infra.compiler import program

collect_ignore = [] if program() else ["test_compiler.py"]
