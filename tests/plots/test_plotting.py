"""Parity plots: a readable PNG for each quantity, and words where they cannot be made."""

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_calculator import Toy, labelled, molecule

from les_plugins.data.evaluation import Comparison, Evaluation, evaluate
from les_plugins.errors import DataError, HostError
from les_plugins.plots import plotting


def size(path: Path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, les_plugins.plots.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_quantity_gets_a_picture_and_born_charges_two_panels(tmp_path: Path) -> None:
    found = evaluate(Toy(spring=0.31), [labelled(molecule(seed)) for seed in range(4)])
    paths = plotting.parity_plots(found, tmp_path / "plots")
    assert [path.stem for path in paths] == list(found.comparisons)
    sizes = {path.stem: size(path) for path in paths}
    width, height = sizes["forces"]
    assert width == height >= 900
    assert sizes["born_effective_charges"] == (2 * width, height)


@pytest.mark.parametrize(
    ("reference", "predicted"),
    [
        ([0.0], [0.0]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([-278858.1, -278858.0, -278858.2], [-1.0, -1.1, -1.2]),
        ([-4.8912, -4.8903, -4.8915], [-4.8911, -4.8901, -4.8916]),
        (np.linspace(-1, 1, 20001), np.linspace(-1, 1, 20001)),
    ],
)
def test_unusual_values_can_be_drawn(tmp_path: Path, reference: list[float], predicted: list[float]) -> None:
    comparison = Comparison("energy", np.asarray(reference), np.asarray(predicted))
    assert size(plotting.parity_plot(comparison, tmp_path / "x.png"))[0] >= 900


def test_numbers_on_the_axes_stay_short() -> None:
    assert plotting._axis_zero(np.array([-4.8912, -4.8903]), np.array([-4.8911, -4.8901])) == -4.89
    assert plotting._axis_zero(np.array([-1.0, 2.0]), np.array([-1.0, 2.0])) == 0.0


@pytest.mark.parametrize("count", [19, 20])
def test_few_points_have_neither_line_nor_r2(count: int) -> None:
    from matplotlib.figure import Figure

    reference = np.random.default_rng(0).normal(size=count)
    axes = Figure().subplots()
    comparison = Comparison("dipole", reference, reference + 0.01)
    plotting._draw(axes, comparison, np.ones(count, dtype=bool), "")
    assert len(axes.lines) == (count >= 20)
    (text,) = (each.get_text() for each in axes.texts)
    assert ("R^2" in text) is (count >= 20)
    assert ("19 points" in text) is (count < 20)


def test_the_errors_are_written_where_there_are_no_points() -> None:
    high, low = np.full(50, 0.95), np.full(50, 0.05)
    assert plotting._corners(high, low, 0.0, 1.0)[0] == "upper left"
    assert plotting._corners(low, high, 0.0, 1.0)[0] == "lower right"


def test_elements_have_colours_of_their_own() -> None:
    colours = plotting._colours(np.array([53, 1, 82, 6, 7, 8, 1]))
    assert list(colours) == [1, 6, 7, 8, 53, 82]
    assert len(set(colours.values())) == 6


def test_missing_matplotlib_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    with pytest.raises(HostError, match=r"pip install \"\.\[plot\]\" from a clone of les-plugins"):
        plotting.parity_plots(Evaluation(), tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be made"):
        plotting.parity_plots(Evaluation(), tmp_path / "file")


def test_references_that_are_all_alike_give_a_histogram_of_the_predictions() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    predicted = np.random.default_rng(0).normal(0.5, 0.1, 400)
    comparison = Comparison("dipole", np.full(400, 0.5), predicted)
    plotting._draw(axes, comparison, np.ones(400, dtype=bool), "", "toy, 4 frames")
    assert sum(bar.get_height() for bar in axes.patches) == 400
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.5)
    assert axes.get_title() == "Dipole\ntoy, 4 frames, 400 values"


def test_the_legend_of_a_spectrum_lies_on_no_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from les_plugins.plots.spectra import Curve, plot

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **named: drawn.append(figure))
    x = np.linspace(0.0, 4000.0, 50)
    curves = [Curve(f"curve {name} with a label of some length", x, np.cos(x)) for name in "ABC"]
    plot(tmp_path / "one.png", curves[:1], "x", "y", marks=(3400.0,), marks_label="measured bands")
    plot(tmp_path / "three.png", curves, "x", "y")
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        (legend,), (axes,) = figure.legends, figure.axes
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        assert figure.bbox.padded(1.0).count_contains(legend.get_window_extent().get_points()) == 2
        assert axes.get_legend() is None


def test_a_long_curve_is_drawn_by_its_means_and_their_scatter() -> None:
    from les_plugins.plots.spectra import Curve, binned

    x = np.arange(10_000.0)
    found = binned(Curve("energy", x, 2.0 * x + (-1.0) ** x), most=100)
    assert len(found.x) == 100
    np.testing.assert_allclose(found.y, 2.0 * found.x, atol=1e-9)
    assert found.error is not None
    assert found.error[0] == pytest.approx(np.std(2.0 * x[:100] + (-1.0) ** x[:100]))
    assert len(binned(Curve("short", x[:50], x[:50]), most=100).x) == 50


@pytest.mark.parametrize("name", ["short.les", "water-mace-pairs-stage-seven-fine-tuned-on-response-labels.les"])
def test_titles_lie_within_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With room at the edges: a title that touches one looks cut."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from les_plugins.plots.spectra import Curve, plot

    places = []

    def measure(figure: Any, *_: Any, **__: Any) -> None:
        FigureCanvasAgg(figure).draw()
        size = figure.get_size_inches() * figure.dpi
        for axes in figure.axes:
            box = axes.title.get_window_extent()
            places.append((box.x0 / size[0], box.x1 / size[0], 1.0 - box.y1 / size[1]))

    monkeypatch.setattr(Figure, "savefig", measure)
    values = np.linspace(-1.0, 1.0, 90)
    curve = Curve("power", values, values)
    plot(tmp_path / "x.png", [curve], "x", "y", title=f"{name}: 192 atoms, 287 K, 0.15 V/Å, 39.9 ps")
    diagonal = np.tile(np.eye(3, dtype=bool).ravel(), 10)
    born = Comparison("born_effective_charges", values, values + 0.1, np.full(90, 8, dtype=np.uint8), diagonal)
    plotting.parity_plot(born, tmp_path / "y.png", f"{name}, 10 frames")
    assert len(places) == 3
    for left, right, above in places:
        assert left > 0.01
        assert right < 0.99
        assert above > 0.01
    # two panels, a half each
    assert places[1][1] < 0.5 < places[2][0]


def test_figures_of_phonons_name_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from les_plugins.crystals.bands import Bands
    from les_plugins.crystals.permittivity import Permittivity
    from les_plugins.plots.permittivity import permittivity_plot

    titles = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: titles.append(figure.axes[0].get_title()))
    distances = [np.linspace(0.0, 1.0, 5)]
    bands = Bands(["G", "X"], [False], [np.zeros((5, 3))], distances, [np.ones((5, 3))], None)
    plotting.band_plot(bands, (np.linspace(0.0, 2.0, 9), np.ones(9)), tmp_path / "bands.png", "salt.les: NaCl")
    ions = Permittivity(np.array([160.0]), 1e4 * np.eye(3)[None], 2.3 * np.eye(3))
    permittivity_plot(ions, tmp_path / "permittivity.png", "salt.les: NaCl")
    assert titles == ["salt.les: NaCl"] * 2
