"""Plugins: hosts are found lazily, nothing broken spreads, and every part of ours can be replaced through its hook."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from toy_host import BareHost

import les_plugins
from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles
from les_plugins.electrostatics.response.one_shot import Response
from les_plugins.errors import ConfigError, HostError, how_to_install
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.build import build_long_range, parse_section, parts_of
from les_plugins.hosting.hookspecs import brings, hookimpl
from les_plugins.hosting.types import METHODS, HostInfo, PackagedHost, Part
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import LatentVariables
from les_plugins.model.long_range import LongRange

LAYOUT = FeatureLayout((LayerLayout(4, 4, 0), LayerLayout(4)))


@pytest.fixture
def no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """No distribution is installed at all."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plugins.importlib.metadata, "version", version)


def features(n_atoms: int = 3) -> NodeFeatures:
    first = LayerFeatures(torch.randn(n_atoms, 4), torch.randn(n_atoms, 4, 3))
    return NodeFeatures([first, LayerFeatures(torch.randn(n_atoms, 4))])


def evaluate(part: LongRange) -> Any:
    positions = torch.randn(3, 3, dtype=torch.float64)
    flags = torch.zeros(1, 3, dtype=torch.bool)
    return part(features(), positions, torch.zeros(1, 3, 3), flags, torch.zeros(3, dtype=torch.long))


