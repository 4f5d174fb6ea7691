"""Put a trained checkpoint into the zoo: evaluate it, run its stability test, write card, metrics and hashes.

    python model_zoo/recipes/add.py NAME CHECKPOINT.les RECIPE.yaml DATA_FOLDER [--system water] [--skip-stability]
        [--options KEY=VALUE …] [--before RECIPE_OF_AN_EARLIER_STAGE.yaml …]

Data that a teacher labels are made first, by the commands that data.json has under `stages`, and lie in runs/.
A stage whose recipe ends in -pretraining.yaml has the data that data.json calls so, one that data.json names under
`teacher` has the frames that another model labels. Run in the environment of the checkpoint's host, from the root of the
repository. Every number on a card is written here.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms

import les_plugins
from les_plugins.config import LongRangeConfig
from les_plugins.data.evaluation import evaluate
from les_plugins.data.frames import read_frames
from les_plugins.data.labels import BORN
from les_plugins.dynamics.stability import stability
from les_plugins.storage import checkpoint, zoo
from les_plugins.storage.licences import is_restricted

HERE = Path(__file__).parent
DEFAULT_SIGMA = LongRangeConfig().sigma
#: How the names of recipes end whose data are those of `pretraining` in data.json.
PRETRAINING = "-pretraining"
#: Components of Z*, as `Evaluation.metrics` has them.
PARTS = ("diagonal", "off_diagonal")


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--system", default="water")
    parser.add_argument("--skip-stability", action="store_true")
    parser.add_argument("--options", nargs="*", default=[], help="what the training was given beside its recipe")
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="recipes of the stages before, in order")
    given = parser.parse_args()
    facts = json.loads((HERE / "data.json").read_text(encoding="utf-8"))[given.system]
    folder = zoo.root() / given.name
    folder.mkdir(exist_ok=True)
    host = checkpoint.read_config(given.checkpoint)["host"]
    stages = [command(recipe.stem, host, recipe, facts, []) for recipe in given.before]
    retrain = " && ".join([*stages, command(given.name, host, given.recipe, facts, given.options)])
    pretrained = any(recipe.stem.endswith(PRETRAINING) for recipe in given.before)
    before = facts["pretraining"] if pretrained else None
    taught = any(has_teacher(recipe, facts) for recipe in (*given.before, given.recipe))
    if before is not None:
        facts = {**facts, "licence": f"{facts['licence']}; pretraining: {before['licence']}"}
    copy_checkpoint(given.checkpoint, folder, retrain, facts["licence"])
    calculator = les_plugins.load(folder)
    config = checkpoint.read_config(folder)

    errors = errors_of(calculator, given.data, facts, config["long_range"] is not None)
    metrics = {
        "name": given.name,
        "host": config["host"],
        "versions": {**config["versions"], "les_plugins": config["les_plugins"]},
        "terms": terms(config["long_range"]),
        "data": {key: facts[key] for key in ("system", "functional", "source", "licence", "validity")},
        "pretraining": before,
        "teacher": facts["teacher"] if taught else None,
        "training": {
            "recipe": f"recipes/{given.recipe.name}",
            "command": retrain,
            "train": {"file": facts["train"], "sha256": checkpoint.sha256(place(given.data, facts["train"]))},
        },
        "epsilon_infinity": config["epsilon_infinity"],
        "sigma": None if config["long_range"] is None else config["long_range"]["sigma"],
        "summary": summary(errors),
        "errors": errors,
        "temperature": facts["temperature"],
        "weights_sha256": checkpoint.sha256(folder / checkpoint.WEIGHTS),
        "stability": None,
    }
    write_predictions(calculator, facts["structure"], folder, config["long_range"] is not None)
    if not given.skip_stability:
        start = read_frames(zoo.structure(facts["structure"]))[0]
        with tempfile.TemporaryDirectory() as scratch:
            metrics["stability"] = stability(calculator, start, facts["temperature"], Path(scratch)).to_dict()
    write_json(folder / zoo.METRICS, metrics)
    (folder / zoo.CARD).write_text(card(metrics, facts), encoding="utf-8")
    zoo.write_manifest()
    print(f"{folder.name}: {json.dumps(metrics['summary'])}")


def errors_of(calculator: object, data: Path, facts: dict, with_born: bool) -> dict:
    """What the model misses on the validation frames, and on those with Z*, in both orders of their indices."""
    errors = {}
    kinds = [kind for kind in ("valid", "first_principles") if kind in facts] + ["born"] * with_born
    for kind in kinds:
        path = place(data, facts[kind])
        if getattr(calculator, "metadata", {}).get("susceptibility") is None:
            calculator.reference_susceptibility = None  # of this file's first frame, as in the command on the card
        predictions, turned = Remembered(calculator), kind == "born" and facts.get("born_transposed", False)
        found = evaluate(predictions, read_frames(path), facts[kind], born_transposed=turned)
        only_born = kind == "born" and facts.get("born_only", False)
        errors[kind] = {
            "file": facts[kind],
            "sha256": checkpoint.sha256(path),
            "frames": found.frames,
            "metrics": {name: table for name, table in found.metrics().items() if not only_born or name == BORN},
        }
        if kind == "born":
            other = evaluate(predictions, read_frames(path), facts[kind], born_transposed=not turned)
            errors[kind]["transposed"] = turned
            errors[kind]["other_order_of_indices"] = {"unit": "e", "all": other.metrics()[BORN]["all"]}
    return errors


def place(data: Path, file: str) -> Path:
    """Where a file of data.json is: in the folder of the data, or where the commands of the recipe wrote it."""
    return Path(file) if file.startswith("runs/") else data / file


def shown(file: str) -> str:
    """A file of data.json as commands name it."""
    return file if file.startswith("runs/") else f"$DATA/{file}"


class Remembered:
    """A calculator that computes each structure once: Z* of twenty frames take minutes."""

    def __init__(self, calculator: object) -> None:
        self.calculator, self.implemented_properties = calculator, calculator.implemented_properties
        self.known_elements = getattr(calculator, "known_elements", None)
        self.known: dict[bytes, dict] = {}
        self.results: dict = {}

    def calculate(self, atoms: Atoms, properties: list[str], changes: list[str]) -> None:
        """As ASE's, with the results of the same structure and properties when there are some."""
        structure = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        key = b"".join(part.tobytes() for part in structure) + " ".join(properties).encode()
        if key not in self.known:
            self.calculator.calculate(atoms, properties, changes)
            self.known[key] = self.calculator.results.copy()  # a dictionary of its own kind
        self.results = self.known[key]


