"""`les-plugins demo`: a pretrained model on a packaged box of water; no data, no network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from les_plugins import plotting, zoo
from les_plugins.cli.shared import open_model, progress, quiet_host
from les_plugins.errors import DataError
from les_plugins.files import whole_file
from les_plugins.labels import BORN

MODEL = "water-mace"


def demo(
    model: Annotated[str, typer.Option(help="A model of water of the zoo: water-mace, water-nequip.")] = MODEL,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")] = Path("les-demo"),
    steps: Annotated[int, typer.Option(min=32, help="Steps of 1 fs.")] = 160,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Energy, forces, Z*, dipole, dynamics and infrared spectrum of 64 water molecules with a pretrained model."""
    from les_plugins import demo as parts
    from les_plugins import spectra
    from les_plugins.spectra.output import Curve, plot, write_csv

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
        pictures = [
            plotting.parity_plot(found.evaluation.comparisons[name], output / f"{name}.png")
            for name in ("forces", BORN)
        ]
        trajectory = parts.simulate(
            calculator,
            found.atoms,
            output,
            steps,
            lambda numbers: progress(numbers, len(numbers), "molecular dynamics"),
        )
    samples = spectra.Samples.open([trajectory.path])
    how = spectra.Welch(parts.resolution(trajectory), blocks=2)
    spectrum = spectra.infrared(
        samples.series("current"), samples.interval, samples.temperature(), samples.volume(), how
    ).between(0.0, 4000.0)
    curve = Curve(spectrum.name, spectrum.wavenumber, spectrum.value, spectrum.error)
    label = f"{spectrum.name} ({spectrum.unit})"
    plot(output / "ir.png", [curve], "wavenumber (cm⁻¹)", label, (0.0, 4000.0), f"{model}, {steps / 1000:g} ps")
    write_csv(output / "ir.csv", "wavenumber_cm-1", [curve], {**spectrum.notes, "model": model, "unit": spectrum.unit})

    lines = _summary(entry, facts, found, trajectory, samples, how.resolution, loaded, time.monotonic() - began)
    with whole_file(output / "summary.txt") as file:
        file.write("\n".join(lines) + "\n")
    files = [output / name for name in ("summary.txt", "ir.png", "ir.csv", parts.TRAJECTORY)] + pictures
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
    atoms, errors = found.atoms, entry.metrics["summary"]
    differences = [
        f"{name} {np.abs(each.predicted - each.reference).max():.1e} {each.quantity.unit}"
        for name, each in found.evaluation.comparisons.items()
    ]
    charges = {
        element: float(np.trace(found.born[atoms.symbols == element].mean(0)) / 3)
        for element in sorted(set(atoms.symbols))
    }
    drift = trajectory["conserved_energy"]
    return [
        f"{entry.name}, a {facts['host']} model (weights {facts['weights_sha256'][:12]}), loaded in {loaded:.1f} s; "
        f"data: {entry.metrics['data']['functional']}, {entry.metrics['data']['licence']}",
        f"its errors on held-out frames: forces {errors['forces_rmse_meV_per_A']:.1f} meV/Å, energy "
        f"{errors['energy_rmse_meV_per_atom']:.2f} meV/atom, Z* R² {errors['born_r2']:.3f} (Z* was never trained on)",
        f"{len(atoms)} atoms: energy {found.energy:.4f} eV, largest force {np.abs(atoms.get_forces()).max():.2f} eV/Å, "
        f"dipole {np.linalg.norm(found.dipole):.2f} e·Å (one branch, of the positions as they are)",
        "mean Born effective charge: " + ", ".join(f"{element} {value:+.3f} e" for element, value in charges.items()),
        "largest difference from the results stored with the model: " + ", ".join(differences),
        f"molecular dynamics: {samples.duration:.3f} ps at {samples.temperature():.0f} K, total energy within "
        f"{1000 * float(np.ptp(drift)) / len(atoms):.2f} meV/atom",
        f"infrared spectrum at {resolution:.0f} cm⁻¹, all that so short a run resolves; a real one: docs/results.md",
        f"{seconds:.0f} s in all. With NequIP: pip install 'les-plugins[nequip,plot]' in another environment, then "
        "les-plugins demo --model water-nequip",
    ]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None