#: What a process has imported after each of these, one after the other.
STEPS = {
    "package": "import les_plugins",
    "command": "import les_plugins.cli",
    "hosts": "from les_plugins.hosting import registry; registry.hosts()",
    "mesh": "from les_plugins import LongRangeConfig; "
    "registry.solvers()['mesh'].factory(LongRangeConfig.parse({'method': 'mesh'}))",
}
HOSTS = {"mace", "nequip", "matgl", "sevenn", "metatrain", "chgnet", "e3nn"}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Modules of a new process after every step."""
    lines = [f"{code}; found[{name!r}] = list(sys.modules)" for name, code in STEPS.items()]
    code = "\n".join(["import json, sys; found = {}", *lines, "print(json.dumps(found))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name: set(modules) for name, modules in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("step", ["package", "command", "hosts"])
def test_importing_the_package_or_its_command_or_listing_hosts_imports_no_host(
    step: str, imported: dict[str, set[str]]
) -> None:
    assert not imported[step] & HOSTS


def test_importing_the_package_imports_no_ase(imported: dict[str, set[str]]) -> None:
    assert "ase" not in imported["package"]


@pytest.mark.usefixtures("no_distribution")
def test_a_missing_host_is_listed_with_the_command_that_installs_it() -> None:
    (mace,) = [info for info in plugins.hosts() if info.name == "mace"]
    assert (mace.available, mace.version) == (False, None)
    assert mace.problem == f"mace-torch is not installed: {how_to_install('mace')}"


@pytest.mark.usefixtures("no_distribution")
def test_using_a_missing_host_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(HostError, match=re.escape(how_to_install("mace"))):
        plugins.host("mace")


@pytest.mark.parametrize("version", ["0.3.15", "0.4.0", "1.0.0", "1.0.0rc1"])
def test_an_unsupported_version_is_named_beside_the_supported_ones(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(plugins.importlib.metadata, "version", lambda name: version)
    info = HostInfo.of_distribution("mace", "mace-torch", ">=0.3.16,<0.4", extra="mace")
    assert not info.available
    assert info.version == version
    assert info.problem is not None
    assert f"mace-torch {version} is installed, supported is >=0.3.16,<0.4" in info.problem


@pytest.mark.parametrize("version", ["0.0.1", "99.0"])
@pytest.mark.parametrize("name", ["mace", "nequip", "matgl", "sevennet", "metatrain", "chgnet"])
def test_every_host_refuses_versions_that_its_adapter_was_not_written_for(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    monkeypatch.setattr(plugins.importlib.metadata, "version", lambda distribution: version)
    with pytest.raises(HostError, match=rf"{name}: .* {version} is installed, supported is .*: pip install"):
        plugins.host(name)


@pytest.mark.parametrize("version", ["0.3.16", "0.3.17", "0.3.16+local", "0.3.17.dev1"])
def test_a_version_in_the_range_is_available(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(plugins.importlib.metadata, "version", lambda name: version)
    assert HostInfo.of_distribution("mace", "mace-torch", ">=0.3.16,<0.4", extra="mace").available


def test_an_unknown_host_is_refused_with_the_names_of_those_found() -> None:
    with pytest.raises(HostError, match=r"no adapter for the host 'mcae'; found: .*mace"):
        plugins.host("mcae")


def test_brings_is_the_hook_of_a_plugin_with_these_hosts(with_plugins: Any) -> None:
    hosts = BareHost(), BareHost()
    hosts[1].name = "other"
    with_plugins(third=SimpleNamespace(les_hosts=brings(*hosts)))
    assert (plugins.host("toy"), plugins.host("other")) == hosts


class BringsParts:
    """A plugin with heads, a solver and a response, each under the name `toy`."""

    @hookimpl
    def les_heads(self) -> Any:
        return {"toy": lambda features, config: PointCharges()}

    @hookimpl
    def les_solvers(self) -> Any:
        return {"toy": lambda config: Wide(sigma=2.0 * config.sigma)}

    @hookimpl
    def les_responses(self) -> Any:
        return {"toy": lambda config: rigid}


class PointCharges(nn.Module):
    def forward(self, features: NodeFeatures) -> LatentVariables:
        return LatentVariables(Multipoles(torch.tensor([1.0, 0.0, -1.0])), None, None)


class Wide(LatentElectrostatics): ...


def rigid(potential: Any, field: Any, softness: Any, polarizability: Any) -> Response:
    return Response(None, None, torch.full_like(potential, 7.0))


def test_heads_of_a_third_party_are_chosen_by_name(with_plugins: Any) -> None:
    with_plugins(parts=BringsParts())
    result = evaluate(build_long_range(LAYOUT, LongRangeConfig.parse({"heads": "toy"})))
    assert result.charge.tolist() == [1.0, 0.0, -1.0]


def test_a_solver_of_a_third_party_is_chosen_by_name(with_plugins: Any) -> None:
    with_plugins(parts=BringsParts())
    part = build_long_range(LAYOUT, LongRangeConfig.parse({"method": "toy", "sigma": 1.5}))
    assert isinstance(part.electrostatics, Wide)
    assert part.electrostatics.settings.sigma == 3.0
    assert type(build_long_range(LAYOUT, LongRangeConfig()).electrostatics) is LatentElectrostatics


def test_a_response_of_a_third_party_is_chosen_by_name(with_plugins: Any) -> None:
    with_plugins(parts=BringsParts())
    part = build_long_range(LAYOUT, LongRangeConfig.parse({"response": {"charge": True, "solve": "toy"}}))
    part.zero()
    torch.testing.assert_close(evaluate(part).energy, torch.tensor([21.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"method": "mehs"},
            r"water.yaml: run.method is 'mehs' \(did you mean 'mesh'\?\); allowed .*: auto, direct, mesh",
        ),
        ({"heads": "edges"}, r"water.yaml: heads is 'edges' \(did you mean 'edge'\?\); allowed .*: auto, equivariant"),
        ({"response": {"solve": "selfconsistent"}}, r"response.solve is .*did you mean 'self_consistent'.*one_shot"),
        ({"method": "toy"}, r"run.method is 'toy'; allowed with what is installed: auto, direct, mesh, nvalchemi$"),
    ],
)
def test_an_unknown_part_is_an_error_that_names_the_known_ones(section: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_section(section, "water.yaml")
    with pytest.raises(ConfigError, match="allowed with what is installed"):
        build_long_range(LAYOUT, LongRangeConfig.parse(section))


def test_parts_of_a_section_say_who_provides_them(with_plugins: Any) -> None:
    with_plugins(parts=BringsParts())
    found = parts_of(LongRangeConfig.parse({"method": "toy"}))
    assert found["solver"] == Part("toy", "les-parts", "0.3")
    assert found["heads"] == Part("auto", "les-plugins", les_plugins.__version__)
    assert found["response"].name == "one_shot"


def test_attach_raises_an_error_for_a_model_that_no_adapter_knows_and_names_the_hosts() -> None:
    with pytest.raises(HostError, match=r"no adapter knows a model of type .*Linear; hosts: .*mace"):
        les_plugins.attach(nn.Linear(1, 1), {})


def test_attach_asks_third_party_adapters_too(with_plugins: Any) -> None:
    answer = nn.Identity()

    class Attaches(BareHost):
        def attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
            return answer if isinstance(model, nn.Linear) else None

    with_plugins(toy=Attaches())
    assert les_plugins.attach(nn.Linear(1, 1), {"multipoles": ["charge"]}) is answer


@pytest.mark.parametrize("what", ["train", "compile", "contract"])
def test_what_a_host_does_not_implement_is_an_error(with_plugins: Any, what: str) -> None:
    with_plugins(toy=BareHost())
    toy = plugins.host("toy")
    assert toy.offers("attach")
    assert not toy.offers(what)
    arguments = {"train": (None, (), {}), "compile": (None, None, None, "cpu", {}), "contract": ()}[what]
    with pytest.raises(HostError, match=rf"toy has no \w+: its adapter does not implement {what}; it implements info"):
        getattr(toy, what)(*arguments)


def test_a_packaged_host_imports_what_it_does_when_it_is_asked(with_plugins: Any) -> None:
    class Packaged(PackagedHost):
        name, distribution, supported = "toy", "torch", ">=2"
        packages = ("torch",)
        compile_targets = ("paper",)
        parts: ClassVar[Any] = {"attach": "test_plugins:attached_by_name", "train": "no_such_module:train"}

    with_plugins(toy=Packaged())
    toy = plugins.host("toy")
    (info,) = (info for info in plugins.hosts() if info.name == "toy")
    assert (info.distribution, info.compile_targets, info.available) == ("torch", ("paper",), True)
    assert [name for name in METHODS if toy.offers(name)] == ["info", "attach", "train"]
    config = LongRangeConfig(sigma=1.5)
    linear = nn.Linear(1, 1)
    assert toy.attach(linear, config) == (linear, config)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        toy.train(Path("a.yaml"), (), {})
    with pytest.raises(HostError, match=r"toy has no compiler: .* does not implement compile; it implements info, att"):
        toy.compile(linear, Path("a"), None, "cpu", {})


def attached_by_name(model: nn.Module, config: LongRangeConfig) -> Any:
    """What `Packaged` names."""
    return model, config


def test_a_packaged_host_with_a_part_that_does_not_exist_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match=r"parts has 'trian'; allowed: attach, calculator"):
        type("Mistaken", (PackagedHost,), {"parts": {"trian": "a:b"}})


def test_the_method_nvalchemi_without_its_package_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from les_plugins.electrostatics import nvalchemi

    nvalchemi._package.cache_clear()
    monkeypatch.setattr(nvalchemi.importlib.util, "find_spec", lambda name: None)
    words = r"""nvalchemi-toolkit-ops is not installed: pip install "\.\[nvalchemi\]".*'auto', 'direct', 'mesh'"""
    with pytest.raises(ConfigError, match=words):
        build_long_range(LAYOUT, LongRangeConfig.parse({"run": {"method": "nvalchemi"}}))


def test_the_method_nvalchemi_has_no_mutual_polarization() -> None:
    section = {"run": {"method": "nvalchemi"}, "response": {"charge": True, "solve": "self_consistent"}}
    with pytest.raises(ConfigError, match="'self_consistent' with method: nvalchemi; allowed: 'one_shot' or None"):
        build_long_range(LAYOUT, LongRangeConfig.parse(section))


def test_no_other_method_imports_the_module_of_nvalchemi(imported: dict[str, set[str]]) -> None:
    assert "les_plugins.electrostatics.layer" in imported["mesh"]
    assert not imported["mesh"] & {"warp", "nvalchemiops", "les_plugins.electrostatics.nvalchemi"}
