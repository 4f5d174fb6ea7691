"""`les-plugins chemiscope`: an interactive picture of charges, dipoles and Born charges, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins.cli.shared import Dtype, Head, Model, open_model, progress, quiet_host
from les_plugins.errors import DataError


def chemiscope(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Structures, in any format of ASE.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.", show_default=False)],
    born: Annotated[bool, typer.Option("--born/--no-born", help="Born effective charges, as ellipsoids.")] = True,
    beside: Annotated[
        bool, typer.Option("--beside", help="Put the viewer (3 MB) beside the page and not into it, for many pages.")
    ] = False,
    every: Annotated[int, typer.Option(help="Use every so many frames of FILE.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
) -> None:
    """Draw what MODEL says of FILE with chemiscope's viewer: a page that works without a network."""
    from les_plugins.data.frames import read_frames
    from les_plugins.plots.viewer import dataset, library, write_page

    if output.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{output} must end in .html", param_hint="--output")
    library()  # says what is missing before anything is computed
    with quiet_host():
        frames = read_frames(file)[::every]
        if not frames:
            raise DataError(f"{file}: holds no frame")
        calculator, _ = open_model(model, device, epsilon_infinity, head, dtype)
        data = dataset(calculator, progress(frames, len(frames), "frames"), f"{Path(model).name}: {file.name}", born)
    write_page(output, data, embed=not beside)
    Console(highlight=False, soft_wrap=True).print(
        f"wrote {output}: {len(frames)} frame{'s' * (len(frames) > 1)}, {sum(map(len, frames))} atoms, "
        f"{output.stat().st_size / 1e6:.2g} MB"
    )
