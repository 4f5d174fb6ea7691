"""`LongRangeConfig`: the `long_range:` section that every host's own config carries. Strict: nothing is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from les_plugins.electrostatics.settings import (
    FORMER_WARNING,
    METHODS,
    WARNING_ENERGY,
    WORKSPACE,
    ElectrostaticsSettings,
    Neutralize,
    Precision,
    check_setting,
)
from les_plugins.errors import ConfigError, did_you_mean, quoted

MultipoleName = Literal["charge", "dipole", "quadrupole"]
#: Names of heads, solvers and responses, which plugins may bring; `hosting.build` says which there are.
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,60}$")]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _checked(value: Any, info: ValidationInfo) -> Any:
    """The value of a setting that `ElectrostaticsSettings` allows."""
    try:
        check_setting(str(info.field_name), value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return value


Checked = BeforeValidator(_checked)


def _as_charge(value: Any) -> Any:
    return "onsite" if value is True else value


class ResponseConfig(BaseModel):
    """Which moments are induced (theory 6).

    Attributes:
        charge: induced charge: "pairs", which flows between neighbours and is conserved, or "onsite", through a
            softness on every atom, as published; `true` is read as "onsite". `false`: none.
        dipole: induced dipole through a polarizability: "none", "isotropic" or "anisotropic".
        solve: "one_shot", moments induced by the permanent ones alone, or "self_consistent", with mutual polarization;
            or the name of a response that a plugin brings.
        conserve_charge: whether the induced charges of each structure add up to zero, self-consistent.
        tolerance: relative residual of the self-consistent solution.
        pair_softness: what the softness of pairs is made of: "atoms", the softness of both, or "edges", a network of
            every edge.
        pair_cutoff: distance up to which charge flows between neighbours, Å; that of the host's edges when it is
            shorter, or when None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    charge: Annotated[Literal["onsite", "pairs", False], BeforeValidator(_as_charge)] = False
    dipole: Literal["none", "isotropic", "anisotropic"] = "none"
    solve: PartName = "one_shot"
    conserve_charge: bool = False
    tolerance: Annotated[float, Field(ge=1e-14, le=1e-2)] = 1e-8
    pair_softness: Literal["atoms", "edges"] = "atoms"
    pair_cutoff: Annotated[float | None, Field(ge=1.0, le=20.0, allow_inf_nan=False)] = None

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, section: Any) -> Any:
        """`total_charge: free | fixed`, which is `conserve_charge: false | true` now."""
        if not isinstance(section, Mapping) or "total_charge" not in section:
            return section
        if "conserve_charge" in section:
            raise ValueError(
                "response.total_charge and response.conserve_charge are one setting under its former and its present "
                "name; allowed: response.conserve_charge alone"
            )
        value = section["total_charge"]
        if value not in ("free", "fixed"):
            raise ValueError(
                f"response.total_charge is {quoted(value)}; allowed: response.conserve_charge: true, false"
            )
        rest = {key: item for key, item in section.items() if key != "total_charge"}
        return {**rest, "conserve_charge": value == "fixed"}

    @model_validator(mode="after")
    def _charge_is_conserved_self_consistently(self) -> ResponseConfig:
        if self.conserve_charge and not (self.solve != "one_shot" and self.charge == "onsite"):
            kept = ", which charge: pairs needs not: it always keeps it" if self.charge == "pairs" else ""
            raise ValueError(
                f"response.conserve_charge: true needs charge: onsite and solve: self_consistent{kept}; total_charge: "
                "fixed is its former name"
            )
        return self

    @model_validator(mode="after")
    def _pairs_have_settings(self) -> ResponseConfig:
        for name in ("pair_softness", "pair_cutoff"):
            value = getattr(self, name)
            if self.charge != "pairs" and value != type(self).model_fields[name].default:
                raise ValueError(f"response.{name} is {quoted(value)} without charge: pairs; allowed: with it alone")
        return self


