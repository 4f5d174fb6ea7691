"""An interactive picture of what a model says of structures: chemiscope's viewer in one HTML file, without a network.

`les-plugins chemiscope` calls it. Needs the extra `chemiscope` (BSD licence), whose viewer goes into the page.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from les_plugins.committee.agreement import check_single
from les_plugins.data.evaluation import predict
from les_plugins.data.labels import symmetric
from les_plugins.data.metrics import Floats
from les_plugins.errors import HostError, how_to_install
from les_plugins.io.files import whole_file

#: Å of an arrow per e·Å, and of an ellipsoid's semiaxis per e.
ARROW, SEMIAXIS = 2.0, 0.5
#: Name of the viewer's file where it stands beside the page.
LIBRARY = "chemiscope.min.js"
_POSITIVE, _NEGATIVE, _DIPOLE = "#d55e00", "#0072b2", "#1a1a1a"
_THINNEST = 0.02
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ margin: 0; font-family: sans-serif; }}
#all {{ display: flex; flex-wrap: wrap; height: 100vh; }}
#left, #right {{ flex: 1 1 26rem; display: flex; flex-direction: column; min-height: 26rem; }}
#map, #structure {{ flex: 1; min-height: 22rem; position: relative; }}
#failure {{ color: #b00; padding: 0 1rem; }}
</style></head><body>
<div id="failure"></div>
<div id="all"><div id="left"><div id="meta"></div><div id="map"></div></div>
<div id="right"><div id="structure"></div><div id="info"></div></div></div>
<script id="dataset" type="application/json">{dataset}</script>
{library}
<script>
const warnings = new Chemiscope.Warnings();
warnings.addHandler((message) => console.warn(message));
const dataset = JSON.parse(document.getElementById("dataset").textContent);
Chemiscope.DefaultVisualizer.load({{meta: "meta", map: "map", structure: "structure", info: "info"}}, dataset, warnings)
  .then(() => {{ document.body.dataset.state = "loaded"; }})
  .catch((error) => {{ document.getElementById("failure").textContent = String(error); }});
</script></body></html>
"""


def library() -> Path:
    """The viewer's script in the installed package.

    Raises:
        HostError: chemiscope is not installed, or of a version without it.
    """
    spec = find_spec("chemiscope")
    if spec is None or not spec.submodule_search_locations:
        raise HostError(f"chemiscope is not installed: {how_to_install('chemiscope')}")
    found = Path(next(iter(spec.submodule_search_locations))) / "sphinx" / "static" / LIBRARY
    if not found.is_file():
        raise HostError(f"the installed chemiscope has no {LIBRARY}: {how_to_install('chemiscope')}")
    return found


def dataset(calculator: Any, frames: Iterable[Atoms], name: str, born: bool = True) -> dict[str, Any]:
    """What the viewer shows, in the format of chemiscope.

    Args:
        calculator: of a model with a long-range part.
        frames: structures; atoms are drawn where they stand.
        name: of the model.
        born: Born effective charges too, as ellipsoids.

    Returns:
        Structures; of each atom its charge (e), the length of its latent dipole (e·Å) and a third of the trace of Z*
        (e); arrows along latent dipoles, 2 Å per e·Å; ellipsoids of the symmetric part of Z*, semiaxes of 0.5 Å per e
        of its eigenvalues' absolute values, orange where their sum is positive and blue where it is negative.

    Raises:
        HostError: the model has no long-range part, or is a committee.
    """
    check_single(calculator, "chemiscope")
    if not getattr(calculator, "has_long_range", False):
        raise HostError("the model has no charges and dipoles: it has no long-range part")
    wanted = ["energy", "charges", *(["born_effective_charges"] if born else [])]
    charges, dipoles, tensors, energies, seen = [], [], [], [], list[Atoms]()
    for number, atoms in enumerate(frames):
        seen.append(atoms)
        found = predict(calculator, atoms, wanted, f"frame {number}")
        charges.append(found["charges"])
        energies.append(float(found["energy"]) / len(atoms))
        latent = calculator.results.get("latent_dipoles")
        dipoles.append(np.zeros((len(atoms), 3)) if latent is None else np.asarray(latent))
        if born:
            tensors.append(found["born_effective_charges"])
    properties: dict[str, Any] = {
        "charge": _of_atoms(np.concatenate(charges), "e"),
        "latent dipole": _of_atoms(np.linalg.norm(np.concatenate(dipoles), axis=1), "e·Å"),
        "energy per atom": {"target": "structure", "values": _rounded(np.array(energies)), "units": "eV"},
    }
    shapes = {"dipoles": _arrows(np.concatenate(dipoles))}
    if born:
        whole = np.concatenate(tensors)
        properties["trace of Z*, a third"] = _of_atoms(np.trace(whole, axis1=1, axis2=2) / 3.0, "e")
        shapes["Born charges"] = _ellipsoids(whole)
    return {
        "meta": {"name": name, "description": "Charges, dipoles (arrows) and Born charges (ellipsoids), les-plugins."},
        "structures": [_structure(atoms) for atoms in seen],
        "properties": properties,
        "shapes": shapes,
        "environments": [
            {"structure": n, "center": k, "cutoff": 3.5} for n, atoms in enumerate(seen) for k in range(len(atoms))
        ],
        "settings": {
            "target": "atom",
            "map": {
                "x": {"property": "charge"},
                "y": {"property": "trace of Z*, a third" if born else "latent dipole"},
                "color": {"property": "charge"},
            },
            "structure": [{"shape": ["dipoles"], "unitCell": True, "bonds": True, "color": {"property": "charge"}}],
        },
    }


