"""Old names of modules: everything of 0.1 still imports, says its new name, and is the same module."""

import importlib
import sys

import pytest

from les_plugins.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_moved_module_is_the_one_under_its_new_name_and_says_so(old):
    new = MOVED[old]
    expected = importlib.import_module(f"les_plugins.{new}")
    sys.modules.pop(f"les_plugins.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"les_plugins\.{old} is les_plugins\.{new} now") as caught:
        found = importlib.import_module(f"les_plugins.{old}")
    assert found is expected
    assert found.__name__ == found.__spec__.name == f"les_plugins.{new}"
    assert caught[0].filename == importlib.__file__  # the line that imports, here importlib's own


def test_names_that_went_to_another_module_are_found_under_the_old_one():
    from les_plugins import api

    for old, name in (("checkpoint", "load_model"), ("checkpoint", "save"), ("plugins", "attach")):
        sys.modules.pop(f"les_plugins.{old}", None)
        with pytest.warns(DeprecationWarning, match=old):
            found = importlib.import_module(f"les_plugins.{old}")
        assert getattr(found, name) is getattr(api, name)


def test_a_name_that_never_was_is_an_ordinary_import_error():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("les_plugins.electrostatics.no_such_module")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("les_plugins.data.batch", "evaluate", "evaluate_batch"),
        ("les_plugins.engines.evaluation", "Evaluation", "StructureResult"),
        ("les_plugins.engines.evaluation", "evaluate", "evaluate_structure"),
        ("les_plugins.testing", "Evaluation", "HostResult"),
        ("les_plugins.testing.host", "Evaluation", "HostResult"),
    ],
)
def test_a_renamed_class_or_function_is_the_one_under_its_new_name_and_says_so(module, old, new):
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{old} is {new} now; the old name goes with 0.3"):
        assert getattr(found, old) is getattr(found, new)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        found.no_such_name  # noqa: B018
