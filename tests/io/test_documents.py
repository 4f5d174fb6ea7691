"""YAML and JSON that somebody else wrote: bounded in time and memory, and every failure names the file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from les_plugins.errors import LONGEST_MESSAGE, CheckpointError, ConfigError, LesPluginsError, quoted
from les_plugins.io.documents import LARGEST_JSON, LARGEST_YAML, parse_yaml, read_json, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert time.monotonic() - start < 10.0
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a: 2001-99-99", "'2001-99-99'"),
        (b"a: 2001-01-01 25:61:61", "'2001-01-01 25:61:61'"),
        (b"a: " + b"9" * 5000, "line 1"),
        (b"a: 0b_", "'0b_'"),
        (b"a: 0x_", "'0x_'"),
        (b"a: !!int nonsense", "'nonsense'"),
        (b"a: !!float nonsense", "'nonsense'"),
        (b"a: !!binary nonsense\xc3\xa9", "line 1"),
        (b"a: !!timestamp soon", "'soon'"),
        (b"a: !!bool 3", "'3'"),
        (b"a: !!python/object/apply:os.system [true]", "python/object/apply:os.system"),
        (b"a: !!python/name:os.system", "python/name:os.system"),
        (b"a: !mine 3", "!mine"),
        (b"? [a, b]\n: 1", "line 1"),
        (b"? {a: b}\n: 1", "line 1"),
        (b"a: &a [*a]", "part of"),
        (b"a: &a {b: *a}", "part of"),
        (b"a: *nowhere", "nowhere"),
        (b"long_range: {sigma: 1.0}\nr_max: 4.5\nlong_range: {}", "'long_range' is given twice"),
        (b"long_range: {sigma: 1.0, dl: 1.2, 'sigma': 2.0}", "'sigma' is given twice"),
        (b"a:\n\tb: 1", "line 2"),
        (b"a: \x00", "unacceptable"),
        (b"a: 1\n---\nb: 2", "line 2"),
        ("a: 1".encode("utf-16"), "utf-8"),
        (b"a: \xff", "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{a: " * 50_000, "nested too deeply"),
        (b"<<: 3", "line 1"),
        (LAUGHS.encode(), "stand for more than"),
        (b"a: " + b"x" * LARGEST_YAML, "larger than 1 MiB"),
        (b"3", "expected keys and values, got int"),
        (b"\xef\xbb\xbf- a", "expected keys and values, got list"),
    ],
    ids=range(32),
)
def test_a_file_that_yaml_cannot_build_is_refused_in_one_line_that_names_it(
    tmp_path: Path, content: bytes, named: str
) -> None:
    assert named in refusal(tmp_path / "water.yaml", content)


def test_a_byte_order_mark_aliases_and_merges_of_ordinary_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "water.yaml").write_bytes(b"\xef\xbb\xbfa: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\nd: {<<: *a, x: 3}\n")
    assert read_yaml(tmp_path / "water.yaml") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
        "d": {"x": 3},
    }


def test_merges_that_multiply_take_no_time(tmp_path: Path) -> None:
    """PyYAML before 6.0.4 multiplies the keys: then it is refused, else read as it is meant."""
    (tmp_path / "water.yaml").write_text(MERGES)
    start = time.monotonic()
    try:
        last = read_yaml(tmp_path / "water.yaml")["a39"]
    except ConfigError as error:
        assert "merges more keys" in str(error)  # noqa: PT017
    else:
        assert last == {"x": 1, "y": 2}
    assert time.monotonic() - start < 10.0


def test_a_folder_and_a_device_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is not a file"):
            read_yaml(path)


def test_a_value_of_the_command_line_is_named_when_it_is_no_yaml() -> None:
    with pytest.raises(ConfigError, match="argument 'a=2001-99-99': not valid YAML"):
        parse_yaml("2001-99-99", "argument 'a=2001-99-99'")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[]", "expected a JSON object"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"a": ' * 100_000, "cannot be read"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"a": "\xff"}', "cannot be read"),
        (b'{"a": "' + b"x" * LARGEST_JSON + b'"}', "larger than 16 MiB"),
    ],
    ids=range(7),
)
def test_json_that_is_no_object_of_ours_is_refused_by_name(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' * 100_000, b'{"a\\"[": ' * 100_000])
def test_nesting_is_bounded_where_a_library_has_raised_pythons_own_limit(tmp_path: Path, content: bytes) -> None:
    path, before = tmp_path / "config.json", sys.getrecursionlimit()
    path.write_bytes(content)
    sys.setrecursionlimit(10**6)  # the compiled parser would overflow the stack of the process
    try:
        with pytest.raises(CheckpointError, match="nested too deeply"):
            read_json(path)
        with pytest.raises(ConfigError, match="nested too deeply"):
            read_yaml(path)
    finally:
        sys.setrecursionlimit(before)


def test_brackets_in_strings_are_no_nesting(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": "[" * 10_000, '"[[': '\\"{{' * 1000}))
    assert read_json(path)["a"] == "[" * 10_000


def test_no_message_is_longer_than_a_page_and_both_ends_of_it_are_kept() -> None:
    message = str(LesPluginsError("begin " + "x" * 10**6 + " end"))
    assert len(message) < LONGEST_MESSAGE + 100
    assert message.startswith("begin ")
    assert message.endswith(" end")


def test_a_value_in_a_message_is_cut_and_never_written_out_in_full() -> None:
    nested: list[object] = []
    for _ in range(60):  # written out: 2^60 items
        nested = [nested, nested]
    start = time.monotonic()
    assert len(quoted(nested)) < 300
    assert len(quoted("y" * 10**6)) < 300
    assert len(quoted([["z" * 1000] * 1000] * 1000)) < 300
    assert "int" in quoted(10**5000)
    assert time.monotonic() - start < 1.0
    assert quoted([1.0, "a", None]) == "[1.0, 'a', None]"
