"""Write ⟨χ⟩ over the training frames into checkpoints of the zoo, and scale their stored Born charges with it.

    python model_zoo/recipes/susceptibility.py DATA_FOLDER NAME …

For checkpoints that were saved before `save` did so. Run in the environment of the checkpoints' host, from the root of
the repository. Weights stay.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from add import HERE

import les_plugins
from les_plugins.data.frames import read_frames
from les_plugins.data.labels import BORN
from les_plugins.demo import stored_predictions
from les_plugins.model.gauge import mean_susceptibility
from les_plugins.storage import checkpoint, zoo


def main() -> None:
    """Read the arguments and rewrite config, manifest and predictions of each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    systems = json.loads((HERE / "data.json").read_text(encoding="utf-8"))
    for name in given.names:
        entry = zoo.entry(name)
        if entry.config.get("susceptibility") is not None:
            print(f"{name}: has one already: {entry.config['susceptibility']:.6g}")
            continue
        system = entry.metrics["data"]["system"]
        facts = next(facts for facts in systems.values() if facts["system"] == system)
        calculator = les_plugins.load(name)
        found = mean_susceptibility(calculator, read_frames(given.data / facts["train"]))
        if found is None:
            print(f"{name}: has no induced dipoles")
            continue
        calculator.get_property("energy", stored_predictions(entry))
        own = calculator.results["susceptibility"]
        _write(entry.folder, found, math.sqrt((1.0 + own) / (1.0 + found)))
        print(f"{name}: {found:.6g}, that of its structure {own:.6g}")
    zoo.write_manifest()


def _write(folder: Path, susceptibility: float, factor: float) -> None:
    """Into config.json and its hash, and the Born charges of predictions.json times a factor."""
    config = checkpoint.read_config(folder) | {"susceptibility": susceptibility}
    text = json.dumps(config, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / checkpoint.CONFIG).write_text(text, encoding="utf-8")
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text(encoding="utf-8"))
    manifest["sha256"][checkpoint.CONFIG] = checkpoint.sha256(folder / checkpoint.CONFIG)
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    predictions = json.loads((folder / zoo.PREDICTIONS).read_text(encoding="utf-8"))
    if BORN in predictions:
        predictions[BORN] = np.round(factor * np.array(predictions[BORN]), 9).tolist()
        (folder / zoo.PREDICTIONS).write_text(json.dumps(predictions) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
