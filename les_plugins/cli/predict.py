"""`les-plugins predict`: energy, forces, stress, charges, dipole and Born charges of every frame of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from les_plugins.cli.shared import Dtype, Head, ModelOrCommittee, open_model, progress, quiet_host, say_boundaries
from les_plugins.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

    from les_plugins.data.given_charge import ChargedFrames


def predict(
    model: ModelOrCommittee,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Structures, in any format of ASE.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ file to write.", show_default=False)],
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    born: Annotated[bool, typer.Option("--born", help="Born effective charges too (several times slower).")] = False,
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Predict every frame of FILE and write them to an extended XYZ file that ASE reads back."""
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, existing_file, iterate_frames
    from les_plugins.data.given_charge import ChargedFrames
    from les_plugins.data.prediction import SUFFIXES, write_predictions
    from les_plugins.storage import checkpoint

    if output.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{output} must end in {' or '.join(SUFFIXES)}", param_hint="--output")
    _refuse_overwriting(output, model, file)
    with quiet_host():
        existing_file(file)
        calculator, facts = open_model(model, device, epsilon_infinity, head, dtype)
        checked = progress(iterate_frames(file), None, "checking")
        boundaries, charged = Boundaries(), ChargedFrames()
        atoms = _atoms_of_frames(boundaries.watch(checked), known_elements(calculator), str(file), charged)
        frames = progress(iterate_frames(file), len(atoms), "predicting")
        written = write_predictions(calculator, frames, output, str(file), born)
    say_boundaries(file, boundaries)
    note = charged.note(calculator)
    if not as_json:
        names = ", ".join(name if count == len(atoms) else f"{name} ({count})" for name, count in written.items())
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"{output}: {len(atoms)} frames with {names}")
        if note is not None:
            console.print(f"note: {note}", markup=False)
        return
    summary = {
        "model": facts,
        "file": {"path": str(file), "sha256": checkpoint.sha256(file)},
        "output": {"path": str(output), "sha256": checkpoint.sha256(output)},
        "device": device,
        "frames": len(atoms),
        "atoms": sum(atoms),
        "boundaries": dict(boundaries.counts),
        "frames_with": written,
        "notes": [] if note is None else [note],
    }
    typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))


def _atoms_of_frames(
    frames: Iterable[Atoms], known: Sequence[int] | None, source: str, charged: ChargedFrames
) -> list[int]:
    """Numbers of atoms, after a check of all frames before the first is computed."""
    from les_plugins.data.frames import check_elements_of

    counts = []
    for number, frame in enumerate(frames):
        charged.add(frame)
        if known is not None:
            check_elements_of(frame, known, f"{source}, frame {number}")
        counts.append(len(frame))
    return counts


def _refuse_overwriting(output: Path, model: Path, file: Path) -> None:
    if output.exists() and file.exists() and output.samefile(file):
        raise DataError(f"{output}: is the input, which is never overwritten; choose another --output")
    if model.resolve() in output.resolve().parents:
        raise DataError(f"{output}: lies inside the checkpoint {model}; choose another --output")
