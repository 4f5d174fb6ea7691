"""Predictions of an ASE calculator against the labels of a file, frame by frame. `les-plugins evaluate` calls this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from numpy.typing import NDArray

from les_plugins.data.calibration import Calibration
from les_plugins.data.cautions import coming_from
from les_plugins.data.comparable import not_comparable
from les_plugins.data.given_charge import ChargedFrames
from les_plugins.data.index_order import IndexOrder
from les_plugins.data.labels import BORN, LabelKeys, labels_of, shaped, symmetric, voigt
from les_plugins.data.metrics import ALL, Errors, Floats, composition_residual, grouped_errors, r2_within
from les_plugins.data.volumes import VolumeErrors, volume_errors
from les_plugins.errors import DataError, HostError, LesPluginsError
from les_plugins.units import BOHR, COULOMB_CONSTANT, VACUUM_PERMITTIVITY

OFFSET_REMOVED = "energy_offset_removed"
#: Net charge of an open structure, e, from which on a comparison of dipoles carries a warning.
NET_CHARGE = 0.01
#: e²·Å²/eV in one unit of a file's polarizabilities: 1 Å³ = 4π ε0 Å³, 1 bohr³.
POLARIZABILITY_UNITS = {"e2A2/eV": 1.0, "A3": 1.0 / COULOMB_CONSTANT, "bohr3": BOHR**3 / COULOMB_CONSTANT}


@dataclass(frozen=True)
class Quantity:
    """How one kind of label is read and shown.

    Attributes:
        title: name in tables and plots.
        symbol: for the axes of plots, TeX of matplotlib.
        unit: of the values and of every number in JSON.
        shown_unit: of errors in tables and plots.
        shown_factor: shown_unit in one unit.
    """

    title: str
    symbol: str
    unit: str
    shown_unit: str
    shown_factor: float = 1.0


QUANTITIES = {
    "energy": Quantity("Energy", "$E/N$", "eV/atom", "meV/atom", 1e3),
    OFFSET_REMOVED: Quantity("Energy, offset removed", r"$\Delta E/N$", "eV/atom", "meV/atom", 1e3),
    "forces": Quantity("Forces", r"$F_\alpha$", "eV/Å", "meV/Å", 1e3),
    "stress": Quantity("Stress", r"$\sigma_{\alpha\beta}$", "eV/Å³", "meV/Å³", 1e3),
    "dipole": Quantity("Dipole", r"$\mu_\alpha$", "e·Å", "e·Å"),
    "polarizability": Quantity("Polarizability", r"$\alpha_{\alpha\beta}$", "e²·Å²/eV", "e²·Å²/eV"),
    BORN: Quantity("Born charges Z*", r"$Z^*_{\alpha\beta}$", "e", "e"),
}


@dataclass(frozen=True)
class Comparison:
    """Predicted and reference values of one quantity.

    Attributes:
        name: key of `QUANTITIES`.
        reference: (M,) numbers in the quantity's unit.
        predicted: (M,) numbers.
        elements: (M,) atomic number of the atom of each value, or None for values of whole structures.
        diagonal: (M,) whether each value is a diagonal component, or None where that has no meaning.
    """

    name: str
    reference: Floats
    predicted: Floats
    elements: NDArray[np.uint8] | None = None
    diagonal: NDArray[np.bool_] | None = None

    @property
    def quantity(self) -> Quantity:
        """Title and units."""
        return QUANTITIES[self.name]

    def errors(self) -> dict[tuple[str, str], Errors]:
        """By (element or "all", part or "all"); see `metrics.grouped_errors`."""
        return grouped_errors(self.reference, self.predicted, self.elements, self.diagonal)

    def r2_within_elements(self) -> dict[str, float | None]:
        """R² against the mean of each element, of diagonal and off-diagonal components; of quantities that have both.

        Elements of opposite charge give the R² of all elements a value near 1 for free.
        """
        if self.elements is None or self.diagonal is None:
            return {}
        parts = {"diagonal": self.diagonal, "off_diagonal": ~self.diagonal}
        return {
            name: r2_within(self.reference[part], self.predicted[part], self.elements[part])
            for name, part in parts.items()
            if part.any()
        }


@dataclass(frozen=True)
class SumRule:
    """Violation of the acoustic sum rule: components of the mean of Z* over the atoms of a frame, e; zero is right.

    Of a frame with a total charge Q that the model reads, the mean less Q/N.

    Attributes:
        predicted_rms: root mean square over components and frames.
        predicted_largest: largest magnitude.
        reference_rms: the same of the file's own Z*.
        reference_largest: the same.
    """

    predicted_rms: float
    predicted_largest: float
    reference_rms: float
    reference_largest: float


@dataclass
class Evaluation:
    """What `evaluate` found.

    Attributes:
        comparisons: by key of `QUANTITIES`.
        frames: frames that were computed.
        atoms: atoms in them.
        sum_rule: of Born charges, where they were compared.
        skipped: why something that the file has was not compared, or only in part.
        notes: what to know when reading the numbers.
        calibrations: of a committee, errors beside the spread of its members, by key of `QUANTITIES`.
        by_volume: of periodic frames of one composition whose volumes differ; energies and forces.
    """

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    frames: int = 0
    atoms: int = 0
    sum_rule: SumRule | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    by_volume: VolumeErrors | None = None

    def metrics(self) -> dict[str, Any]:
        """Every number as JSON types: by quantity, its unit, then all, diagonal, off_diagonal and by_element.

        Born charges have `r2_within_elements` besides, quantities of a committee `committee`.
        """
        tables: dict[str, Any] = {}
        for name, comparison in self.comparisons.items():
            table: dict[str, Any] = {"unit": comparison.quantity.unit}
            for (element, part), found in comparison.errors().items():
                group = table if element == ALL else table.setdefault("by_element", {}).setdefault(element, {})
                group[part] = found.to_dict()
            if within := comparison.r2_within_elements():
                table["r2_within_elements"] = within
            tables[name] = table
        for name, calibration in self.calibrations.items():
            tables[name]["committee"] = calibration.to_dict()
        if self.sum_rule is not None:
            tables[BORN]["acoustic_sum_rule"] = vars(self.sum_rule).copy()
        if self.by_volume is not None:
            tables["energy"]["by_volume"] = self.by_volume.to_dict()
        return tables


def evaluate(
    calculator: Any,
    frames: Iterable[Atoms],
    source: str = "frames",
    keys: LabelKeys | None = None,
    born: bool = True,
    born_transposed: bool = False,
    polarizability_unit: str = "e2A2/eV",
    born_symmetric: bool = False,
    crystal_polarizability: bool = False,
) -> Evaluation:
    """Run a calculator over frames and compare it with their labels.

    Args:
        calculator: ASE calculator; one of `les_plugins.load`, or any other.
        frames: structures with labels, read once, one at a time.
        source: where they come from, for messages.
        keys: names of the labels; the defaults when None.
        born: compare Born effective charges where a frame has them; they take several times the time of forces.
        born_transposed: the file's first index is the displacement, the second the polarization.
        polarizability_unit: key of `POLARIZABILITY_UNITS`.
        born_symmetric: compare the symmetric parts of Z*, for files whose order of indices is not known.
        crystal_polarizability: compare the polarizability of crystals too, which in the file is ε0 V (ε_∞ − 1).

    Returns:
        Comparisons of everything that the frames have and the calculator gives.

    Raises:
        DataError: a label or a prediction that is not finite or of the wrong size, or nothing to compare.
        LesPluginsError: what the calculator refuses, with the frame it was.
    """
    keys = keys or LabelKeys()
    gathered, order, charged = _Gathered(), IndexOrder(), ChargedFrames()
    for number, atoms in enumerate(frames):
        where = f"{source}, frame {number}"
        charged.add(atoms)
        references = {name: value for name, (_, value) in labels_of(atoms, keys, where).items()}
        if not born and references.pop(BORN, None) is not None:
            gathered.skip(BORN, "not asked for")
        if BORN in references and born_transposed:
            references[BORN] = references[BORN].transpose(0, 2, 1)
        if BORN in references and "dipole" in references and not atoms.pbc.any():
            order.add(atoms, references[BORN], references["dipole"])
        if "polarizability" in references:
            references["polarizability"] = references["polarizability"] * POLARIZABILITY_UNITS[polarizability_unit]
        for name, reason in not_comparable(atoms, references, crystal_polarizability).items():
            gathered.skip(name, reason)
            del references[name]
        extra = ["charges"] if "dipole" in references else []
        crystal = "polarizability" in references and bool(atoms.pbc.all())
        extra += ["dielectric_tensor"] if crystal else []
        spreads = [f"{name}_std" for name in references] if getattr(calculator, "is_committee", False) else []
        predictions = predict(calculator, atoms, [*references, *extra, *spreads], where)
        if crystal:
            predictions.pop("polarizability", None)
            predictions.pop("polarizability_std", None)
            if (tensor := predictions.get("dielectric_tensor")) is not None:
                predictions["polarizability"] = VACUUM_PERMITTIVITY * abs(atoms.cell.volume) * (tensor - np.eye(3))
        for name in sorted(references.keys() - predictions.keys()):
            gathered.skip(name, "the model does not predict it")
            del references[name]
        if born_symmetric and BORN in references:
            for tensors in (references, predictions):
                tensors[BORN] = symmetric(tensors[BORN])
            if (spread := f"{BORN}_std") in predictions:
                predictions[spread] = np.std([symmetric(each[BORN]) for each in calculator.of_members], axis=0, ddof=1)
        reads = getattr(calculator, "takes_total_charge", False)
        gathered.add(atoms, references, predictions, calculator.total_charge_of(atoms, where) if reads else 0.0)
    result = gathered.evaluation()
    if not born_symmetric and (note := order.note(born_transposed)) is not None:
        result.notes.append(note)
    if (note := charged.note(calculator)) is not None:
        result.notes.append(note)
    return result


def predict(calculator: Any, atoms: Atoms, properties: Sequence[str], where: str) -> dict[str, Floats]:
    """Properties of one structure, in the shapes of ASE (stress: Voigt 6), those that the calculator has.

    Args:
        calculator: ASE calculator.
        atoms: the structure.
        properties: names; the energy for none.
        where: file and frame, for messages.

    Raises:
        DataError: a predicted value is NaN or infinite.
        LesPluginsError: what the calculator refuses, with `where` in front.
    """
    wanted = set(properties or ("energy",)) & set(calculator.implemented_properties)
    try:
        with coming_from(where):
            calculator.calculate(atoms, sorted(wanted), list(all_changes))
    except LesPluginsError as error:
        if str(error).startswith(where):
            raise
        raise type(error)(f"{where}: {error}") from None
    except PropertyNotImplementedError as error:
        raise HostError(f"{where}: the calculator refuses: {error}") from None
    found = {}
    for name in sorted(wanted):
        if calculator.results.get(name) is None:
            continue
        found[name] = shaped(name, calculator.results[name], len(atoms), f"{where}: predicted {name}")
    return found


def known_elements(calculator: Any) -> list[int] | None:
    """Atomic numbers that a calculator says it knows (`known_elements`), or None when it does not say."""
    found = getattr(calculator, "known_elements", None)
    return None if found is None else [int(z) for z in found]


class _Gathered:
    """Values of one quantity after another, frame by frame."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[Floats, Floats]]] = {}
        self._elements: dict[str, list[NDArray[np.uint8]]] = {}
        self._diagonals: dict[str, list[NDArray[np.bool_]]] = {}
        self._calibrations: dict[str, list[Calibration]] = {}
        self._skipped: dict[tuple[str, str], int] = {}
        self._compositions: list[NDArray[np.int64]] = []
        self._volumes: list[float] = []
        self._sums: list[tuple[Floats, Floats]] = []
        self._largest_net_charge = 0.0
        self._frames = self._atoms = 0

    def skip(self, name: str, reason: str) -> None:
        self._skipped[name, reason] = self._skipped.get((name, reason), 0) + 1

    def add(
        self, atoms: Atoms, references: dict[str, Floats], predictions: dict[str, Floats], total_charge: float
    ) -> None:
        self._frames, self._atoms = self._frames + 1, self._atoms + len(atoms)
        for name, reference in references.items():
            r, p, s = reference, predictions[name], predictions.get(f"{name}_std")
            if name == "energy":
                self._compositions.append(np.bincount(atoms.numbers, minlength=119))
                self._volumes.append(atoms.get_volume() / len(atoms) if atoms.pbc.all() else np.nan)
                r, p = r / len(atoms), p / len(atoms)
                s = None if s is None else s / len(atoms)
            if name == "polarizability":  # symmetric: six independent components, the diagonal first
                r, p = voigt(r), voigt(p)
                s = None if s is None else voigt(s)
            if s is not None:
                rows = len(atoms) if r.shape[:1] == (len(atoms),) and name in ("forces", BORN) else 1
                calibration = Calibration.of(name, *(value.reshape(rows, -1) for value in (r, p, s)))
                self._calibrations.setdefault(name, []).append(calibration)
            self._values.setdefault(name, []).append((r.ravel(), p.ravel()))
            if r.shape[:1] == (len(atoms),) and name in ("forces", BORN):
                of_atom = np.repeat(atoms.numbers.astype(np.uint8), r[0].size)
                self._elements.setdefault(name, []).append(of_atom)
            if name == "dipole" and "charges" in predictions:
                net = abs(float(predictions["charges"].sum()))
                self._largest_net_charge = max(self._largest_net_charge, net)
            if name == BORN:
                self._diagonals.setdefault(name, []).append(np.tile(np.eye(3, dtype=bool).ravel(), len(atoms)))
                share = total_charge / len(atoms) * np.eye(3)
                self._sums.append((r.mean(0) - share, p.mean(0) - share))
            elif name in ("stress", "polarizability"):
                self._diagonals.setdefault(name, []).append(np.arange(6) < 3)

    def evaluation(self) -> Evaluation:
        result = Evaluation(frames=self._frames, atoms=self._atoms)
        for name in QUANTITIES:
            if name == OFFSET_REMOVED:
                self._remove_offset(result)
            elif name in self._values:
                reference, predicted = (np.concatenate(side) for side in zip(*self._values[name], strict=True))
                result.comparisons[name] = Comparison(
                    name,
                    reference,
                    predicted,
                    np.concatenate(self._elements[name]) if name in self._elements else None,
                    np.concatenate(self._diagonals[name]) if name in self._diagonals else None,
                )
        result.by_volume = self._by_volume(result.comparisons)
        result.calibrations = {name: Calibration.joined(parts) for name, parts in self._calibrations.items()}
        if self._sums:
            reference, predicted = (np.stack(side) for side in zip(*self._sums, strict=True))
            measures = [measure for p in (predicted, reference) for measure in (_rms(p), float(np.abs(p).max()))]
            result.sum_rule = SumRule(*measures)
        for (name, reason), count in self._skipped.items():
            text = reason if count == self._frames else f"in {count} of {self._frames} frames: {reason}"
            result.skipped[name] = f"{result.skipped[name]}; {text}" if name in result.skipped else text
        if self._largest_net_charge > NET_CHARGE:
            result.notes.append(
                f"the model's charges of an open structure add up to as much as {self._largest_net_charge:.3f} e: its "
                "dipole then depends on the origin of the coordinates"
            )
        if not result.comparisons:
            raise DataError("nothing to compare: the model predicts none of the labels")
        return result

    def _by_volume(self, comparisons: dict[str, Comparison]) -> VolumeErrors | None:
        """Where all frames are periodic along three axes and of one composition."""
        if "energy" not in comparisons or not np.isfinite(self._volumes).all():
            return None
        sizes = np.stack(self._compositions).astype(float)
        sizes /= sizes.sum(1, keepdims=True)
        if not np.allclose(sizes, sizes[0], rtol=0, atol=1e-9):
            return None
        pairs = self._values.get("forces", [])
        forces = [((p - r) ** 2).mean() for r, p in pairs] if len(pairs) == len(self._volumes) else None
        energy = comparisons["energy"]
        return volume_errors(self._volumes, energy.predicted - energy.reference, forces)

    def _remove_offset(self, result: Evaluation) -> None:
        if (energy := result.comparisons.get("energy")) is None:
            return
        compositions = np.stack(self._compositions)
        present = compositions[:, compositions.any(0)]
        fractions = present / present.sum(1, keepdims=True)
        reference = composition_residual(energy.reference, fractions)
        predicted = composition_residual(energy.predicted, fractions)
        if reference is None or predicted is None:
            result.skipped[OFFSET_REMOVED] = "no more frames than constants to fit, nothing would be left"
            return
        result.comparisons[OFFSET_REMOVED] = Comparison(OFFSET_REMOVED, reference, predicted)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
