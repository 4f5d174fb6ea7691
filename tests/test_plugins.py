"""Plugins: hosts are found lazily, nothing broken spreads, and every part of ours can be replaced through its hook."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import les_plugins
from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles
from les_plugins.electrostatics.response.one_shot import Response
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.hookspecs import hookimpl, hookspec
from les_plugins.hosting.registry import HostInfo
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


def test_importing_the_package_or_its_command_imports_no_host() -> None:
    heavy = ("mace", "nequip", "matgl", "sevenn", "e3nn")
    code = f"import les_plugins, les_plugins.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_imports_no_ase() -> None:
    code = "import les_plugins, sys; print('ase' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_listing_hosts_imports_none_of_them() -> None:
    code = "from les_plugins import plugins; import sys; plugins.hosts(); print('mace' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("no_distribution")
def test_a_missing_host_is_listed_with_the_command_that_installs_it() -> None:
    (mace,) = [info for info in plugins.hosts() if info.name == "mace"]
    assert (mace.available, mace.version) == (False, None)
    assert mace.problem == "mace-torch is not installed: pip install 'les-plugins[mace]'"


@pytest.mark.usefixtures("no_distribution")
def test_using_a_missing_host_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(HostError, match=r"pip install 'les-plugins\[mace\]'"):
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
@pytest.mark.parametrize("name", ["mace", "nequip", "matgl", "sevennet"])
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


def test_a_broken_third_party_plugin_is_listed_with_its_error_and_takes_no_other_down(with_plugins: Any) -> None:
    with_plugins(broken=ImportError("no module named lost"))
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert listed["broken"].problem == "third_party.broken could not be loaded: ImportError: no module named lost"
    assert isinstance(evaluate(build_long_range(LAYOUT, LongRangeConfig())).energy, torch.Tensor)


def test_a_third_party_plugin_with_a_wrong_signature_takes_no_other_down(with_plugins: Any) -> None:
    class Wrong:
        @hookimpl
        def les_make_heads(self, feature: Any) -> None: ...

    with_plugins(wrong=Wrong())
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert "wrong" in listed
    assert isinstance(build_long_range(LAYOUT, LongRangeConfig()), LongRange)


def test_a_third_party_plugin_with_a_hook_that_does_not_exist_takes_no_other_down(with_plugins: Any) -> None:
    class Newer:
        @hookimpl
        def les_teleport(self) -> None: ...

    with_plugins(newer=Newer())
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert "les_teleport" in str(listed["newer"].problem)


def test_an_adapter_whose_host_info_fails_is_listed_with_its_error(with_plugins: Any) -> None:
    class Failing:
        @hookimpl
        def les_host_info(self) -> HostInfo:
            raise OSError("disk gone")

    with_plugins(failing=Failing())
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert "OSError: disk gone" in str(listed["failing"].problem)


def test_third_party_heads_replace_ours(with_plugins: Any) -> None:
    class PointCharges(nn.Module):
        def forward(self, features: NodeFeatures) -> LatentVariables:
            return LatentVariables(Multipoles(torch.tensor([1.0, 0.0, -1.0])), None, None)

    class Plugin:
        @hookimpl
        def les_make_heads(self, features: FeatureLayout, config: LongRangeConfig) -> nn.Module:
            return PointCharges()

    with_plugins(heads=Plugin())
    result = evaluate(build_long_range(LAYOUT, LongRangeConfig()))
    assert result.charge.tolist() == [1.0, 0.0, -1.0]


def test_a_third_party_solver_replaces_ours(with_plugins: Any) -> None:
    class Wide(LatentElectrostatics): ...

    class Plugin:
        @hookimpl
        def les_make_solver(self, config: LongRangeConfig) -> LatentElectrostatics:
            return Wide(sigma=2.0)

    with_plugins(solver=Plugin())
    part = build_long_range(LAYOUT, LongRangeConfig())
    assert isinstance(part.electrostatics, Wide)
    assert part.electrostatics.sigma == 2.0


def test_a_third_party_response_replaces_ours(with_plugins: Any) -> None:
    def rigid(potential: Any, field: Any, softness: Any, polarizability: Any) -> Response:
        return Response(None, None, torch.full_like(potential, 7.0))

    class Plugin:
        @hookimpl
        def les_make_response(self, config: LongRangeConfig) -> Any:
            return rigid

    config = LongRangeConfig.parse({"response": {"charge": True}})
    with_plugins(response=Plugin())
    part = build_long_range(LAYOUT, config)
    part.zero()
    torch.testing.assert_close(evaluate(part).energy, torch.tensor([21.0], dtype=torch.float64))


def test_a_plugin_that_returns_none_leaves_the_part_to_ours(with_plugins: Any) -> None:
    class Plugin:
        @hookimpl
        def les_make_solver(self, config: LongRangeConfig) -> None:
            return None

    with_plugins(modest=Plugin())
    assert type(build_long_range(LAYOUT, LongRangeConfig()).electrostatics) is LatentElectrostatics


def test_attach_refuses_a_model_that_no_adapter_knows_and_names_the_hosts() -> None:
    with pytest.raises(HostError, match=r"no adapter knows a model of type .*Linear; hosts: .*mace"):
        les_plugins.attach(nn.Linear(1, 1), {})


def test_attach_asks_third_party_adapters_too(with_plugins: Any) -> None:
    answer = nn.Identity()

    class Adapter:
        @hookimpl
        def les_host_info(self) -> HostInfo:
            return HostInfo("toy", "toy", ">=1", "1.0")

        @hookimpl
        def les_attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
            return answer if isinstance(model, nn.Linear) else None

    with_plugins(toy=Adapter())
    assert les_plugins.attach(nn.Linear(1, 1), {"multipoles": ["charge"]}) is answer


def test_a_hook_that_a_host_lacks_or_that_returns_nothing_is_an_error(with_plugins: Any) -> None:
    class Adapter:
        @hookimpl
        def les_host_info(self) -> HostInfo:
            return HostInfo("toy", "toy", ">=1", "1.0")

        @hookimpl
        def les_calculator(self, model: nn.Module, metadata: Any, device: str) -> Any:
            return None

    with_plugins(toy=Adapter())
    hooks = plugins.host("toy")
    assert hooks.offers("les_calculator")
    assert not hooks.offers("les_state")
    with pytest.raises(HostError, match=r"toy: its adapter has no state of the model \(hook les_state\)"):
        hooks.les_state(model=nn.Identity())
    with pytest.raises(HostError, match=r"les_calculator of its adapter returned None; expected the ASE calculator"):
        hooks.les_calculator(model=nn.Identity(), metadata={}, device="cpu")
    with pytest.raises(HostError, match="no adapter knows"):  # attach leaves such a host out
        les_plugins.attach(nn.Linear(1, 1), {})


def test_a_hook_that_is_not_specified_cannot_be_called() -> None:
    with pytest.raises(AttributeError, match="les_teleport"):
        _ = plugins.physics_hooks().les_teleport


def test_hook_markers_carry_the_name_of_the_project() -> None:
    marked = SimpleNamespace(spec=hookspec(lambda: None), impl=hookimpl(lambda: None))
    assert marked.spec.les_plugins_spec
    assert marked.impl.les_plugins_impl


def test_the_method_nvalchemi_without_its_package_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from les_plugins.electrostatics.periodic import nvalchemi

    nvalchemi._package.cache_clear()
    monkeypatch.setattr(nvalchemi.importlib.util, "find_spec", lambda name: None)
    words = r"""nvalchemi-toolkit-ops is not installed: pip install "\.\[nvalchemi\]".*'auto', 'direct', 'mesh'"""
    with pytest.raises(ConfigError, match=words):
        build_long_range(LAYOUT, LongRangeConfig(method="nvalchemi"))


def test_no_other_method_imports_the_module_of_nvalchemi() -> None:
    code = (
        "import sys; from les_plugins import LongRangeConfig; from les_plugins.hosting.registry import physics_hooks;"
        "physics_hooks().les_make_solver(config=LongRangeConfig(method='mesh'));"
        "ours = 'les_plugins.electrostatics.periodic.nvalchemi';"
        "print([m for m in ('warp', 'nvalchemiops', ours) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
