"""`ResponseLossConfig`: the `response_loss:` section beside `long_range:`, weights of labels of electric response.

Adapters' trainers read it; `response_loss` computes the terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from les_plugins.errors import ConfigError, did_you_mean, quoted

#: The section in every host's own config file.
RESPONSE_SECTION = "response_loss"
#: Quantities that a weight can be given to, in the order of their terms.
QUANTITIES = ("dipole", "polarization", "born_effective_charges", "polarizability")

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class ResponseLossConfig(BaseModel):
    """Weights of mean squared errors beside the host's own terms, in physical units (theory 9.3); zero: not trained on.

    Attributes:
        dipole: weight of the dipole of open structures, and of slabs along their normal, (e·Å)² an atom.
        polarization: weight of V·P of periodic structures modulo lattice vectors times e, (e·Å)² an atom.
        born_effective_charges: weight of Z*, e².
        polarizability: weight of the polarizability of whole structures, (e²·Å²/eV)² an atom.
        projections: how many random directions w, other ones each step, Z* is compared along as w·Z* while training:
            one backward pass each. 0: the whole tensor, three passes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dipole: Weight = 0.0
    polarization: Weight = 0.0
    born_effective_charges: Weight = 0.0
    polarizability: Weight = 0.0
    projections: Annotated[int, Field(ge=0, le=2)] = 0

    @model_validator(mode="after")
    def _something_is_trained_on(self) -> ResponseLossConfig:
        if not self.quantities:
            raise ValueError(f"every weight is 0; allowed: one above 0 at least, of {', '.join(QUANTITIES)}")
        if self.projections and not self.born_effective_charges:
            raise ValueError("projections are of born_effective_charges, whose weight is 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Those above zero, by quantity."""
        return {name: weight for name in QUANTITIES if (weight := float(getattr(self, name))) > 0.0}

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is trained on."""
        return tuple(self.weights)

    @property
    def named(self) -> frozenset[str]:
        """Quantities that the section names, with a weight of zero or above."""
        return frozenset(self.model_fields_set)

    @classmethod
    def parse(cls, section: Any, source: str = RESPONSE_SECTION) -> ResponseLossConfig:
        """The config of a mapping, as read from a YAML file.

        Args:
            section: the mapping, or an existing config.
            source: file or key that the section came from, for the message.

        Raises:
            ConfigError: an unknown key, a wrong type, no weight above zero; names key, file and what is allowed.
        """
        if isinstance(section, cls):
            return section
        allowed = f"allowed keys: {', '.join(cls.model_fields)}"
        if not isinstance(section, Mapping):
            raise ConfigError(f"{source}: expected a section of keys and values, got {quoted(section)}; {allowed}")
        try:
            return cls.model_validate(dict(section))
        except ValidationError as error:
            found = error.errors()
            more = [f"{source}: {len(found) - 5} more problems"] * (len(found) > 5)
            raise ConfigError("\n".join([_described(item, source, allowed) for item in found[:5]] + more)) from None


def _described(item: Any, source: str, allowed: str) -> str:
    """One problem, by the key that the user wrote."""
    key, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "invalid_key"):
        return f"{source}: unknown key {quoted(key)}{did_you_mean(key, ResponseLossConfig.model_fields)}; {allowed}"
    if not key:
        return f"{source}: {message}"
    return f"{source}: {key} is {quoted(item['input'])}: {message[0].lower()}{message[1:]}"
