"""`les-plugins evaluate`: errors of a model on a labelled file, as a table, JSON and parity plots."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from les_plugins.cli.shared import Dtype, Head, ModelOrCommittee, open_model, progress, quiet_host, say_boundaries
from les_plugins.errors import DataError, HostError
from les_plugins.io.files import make_folder

if TYPE_CHECKING:
    from les_plugins.data.evaluation import Comparison, Evaluation
    from les_plugins.data.labels import LabelKeys, Survey
    from les_plugins.data.metrics import Errors
    from les_plugins.data.volumes import VolumeErrors

#: Keys of `data.evaluation.POLARIZABILITY_UNITS`, which `--help` must not import.
_UNITS = ("e2A2/eV", "A3", "bohr3")
PolarizabilityUnit = Enum("PolarizabilityUnit", {name: name for name in _UNITS}, type=str)  # type: ignore[misc]
_OURS = PolarizabilityUnit("e2A2/eV")
#: Columns that the table needs; a narrower pipe would break its lines.
_WIDTH = 110


def evaluate(
    model: ModelOrCommittee,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Labelled structures, read by ASE.", show_default=False)],
    plots: Annotated[Path | None, typer.Option(help="Folder for parity plots (PNG).", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
    born: Annotated[
        bool | None, typer.Option("--born/--no-born", help="Born charges; default: when the file has them.")
    ] = None,
    born_transposed: Annotated[
        bool, typer.Option("--born-transposed", help="The file's first index of Z* is the displacement.")
    ] = False,
    born_symmetric: Annotated[
        bool, typer.Option("--born-symmetric", help="Compare the symmetric parts of Z*.")
    ] = False,
    polarizability_unit: Annotated[
        PolarizabilityUnit, typer.Option(help="Unit of the file's polarizabilities.")
    ] = _OURS,
    crystal_polarizability: Annotated[
        bool, typer.Option("--crystal-polarizability", help="Compare that of crystals too, as ε0 V (ε_∞ − 1).")
    ] = False,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energy in FILE.", show_default=False)] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces.", show_default=False)] = None,
    stress_key: Annotated[str | None, typer.Option(help="Name of the stress.", show_default=False)] = None,
    dipole_key: Annotated[str | None, typer.Option(help="Name of the dipole.", show_default=False)] = None,
    polarizability_key: Annotated[
        str | None, typer.Option(help="Name of the polarizability.", show_default=False)
    ] = None,
    born_key: Annotated[str | None, typer.Option(help="Name of the Born charges.", show_default=False)] = None,
) -> None:
    """Compare a model with the labels of FILE: energy, forces and what else the file has."""
    from les_plugins.data.labels import LabelKeys
    from les_plugins.plots import plotting

    keys = LabelKeys.of(
        energy=energy_key,
        forces=forces_key,
        stress=stress_key,
        dipole=dipole_key,
        polarizability=polarizability_key,
        born_effective_charges=born_key,
    )
    if plots is not None:
        plotting.check_available()
        make_folder(plots, "--plots")
    with quiet_host():
        result, found, facts = compare(
            model,
            file,
            device,
            epsilon_infinity,
            keys,
            born,
            born_transposed,
            polarizability_unit.value,
            born_symmetric,
            head,
            crystal_polarizability,
            dtype,
        )
        pictures = [] if plots is None else _pictures(result, plots, model.name)
    if as_json:
        typer.echo(json.dumps(_report(result, found, facts, file, device, pictures), indent=1, ensure_ascii=False))
    else:
        _print(result, found, facts, file, pictures)


def compare(
    model: Path,
    file: Path,
    device: str,
    epsilon_infinity: float | None = None,
    keys: LabelKeys | None = None,
    born: bool | None = None,
    born_transposed: bool = False,
    polarizability_unit: str = _OURS.value,
    born_symmetric: bool = False,
    head: str | None = None,
    crystal_polarizability: bool = False,
    dtype: str | None = None,
) -> tuple[Evaluation, Survey, dict[str, Any]]:
    """The evaluation of a checkpoint on a file, what the file holds, and what identifies the model; arguments as above.

    Raises:
        LesPluginsError: what the model or the file refuses.
    """
    from les_plugins.data.evaluation import evaluate as evaluate_frames
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, existing_file, iterate_frames
    from les_plugins.data.labels import BORN, LabelKeys, survey

    keys = keys or LabelKeys.of()
    existing_file(file)
    calculator, facts = open_model(model, device, epsilon_infinity, head, dtype)
    if born and BORN not in calculator.implemented_properties:
        raise HostError(f"--born: {model} does not predict Born charges: it has no long-range part")
    checked = progress(iterate_frames(file), None, "checking")
    boundaries = Boundaries()
    found = survey(boundaries.watch(checked), str(file), keys, known_elements(calculator))
    if born and BORN not in found.labels:
        raise DataError(f"--born: no frame of {file} has {' or '.join(keys.born_effective_charges)}")
    result = evaluate_frames(
        calculator,
        progress(iterate_frames(file), found.frames, "evaluating"),
        str(file),
        keys,
        born=born is not False,
        born_transposed=born_transposed,
        polarizability_unit=polarizability_unit,
        born_symmetric=born_symmetric,
        crystal_polarizability=crystal_polarizability,
    )
    say_boundaries(file, boundaries)
    return result, found, facts


def _pictures(result: Evaluation, folder: Path, model: str) -> list[Path]:
    """Parity plots and, of a committee, error against spread."""
    from les_plugins.plots import calibration, plotting

    caption = f"{model}, {result.frames:,} frames"
    return [
        *plotting.parity_plots(result, folder, model=model),
        *(
            calibration.calibration_plot(found, folder / f"{name}-spread.png", caption)
            for name, found in result.calibrations.items()
        ),
    ]


def _report(
    result: Evaluation, found: Survey, facts: dict[str, Any], file: Path, device: str, pictures: list[Path]
) -> dict[str, Any]:
    from les_plugins.storage import checkpoint

    return {
        "model": facts,
        "file": {
            "path": str(file),
            "sha256": checkpoint.sha256(file),
            "frames": result.frames,
            "atoms": result.atoms,
            "frames_with": found.labels,
            "label_keys": found.keys,
        },
        "device": device,
        "metrics": result.metrics(),
        "skipped": result.skipped,
        "notes": result.notes,
        "plots": [str(path) for path in pictures],
    }


def _print(result: Evaluation, found: Survey, facts: dict[str, Any], file: Path, pictures: list[Path]) -> None:
    from les_plugins.data.evaluation import QUANTITIES
    from les_plugins.data.labels import BORN, LabelKeys
    from les_plugins.data.metrics import ALL

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _WIDTH))
    console.print(
        f"{escape(str(facts['path']))} (weights {facts['weights_sha256'][:12]}) on {escape(str(file))}: "
        f"{result.frames} frames, {result.atoms} atoms",
        soft_wrap=True,
    )
    table = Table("quantity", "of", "unit")
    for column in ("RMSE", "MAE", "largest", "R²", "slope", "values"):
        table.add_column(column, justify="right")
    for name, comparison in result.comparisons.items():
        quantity = QUANTITIES[name]
        for place, ((element, part), errors) in enumerate(_rows(comparison)):
            of = " ".join(word.replace("_", "-") for word in (element, part) if word != ALL) or ALL
            lengths = (quantity.shown_factor * value for value in (errors.rmse, errors.mae, errors.largest))
            ratios = (_ratio(value) for value in (errors.r2, errors.slope))
            first = "" if place else quantity.title
            table.add_row(first, of, quantity.shown_unit, *map(_digits, lengths), *ratios, str(errors.count))
        table.add_section()
    console.print(table)
    born = result.comparisons.get(BORN)
    if born is not None and (within := born.r2_within_elements()).get("diagonal") is not None:
        console.print(
            f"Z*, R² against the mean of each element: diagonal {_ratio(within['diagonal'])}, off-diagonal "
            f"{_ratio(within.get('off_diagonal'))}; elements of opposite charge raise the R² of all elements for free",
            soft_wrap=True,
        )
    if result.calibrations:
        console.print(_spread_table(result))
    if result.by_volume is not None:
        _print_volumes(console, result.by_volume)
    if (rule := result.sum_rule) is not None:
        console.print(
            f"acoustic sum rule, mean Z* per atom (RMS, largest): predicted {rule.predicted_rms:.2g}, "
            f"{rule.predicted_largest:.2g} e; reference {rule.reference_rms:.2g}, {rule.reference_largest:.2g} e",
            soft_wrap=True,
        )
    for name, reason in result.skipped.items():
        console.print(f"not compared: {QUANTITIES[name].title}: {escape(reason)}", soft_wrap=True)
    absent = [QUANTITIES[name].title for name, _ in LabelKeys() if name not in found.labels]
    if absent:
        console.print(f"not in the file: {', '.join(absent)}", soft_wrap=True)
    for line in result.notes:
        console.print(f"note: {escape(line)}", soft_wrap=True)
    for path in pictures:
        console.print(f"plot: {escape(str(path))}", soft_wrap=True)


def _spread_table(result: Evaluation) -> Table:
    """Of a committee: its errors beside the spread of its members."""
    from les_plugins.data.evaluation import QUANTITIES

    table = Table("committee", "unit")
    for column in ("RMS error", "RMS spread", "error / spread", "rank correlation", "values"):
        table.add_column(column, justify="right")
    for name, found in result.calibrations.items():
        quantity = QUANTITIES[name]
        lengths = (_digits(quantity.shown_factor * value) for value in (found.rms_error, found.rms_spread))
        ratios = (_ratio(found.factor), _ratio(found.rank_correlation))
        table.add_row(quantity.title, quantity.shown_unit, *lengths, *ratios, str(len(found.error)))
    return table


def _print_volumes(console: Console, found: VolumeErrors) -> None:
    """Errors by volume per atom, and what their slope means."""
    table = Table(
        "volume per atom, Å³", "frames", "mean energy error, meV/atom", "RMSE, meV/atom", "forces RMSE, meV/Å"
    )
    for each in found.ranges:
        forces = "-" if each.forces_rmse is None else _digits(1e3 * each.forces_rmse)
        energies = (f"{1e3 * each.energy_mean:+.2f}", _digits(1e3 * each.energy_rmse))
        table.add_row(f"{each.lowest:.2f} to {each.highest:.2f}", str(each.frames), *energies, forces)
    console.print(table)
    if found.pressure_error is not None:
        console.print(
            f"energy error against volume: the pressure is off by {found.pressure_error:+.2f} "
            f"± {found.pressure_uncertainty:.2f} GPa",
            soft_wrap=True,
        )


def _rows(comparison: Comparison) -> list[tuple[tuple[str, str], Errors]]:
    """Groups in the order of the table: of Z*, what lies within an element comes first."""
    from les_plugins.data.labels import BORN
    from les_plugins.data.metrics import ALL

    rows = list(comparison.errors().items())
    if comparison.name != BORN:
        return rows
    elements = list(dict.fromkeys(element for (element, _), _ in rows if element != ALL))
    parts = ("diagonal", "off_diagonal", ALL)
    return sorted(rows, key=lambda row: ([*elements, ALL].index(row[0][0]), parts.index(row[0][1])))


def _digits(value: float) -> str:
    """Four significant digits, never in powers of ten where a reader would not expect them."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.2e}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.2e}"
