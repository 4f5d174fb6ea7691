"""Evaluate checkpoints of the zoo again and rewrite metrics, predictions and cards; weights and stability tests stay.

    python model_zoo/recipes/reevaluate.py DATA_FOLDER NAME …
    python model_zoo/recipes/reevaluate.py DATA_FOLDER NAME … --limits

For when data.json says something else about the data than it did, or Z* are made in another way. Run in the environment of the checkpoints' host,
from the root of the repository. `--errors FILE.json` takes what `add.errors_of` gave before instead of computing it;
`--limits` keeps errors and predictions, and computes what stands under "Where it stops" alone: seconds a model.
"""

import argparse
import json
from pathlib import Path

import limits
from add import HERE, errors_of, summary, write_json, write_predictions
from cards import card

import les_plugins
from les_plugins.storage import checkpoint, zoo


def main() -> None:
    """Read the arguments and rewrite the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--errors", type=Path, help="JSON of the errors, of one model")
    parser.add_argument("--limits", action="store_true", help="compute the limits alone")
    given = parser.parse_args()
    systems = json.loads((HERE / "data.json").read_text(encoding="utf-8"))
    for name in given.names:
        folder = zoo.root() / name
        metrics = json.loads((folder / zoo.METRICS).read_text(encoding="utf-8"))
        facts = next(facts for facts in systems.values() if facts["system"] == metrics["data"]["system"])
        facts = {**facts, "licence": metrics["data"]["licence"]}
        if given.errors is not None:
            metrics["errors"] = json.loads(given.errors.read_text(encoding="utf-8"))
        elif given.limits:
            metrics["limits"] = limits_of(les_plugins.load(folder), facts, folder)
        else:
            with_born = has_long_range(folder)
            calculator = les_plugins.load(folder)
            metrics["errors"] = errors_of(calculator, given.data, facts, with_born)
            calculator.reference_susceptibility = None  # of the checkpoint, or of the packaged structure
            write_predictions(calculator, facts["structure"], folder, with_born)
            metrics["limits"] = limits_of(calculator, facts, folder)
        metrics["summary"] = summary(metrics["errors"])
        write_json(folder / zoo.METRICS, metrics)
        (folder / zoo.CARD).write_text(card(metrics, facts), encoding="utf-8")
        zoo.write_manifest()
        print(f"{name}: {json.dumps(metrics['limits'] if given.limits else metrics['summary'])}")


def limits_of(calculator: object, facts: dict, folder: Path) -> dict[str, float]:
    """Where the model stops."""
    return limits.limits(calculator, facts["system"], facts["structure"], has_long_range(folder))


def has_long_range(folder: Path) -> bool:
    """Whether a checkpoint has charges and Z*."""
    return checkpoint.read_config(folder)["long_range"] is not None


if __name__ == "__main__":
    main()