def copy_checkpoint(source: Path, folder: Path, retrain: str, licence: str) -> None:
    """Copy weights and config; the command loses the paths of the machine that it ran on."""
    config = checkpoint.read_config(source)
    config["metadata"]["command"] = retrain
    config["metadata"]["data_licence"] = licence
    write_json(folder / checkpoint.CONFIG, config, sort_keys=True)
    shutil.copyfile(source / checkpoint.WEIGHTS, folder / checkpoint.WEIGHTS)
    hashes = {name: checkpoint.sha256(folder / name) for name in (checkpoint.CONFIG, checkpoint.WEIGHTS)}
    document = {"format": checkpoint.FORMAT, "format_version": checkpoint.FORMAT_VERSION, "sha256": hashes}
    write_json(folder / checkpoint.MANIFEST, document)


def has_teacher(recipe: Path, facts: dict) -> bool:
    """Whether a stage learns from frames that another model labels."""
    return recipe.stem in facts.get("teacher", {}).get("recipes", [])


def command(name: str, host: str, recipe: Path, facts: dict, options: list[str]) -> str:
    """What retrains the checkpoint; $DATA is the folder of the data."""
    data = facts["pretraining"] if recipe.stem.endswith(PRETRAINING) else facts
    stage = data.get("stages", {}).get(recipe.stem, {})
    train, valid = shown(stage.get("train", data["train"])), shown(data["valid"])
    prepare = list(stage.get("prepare", []))
    if has_teacher(recipe, facts):
        teacher, source = facts["teacher"], train
        train = f"runs/{teacher['train']}"
        # The first stage that reads the frames makes them.
        if recipe.stem == teacher["recipes"][0]:
            prepare = [f"{teacher['python']} model_zoo/recipes/{teacher['script']} {teacher['model']} {source} {train}"]
    elif host in data.get("prepared", {}):
        script, sources = f"python model_zoo/recipes/{data['prepared'][host]}", (train, valid)
        train, valid = (f"runs/{Path(source).name}" for source in sources)
        prepare = [f"{script} {source} {made}" for source, made in zip(sources, (train, valid), strict=True)]
    start = f"les-plugins train {host} --config model_zoo/recipes/{recipe.name}"
    if host == "nequip":
        files = f"data.train_file_path={train} data.val_file_path={valid} hydra.run.dir=runs/{name}"
    else:
        files = f"--train_file {train} --valid_file {valid}"
    options = [f"'{option}'" if "[" in option else option for option in options]
    return " && ".join([*prepare, " ".join([start, files, *options])])


