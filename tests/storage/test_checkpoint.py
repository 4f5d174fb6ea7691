"""Checkpoints without any host: what was changed, is missing or could run code is refused, and nothing is executed."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toy_host import SECTION, ToyHost

import les_plugins
from les_plugins import LatentElectrostatics, LongRangeConfig
from les_plugins.errors import CheckpointError, DeviceError, HostError, LesPluginsWarning
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.types import HostState
from les_plugins.storage import checkpoint
from les_plugins.storage.checkpoint import CONFIG, MANIFEST, WEIGHTS
from les_plugins.storage.states import rebuilt, state_of

FILES = (CONFIG, WEIGHTS, MANIFEST)


@pytest.fixture(autouse=True)
def _toy_host(with_plugins: Callable[..., None]) -> None:
    with_plugins(toy=ToyHost())


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(3, 1)


@pytest.fixture
def saved(tmp_path: Path, model: nn.Module) -> Path:
    return les_plugins.save(model, tmp_path / "water.les", "toy", {"data_licence": "CC BY 4.0"})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        les_plugins.load(path)
    return str(caught.value)


def seal(folder: Path) -> None:
    """Make the manifest fit the files again, as somebody who forges a checkpoint would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_model_comes_back_with_the_same_tensors_and_facts(saved: Path, model: nn.Module) -> None:
    loaded, metadata, device = les_plugins.load(saved)
    assert device == "cpu"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert metadata["host"] == "toy"
    assert metadata["versions"] == {"toy": "1.0"}
    assert metadata["units"] == {"length": "Å", "energy": "eV", "charge": "e"}
    assert metadata["epsilon_infinity"] == 1.78
    assert metadata["metadata"] == {"frames": 4, "data_licence": "CC BY 4.0"}
    assert LongRangeConfig.parse(metadata["long_range"]) == SECTION


def test_the_manifest_lists_the_sha256_of_both_files(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    assert (manifest["format"], manifest["format_version"]) == (checkpoint.FORMAT, checkpoint.FORMAT_VERSION)
    assert manifest["sha256"] == {
        name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)
    }
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_one_changed_byte_is_refused_with_the_name_of_the_file(saved: Path, name: str, place: float) -> None:
    data = bytearray((saved / name).read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    (saved / name).write_bytes(data)
    assert f"{name} has been changed" in refusal(saved)


def test_one_changed_byte_of_the_manifest_is_refused_wherever_it_matters(saved: Path) -> None:
    """Every byte in turn; a change that leaves the same document, of a blank say, may load."""
    original = (saved / MANIFEST).read_bytes()
    meant = json.loads(original)
    accepted = []
    for place in range(len(original)):
        data = bytearray(original)
        data[place] ^= 1
        (saved / MANIFEST).write_bytes(data)
        try:
            checkpoint.verify(saved)
            accepted.append(json.loads((saved / MANIFEST).read_text()))
        except CheckpointError:
            continue
    assert all(document == meant for document in accepted)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 10])
def test_a_truncated_file_is_refused(saved: Path, name: str, kept: int) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:kept])
    assert name in refusal(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert name in refusal(saved)


def test_a_missing_tensor_is_refused_though_the_manifest_fits(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors["bias"]
    save_file(tensors, saved / WEIGHTS)
    seal(saved)
    assert refusal(saved) == f"{saved}: weights: tensors do not fit"


@pytest.mark.parametrize("name", [CONFIG, MANIFEST])
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused_with_the_one_that_is_read(saved: Path, name: str, version: object) -> None:
    rewrite(saved / name, lambda document: document.update(format_version=version))
    if name == CONFIG:
        seal(saved)
    message = refusal(saved)
    assert f"{name}: format_version is {version!r}" in message
    assert message.endswith("reads 1")


@pytest.mark.parametrize("version", ["0.9", "not a version", None])
def test_a_host_version_that_the_adapter_does_not_read_is_refused_with_the_range_that_it_does(
    saved: Path, version: str | None
) -> None:
    rewrite(saved / CONFIG, lambda config: config["versions"].update(toy=version))
    seal(saved)
    assert refusal(saved).endswith(f"{CONFIG}: saved with toy {version!r}; this adapter reads >=1")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("host"),
        lambda config: config.pop("versions"),
        lambda config: config.pop("model"),
        lambda config: config.pop("metadata"),
        lambda config: config.pop("long_range"),
        lambda config: config.pop("format"),
        lambda config: config.update(host=["toy"]),
        lambda config: config.update(model="nn.Linear"),
        lambda config: config["long_range"].update(sigma=-1.0),
        lambda config: config["long_range"].update(nonsense=1),
    ],
)
def test_a_config_that_is_incomplete_or_nonsense_is_refused_by_name(saved: Path, change: Any) -> None:
    rewrite(saved / CONFIG, change)
    seal(saved)
    assert CONFIG in refusal(saved)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "nonsense", "[" * 100_000, '{"format": "zip"}', "\x00"])
