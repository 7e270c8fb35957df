"""The doctor's findings as one HTML file that needs nothing beside it: thumbnails of the images stand in it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from pipelines.doctor import Examination, read_images, verdict, write_text
from trainables.data.decode import decode_rgb
from trainables.data.doctor.finding import File, Finding
from trainables.data.doctor.survey import Survey
from trainables.errors import DataError

SHOWN_FILES = 12
"""Images shown of each finding."""
SIDE = 112
"""Longest side of a thumbnail, in pixels; small images are enlarged to it, pixel by pixel."""
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Shown:
    """One image of a finding."""

    location: str
    label: str
    """Split and class."""
    uri: str
    """`data:` with the thumbnail, as the model sees the image: not turned by EXIF; empty where it doesn't decode."""


def write_html(examination: Examination, file: Path) -> None:
    """Write the report; raises ConfigError where the file can't be written."""
    write_text(file, to_html(examination), "--html")


def to_html(examination: Examination) -> str:
    """The report. Names of files and classes are text in it, whatever they hold."""
    # Templates are compiled anew for each report: there is one a run.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    seen = examination.survey
    cache: dict[File, Shown] = {}
    return environment.get_template("doctor.html").render(
        title=f"epoch14 doctor: {examination.path}",
        read=read_images(examination),
        verdict=verdict(examination.findings),
        findings=[(finding, _shown(seen, finding, cache)) for finding in examination.findings],
    )


def _shown(seen: Survey, finding: Finding, cache: dict[File, Shown]) -> list[Shown]:
    shown = []
    for file in finding.files[:SHOWN_FILES]:
        if file not in cache:
            cache[file] = _show(seen, file)
        shown.append(cache[file])
    return shown


def _show(seen: Survey, file: File) -> Shown:
    split = {part.name: part.split for part in seen.splits}[file.split]
    label = f"{file.split}/ {seen.listing.classes[int(split.labels[file.place])]}"
    try:
        pixels = decode_rgb(split.store.read(file.place), file.location)
    except DataError:
        return Shown(file.location, label, "")
    return Shown(file.location, label, thumbnail(Image.fromarray(pixels.permute(1, 2, 0).numpy())))


def thumbnail(image: Image.Image) -> str:
    """A `data:` URI of the image with its longest side at SIDE, as PNG: small and odd pixels must show as they are."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
