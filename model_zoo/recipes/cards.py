"""The text of a model card, from the numbers that `add.py` and `reevaluate.py` gather."""

import limits

from les_plugins.config import LongRangeConfig
from les_plugins.data.labels import BORN
from les_plugins.storage import checkpoint, zoo
from les_plugins.storage.licences import is_restricted

DEFAULT_SIGMA = LongRangeConfig().sigma
#: Components of Z*, as `Evaluation.metrics` has them.
PARTS = ("diagonal", "off_diagonal")


def shown(file: str) -> str:
    """A file of data.json as commands name it."""
    return file if file.startswith("runs/") else f"$DATA/{file}"


def card(metrics: dict, facts: dict) -> str:
    """The model card."""
    errors, data, before = metrics["errors"], metrics["data"], metrics.get("pretraining")
    teacher = metrics.get("teacher")
    lines = [
        f"# {metrics['name']}",
        "",
        f"{data['system'][0].upper()}{data['system'][1:]}; {metrics['host']} with {metrics['terms']}.",
        "",
        f"- Data: {data['functional']}. {data['source']}.",
        *([] if before is None else [f"- In an earlier stage: {before['functional']}; {before['source']}."]),
        *([] if teacher is None else [f"- In a later stage also: {teacher['functional']}; {teacher['source']}."]),
        *teacher_lines(teachers_of(metrics["name"])),
        licence_line(data["licence"]),
        f"- Valid for: {data['validity']}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in sorted(metrics['versions'].items()))}",
    ]
    if metrics["epsilon_infinity"] is not None:
        found = "a result of the training" if facts.get("trained_on_born") else "an input, not a result"
        lines.append(f"- ε_∞ = {metrics['epsilon_infinity']:.4g} scales dipoles and Born charges; {found}.")
    if metrics["sigma"] not in (None, DEFAULT_SIGMA):
        by_slope = (
            "was chosen by the slope of Z* on the frames that Z* is scored on below, so their slope is no test; no weight was trained on any Z*. "
            + facts["born_other"]
        )
        lines.append(f"- σ = {metrics['sigma']} Å {facts.get('sigma_note', by_slope)}")
    lines += [
        f"- Weights: SHA-256 {metrics['weights_sha256']}",
        "",
        "## Training",
        "",
        f"{facts.get('labels', 'Energies and forces')} only; validation frames "
        f"{'' if facts.get('trained_on_born') else 'and Born charges '}were not trained on. `$DATA` is the folder of the "
        "data.",
        "",
        f"    {metrics['training']['command']}",
        "",
        "## Errors",
        "",
        f"`les-plugins evaluate {metrics['name']} {shown(errors['valid']['file'])}` ({errors['valid']['frames']} frames: validation, "
        "by which the training chose its epoch, so these are no errors of a test set):",
        "",
        "| quantity | of | unit | RMSE | MAE | R² | slope |",
        "|---|---|---|---:|---:|---:|---:|",
        *rows(
            {name: table for name, table in errors["valid"]["metrics"].items() if name != BORN or "born" not in errors}
        ),
        *by_volume(errors["valid"]["metrics"]["energy"]),
        *([] if "energy_note" not in facts else ["", facts["energy_note"]]),
    ]
    if "first_principles" in errors:
        found = errors["first_principles"]
        lines += [
            "",
            f"`les-plugins evaluate {metrics['name']} {shown(found['file'])}` ({found['frames']} frames of "
            f"{facts['first_principles_note']}; another zero of energy):",
            "",
            "| quantity | of | unit | RMSE | MAE | R² | slope |",
            "|---|---|---|---:|---:|---:|---:|",
            *rows({name: table for name, table in found["metrics"].items() if name != "energy"}),
        ]
    if "born" in errors:
        option = " --born-transposed" if facts.get("born_transposed") else ""
        lines += [
            "",
            f"`les-plugins evaluate {metrics['name']} $DATA/{errors['born']['file']}{option}` "
            f"({errors['born']['frames']} frames; {facts['born_note']}):",
            "",
            "| quantity | of | unit | RMSE | MAE | R² | slope |",
            "|---|---|---|---:|---:|---:|---:|",
            *rows({BORN: errors["born"]["metrics"][BORN]}),
            "",
            *within_elements(errors["born"]["metrics"][BORN]),
        ]
        other = errors["born"]["other_order_of_indices"]["all"]
        lines += [
            "",
            f"{facts['born_order']} In the other order of indices: RMSE {other['rmse']:.4f} e, R² {other['r2']:.4f}.",
        ]
    if metrics.get("limits") is not None:
        lines += ["", "## Where it stops", "", *limits.lines(metrics["limits"], facts)]
    lines += ["", "## Stability", ""]
    if metrics["stability"] is None:
        lines.append(
            f"2 ps at {metrics['temperature']:g} K: not run for this card; `nox -s zoo-{metrics['host']}` runs it."
        )
    else:
        test = metrics["stability"]
        lines += [
            f"{test['picoseconds']:g} ps at {test['temperature']:g} K (NVT, {test['timestep']:g} fs) from the packaged structure: "
            f"{'passed' if test['passed'] else 'FAILED'}. Mean temperature {test['mean_temperature']:.0f} K; "
            + "; ".join(f"{bond} {low:.2f} to {high:.2f} Å" for bond, (low, high) in test["bonds"].items())
            + f"; bonds broken: {test['broken_bonds']}.",
        ]
    return "\n".join(lines) + "\n"


