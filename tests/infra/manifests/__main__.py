"""Every manifest of every overlay, and the schema that it was checked against.

python -m tests.infra.manifests            prints the table; exit code 1 where a schema refuses a manifest
python -m tests.infra.manifests --write    and puts it into infra/kubernetes/README.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.infra.manifests.kustomize import render
from tests.infra.manifests.schemas import complaints, schema_name

KUBERNETES = Path(__file__).resolve().parents[3] / "infra" / "kubernetes"
README = KUBERNETES / "README.md"
BEGIN, END = "<!-- manifests -->", "<!-- end of manifests -->"


def overlays() -> list[Path]:
    """The folders that a person applies."""
    return sorted(file.parent for file in (KUBERNETES / "overlays").glob("*/kustomization.yaml"))


def refused() -> list[str]:
    """What the schemas refuse: overlay, manifest, path, reason; empty where all is well."""
    return [
        f"{overlay.name}: {manifest['kind']} {manifest['metadata']['name']}: {complaint}"
        for overlay in overlays()
        for manifest in render(overlay)
        for complaint in complaints(manifest)
    ]


def table() -> str:
    """Markdown: each manifest once, its schema, and the overlays that it is in."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for overlay in overlays():
        for manifest in render(overlay):
            name = "(as the overlay's)" if manifest["kind"] == "Namespace" else manifest["metadata"]["name"]
            found.setdefault((manifest["kind"], name, schema_name(manifest)), []).append(overlay.name)
    rows = [f"| {kind} | {name} | {schema} | {', '.join(where)} |" for (kind, name, schema), where in found.items()]
    return "\n".join(["| kind | name | schema | overlays |", "|---|---|---|---|", *sorted(rows)])


def written_table() -> str:
    """The table as README.md has it."""
    return README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def write_table() -> None:
    """Put the table into README.md, between its two marks."""
    before, mark, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    assert mark
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    print(table())  # noqa: T201 - this is the command's answer
    for line in (problems := refused()):
        print(line, file=sys.stderr)  # noqa: T201 - as above
    if "--write" in sys.argv[1:]:
        write_table()
    sys.exit(1 if problems else 0)
