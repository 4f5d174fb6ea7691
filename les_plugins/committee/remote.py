"""A member whose host is in another environment: its own Python computes it, and messages go through a pipe."""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from les_plugins import errors
from les_plugins.committee.messages import packed, receive, send
from les_plugins.data.cautions import place_of_structure
from les_plugins.data.structure_reading import StructureReading
from les_plugins.errors import HostError, LesPluginsError, LesPluginsWarning, quoted
from les_plugins.hosting.results import Results

#: Module that `python -m` runs for a member.
WORKER = "les_plugins.engines.worker"
#: Of an attribute of the calculator that a message carries.
SHARED = ("implemented_properties", "known_elements", "has_long_range", "takes_total_charge", "epsilon_infinity")
#: Likewise, of those that earlier versions do not send.
NEWER = ("takes_spin", "total_charge_key", "read_names")


def python_variable(host: str) -> str:
    """Environment variable that names the Python of a host's own environment, such as LES_PLUGINS_PYTHON_NEQUIP."""
    return f"LES_PLUGINS_PYTHON_{host.upper()}"


def python_of(host: str) -> str | None:
    """The Python that the user named for a host; None where there is no such variable.

    Raises:
        HostError: the variable names no program.
    """
    given = os.environ.get(python_variable(host))
    if not given:
        return None
    if not os.access(given, os.X_OK) or Path(given).is_dir():
        raise HostError(f"{python_variable(host)} is {quoted(given)}; allowed: the path of a Python program")
    return given


class RemoteCalculator(StructureReading, Calculator):
    """ASE calculator of a checkpoint, computed by another Python that has its host and les-plugins.

    Args:
        python: path of the interpreter.
        model: checkpoint folder or name of the zoo, as that Python finds it.
        device: torch device.
        dtype: "float32", "float64" or None.

    Raises:
        HostError: the process does not start or ends.
        LesPluginsError: what loading the model raises there.
    """

    takes_external_field = False

    def __init__(self, python: str, model: str, device: str = "cpu", dtype: str | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._python, self._model = python, model
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        try:
            self._process = subprocess.Popen(
                [python, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise HostError(f"{python}: cannot be started: {error.strerror or error}") from None
        self.always: tuple[str, ...] = ()
        try:
            facts, _ = self._ask({"model": model, "device": device, "dtype": dtype})
        except LesPluginsError:
            self.close()
            raise
        self.implemented_properties = list(facts["implemented_properties"])
        self.known_elements = [int(number) for number in facts["known_elements"]]
        self.has_long_range, self.takes_total_charge = facts["has_long_range"], facts["takes_total_charge"]
        self.takes_spin, self.total_charge_key = bool(facts.get("takes_spin")), facts.get("total_charge_key")
        self.read_names = tuple(facts.get("read_names") or ())
        self._epsilon_infinity = float(facts["epsilon_infinity"])

    @property
    def epsilon_infinity(self) -> float:
        """ε_∞ that results of periodic structures are scaled with."""
        return self._epsilon_infinity

    @epsilon_infinity.setter
    def epsilon_infinity(self, value: float) -> None:
        self._ask({"do": "epsilon_infinity", "value": value})
        self._epsilon_infinity = value
        self.reset()  # type: ignore[no-untyped-call]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """As that of the calculator there.

        Raises:
            LesPluginsError: what that one raises; HostError where its process has ended.
        """
        structure: Any = self.atoms if atoms is None else atoms
        where, wanted = place_of_structure(), list(properties or ("energy",))
        with self.results_of(structure):
            Calculator.calculate(self, structure, wanted, list(system_changes))
            header, arrays = packed(self.with_total_charge(structure, where))
            asked = {"do": "calculate", "where": where, "properties": wanted, "always": list(self.always)}
            words, found = self._ask({**header, **asked}, arrays)
            values = {name: value if value.ndim else value.item() for name, value in found.items()}
            self.results = Results({**values, **words["texts"]})

    def current(self, velocities: Any, atoms: Atoms | None = None) -> NDArray[Any]:
        """J = Σ Z* v, (3,) e times the unit of velocities, of the structure that was last computed."""
        if atoms is not None and self.check_state(atoms):
            self.calculate(atoms, ["forces", "current"])
        _, found = self._ask({"do": "current"}, {"velocities": velocities})
        return found["current"]

    def close(self) -> None:
        """End the process."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None and not self._errors.closed:
            self.close()

    def _ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        target, source = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        try:
            send(target, header, arrays)
            answer, found = receive(source)
        except (EOFError, OSError):
            raise HostError(f"{self._python}: computing {self._model} ended: {self._last_line()}") from None
        for text in answer.get("warnings", ()):
            warnings.warn(text, LesPluginsWarning, 3)
        if (kind := answer.get("error")) is not None:
            raise _error_named(kind)(answer["message"])
        return answer, found

    def _last_line(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def _error_named(name: str) -> type[LesPluginsError]:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, LesPluginsError) else HostError