def write_page(path: Path, data: dict[str, Any], embed: bool = True) -> None:
    """The page of a dataset; needs no network.

    Args:
        path: HTML file to write.
        data: of `dataset`.
        embed: the viewer (3 MB) within the page; beside it as chemiscope.min.js, for several pages, when false.

    Raises:
        HostError: chemiscope is not installed.
        DataError: the file cannot be written.
    """
    viewer = library()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    if embed:
        code = viewer.read_text(encoding="utf-8").replace("</script", "<\\/script")
        tag = f"<script>{code}</script>"
    else:
        shutil.copyfile(viewer, path.parent / LIBRARY)
        tag = f'<script src="{LIBRARY}"></script>'
    title = html.escape(str(data["meta"]["name"]))
    with whole_file(path) as file:
        file.write(_PAGE.format(title=title, dataset=text, library=tag))


def _structure(atoms: Atoms) -> dict[str, Any]:
    found: dict[str, Any] = {"size": len(atoms), "names": list(atoms.symbols)}
    found |= {axis: _rounded(atoms.positions[:, k]) for k, axis in enumerate("xyz")}
    if atoms.pbc.any():
        found["cell"] = _rounded(atoms.cell.complete().array.ravel())
    return found


def _of_atoms(values: Floats, unit: str) -> dict[str, Any]:
    return {"target": "atom", "values": _rounded(values), "units": unit}


def _arrows(vectors: Floats) -> dict[str, Any]:
    each = [{"vector": _rounded(ARROW * vector)} for vector in vectors]
    common = {"baseRadius": 0.07, "headRadius": 0.14, "headLength": 0.18, "color": _DIPOLE}
    return {"kind": "arrow", "parameters": {"global": common, "atom": each}}


def _ellipsoids(tensors: Floats) -> dict[str, Any]:
    """Axes and turns of the symmetric parts, one an atom."""
    each = []
    values, axes = np.linalg.eigh(symmetric(tensors))
    axes[:, :, 0] *= np.linalg.det(axes)[:, None]  # a turn, not a reflection
    turns = Rotation.from_matrix(axes).as_quat()
    for value, turn in zip(values, turns, strict=True):
        each.append(
            {
                "semiaxes": _rounded(np.maximum(SEMIAXIS * np.abs(value), _THINNEST)),
                "orientation": _rounded(turn, 8),  # the viewer refuses what is not normalized
                "color": _POSITIVE if value.sum() > 0 else _NEGATIVE,
            }
        )
    return {"kind": "ellipsoid", "parameters": {"global": {}, "atom": each}}


def _rounded(values: Floats, decimals: int = 4) -> list[float]:
    """Few decimals: pages stay small."""
    return [round(float(value), decimals) for value in values]
