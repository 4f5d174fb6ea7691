"""`les-plugins spectra raman`: Raman spectra of trajectories, whole or taken apart by what makes the polarizability."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

import typer

from les_plugins.cli.spectra import (
    MARKED,
    AsJson,
    Blocks,
    ByModel,
    Limits,
    MarkLabel,
    Marks,
    Output,
    Overlay,
    Resolution,
    Skip,
    Trajectories,
    Window,
    groups_of,
    over_models,
)
from les_plugins.cli.spectra_report import Picture, write_report
from les_plugins.errors import ConfigError

_SHOWN = (0.0, 4000.0)
#: Names of `--show` and the fields of `spectra.Raman`.
_PARTS = {"isotropic": "isotropic", "anisotropic": "anisotropic", "vv": "parallel", "vh": "perpendicular"}


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("raman")(raman)


def raman(
    trajectories: Trajectories,
    output: Output = None,
    resolution: Resolution = 26.7,
    window: Window = "hann",
    blocks: Blocks = None,
    skip: Skip = 0.0,
    limits: Limits = _SHOWN,
    overlay: Overlay = None,
    mark: Marks = None,
    mark_label: MarkLabel = MARKED,
    polarizability: Annotated[
        list[str] | None,
        typer.Option(
            help="A kind that md --polarizability recorded, such as did; may be repeated, to compare. Default: the "
            "model's own.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(
            help="isotropic, anisotropic, vv or vh; may be repeated. Default: all, and of several kinds anisotropic.",
            show_default=False,
        ),
    ] = None,
    bose: Annotated[bool, typer.Option("--bose", help="Bose factor at the trajectory's temperature.")] = False,
    laser: Annotated[
        float | None, typer.Option(help="nm: the factor (1 − ν/ν0)⁴ of the power of this light.", show_default=False)
    ] = None,
    photons: Annotated[bool, typer.Option("--photons", help="With --laser: photons counted, (1 − ν/ν0)³.")] = False,
    susceptibility: Annotated[
        bool,
        typer.Option(
            "--susceptibility", "--reduced", help="χ'': intensity over Bose factor and (ν0 − ν)⁴, ∝ ν times power of α."
        ),
    ] = False,
    by_model: ByModel = False,
    as_json: AsJson = False,
) -> None:
    """Raman spectra from α(t): isotropic, anisotropic, VV and VH, and the depolarization ratio."""
    from les_plugins import spectra

    if susceptibility and (bose or laser is not None):
        raise ConfigError("--susceptibility divides by the factors of --bose and --laser: give either")
    if photons and laser is None:
        raise ConfigError("--photons counts those of --laser: give its wavelength")
    kinds: list[str | None] = [*dict.fromkeys(polarizability or ())] or [None]
    fields = _fields(show, len(kinds) > 1)
    how = spectra.Welch(resolution, window, blocks)
    groups = groups_of(trajectories, skip, by_model, "it has a preferred direction, and averages are of one without")
    thermal = bose or susceptibility

    def spectrum(samples: Any, kind: str | None) -> Any:
        alphas = samples.polarizabilities(kind)
        spectra.check_anisotropic(alphas, str(samples.trajectories[0].path))
        if thermal:
            samples.temperatures()  # says which is not above 0
        kelvin = samples.temperature() if thermal else None
        return spectra.raman(alphas, samples.interval, how, kelvin, laser, susceptibility, photons)

    shown, beside, ratios = [], [], {}
    for kind in kinds:
        each = [spectrum(samples, kind) for samples in groups]
        names = [*fields, "depolarization"]
        found = over_models([[getattr(part, field) for field in names] for part in each])
        named = [part if kind is None else replace(part, name=f"{part.name}, {kind}") for part in found]
        shown += named[:-1]
        beside += named[-1:]
        ratios["depolarization ratio" if kind is None else f"depolarization ratio, {kind}"] = _mean_ratio(each, limits)
    notes = {
        "Bose factor": f"at {groups[0].temperature():.1f} K" if bose else "none",
        "laser_nm": laser,
        "laser factor": None if laser is None else "photons, cubed" if photons else "power, to the fourth",
        "intensity": "χ'': over Bose factor and (ν0 − ν)⁴" if susceptibility else None,
        "polarizability": ", ".join(kind or "of the model" for kind in kinds),
        **{name: value for name, (value, _) in ratios.items()},
        **{f"{name} error": error for name, (_, error) in ratios.items()},
    }
    quantity = "Raman χ''" if susceptibility else "Raman intensity"
    shape = Picture(limits, overlay, tuple(mark or ()), mark_label, True, quantity)
    write_report(shown, groups, notes, output, shape, as_json, beside)


def _fields(show: list[str] | None, several: bool) -> list[str]:
    """Fields of `spectra.Raman` that are drawn."""
    if not show:
        return ["anisotropic"] if several else list(_PARTS.values())
    if unknown := [name for name in show if name not in _PARTS]:
        raise ConfigError(f"--show is {unknown[0]!r}; allowed: {', '.join(_PARTS)}")
    return [_PARTS[name] for name in dict.fromkeys(show)]


def _mean_ratio(each: list[Any], limits: tuple[float, float]) -> tuple[float | None, float | None]:
    """Integrated depolarization ratio over the models, and its error of sampling; None where there is none."""
    found = [part.depolarization_ratio(*limits) for part in each]
    value = sum(ratio for ratio, _ in found) / len(found)
    errors = [error for _, error in found if error is not None]
    if not math.isfinite(value):
        return None, None
    return value, math.sqrt(sum(error**2 for error in errors)) / len(found) if len(errors) == len(found) else None
