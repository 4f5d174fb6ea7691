"""A checkpoint's weights in a model with other terms: heads that it has not start fresh. Fine-tuning calls it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import CheckpointError, ConfigError
from les_plugins.model.outputs import section_of
from les_plugins.storage.checkpoint import load_tensors

#: Heads that are made of other things where `heads` is another.
_OF_A_KIND = ("dipole", "quadrupole", "anisotropy")
#: What a model keeps beside heads where total charges are given: an attribute of `LongRange`.
_SCREENING = "total_charge"


def with_weights_of(model: nn.Module, changed: nn.Module, asked_by: str, source: object) -> nn.Module:
    """`changed`, freshly built under another section, with the weights of `model` where they have a place in it.

    Args:
        model: with a long-range part.
        changed: the same host's model, with the long-range part of another section.
        asked_by, source: of the message, as for `section_mismatch`.

    Raises:
        ConfigError: the sections differ in more than numbers and terms.
    """
    before, after = section_of(model), section_of(changed)
    assert before is not None
    assert after is not None
    try:
        load_with_new_heads(changed, model.state_dict(), before, after)
    except CheckpointError:
        raise ConfigError(section_mismatch(asked_by, source, before.to_dict())) from None
    return changed


def section_mismatch(asked_by: str, source: object, section: object) -> str:
    """Message of the error of `start_from` and `PretrainedModel` where two sections have other weights."""
    return (
        f"{asked_by}: the long_range section of {source} is {section}; hidden and whatever else has weights must be "
        "the same here; terms may be added or left out, heads be of another kind, numbers such as sigma be others"
    )


def load_with_new_heads(
    model: nn.Module, tensors: Mapping[str, Tensor], before: LongRangeConfig, after: LongRangeConfig
) -> None:
    """Copy every tensor into place; heads of terms that only `after` has keep their own, those of others are left out.

    Element charges that `after` calls fixed are those of `after`, whatever was trained before. A polarizability that
    was isotropic and is to be anisotropic, or the other way round, starts fresh: its head means something else. So do
    heads of vectors and tensors where `heads` is another.

    Args:
        model: with the long-range part of `after`, freshly built.
        tensors: of a model with that of `before`.
        before, after: the `long_range:` sections.

    Raises:
        CheckpointError: anything else is missing, unknown, or of another shape.
    """
    state = model.state_dict()
    fresh, dropped = new_heads(before, after), new_heads(after, before)
    if before.heads != after.heads:
        remade = {name for name in _OF_A_KIND if _shapes(tensors, name) != _shapes(state, name)}
        fresh |= remade | ({"polarizability"} if "anisotropy" in remade else set())
    if after.element_charges == "fixed":
        fresh.add("element_charge")
    kept = {name: value for name, value in tensors.items() if _head(name) not in fresh | dropped}
    own = {name: value for name, value in state.items() if _head(name) in fresh}
    load_tensors(model, {**kept, **own})


def new_heads(before: LongRangeConfig, after: LongRangeConfig) -> set[str]:
    """Names of the heads (attributes of `heads.Heads`) that `after` needs and `before` does not.

    Among them what stands beside the heads where total charges are given.
    """
    found = {name for rank, name in ((1, "dipole"), (2, "quadrupole")) if before.order < rank <= after.order}
    charges = {False: set(), "onsite": {"softness"}, "pairs": {"pair_softness"}}
    if _softness_of(after) != _softness_of(before):
        found |= charges[after.response.charge]
    if before.response.dipole != after.response.dipole != "none":
        # from isotropic to anisotropic too: there the same head means the root of what it meant
        found |= {"polarizability", "anisotropy"}
    if before.total_charge != after.total_charge == "given":
        found |= {"electronegativity", "charge_softness", _SCREENING}
    return found


def _softness_of(section: LongRangeConfig) -> tuple[object, ...]:
    """What the softness of a model means."""
    response = section.response
    return (response.charge, response.pair_softness) if response.charge == "pairs" else (response.charge,)


def _shapes(tensors: Mapping[str, Tensor], head: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items() if _head(name) == head}


def _head(name: str) -> str | None:
    parts = name.split(".")
    if _SCREENING in parts:
        return _SCREENING
    return parts[parts.index("heads") + 1] if "heads" in parts[:-1] else None