def teachers_of(name: str) -> list[dict]:
    """What labelled the frames of the last stage of a checkpoint in the zoo, as its training read it from them."""
    metadata = checkpoint.read_config(zoo.root() / name)["metadata"]
    found: list[dict] = metadata.get("training", {}).get("teachers", [])
    return found


def teacher_lines(teachers: list[dict]) -> list[str]:
    """A line for each teacher: its name, version, hash, licence and the number of its frames."""
    lines = []
    for each in teachers:
        parts = [f"`{each['teacher']}`"]
        if "teacher_version" in each:
            parts.append(each["teacher_version"])
        if "teacher_sha256" in each:
            parts.append(f"SHA-256 {each['teacher_sha256']}")
        parts.append(f"licence {each.get('teacher_licence', 'not stated')}")
        lines.append(f"- Teacher of {each['frames']} frames: {', '.join(parts)}.")
    return lines


def licence_line(licence: str) -> str:
    """The line of the card about the licence of the data."""
    if is_restricted(licence):
        return f"- Licence of the data: **{licence}**. It may restrict what you do with a model trained on them; the code is MIT."
    return f"- Licence of the data: **{licence}**; the code is MIT."


def rows(tables: dict) -> list[str]:
    """Lines of the table of errors."""
    found = []
    for name, table in tables.items():
        factor, unit = (1000.0, "m" + table["unit"]) if name != BORN else (1.0, table["unit"])
        everything = [(part, table[part]) for part in ("all", "diagonal", "off_diagonal") if part in table]
        elements = table.get("by_element", {}).items()
        groups = [*everything, *((element, parts["all"]) for element, parts in elements)]
        if name == BORN:  # what lies within an element first: opposite charges alone give an R² near 1
            inside = [(f"{element} {part}", parts[part]) for element, parts in elements for part in PARTS]
            groups = [*inside, *everything[1:], everything[0]]
        for of, each in groups:
            ratios = " | ".join("-" if each[key] is None else f"{each[key]:.4f}" for key in ("r2", "slope"))
            title = name.replace("_", " ")
            found.append(
                f"| {title} | {of.replace('_', '-')} | {unit} | {factor * each['rmse']:.3g} | {factor * each['mae']:.3g} | {ratios} |"
            )
    return found


def by_volume(table: dict) -> list[str]:
    """Errors by volume, where the frames have several."""
    if "by_volume" not in table:
        return []
    found = table["by_volume"]
    lines = ["", "| volume per atom, Å³ | frames | mean energy error, meV/atom | RMSE, meV/atom | forces RMSE, meV/Å |"]
    lines.append("|---|---:|---:|---:|---:|")
    for each in found["ranges"]:
        errors = (1000 * each[name] for name in ("energy_mean", "energy_rmse", "forces_rmse"))
        values = " | ".join(f"{value:.3g}" for value in errors)
        lines.append(f"| {each['lowest']:.2f} to {each['highest']:.2f} | {each['frames']} | {values} |")
    if found["pressure_error_GPa"] is not None:
        off, error = found["pressure_error_GPa"], found["pressure_uncertainty_GPa"]
        lines += ["", f"The slope of the energy error is an error of the pressure: {off:+.2f} ± {error:.2f} GPa."]
    return lines


def within_elements(table: dict) -> list[str]:
    """What the R² of Z* is worth."""
    within = ", ".join(f"{part.replace('_', '-')} {value:.3f}" for part, value in table["r2_within_elements"].items())
    return [
        f"R² of Z* against the mean of each element: {within}. The R² of all elements counts that their charges differ."
    ]