class RunConfig(BaseModel):
    """What changes no model, how the sums are done and what a training moves: each run may choose anew.

    Attributes:
        method: how the periodic sum is done: "direct", "mesh", or "auto", the faster of the two for each structure; or
            "nvalchemi", the mesh of nvalchemi-toolkit-ops, an optional package; or the name of a solver that a plugin
            brings.
        mesh_tolerance: root mean square error of the mesh's forces over the root mean square force, 1e-9 … 1e-2.
        static_cell: longest lattice vectors, Å, that a compiled model has to cover; needed for compiling, and then no
            other structure is accepted. None: any structure, no compiling.
        net_charge_warning: energy of a net charge, meV an atom, above which one warning is given outside training.
            None: never. 0.1, the default when it counted in e an atom, is read as the default.
        workspace: MiB of intermediate arrays that a reciprocal sum holds at once; results do not depend on it.
        precision: of the matrix products of the direct sum, "double" or "single".
        train_only: what a training moves: "all", "last_layer" (the long-range part, and the host's last layer with its
            readout) or "long_range" (the long-range part alone).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: PartName = "auto"
    mesh_tolerance: Annotated[float, Checked] = 1e-5
    static_cell: Annotated[tuple[float, float, float] | None, Checked, BeforeValidator(_as_tuple)] = None
    net_charge_warning: Annotated[float | None, Checked] = WARNING_ENERGY
    workspace: Annotated[float, Checked] = WORKSPACE
    precision: Precision = "double"
    train_only: Literal["all", "last_layer", "long_range"] = "all"

    @field_validator("net_charge_warning", mode="after")
    @classmethod
    def _in_the_unit_of_today(cls, value: float | None) -> float | None:
        return WARNING_ENERGY if value == FORMER_WARNING else value


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
        screening: of latent moments, ε_e: "fixed" by epsilon_infinity, or "trained" with `response_loss`, beginning at
            epsilon_infinity, which the checkpoint then has as a result.
        heads: "auto", "equivariant" (the host's 1o and 2e features) or "edge" (invariant hosts); or the name of heads
            that a plugin brings.
        hidden: width of the small networks in the heads.
        zero_init: start exactly at the host's predictions, through a coupling that grows from zero.
        neutralize: what is done about the net charge of a structure: "background" (the mean is taken off every atom of
            slabs and open structures, which have no background), "shift" (off all atoms, periodic ones too), "keep"
            (nothing, for ions) or "refuse" (as "background", but an error for periodic structures and slabs).
        initial_charges: element → latent charge, e, that training starts from, such as the formal charge over
            sqrt(epsilon_infinity). None: small random charges.
        element_charges: what becomes of `initial_charges`: "trained", each is a parameter, or "fixed", they stay.
        total_charge: of each structure: "free", the sum of what the network says; "conserved", the sum of the elements'
            charges (`initial_charges`, zero without them) wherever the atoms are; or "given", what the structure
            brings in `atoms.info["charge"]`, zero without it. Then `neutralize` has nothing to take off.
        run: how the sums are done. Its keys are also read at the top level, where they stood before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    multipoles: Annotated[tuple[MultipoleName, ...], BeforeValidator(_as_tuple)] = ("charge", "dipole", "quadrupole")
    response: ResponseConfig = ResponseConfig()
    sigma: Annotated[float, Checked] = 1.0
    dl: Annotated[float, Checked] = 1.2
    remove_self_interaction: bool = True
    epsilon_infinity: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    screening: Literal["fixed", "trained"] = "fixed"
    heads: PartName = "auto"
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    zero_init: bool = False
    neutralize: Neutralize = "background"
    initial_charges: dict[str, Annotated[float, Field(ge=-10.0, le=10.0)]] | None = None
    element_charges: Literal["trained", "fixed"] = "trained"
    total_charge: Literal["free", "conserved", "given"] = "free"
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _former_place(cls, section: Any) -> Any:
        """Keys of `run:` at the top level, as sections before had them, moved to where they stand now."""
        if not isinstance(section, Mapping):
            return section
        former = {key: value for key, value in section.items() if key in RunConfig.model_fields}
        run = section.get("run", {})
        if not former or not isinstance(run, Mapping):
            return section
        both = [key for key in former if key in run]
        if both:
            raise ValueError(
                f"{both[0]} is {quoted(former[both[0]])} and run.{both[0]} is {quoted(run[both[0]])}; allowed: "
                f"run.{both[0]} alone"
            )
        return {**{key: value for key, value in section.items() if key not in former}, "run": {**run, **former}}

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

    @model_validator(mode="after")
    def _a_given_charge_stays(self) -> LongRangeConfig:
        if self.total_charge != "given":
            return self
        if self.neutralize in ("shift", "refuse"):
            raise ValueError(
                f"neutralize is {quoted(self.neutralize)} with total_charge: given, whose charges add up to what each "
                "structure brings; allowed: background, keep, which do nothing about it"
            )
        if self.zero_init:
            raise ValueError(
                "zero_init: true with total_charge: given: a charge that a structure brings acts on its surroundings "
                "from the first step; allowed: zero_init: false"
            )
        return self

    @model_validator(mode="after")
    def _charge_has_one_unit(self) -> LongRangeConfig:
        if self.screening == "trained" and self.total_charge == "given":
            raise ValueError(
                "screening: trained needs total_charge: conserved or free, not given, whose unit it changes"
            )
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> LongRangeConfig:
        try:
            self.electrostatics()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def electrostatics(self) -> ElectrostaticsSettings:
        """Settings of the electrostatic layer; "auto" for the method of a solver of another's."""
        method = self.run.method if self.run.method in METHODS else "auto"
        names = ElectrostaticsSettings.__dataclass_fields__
        found = {name: getattr(self.run if name in RunConfig.model_fields else self, name) for name in names}
        if self.total_charge == "given":  # the net charge is meant
            found.update(neutralize="keep", net_charge_warning=None)
        return ElectrostaticsSettings(**{**found, "method": method})

    def with_run(self, **changes: Any) -> LongRangeConfig:
        """This section with other choices under `run:`.

        Raises:
            ConfigError: a value that is not allowed.
        """
        section = self.to_dict()
        return self.parse({**section, "run": {**section["run"], **changes}})

    def same_model(self, other: LongRangeConfig | None) -> bool:
        """Whether another section describes the same model, whatever each run of it trains."""
        return other is not None and self.with_run(train_only="all") == other.with_run(train_only="all")

    def with_epsilon_infinity(self, value: float) -> LongRangeConfig:
        """This section with another ε_∞, at least 1."""
        return self.model_copy(update={"epsilon_infinity": max(1.0, float(value))})

    @property
    def order(self) -> int:
        """Highest rank of the permanent moments."""
        return len(self.multipoles) - 1

    @property
    def has_response(self) -> bool:
        """Whether any moment is induced."""
        return bool(self.response.charge) or self.response.dipole != "none"

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
            raise ConfigError("\n".join([_describe(item, source, section) for item in found[:5]] + more)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `parse` gives the same config back."""
        return self.model_dump(mode="json")


#: Sections in the section, by key.
NESTED: dict[str, type[BaseModel]] = {"response": ResponseConfig, "run": RunConfig}


def _describe(item: Any, source: str, section: Mapping[str, Any]) -> str:
    """One problem, by the key that the user wrote."""
    place = [str(part) for part in item["loc"]]
    if len(place) > 1 and place[0] == "run" and place[1] in section:
        place = place[1:]
    key = ".".join(place)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "invalid_key"):
        parent = NESTED.get(place[0], LongRangeConfig) if len(place) > 1 else LongRangeConfig
        return f"{source}: unknown key {quoted(key)}{did_you_mean(place[-1], parent.model_fields)}; {_allowed(parent)}"
    if not key or item["type"] == "value_error":
        return f"{source}: {message}"
    if item["type"] == "tuple_type":
        names = ", ".join(get_args(MultipoleName))
        return f"{source}: {key} is {quoted(item['input'])}: input should be a list of: {names}"
    if item["type"] == "model_type":
        return f"{source}: {key} is {quoted(item['input'])}: input should be a section; {_allowed(NESTED[key])}"
    return f"{source}: {key} is {quoted(item['input'])}: {message[0].lower()}{message[1:]}"


def _allowed(model: type[BaseModel] = LongRangeConfig) -> str:
    return f"allowed keys: {', '.join(model.model_fields)}"
