"""The files of a figure, each whole or not at all."""

import shutil
import tempfile
from pathlib import Path

from matplotlib.animation import Animation, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from cs231n_optax._files import replacing

FRAMES_PER_SECOND = 8
GIF_DPI, VIDEO_DPI = 100, 200


def file_names(name: str, picture: Figure | Animation, picture_format: str) -> list[str]:
    """The files that a figure takes: an animation is a GIF, and an MP4 where ffmpeg is there."""
    if isinstance(picture, Figure):
        return [f"{name}.{picture_format}"]
    return [f"{name}.gif"] + [f"{name}.mp4"] * FFMpegWriter.isAvailable()


def write(folder: Path, name: str, picture: Figure | Animation, picture_format: str) -> list[str]:
    """Write a figure to a folder that exists; the names of its files."""
    names = file_names(name, picture, picture_format)
    for file_name in names:
        path = folder / file_name
        if isinstance(picture, Figure):
            with replacing(path, "wb") as file:
                picture.savefig(file, format=picture_format, metadata=_metadata(picture_format))
        else:
            _write_animation(path, picture)
    return names


def _metadata(picture_format: str) -> dict[str, None]:
    """No date, so that the same figure gives the same file."""
    return {"Date": None} if picture_format == "svg" else {}


def _write_animation(path: Path, animation: Animation) -> None:
    is_gif = path.suffix == ".gif"
    writer = (PillowWriter if is_gif else FFMpegWriter)(fps=FRAMES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        animation.save(made, writer, dpi=GIF_DPI if is_gif else VIDEO_DPI)
        with made.open("rb") as source, replacing(path, "wb") as target:
            shutil.copyfileobj(source, target)
