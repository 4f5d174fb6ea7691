"""`LongRangeConfig`: the `long_range:` section that every host's own config carries. Strict: nothing is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from les_plugins.electrostatics.checks import DL_RANGE, SIGMA_RANGE
from les_plugins.electrostatics.net_charge import FORMER_WARNING, WARNING_ENERGY
from les_plugins.errors import ConfigError, quoted

MultipoleName = Literal["charge", "dipole", "quadrupole"]
RANGES = {"sigma": SIGMA_RANGE, "dl": DL_RANGE}
#: Names of heads, solvers and responses, which plugins may bring; `hosting.build` says which there are.
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,60}$")]
PositiveLength = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class ResponseConfig(BaseModel):
    """Which moments answer the permanent ones (PHYSICS 4).

    Attributes:
        charge: induced charge through a softness on every atom.
        dipole: induced dipole through a polarizability: "none", "isotropic" or "anisotropic".
        solve: "one_shot", answers to the permanent moments alone, or "self_consistent", to each other too; or the name
            of a response that a plugin brings.
        total_charge: of each structure, self-consistent: "free", or "fixed" at that of the permanent moments.
        tolerance: relative residual of the self-consistent solution.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    charge: bool = False
    dipole: Literal["none", "isotropic", "anisotropic"] = "none"
    solve: PartName = "one_shot"
    total_charge: Literal["free", "fixed"] = "free"
    tolerance: Annotated[float, Field(ge=1e-14, le=1e-2)] = 1e-8

    @model_validator(mode="after")
    def _one_shot_has_no_total_charge(self) -> ResponseConfig:
        if self.total_charge == "fixed" and not (self.solve == "self_consistent" and self.charge):
            raise ValueError("total_charge: fixed needs charge: true and solve: self_consistent")
        return self