@pytest.mark.parametrize("name", [CONFIG, MANIFEST])
def test_a_document_that_is_no_json_of_ours_is_refused_by_name(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    if name == CONFIG:
        seal(saved)
    assert name in refusal(saved)


def test_a_host_without_adapter_is_refused_with_those_found(saved: Path) -> None:
    rewrite(saved / CONFIG, lambda config: config.update(host="os"))
    seal(saved)
    with pytest.raises(HostError, match=r"no adapter for the host 'os'; found: .*toy"):
        les_plugins.load(saved)


def test_a_manifest_that_leaves_the_weights_out_is_refused(saved: Path) -> None:
    rewrite(saved / MANIFEST, lambda manifest: manifest["sha256"].pop(WEIGHTS))
    assert "must list" in refusal(saved)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused_unopened(tmp_path: Path, protocol: int) -> None:
    path, proof = tmp_path / "model.pt", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(proof), protocol))
    assert str(path) in refusal(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists(), "the pickle of this test must be one that would have run"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_torch_model_is_refused_unopened_and_the_way_out_is_named(tmp_path: Path, zipped: bool) -> None:
    path, proof = tmp_path / "model.pt", tmp_path / "executed"
    torch.save({"model": Bomb(proof)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "is a pickle" in message
    assert "les_plugins.attach" in message
    assert not proof.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_the_place_of_a_file_is_refused_unopened(saved: Path, tmp_path: Path, name: str) -> None:
    proof = tmp_path / "executed"
    (saved / name).write_bytes(pickle.dumps(Bomb(proof)))
    if name != MANIFEST:
        seal(saved)
    assert name in refusal(saved)
    assert not proof.exists()


def test_loading_never_calls_torch_load_or_pickle(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a loader of pickles was called")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, never)
    assert isinstance(les_plugins.load(saved)[0], nn.Linear)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert f"{tmp_path} is not a checkpoint of les-plugins: it has no {MANIFEST}" in refusal(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.les")


def test_a_file_that_is_no_pickle_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    path.write_text("3\n")
    assert f"expected a checkpoint folder with {MANIFEST}" in refusal(path)


def test_a_device_that_this_machine_lacks_is_refused(saved: Path) -> None:
    with pytest.raises(DeviceError, match="'meta' was asked for"):
        les_plugins.load(saved, device="meta")
    with pytest.raises(DeviceError, match="'tpu9' is not a device"):
        les_plugins.load(saved, device="tpu9")


def test_saving_twice_replaces_the_checkpoint(saved: Path) -> None:
    other = nn.Linear(3, 1)
    les_plugins.save(other, saved, "toy")
    loaded, metadata, _ = les_plugins.load(saved)
    assert torch.equal(loaded.weight, other.weight)
    assert metadata["metadata"] == {"frames": 4}


def test_saving_never_replaces_what_is_no_checkpoint(tmp_path: Path, model: nn.Module) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
            les_plugins.save(model, path, "toy")
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_head_is_refused_by_hosts_without_heads(saved: Path) -> None:
    with pytest.raises(HostError, match="head is 'pbe', but models of toy have no heads"):
        les_plugins.load(saved, head="pbe")


def test_numbers_of_the_metadata_that_json_has_not_are_null(tmp_path: Path, model: nn.Module) -> None:
    facts = {"training": {"rmse": float("nan"), "rest": [1.5, float("inf")]}}
    folder = les_plugins.save(model, tmp_path / "a.les", "toy", facts)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((folder / "config.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["metadata"]["training"] == {"rmse": None, "rest": [1.5, None]}


def test_a_model_with_nan_is_not_saved(tmp_path: Path, model: nn.Module) -> None:
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="'weight' holds NaN or infinity"):
        les_plugins.save(model, tmp_path / "nan.les", "toy")
    assert not (tmp_path / "nan.les").exists()


class BringsSolver:
    """A third party's solver: ours, of another width."""

    @hookimpl
    def les_solvers(self) -> Any:
        return {"wide": lambda config: LatentElectrostatics(sigma=2.0 * config.sigma)}


class WideHost(ToyHost):
    """The toy host, with a section that names a third party's solver."""

    def state(self, model: nn.Module) -> HostState:
        return replace(super().state(model), long_range=SECTION.with_run(method="wide"))


def test_a_checkpoint_says_who_provides_its_parts(saved: Path) -> None:
    ours = {"provider": "les-plugins", "version": les_plugins.__version__}
    assert checkpoint.read_config(saved)["parts"] == {
        "heads": {"name": "auto", **ours},
        "solver": {"name": "auto", **ours},
        "response": {"name": "one_shot", **ours},
    }


def test_a_checkpoint_of_a_third_party_s_solver_is_loaded_with_it_and_an_error_without(
    tmp_path: Path, model: nn.Module, with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=WideHost(), solver=BringsSolver())
    folder = les_plugins.save(model, tmp_path / "wide.les", "toy")
    solver = {"name": "wide", "provider": "les-solver", "version": "0.3"}
    assert checkpoint.read_config(folder)["parts"]["solver"] == solver
    assert torch.equal(les_plugins.load(folder)[0].weight, model.weight)
    with_plugins(toy=WideHost())
    message = refusal(folder)
    assert f"{folder / CONFIG}: the solver 'wide' (run.method) is of les-solver 0.3, which is not installed" in message
    assert "pip install 'les-solver'" in message
    with_plugins(toy=WideHost(), other=BringsSolver())
    assert "is of les-solver 0.3; installed is one of that name of les-other" in refusal(folder)


def test_a_part_of_another_version_is_a_warning(
    tmp_path: Path, model: nn.Module, with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=WideHost(), solver=BringsSolver())
    folder = les_plugins.save(model, tmp_path / "wide.les", "toy")
    rewrite(folder / CONFIG, lambda config: config["parts"]["solver"].update(version="0.2"))
    seal(folder)
    with pytest.warns(LesPluginsWarning, match=r"les-solver 0\.2; installed is 0\.3, which may give other energies"):
        assert isinstance(les_plugins.load(folder)[0], nn.Linear)


def test_a_checkpoint_without_parts_is_of_before_and_all_of_them_are_ours(saved: Path) -> None:
    rewrite(saved / CONFIG, lambda config: config.pop("parts"))
    seal(saved)
    assert isinstance(les_plugins.load(saved)[0], nn.Linear)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts: parts["solver"].update(provider="les-else"), "is of les-else .*; installed is one of that name"),
        (lambda parts: parts["solver"].update(name="mesh"), "parts.solver is 'mesh', in long_range it is auto"),
        (lambda parts: parts["heads"].pop("provider"), "parts.heads is .*; expected name, provider and version"),
        (lambda parts: parts.update(response=3), "parts.response is 3; expected name, provider and version"),
    ],
)
def test_parts_that_are_not_those_of_the_section_are_an_error(saved: Path, change: Any, words: str) -> None:
    rewrite(saved / CONFIG, lambda config: change(config["parts"]))
    seal(saved)
    assert re.search(words, refusal(saved))


class Labelled(nn.Linear):
    """As metatensor's modules: it keeps something beside its tensors."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.labels = ["made"]

    def get_extra_state(self) -> object:
        return {"labels": self.labels}

    def set_extra_state(self, state: object) -> None:
        self.labels = state["labels"]  # type: ignore[index]


def test_what_a_module_keeps_beside_its_tensors_stays_what_it_was_made_with() -> None:
    saved = Labelled()
    saved.labels = ["changed"]
    state = state_of("toy", saved, {}, None, ())
    assert set(state.tensors) == {"weight", "bias"}
    model = rebuilt(state, Labelled, "toy")
    torch.testing.assert_close(model.weight, saved.weight, rtol=0, atol=0)
    assert model.labels == ["made"]
