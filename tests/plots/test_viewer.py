"""The interactive page: what it holds, that it needs nothing from elsewhere, and errors without its package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from command_line import Done
from scipy.spatial.transform import Rotation
from toy_calculator import Toy, molecule

from les_plugins.cli import chemiscope as command_module
from les_plugins.errors import HostError
from les_plugins.plots import viewer

TENSOR = np.array([[0.5, 0.2, 0.0], [0.0, -0.3, 0.0], [0.0, 0.0, 0.4]])


class Tensors(Toy):
    """The toy with a Born charge that has a turn and a negative eigenvalue, and dipoles."""

    has_long_range = True

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        atoms = arguments[0]
        self.results["born_effective_charges"] = np.sign(self.results["charges"])[:, None, None] * TENSOR
        self.results["latent_dipoles"] = np.arange(3.0 * len(atoms)).reshape(-1, 3)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A viewer's script in the place of chemiscope's."""
    found = tmp_path / "package" / viewer.LIBRARY
    found.parent.mkdir()
    found.write_text('var Chemiscope = "</script>";', encoding="utf-8")
    monkeypatch.setattr(viewer, "library", lambda: found)
    return found


def frames() -> list[Atoms]:
    return [molecule(1), molecule(2, periodic=True, formula="OHHOHH")]


def test_arrows_are_dipoles_and_ellipsoids_the_symmetric_part() -> None:
    found = viewer.dataset(Tensors(), frames(), "toy")
    assert [s["size"] for s in found["structures"]] == [3, 6]
    assert len(found["environments"]) == 9
    np.testing.assert_allclose(found["properties"]["charge"]["values"][:3], [-0.8, 0.4, 0.4])
    arrows = found["shapes"]["dipoles"]["parameters"]["atom"]
    np.testing.assert_allclose(arrows[1]["vector"], viewer.ARROW * np.array([3.0, 4.0, 5.0]))
    exact = 0.5 * (TENSOR + TENSOR.T)
    positive = found["shapes"]["Born charges"]["parameters"]["atom"][1]
    axes = Rotation.from_quat(positive["orientation"]).as_matrix()
    values = np.linalg.eigvalsh(exact)
    assert np.linalg.norm(positive["orientation"]) == pytest.approx(1.0, abs=1e-7)  # or the viewer shows nothing
    np.testing.assert_allclose(positive["semiaxes"], np.abs(values) * viewer.SEMIAXIS, atol=1e-4)
    np.testing.assert_allclose(axes @ np.diag(values) @ axes.T, exact, atol=2e-4)
    negative = found["shapes"]["Born charges"]["parameters"]["atom"][0]
    assert negative["color"] != positive["color"]
    assert "Born charges" not in viewer.dataset(Tensors(), frames(), "toy", born=False)["shapes"]


def test_the_data_are_what_chemiscope_takes() -> None:
    chemiscope = pytest.importorskip("chemiscope")
    found = viewer.dataset(Tensors(), frames(), "toy")
    again = chemiscope.create_input(
        structures=found["structures"],
        properties=found["properties"],
        shapes=found["shapes"],
        environments=[(e["structure"], e["center"], e["cutoff"]) for e in found["environments"]],
        metadata=found["meta"],
        settings=found["settings"],
    )
    assert set(again) == set(found)
    assert again["environments"] == found["environments"]


def test_the_page_holds_the_viewer_or_has_it_beside_and_loads_nothing_else(script: Path, tmp_path: Path) -> None:
    data = viewer.dataset(Tensors(), frames(), "</script><b>")
    for embed in (True, False):
        page = tmp_path / f"{embed}.html"
        viewer.write_page(page, data, embed)
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'src="([^"]*)"', text) == ([] if embed else [viewer.LIBRARY])
        assert text.count("<script") == text.count("</script>") == 3
        held = re.search(r'<script id="dataset" type="application/json">(.*?)</script>', text, re.DOTALL)
        assert held is not None
        assert json.loads(held[1]) == data
    assert (tmp_path / viewer.LIBRARY).read_bytes() == script.read_bytes()


def test_without_chemiscope_or_without_charges_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "find_spec", lambda name: None)
    with pytest.raises(HostError, match=r"chemiscope is not installed: pip install"):
        viewer.library()
    with pytest.raises(HostError, match="no charges and dipoles"):
        viewer.dataset(Toy(), frames(), "toy")


def test_the_command_writes_a_page(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]
) -> None:
    source, page = tmp_path / "in.xyz", tmp_path / "out.html"
    molecule(3).write(source)
    monkeypatch.setattr(command_module, "open_model", lambda *given, **named: (Tensors(), {}))
    done = les_plugins_command("chemiscope", "toy", source, "-o", page, "--beside")
    assert done.code == 0, done.errors
    assert "1 frame, 3 atoms" in done.output
    assert page.is_file()
    done = les_plugins_command("chemiscope", "toy", source, "-o", tmp_path / "out.png")
    assert done.code != 0
    assert "must end in .html" in done.errors