class LongRangeConfig(BaseModel):
    """Everything about the long-range part that a checkpoint must remember.

    Attributes:
        multipoles: permanent latent moments; charge, then dipole, then quadrupole, none left out in between.
        response: induced moments.
        sigma: Gaussian smearing width, 0.1 … 10 Å.
        dl: resolution of the reciprocal sum, 0.3 … 6 Å. 1.2 is converged; the literature's 2.0 is not, with dipoles and
            quadrupoles (8 meV/atom, 16 meV/Å on water), but a model trained with it must run with it.
        remove_self_interaction: leave each atom's interaction with itself out.
        epsilon_infinity: electronic dielectric constant that scales Born charges and dipoles of periodic structures.
        heads: "auto", "equivariant" (the host's 1o and 2e features) or "edge" (invariant hosts); or the name of heads
            that a plugin brings.
        hidden: width of the small networks in the heads.
        zero_init: start exactly at the host's predictions, through a coupling that grows from zero.
        method: how the periodic sum is done: "direct", "mesh", or "auto", the faster of the two for each structure; or
            "nvalchemi", the mesh of nvalchemi-toolkit-ops, an optional package; or the name of a solver that a plugin
            brings.
        static_cell: longest lattice vectors, Å, that a compiled model has to cover; needed for compiling, and then no
            other structure is accepted. None: any structure, no compiling.
        neutralize: what is done about the net charge of a structure: "background" (the mean is taken off every atom of
            slabs and open structures, which have no background), "shift" (off all atoms, periodic ones too), "keep"
            (nothing, for ions) or "refuse" (as "background", but an error for periodic structures and slabs).
        net_charge_warning: energy of a net charge, meV an atom, above which one warning is given outside training.
            None: never. 0.1, the default when it counted in e an atom, is read as the default.
        initial_charges: element → latent charge, e, that training starts from, such as the formal charge over
            sqrt(epsilon_infinity). None: small random charges.
        element_charges: what becomes of `initial_charges`: "trained", each is a parameter, or "fixed", they stay.
        total_charge: of each structure: "free", the sum of what the network says, or "conserved", the sum of the
            elements' charges (`initial_charges`, zero without them) wherever the atoms are.
        mesh_tolerance: root mean square error of the mesh's forces over the root mean square force, 1e-9 … 1e-2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    multipoles: tuple[MultipoleName, ...] = ("charge", "dipole", "quadrupole")
    response: ResponseConfig = ResponseConfig()
    sigma: Annotated[float, Field(ge=SIGMA_RANGE[0], le=SIGMA_RANGE[1])] = 1.0
    dl: Annotated[float, Field(ge=DL_RANGE[0], le=DL_RANGE[1])] = 1.2
    remove_self_interaction: bool = True
    epsilon_infinity: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    heads: PartName = "auto"
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    zero_init: bool = False
    method: PartName = "auto"
    static_cell: tuple[PositiveLength, PositiveLength, PositiveLength] | None = None
    neutralize: Literal["background", "shift", "keep", "refuse"] = "background"
    net_charge_warning: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = WARNING_ENERGY
    initial_charges: dict[str, Annotated[float, Field(ge=-10.0, le=10.0)]] | None = None
    element_charges: Literal["trained", "fixed"] = "trained"
    total_charge: Literal["free", "conserved"] = "free"
    mesh_tolerance: Annotated[float, Field(ge=1e-9, le=1e-2)] = 1e-5

    @field_validator("multipoles", "static_cell", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("net_charge_warning", mode="after")
    @classmethod
    def _in_the_unit_of_today(cls, value: float | None) -> float | None:
        return WARNING_ENERGY if value == FORMER_WARNING else value

    @model_validator(mode="after")
    def _moments_build_on_each_other(self) -> LongRangeConfig:
        allowed = (("charge",), ("charge", "dipole"), ("charge", "dipole", "quadrupole"))
        if self.multipoles not in allowed:
            choices = ", ".join(str(list(choice)) for choice in allowed)
            raise ValueError(f"multipoles is {list(self.multipoles)}; allowed: {choices}")
        return self

    @model_validator(mode="after")
    def _what_is_fixed_is_given(self) -> LongRangeConfig:
        if self.element_charges == "fixed" and not self.initial_charges:
            raise ValueError("element_charges: fixed needs initial_charges, the charges that stay")
        return self

    @property
    def order(self) -> int:
        """Highest rank of the permanent moments."""
        return len(self.multipoles) - 1

    @property
    def has_response(self) -> bool:
        """Whether any moment is induced."""
        return self.response.charge or self.response.dipole != "none"

    @classmethod
    def parse(cls, section: Any, source: str = "long_range") -> LongRangeConfig:
        """The config of a mapping, as read from a YAML or JSON file.

        Args:
            section: the mapping, or an existing config.
            source: file or key that the section came from, for the message.

        Raises:
            ConfigError: an unknown key, a wrong type or an impossible combination; names key, file and what is allowed.
        """
        if isinstance(section, cls):
            return section
        if section is None:
            section = {}
        if not isinstance(section, Mapping):
            raise ConfigError(f"{source}: expected a section of keys and values, got {quoted(section)}; {_allowed()}")
        try:
            return cls.model_validate(dict(section))
        except ValidationError as error:
            found = error.errors()
            more = [f"{source}: {len(found) - 5} more problems"] * (len(found) > 5)
            raise ConfigError("\n".join([_describe(item, source) for item in found[:5]] + more)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `parse` gives the same config back."""
        return self.model_dump(mode="json")


def _describe(item: Any, source: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("extra_forbidden", "invalid_key"):
        parent = ResponseConfig if len(item["loc"]) > 1 and item["loc"][0] == "response" else LongRangeConfig
        return f"{source}: unknown key {quoted(key)}; {_allowed(parent)}"
    if not key:
        return f"{source}: {item['msg'].removeprefix('Value error, ')}"
    if item["loc"][0] == "static_cell":
        where = "" if len(item["loc"]) == 1 else f", item {int(item['loc'][1]) + 1}"
        return f"{source}: static_cell is {quoted(item['input'])}{where}: input should be a list of three lengths in Å"
    if item["type"] == "tuple_type":
        names = ", ".join(get_args(MultipoleName))
        return f"{source}: {key} is {quoted(item['input'])}: input should be a list of: {names}"
    if item["type"] == "model_type":
        return f"{source}: {key} is {quoted(item['input'])}: input should be a section; {_allowed(ResponseConfig)}"
    if key in RANGES:
        low, high = RANGES[key]
        return f"{source}: {key} is {item['input']!r}: input should be a number from {low:g} to {high:g}, in Å"
    message = item["msg"].removeprefix("Value error, ")
    return f"{source}: {key} is {quoted(item['input'])}: {message[0].lower()}{message[1:]}"


def _allowed(model: type[BaseModel] = LongRangeConfig) -> str:
    return f"allowed keys: {', '.join(model.model_fields)}"
