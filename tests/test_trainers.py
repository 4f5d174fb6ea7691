"""From a host's config file to a checkpoint: keys, options, facts of the data, and what a failure leaves."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from les_plugins.errors import CheckpointError, ConfigError, DataError, GeometryError, HostError, raising
from les_plugins.hosting.substitution import substituted
from les_plugins.storage.states import dtype_name, dtype_of, rebuilt, state_of
from les_plugins.storage.training import (
    OptionParser,
    check_keys,
    check_number,
    file_facts,
    fitting,
    plain_options,
    saving,
)


def test_an_unknown_key_is_an_error_that_names_a_similar_one_and_all_that_are_allowed() -> None:
    check_keys({"model": 1}, ("model", "train"), "water.yaml")
    message = r"water\.yaml: unknown key 'modle' \(did you mean 'model'\?\); allowed: model, train"
    with pytest.raises(ConfigError, match=message):
        check_keys({"modle": 1}, ("model", "train"), "water.yaml")
    with pytest.raises(ConfigError, match=r"unknown key 3; allowed: model"):
        check_keys({3: 1}, ("model",), "water.yaml")


@pytest.mark.parametrize(
    ("given", "number"), [(2, 2), (2.0, 2), ("1e-3", 1e-3), ("5", 5), (-0.5, -0.5), (1e30, 1e30), ("1e30", 1e30)]
)
def test_a_number_is_taken_from_text_too_and_a_whole_one_is_an_integer(given: object, number: float) -> None:
    found = check_number(given, "water.yaml: lr")
    assert found == number
    assert isinstance(found, int) == (number in (2, 5))


@pytest.mark.parametrize("given", ["fast", "nan", float("inf"), None, True, [1.0], -1.0])
def test_what_is_no_number_or_not_an_allowed_one_is_an_error_that_names_it(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^water.yaml: lr is .*; allowed: a number above 0$"):
        check_number(given, "water.yaml: lr", " above 0", lambda value: value > 0.0)


def test_wrong_options_of_a_host_raise_and_name_its_command() -> None:
    parser = OptionParser("host train")
    parser.add_argument("--epochs", type=int)
    assert parser.parse_args(["--epochs", "3"]).epochs == 3
    for arguments in (["--epoch", "3"], ["--epochs", "many"]):
        with pytest.raises(ConfigError, match="see host train --help"):
            parser.parse_args(arguments)


def test_options_are_kept_without_paths() -> None:
    given = {"lr": 0.1, "model": {"name": "a", "file": "/home/b/c.xyz", "elements": [1, 8]}, "seed": 3, "ema": True}
    found = plain_options({**given, "data": ["b/c.xyz"], "callbacks": [{"name": "d"}]})
    assert found == {"lr": 0.1, "model": {"name": "a", "elements": [1, 8]}, "seed": 3, "ema": True}


def test_facts_of_the_data_are_names_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"frames")
    facts = file_facts([tmp_path / "a.xyz"], [])
    assert facts["training_data"] == [{"file": "a.xyz", "sha256": hashlib.sha256(b"frames").hexdigest()}]
    assert facts["validation_data"] == []


def test_a_failed_save_names_the_files_that_the_host_kept() -> None:
    def fail_inside() -> None:
        with saving(Path("water.les"), [Path("b.pth"), Path("a.pth")]):
            raise OSError("disk full")

    with pytest.raises(
        HostError, match=r"water\.les: .*: disk full; checkpoints of the host beside it: a\.pth, b\.pth"
    ):
        fail_inside()


def test_a_model_taken_apart_and_rebuilt_has_the_same_tensors() -> None:
    model = torch.nn.Linear(2, 3).double()
    state = state_of("host", model, {"dtype": dtype_name(model)}, None, ("torch",))
    assert state.versions == {"torch": importlib.metadata.version("torch")}
    assert state.model["dtype"] == "float64"
    model.weight.data.zero_()  # the state holds copies
    again = rebuilt(state, lambda: torch.nn.Linear(2, 3).to(dtype_of(state.model["dtype"])), "linear layer")
    assert torch.equal(again.state_dict()["weight"], state.tensors["weight"])
    assert state.tensors["weight"].abs().max() > 0.0
    assert not again.training


def test_what_a_host_raises_for_a_nonsense_description_is_a_checkpoint_error() -> None:
    state = state_of("host", torch.nn.Linear(2, 3), {}, None, ())
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a linear layer: .*ZeroDivisionError"):
        rebuilt(state, lambda: torch.nn.Linear(1 // 0, 3), "linear layer")
    with pytest.raises(CheckpointError, match="'weight' has shape"):
        rebuilt(state, lambda: torch.nn.Linear(4, 3), "linear layer")
    with pytest.raises(CheckpointError, match=r"dtype is 'float16'; allowed: float32, float64"):
        dtype_of("float16")


def test_a_substituted_name_is_bound_to_its_own_value_again_after_an_error() -> None:
    module = ModuleType("host")
    module.build = "own"  # type: ignore[attr-defined]

    def fail_inside() -> None:
        with substituted(module, "build", "ours"):
            assert module.build == "ours"
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert module.build == "own"
    with pytest.raises(AttributeError), substituted(module, "absent", 1):
        pass


def test_what_others_raise_is_one_line_with_the_innermost_reason_and_ours_pass_as_they_are() -> None:
    def fail(error: Exception) -> None:
        with raising(DataError, "water.xyz: ASE cannot read it"):
            try:
                raise KeyError("pbc")
            except KeyError as cause:
                raise error from cause

    with pytest.raises(DataError, match=r"^water\.xyz: ASE cannot read it: KeyError: 'pbc'$"):
        fail(ValueError("two\nlines"))
    with pytest.raises(ConfigError, match=r"^ours$"):
        fail(ConfigError("ours"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("in the\nlast epoch"), r"^water\.yaml: MACE stopped with ZeroDivisionError: in the$"),
        (GeometryError("positions hold NaN"), r"water\.yaml: MACE stopped with .*positions hold NaN; .*a lower lr$"),
        (HostError("as it is"), r"^as it is$"),
    ],
)
def test_a_trainer_that_fails_is_named_with_the_config_file_and_the_reason(error: Exception, words: str) -> None:
    with pytest.raises(HostError, match=words), fitting("MACE", Path("water.yaml")):
        raise error


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (
            HostError,
            GeometryError("charge holds NaN"),
            r"water\.yaml: metatrain stopped with .*charge holds NaN; .*a lower lr$",
        ),
        (ConfigError, ConfigError("as it is"), r"^as it is$"),
    ],
)
def test_an_error_of_ours_that_a_host_wrapped_is_ours(kind: type[Exception], error: Exception, words: str) -> None:
    with pytest.raises(kind, match=words), fitting("metatrain", Path("water.yaml")):
        raise RuntimeError("The error above most likely originates from an architecture.") from error


def test_an_error_of_ours_stays_whatever_it_came_from() -> None:
    """A disk that is full when the model is written is no failure of the trainer."""
    words, target = r"water\.les: .*could not be saved", Path("water.les")
    with pytest.raises(HostError, match=words), fitting("MatGL", Path("water.yaml")), saving(target, []):
        raise OSError("disk full")
