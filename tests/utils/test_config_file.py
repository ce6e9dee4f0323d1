"""Reading and writing configuration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camac_dra.utils.config_file import dump_yaml, inline_yaml, parse_yaml, read_config_file
from camac_dra.utils.errors import ConfigurationError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def write(folder: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("+3", 3),
        ("-.inf", float("-inf")),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2019-05-01", "2019-05-01"),
        ("null", None),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
        ("[64, 64]", [64, 64]),
        ("{cpu: 8}", {"cpu": 8}),
    ],
)
def test_plain_values_are_what_they_look_like(text: str, value: Any) -> None:
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@given(PLAIN)
def test_what_is_written_is_read_back(data: Any) -> None:
    read = parse_yaml(dump_yaml(data), "here")
    assert read == data
    assert json.dumps(read) == json.dumps(data)  # tells 1 from 1.0 and from true


@given(PLAIN)
def test_inline_values_are_on_one_line_and_are_read_back(data: Any) -> None:
    assert "\n" not in inline_yaml(data)
    assert parse_yaml(inline_yaml(data), "here") == data


def test_inline_values() -> None:
    assert inline_yaml({"a": [1, "b"], "c": None}) == "{a: [1, b], c: null}"
    assert inline_yaml("text") == "text"
    assert inline_yaml("two\nlines") == '"two\\nlines"'


def test_strings_that_other_readers_take_for_something_else_are_quoted() -> None:
    assert dump_yaml({"start": "2019-05-01", "name": "1e3", "word": "no"}) == (
        "start: '2019-05-01'\nname: '1e3'\nword: 'no'\n"
    )


def test_places_name_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "# top\nmodel:\n  hidden_sizes:\n  - 3\n  - 4\n  gamma: 1\n")
    data, origin = read_config_file(path)
    assert data == {"model": {"hidden_sizes": [3, 4], "gamma": 1}}
    assert origin.place_of("model.hidden_sizes.1") == "line 5"
    assert origin.place_of("model.gamma") == "line 6"
    assert origin.place_of("model.unknown") == "line 2"  # of the section around it
    assert origin.place_of("training") == ""


def test_json_is_read_by_its_extension(tmp_path: Path) -> None:
    path = write(tmp_path, '{"model": {"gamma": 0.5}}', "config.json")
    assert read_config_file(path)[0] == {"model": {"gamma": 0.5}}


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name, text in (("a.yaml", b"model: {gamma: 1}"), ("a.json", b'{"model": {"gamma": 1}}')):
        assert read_config_file(write(tmp_path, b"\xef\xbb\xbf" + text, name))[0] == {"model": {"gamma": 1}}


def test_merge_keys_work(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n"
    assert read_config_file(write(tmp_path, text))[0]["other"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"config\.yaml: the file is empty"),
        (" \n\n", r"config\.yaml: the file is empty"),
        ("# only this\n", r"config\.yaml: the file has only comments"),
        ("- 1\n- 2\n", r"must hold a mapping of sections at its top level, got \[1, 2\]"),
        ("model\n", r"must hold a mapping of sections at its top level, got 'model'"),
        ("model:\n  gamma: 1\n gone: 2\n", r"config\.yaml, line 3, column 2: not valid YAML"),
        ("model: [1, 2\n", r"config\.yaml, line 2, column 1: not valid YAML"),
        ("model:\n\tgamma: 1\n", r"config\.yaml, line 2, column 1: not valid YAML: found character '\\t'"),
        ("a: 1\nb: 2\na: 3\n", r"line 3, column 1: not valid YAML: 'a' is given twice, first in line 1"),
        ("m:\n  g: 1\n  g: 1\n", r"line 3, column 3: not valid YAML: 'g' is given twice, first in line 2"),
        ("a: 1\n---\nb: 2\n", r"config\.yaml, line 2, column 1: not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", r"line 1, column 4: not valid YAML: could not determine"),
        ("a: *missing\n", r"line 1, column 4: not valid YAML: found undefined alias 'missing'"),
        ("a: &a [*a]\n", r"must be nested at most 50 levels deep"),
        ("a: " + "[" * 60 + "]" * 60, r"must be nested at most 50 levels deep"),
        (b"a: \x00\n", r"config\.yaml.*not valid YAML"),
        (b"a: 1\nb: \xff\n", r"config\.yaml, line 2: must be text in UTF-8, got byte 0xff"),
    ],
)
def test_malformed_yaml_names_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_config_file(write(tmp_path, text))


def test_aliases_that_multiply_beyond_reason_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigurationError, match="must have at most 200000 entries, aliases included"):
        read_config_file(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b" 2}', r"config\.json, line 2, column 6: not valid JSON"),
        ('{"a": {"b": 1, "b": 2}}', r"not valid JSON: 'b' is given twice in one mapping"),
        ("[]", r"must hold a mapping of sections at its top level, got \[\]"),
        ("[" * 100_000, r"must be nested at most 50 levels deep|not valid JSON"),
    ],
)
def test_malformed_json_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_config_file(write(tmp_path, text, "config.json"))


def test_file_that_is_not_there_names_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "{}", "default.yaml")
    with pytest.raises(
        ConfigurationError, match=r"defualt\.yaml: no such file\. Did you mean .*/default\.yaml'"
    ):
        read_config_file(tmp_path / "defualt.yaml")


def test_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"config\.yaml: cannot be read: Is a directory"):
        read_config_file(tmp_path / "config.yaml")


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must end in \.yaml, \.yml or \.json, got 'config\.toml'"):
        read_config_file(write(tmp_path, "a: 1", "config.toml"))


def test_data_file_given_by_mistake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="must have at most 4194304 bytes, got 5000000: is it a data file"
    ):
        read_config_file(write(tmp_path, b"#" * 5_000_000))
