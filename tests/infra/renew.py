"""Formats infra/bicep and renews its snapshots: `make infra`. It needs the Bicep compiler."""

from tests.infra.compiler import Compiler
from tests.infra.snapshots import BICEP, CASES, DIGEST, digest, resources, sources


def main() -> None:
    with Compiler() as compiler:
        for path in sources():
            if path.suffix != ".json":
                path.write_text(compiler.formatted(path))
        for case in CASES:
            path = BICEP / "tests" / f"{case}.snapshot.json"
            path.write_text(compiler.snapshot(BICEP / "tests" / f"{case}.bicepparam"))
            print(f"{path.relative_to(BICEP)}: {len(resources(case))} resources")
    DIGEST.write_text(digest() + "\n")


if __name__ == "__main__":
    main()
