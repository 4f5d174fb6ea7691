"""The process of one member of a committee: `python -m les_plugins.engines.worker`, driven by `committee.remote`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase.calculators.calculator import all_changes
from numpy.typing import NDArray

from les_plugins import api
from les_plugins.committee.messages import receive, send, unpacked
from les_plugins.committee.remote import NEWER, SHARED
from les_plugins.data.cautions import coming_from
from les_plugins.errors import HostError, LesPluginsError, LesPluginsWarning, in_one_line
from les_plugins.hosting.results import everything

Arrays = Mapping[str, NDArray[Any]]
Answer = tuple[dict[str, Any], Arrays]


def main() -> None:
    """Answer messages until the other side ends."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what hosts print is no message
    calculator: Any = None
    while True:
        try:
            header, arrays = receive(source)
        except EOFError:
            return
        found: Arrays = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                if calculator is None:
                    calculator = api.load(header["model"], device=header["device"], dtype=header["dtype"])
                    answer = _facts(calculator)
                else:
                    answer, found = _ACTIONS[header["do"]](calculator, header, arrays)
            except LesPluginsError as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            except Exception as error:  # hosts raise whatever they do; the committee says where it came from
                answer = {"error": HostError.__name__, "message": in_one_line(error)}
        told = [str(each.message) for each in caught if issubclass(each.category, LesPluginsWarning)]
        send(target, {**answer, "warnings": told}, found)


def _facts(calculator: Any) -> dict[str, Any]:
    facts = {name: getattr(calculator, name, None) for name in (*SHARED, *NEWER)}
    facts["known_elements"] = [int(number) for number in calculator.known_elements]
    facts["takes_total_charge"] = bool(facts["takes_total_charge"])
    return facts


def _calculate(calculator: Any, header: Mapping[str, Any], arrays: Arrays) -> Answer:
    calculator.always = tuple(header["always"])
    with coming_from(header.get("where", "structure")):
        calculator.calculate(unpacked(header, arrays), header["properties"], list(all_changes))
    values = {name: np.asarray(value) for name, value in everything(calculator.results).items()}
    texts = {name: str(value) for name, value in values.items() if value.dtype.kind == "U"}
    return {"texts": texts}, {name: value for name, value in values.items() if value.dtype.kind in "biuf"}


def _current(calculator: Any, _: Mapping[str, Any], arrays: Arrays) -> Answer:
    return {}, {"current": calculator.current(arrays["velocities"])}


def _epsilon_infinity(calculator: Any, header: Mapping[str, Any], _: Arrays) -> Answer:
    calculator.epsilon_infinity = header["value"]
    return {}, {}


_ACTIONS: dict[str, Callable[[Any, Mapping[str, Any], Arrays], Answer]] = {
    "calculate": _calculate,
    "current": _current,
    "epsilon_infinity": _epsilon_infinity,
}

if __name__ == "__main__":
    main()
