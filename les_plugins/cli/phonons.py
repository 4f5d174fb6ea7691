"""`les-plugins phonons`: force constants, bands with and without LO–TO splitting, phonopy's own files."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.shared import Dtype, Head, Model, one_crystal, open_model, progress, quiet_host, say_boundaries
from les_plugins.errors import DataError
from les_plugins.io.files import whole_file

if TYPE_CHECKING:
    from les_plugins.crystals import phonons as lib

#: A force of the undisplaced crystal, eV/Å, above which the report says that it is not relaxed.
_RELAXED = 0.01


def phonons(
    model: Model,
    structure: Annotated[
        Path, typer.Argument(metavar="STRUCTURE", help="File with one crystal, read by ASE.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, new or empty.", show_default=False)],
    supercell: Annotated[tuple[int, int, int], typer.Option(help="Repetitions of the cell.")] = (2, 2, 2),
    distance: Annotated[float, typer.Option(help="Displacement, Å.")] = 0.01,
    born: Annotated[bool, typer.Option("--born", help="Z* and ε_∞ too, for the LO–TO splitting.")] = False,
    path: Annotated[
        str | None, typer.Option(help="Band path, as GXW,LG; default: ASE's for the lattice.", show_default=False)
    ] = None,
    symprec: Annotated[float, typer.Option(help="Tolerance of the symmetry search, Å.")] = 1e-5,
    mesh: Annotated[float, typer.Option(help="Length that sets the mesh of the density of states, Å.")] = 50.0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Phonons of the crystal in STRUCTURE by phonopy, from a model's forces."""
    from les_plugins.crystals import phonons as lib
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, check_elements_of
    from les_plugins.storage import checkpoint

    lib.check_available()
    _check_output(output, model)
    with quiet_host():
        atoms = one_crystal(structure)
        calculator, facts = open_model(model, device, epsilon_infinity, head, dtype)
        if born:
            lib.check_born_charges(calculator)
        if (known := known_elements(calculator)) is not None:
            check_elements_of(atoms, known, str(structure))
        phonon, supercells = lib.displaced_supercells(atoms, supercell, distance, symprec, str(structure))
        lib.check_path(phonon, path)
        lib.check_mesh(mesh)
        found = lib.phonons(
            calculator, phonon, progress(supercells, len(supercells), "displacing"), where=str(structure)
        )
        if born:
            found = lib.with_born_charges(found, calculator, where=str(structure))
        bands = lib.bands(phonon, path)
        density = lib.density_of_states(phonon, mesh)
        files = _write(found, bands, density, output, f"{model.name}: {atoms.get_chemical_formula()}")
    say_boundaries(structure, Boundaries([atoms]))
    report = {
        "model": facts,
        "structure": {"path": str(structure), "sha256": checkpoint.sha256(structure), "atoms": len(atoms)},
        "device": device,
        **_results(found, supercell, distance, len(supercells) - 1),
        "files": files,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    with whole_file(output / "phonons.json") as file:
        file.write(text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _print(report, output)


def _write(
    found: lib.Phonons, bands: lib.Bands, density: tuple[lib.Floats, lib.Floats], output: Path, title: str
) -> list[str]:
    """Everything but the report; the names of the files."""
    from les_plugins.crystals import phonons as lib
    from les_plugins.crystals.permittivity import permittivity, write_permittivity
    from les_plugins.plots import plotting
    from les_plugins.plots.permittivity import permittivity_plot

    phonon, names = found.phonopy, ["phonopy_params.yaml", "band.yaml", "bands.csv", "total_dos.dat"]
    try:
        output.mkdir(parents=True, exist_ok=True)
        phonon.save(output / names[0])
        phonon.write_yaml_band_structure(filename=output / names[1])
        lib.write_bands(bands, output / names[2])
        phonon.write_total_dos(output / names[3])
        if phonon.nac_params is not None:
            lib.write_born(phonon, output / "BORN")
            write_permittivity(ions := permittivity(phonon), output / "permittivity.csv")
            names += ["BORN", "permittivity.csv"]
        if find_spec("matplotlib") is not None:
            plotting.band_plot(bands, density, output / "bands.png", title)
            names.append("bands.png")
            if phonon.nac_params is not None:
                permittivity_plot(ions, output / "permittivity.png", title)
                names.append("permittivity.png")
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror}") from None
    return names


def _results(
    found: lib.Phonons, supercell: tuple[int, int, int], distance: float, displacements: int
) -> dict[str, Any]:
    import numpy as np

    from les_plugins.crystals import phonons as lib
    from les_plugins.crystals.permittivity import permittivity

    phonon = found.phonopy
    frequencies = {"bare": lib.gamma_frequencies(phonon)}
    if phonon.nac_params is not None:
        for name, direction in lib.DIRECTIONS.items():
            frequencies[f"with_born_{name}"] = lib.gamma_frequencies(phonon, direction)
    report: dict[str, Any] = {
        "supercell": list(supercell),
        "distance": distance,
        "displacements": displacements,
        "primitive_symbols": list(phonon.primitive.symbols),
        "largest_force": found.largest_force,
        "translation_violation": found.translation_violation,
        "gamma_THz": {name: values.tolist() for name, values in frequencies.items()},
        "gamma_cm-1": {name: (lib.WAVENUMBER * values).tolist() for name, values in frequencies.items()},
    }
    if phonon.nac_params is not None:
        report["sum_rule_violation"] = found.sum_rule_violation
        report["born_effective_charges"] = np.asarray(phonon.nac_params["born"]).tolist()
        report["dielectric"] = np.asarray(phonon.nac_params["dielectric"]).tolist()
        ions = permittivity(phonon)
        report["unstable_modes"] = ions.unstable
        report["static_dielectric"] = None if ions.static is None else ions.static.tolist()
        report["infrared_cm-1"] = ions.wavenumbers.tolist()
        report["infrared_strengths_cm-2"] = ions.strengths.tolist()
    return report


def _print(report: dict[str, Any], output: Path) -> None:
    import numpy as np

    console = Console(highlight=False, soft_wrap=True)
    symbols = report["primitive_symbols"]
    console.print(f"{len(symbols)} atoms in the primitive cell, {report['displacements']} displacements")
    for name, values in report["gamma_cm-1"].items():
        shown = "q = 0, no Z*" if name == "bare" else f"q → 0 along {name[-1]}, Z*"
        console.print(f"Γ ({shown}), cm⁻¹: {_short(values)}")
    if "static_dielectric" in report:
        console.print(_static(report))
    console.print(f"largest |Σ Φ_ij| over i or j before it was made zero: {report['translation_violation']:.2g} eV/Å²")
    if "sum_rule_violation" in report:
        console.print(f"largest mean Z* before it was made zero: {report['sum_rule_violation']:.2g} e")
    if report["largest_force"] > _RELAXED:
        console.print(f"note: the structure is not relaxed: largest force {report['largest_force']:.2g} eV/Å")
    if "dielectric" in report and np.allclose(report["dielectric"], np.eye(3)):
        console.print("note: ε_∞ is 1, the value of a model that was given none: see --epsilon-infinity")
    console.print(f"{output}: {', '.join([*report['files'], 'phonons.json'])}")


def _static(report: dict[str, Any]) -> str:
    """The line about ε_0."""
    tensor = report["static_dielectric"]
    if tensor is None:
        return f"no static permittivity: {report['unstable_modes']} modes at Γ are unstable"
    shown = " ".join(f"{tensor[axis][axis]:.2f}" for axis in range(3))
    return f"static permittivity of harmonic ions at fixed cell, xx yy zz: {shown}"


def _short(frequencies: list[float], most: int = 12) -> str:
    values = [f"{value + 0.0:.1f}" if abs(value) >= 0.05 else "0.0" for value in frequencies]
    return " ".join(values if len(values) <= most else [*values[: most // 2], "…", *values[-most // 2 :]])


def _check_output(output: Path, model: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: exists and is not an empty folder; choose another --output")
    if model.resolve() in [output.resolve(), *output.resolve().parents]:
        raise DataError(f"{output}: lies inside the checkpoint {model}; choose another --output")
