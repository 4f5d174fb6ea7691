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

import limits
import numpy as np
from ase import Atoms
from cards import card, shown

import les_plugins
from les_plugins.data.evaluation import evaluate
from les_plugins.data.frames import read_frames
from les_plugins.data.labels import BORN
from les_plugins.dynamics.stability import stability
from les_plugins.storage import checkpoint, zoo

HERE = Path(__file__).parent
#: How the names of recipes end whose data are those of `pretraining` in data.json.
PRETRAINING = "-pretraining"


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
        "limits": limits.limits(calculator, facts["system"], facts["structure"], config["long_range"] is not None),
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
    train, valid = (shown(stage.get(kind, data[kind])) for kind in ("train", "valid"))
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


def write_json(path: Path, document: dict, sort_keys: bool = False) -> None:
    """Indented by one, as checkpoints are."""
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=sort_keys)
    path.write_text(text + ("\n" if not sort_keys else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