def terms(section: dict | None) -> str:
    """Moments and response in letters: q, u, Q, Δq, Δu."""
    if section is None:
        return "short range"
    letters = {"charge": "q", "dipole": "u", "quadrupole": "Q"}
    found = [letters[name] for name in section["multipoles"]]
    found += ["Δq"] if section["response"]["charge"] else []
    found += ["Δu"] if section["response"]["dipole"] != "none" else []
    return " ".join(found)


def summary(errors: dict) -> dict:
    """The numbers that lists and tables show."""
    valid = errors["valid"]["metrics"]
    found = {
        "forces_rmse_meV_per_A": 1000 * valid["forces"]["all"]["rmse"],
        "energy_rmse_meV_per_atom": 1000 * valid["energy"]["all"]["rmse"],
        "energy_offset_removed_rmse_meV_per_atom": 1000 * valid["energy_offset_removed"]["all"]["rmse"],
    }
    if "first_principles" in errors:
        forces = errors["first_principles"]["metrics"]["forces"]["all"]["rmse"]
        found["first_principles_forces_rmse_meV_per_A"] = 1000 * forces
    if "born" in errors:
        born = errors["born"]["metrics"][BORN]["all"]
        found |= {"born_rmse_e": born["rmse"], "born_r2": born["r2"], "born_slope": born["slope"]}
        table = errors["born"]["metrics"][BORN]
        found["born_diagonal_r2_within_elements"] = table["r2_within_elements"]["diagonal"]
        found["born_by_element"] = {
            element: {
                "diagonal_r2": parts["diagonal"]["r2"],
                "diagonal_rmse_e": parts["diagonal"]["rmse"],
                "off_diagonal_rmse_e": parts["off_diagonal"]["rmse"],
            }
            for element, parts in table["by_element"].items()
        }
    return found


def write_predictions(calculator: object, structure: str, folder: Path, with_born: bool) -> None:
    """Energy, forces and Z* on the packaged structure: what an installation must reproduce."""
    atoms = read_frames(zoo.structure(structure))[0]
    found = {"structure": structure, "structure_sha256": checkpoint.sha256(zoo.structure(structure))}
    found["energy"] = float(calculator.get_property("energy", atoms))
    for name in ("forces", BORN) if with_born else ("forces",):
        found[name] = np.round(calculator.get_property(name, atoms), 9).tolist()
    (folder / zoo.PREDICTIONS).write_text(json.dumps(found) + "\n", encoding="utf-8")


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
        licence_line(data["licence"]),
        f"- Valid for: {data['validity']}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in sorted(metrics['versions'].items()))}",
    ]
    if metrics["epsilon_infinity"] is not None:
        lines.append(f"- ε_∞ = {metrics['epsilon_infinity']} scales dipoles and Born charges; an input, not a result.")
    if metrics["sigma"] not in (None, DEFAULT_SIGMA):
        lines.append(
            f"- σ = {metrics['sigma']} Å was chosen by the slope of Z* on the frames that Z* is scored on below, so their slope is no "
            f"test; no weight was trained on any Z*. {facts['born_other']}"
        )
    lines += [
        f"- Weights: SHA-256 {metrics['weights_sha256']}",
        "",
        "## Training",
        "",
        f"{'Energies, forces and stress of the teacher' if 'stages' in facts else 'Energies and forces'} only; validation "
        "frames and Born charges were not trained on. `$DATA` is the folder of the data.",
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
        *rows(errors["valid"]["metrics"]),
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


def within_elements(table: dict) -> list[str]:
    """What the R² of Z* is worth."""
    within = ", ".join(f"{part.replace('_', '-')} {value:.3f}" for part, value in table["r2_within_elements"].items())
    return [
        f"R² of Z* against the mean of each element: {within}. The R² of all elements counts that their charges differ."
    ]


def write_json(path: Path, document: dict, sort_keys: bool = False) -> None:
    """Indented by one, as checkpoints are."""
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=sort_keys)
    path.write_text(text + ("\n" if not sort_keys else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
