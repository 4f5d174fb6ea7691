"""What the members of a committee have to have in common: elements and ε_∞, and what only a single model has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from les_plugins.errors import HostError

#: Relative difference of ε_∞ from which on it is told: Z*, scaled by its root, then differ by one per cent.
_SAME = 0.02
#: Elements that a message lists; of models that know more, it says how many.
_LISTED = 12


def on_elements(elements: Mapping[str, Collection[str]]) -> str | None:
    """A line where no member stops at the elements that all have: then each was made for another system.

    A foundation model beside a model of two elements is no such case.

    Args:
        elements: member → symbols.
    """
    common = set.intersection(*map(set, elements.values()))
    if any(set(each) == common for each in elements.values()):
        return None
    told = "; ".join(f"{name} {_shown(each)}" for name, each in elements.items())
    return f"the models of the committee are of other elements ({told}): they have {_shown(common) or 'none'} in common"


def same_screening(epsilons: Collection[float]) -> bool:
    """Whether results that are scaled by these ε_∞ can be averaged."""
    return max(epsilons) <= (1.0 + _SAME) * min(epsilons)


def on_screening(epsilons: Mapping[str, float]) -> str | None:
    """A line where ε_∞ of the members differs.

    Args:
        epsilons: member → ε_∞ that scales its results.
    """
    if same_screening(epsilons.values()):
        return None
    told = ", ".join(f"{name} {value:.4g}" for name, value in epsilons.items())
    return (
        f"ε_∞ of the committee's models differs ({told}): charges, dipoles, polarization and Born charges of crystals "
        "are means of what each scales with its own, and the difference is in their spread; --epsilon-infinity, or "
        "epsilon_infinity of the committee, gives all one"
    )


def check_single(calculator: Any, reader: str) -> None:
    """HostError for a committee where moments within a model are read, which members may have in different gauges.

    Args:
        calculator: any.
        reader: what reads them, for the message.
    """
    if getattr(calculator, "is_committee", False):
        raise HostError(
            f"{reader}: reads the moments within a model, of which a committee has none; allowed: one of its members: "
            f"{', '.join(calculator.names)}"
        )


def epsilons_of(names: Sequence[str], members: Sequence[Any]) -> dict[str, float]:
    """ε_∞ of each member; 1 of a calculator that scales nothing."""
    return {name: float(getattr(each, "epsilon_infinity", 1.0)) for name, each in zip(names, members, strict=True)}


def _shown(symbols: Collection[str]) -> str:
    return f"{len(symbols)} elements" if len(symbols) > _LISTED else ", ".join(sorted(symbols))
