"""`les-plugins relax`: positions and cell of one structure at rest, its symmetry kept, in any format for structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.shared import (
    Dtype,
    Head,
    ModelOrCommittee,
    one_crystal,
    open_model,
    progress,
    quiet_host,
    say_boundaries,
)
from les_plugins.errors import ConfigError, DataError
from les_plugins.io.files import check_place, whole_file

if TYPE_CHECKING:
    from ase import Atoms

    from les_plugins.crystals.relaxation import Relaxation, State

#: Formats of ASE that can be written here; the latter know periodic structures only.
_FORMATS, _CRYSTALS_ONLY = ("extxyz", "traj", "xsf", "vasp", "cif"), ("vasp", "cif")


def relax(
    model: ModelOrCommittee,
    structure: Annotated[
        Path, typer.Argument(metavar="STRUCTURE", help="File with one structure, read by ASE.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .xyz, .cif, .traj, .xsf, POSCAR.", show_default=False)
    ],
    fmax: Annotated[float, typer.Option(help="Largest force on an atom, eV/Å.")] = 1e-3,
    smax: Annotated[float, typer.Option(help="Largest component of stress + pressure, GPa.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Most steps.")] = 500,
    pressure: Annotated[
        float | None, typer.Option(help="Hydrostatic pressure, GPa; default: 0.", show_default=False)
    ] = None,
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Leave the cell as it is.")] = False,
    symmetry: Annotated[
        bool | None,
        typer.Option(
            "--symmetry/--no-symmetry",
            help="Keep the space group; default: where spglib is installed and the structure has no constraints.",
            show_default=False,
        ),
    ] = None,
    symprec: Annotated[float, typer.Option(help="Tolerance of the symmetry search, Å.")] = 1e-3,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    head: Head = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Bring positions and cell of STRUCTURE to rest (positions alone of slabs and open structures)."""
    from les_plugins.crystals.relaxation import relax as relax_structure
    from les_plugins.data.cautions import coming_from
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, check_boundaries, check_elements_of
    from les_plugins.storage import checkpoint

    with quiet_host(), coming_from(str(structure)):
        atoms = one_crystal(structure)
        form = _format(output, atoms, model, structure)
        calculator, facts = open_model(model, device, head=head, dtype=dtype)
        if (known := known_elements(calculator)) is not None:
            check_elements_of(atoms, known, str(structure))
        if facts.get("long_range") is not None:
            check_boundaries([atoms], str(structure))
        found = relax_structure(
            calculator,
            atoms,
            largest_force=fmax,
            largest_stress=smax,
            steps=steps,
            pressure=pressure,
            fixed_cell=fixed_cell,
            symmetry=symmetry,
            symmetry_tolerance=symprec,
            track=lambda numbers: progress(numbers, len(numbers), "relaxing"),
        )
        _write(found, output, form)
    say_boundaries(structure, Boundaries([atoms]))
    report = {
        "model": facts,
        "structure": {"path": str(structure), "sha256": checkpoint.sha256(structure), "atoms": len(atoms)},
        "output": {"path": str(output), "sha256": checkpoint.sha256(output)},
        "device": device,
        "pbc": atoms.pbc.tolist(),
        "converged": found.converged,
        "steps": found.steps,
        "limits": {"force_eV/A": fmax, "stress_GPa": smax if found.cell_relaxed else None},
        "pressure_GPa": (pressure or 0.0) if found.cell_relaxed else None,
        "cell_relaxed": found.cell_relaxed,
        "space_group": found.space_group,
        "before": _numbers(found.first, atoms),
        "after": _numbers(found.last, found.atoms),
        "notes": found.notes,
        "left_out": found.left_out,
    }
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        _print(report, output)
    if not found.converged:
        last = found.last
        stress = f", largest stress + pressure {last.excess_stress:.3g} GPa" if found.cell_relaxed else ""
        raise DataError(
            f"{output}: written, but not at rest after {found.steps} steps: largest force {last.largest_force:.3g} eV/Å"
            f"{stress}; give more --steps"
        )


def _format(output: Path, atoms: Atoms, model: Path, structure: Path) -> str:
    """ASE's name of the output's format, and what speaks against writing there, before anything is computed."""
    from ase.io.formats import UnknownFileTypeError, filetype

    if output.exists() and output.samefile(structure):
        raise DataError(f"{output}: is the input, which is never overwritten; choose another --output")
    if model.resolve() in output.resolve().parents:
        raise DataError(f"{output}: lies inside the checkpoint {model}; choose another --output")
    check_place(output)
    try:
        form = filetype(str(output), read=False, guess=False)
    except UnknownFileTypeError:
        form = "unknown"
    if form not in _FORMATS:
        raise ConfigError(f"--output is {output}; allowed: a name that ends in .xyz, .cif, .traj, .xsf, or POSCAR")
    if form in _CRYSTALS_ONLY and not atoms.pbc.all():
        raise ConfigError(f"--output is {output}: this format has no open directions; write .xyz")
    return str(form)


def _write(found: Relaxation, output: Path, form: str) -> None:
    """The structure with its energy, forces and stress, whole or not at all."""
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = found.atoms.copy()
    results = {"energy": found.last.energy, "forces": found.last.forces}
    if found.last.stress is not None:
        results["stress"] = found.last.stress.ravel()[[0, 4, 8, 5, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **results)
    with whole_file(output, "wb" if form in ("traj", "cif") else "w") as file:
        ase.io.write(file, atoms, format=form)


def _numbers(state: State, atoms: Atoms) -> dict[str, Any]:
    from ase import units

    periodic = bool(atoms.pbc.all())
    return {
        "energy_eV": state.energy,
        "largest_force_eV/A": state.largest_force,
        "stress_GPa": None if state.stress is None else (state.stress / units.GPa).tolist(),
        "cell_A": atoms.cell.array.tolist() if atoms.pbc.any() else None,
        "volume_A3": atoms.get_volume() if periodic else None,
    }


def _print(report: dict[str, Any], output: Path) -> None:
    import numpy as np

    console = Console(highlight=False, soft_wrap=True)
    before, after = report["before"], report["after"]
    kept = f"; space group {report['space_group']} kept" if report["space_group"] else ""
    console.print(f"{report['structure']['atoms']} atoms, {report['steps']} steps{kept}")
    console.print(f"energy {before['energy_eV']:.6f} → {after['energy_eV']:.6f} eV")
    console.print(f"largest force {before['largest_force_eV/A']:.3g} → {after['largest_force_eV/A']:.3g} eV/Å")
    if report["cell_relaxed"]:
        pressures = [-float(np.trace(state["stress_GPa"])) / 3 for state in (before, after)]
        lengths = " ".join(f"{length:.4f}" for length in np.linalg.norm(after["cell_A"], axis=1))
        console.print(f"pressure {pressures[0]:.3g} → {pressures[1]:.3g} GPa")
        console.print(f"volume {before['volume_A3']:.3f} → {after['volume_A3']:.3f} Å³, lattice vectors {lengths} Å")
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    if report["left_out"]:
        names = ", ".join(report["left_out"])
        console.print(f"note: not in the output, for they belong to the old positions: {names}", markup=False)
    console.print(f"wrote {output}", markup=False)
