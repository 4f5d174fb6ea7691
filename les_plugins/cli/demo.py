"""`les-plugins demo`: a pretrained model on a packaged box of water; no data, no network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.shared import open_model, progress, quiet_host
from les_plugins.errors import DataError, how_to_install
from les_plugins.io.files import whole_file

if TYPE_CHECKING:
    from les_plugins.storage import zoo

MODEL = "water-free"
#: The picture of the box.
CHARGES = "born_charges.png"


def demo(
    model: Annotated[
        str, typer.Option(help="A model of water of the zoo: water-free, water-mace, water-nequip.")
    ] = MODEL,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")] = Path("les-demo"),
    steps: Annotated[int, typer.Option(min=32, help="Steps of 1 fs.")] = 160,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Energy, forces, Z*, dipole, dynamics and infrared spectrum of 64 water molecules with a pretrained model."""
    from les_plugins import demo as parts
    from les_plugins import spectra
    from les_plugins.plots import plotting
    from les_plugins.plots.spectra import Curve, plot, write_csv
    from les_plugins.storage import zoo

    plotting.check_available()
    entry = zoo.entry(model)
    if output.exists():
        raise DataError(f"{output} exists: give another --output")
    began = time.monotonic()
    with quiet_host():
        calculator, facts = open_model(Path(model), device)
        loaded = time.monotonic() - began
        found = parts.check(calculator, entry)
        _make(output)
        _draw_charges(found, output / CHARGES)
        trajectory = parts.simulate(
            calculator,
            found.atoms,
            output,
            steps,
            lambda numbers: progress(numbers, len(numbers), "molecular dynamics"),
        )
    samples = spectra.Samples.open([trajectory.path])
    how = spectra.Welch(parts.resolution(trajectory), blocks=1)  # too short a run for an error from two
    spectrum = spectra.infrared(
        samples.series("current"), samples.interval, samples.temperature(), samples.volume(), how
    ).between(0.0, 4000.0)
    curve = Curve(spectrum.name, spectrum.wavenumber, spectrum.value, spectrum.error)
    plot(
        output / "ir.png",
        [curve],
        "wavenumber (cm⁻¹)",
        f"{spectrum.name} ({spectrum.unit})",
        (0.0, 4000.0),
        f"{model}, {steps / 1000:g} ps",
        marks=parts.BANDS,
        marks_label="measured bands (Bertie and Lan, 1996)",
        resolution=how.resolution,
    )
    write_csv(output / "ir.csv", "wavenumber_cm-1", [curve], {**spectrum.notes, "model": model, "unit": spectrum.unit})

    lines = _summary(entry, facts, found, trajectory, samples, how.resolution, loaded, time.monotonic() - began)
    with whole_file(output / "summary.txt") as file:
        file.write("\n".join(lines) + "\n")
    files = [output / name for name in ("summary.txt", "ir.png", "ir.csv", CHARGES, parts.TRAJECTORY)]
    if as_json:
        report = {
            "model": facts,
            "energy": found.energy,
            "dipole": found.dipole.tolist(),
            "files": list(map(str, files)),
        }
        typer.echo(json.dumps(report, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)
    console.print("wrote " + ", ".join(map(str, files)), markup=False)


def _summary(
    entry: zoo.Entry,
    facts: dict[str, Any],
    found: Any,
    trajectory: Any,
    samples: Any,
    resolution: float,
    loaded: float,
    seconds: float,
) -> list[str]:
    import numpy as np

    atoms, errors = found.atoms, entry.metrics["summary"]
    differences = [
        f"{name} {np.abs(each.predicted - each.reference).max():.1e} {each.quantity.unit}"
        for name, each in found.evaluation.comparisons.items()
    ]
    from les_plugins.demo import errors_of_forces, mean_born_charges, other_models

    values = mean_born_charges(found.born)
    charges = {element: float(values[atoms.symbols == element].mean()) for element in sorted(set(atoms.symbols))}
    within = [
        f"{element} {parts['diagonal_r2']:.3f} (RMSE {parts['diagonal_rmse_e']:.3f} e)"
        for element, parts in errors["born_by_element"].items()
    ]
    drift = trajectory["conserved_energy"]
    return [
        f"{entry.name}, a {facts['host']} model (weights {facts['weights_sha256'][:12]}), loaded in {loaded:.1f} s; "
        f"data: {entry.metrics['data']['functional']}, {entry.metrics['data']['licence']}",
        f"{errors_of_forces(errors)}; diagonal Z* against DFT, never trained on, R² within " + ", ".join(within),
        *other_models(entry.name),
        "reproduction check, computed here against stored with the model (no error of the model): "
        + ", ".join(differences),
        f"{len(atoms)} atoms: energy {found.energy:.4f} eV, largest force {np.abs(atoms.get_forces()).max():.2f} eV/Å, "
        f"dipole {np.linalg.norm(found.dipole):.2f} e·Å (one branch, of the positions as they are)",
        "mean Born effective charge: " + ", ".join(f"{element} {value:+.3f} e" for element, value in charges.items()),
        f"molecular dynamics: {samples.duration:.3f} ps at {samples.temperature():.0f} K, total energy within "
        f"{1000 * float(np.ptp(drift)) / len(atoms):.2f} meV/atom",
        f"infrared spectrum: resolution {resolution:.0f} cm⁻¹ and no error bar: so short a run gives no more; a real "
        "one: docs/results/water.md",
        f"{seconds:.0f} s in all. With NequIP: {how_to_install('nequip', 'plot')} in another environment, then "
        "les-plugins demo --model water-nequip",
    ]


def _draw_charges(found: Any, path: Path) -> None:
    """The box, its atoms coloured by Z*."""
    from les_plugins.demo import mean_born_charges
    from les_plugins.plots.charge_map import plot_atoms

    placed = found.atoms.copy()
    placed.wrap()
    plot_atoms(path, placed, mean_born_charges(found.born), "Born charge, tr Z*/3 (e)")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None
