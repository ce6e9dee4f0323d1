"""``python -m camac_dra.utils``: exit code 0 or 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from camac_dra.utils.__main__ import main
from camac_dra.utils.command_line import run_command
from camac_dra.utils.config_file import parse_yaml
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError, OutputError
from camac_dra.utils.schema import Config


@pytest.mark.parametrize("option", [[], ["--config"]])
def test_valid_file_gives_zero(root: Path, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    path = str(root / "rllib_configs" / "test.yaml")
    settings = ["--environment.num_agents", "20", "--training.batch_size=16"]
    assert main(["validate-config", *option, path, *settings]) == 0
    assert main(["validate-config", *settings, *option, path]) == 0
    assert capsys.readouterr().out == 2 * f"{path}: valid\n"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            "environment:\n  num_agents: -1\n",
            [],
            "environment.num_agents: must be a whole number of at least 1, got",
        ),
        ("environment: [\n", [], "line 2, column 1: not valid YAML"),
        ("", [], "the file is empty"),
        ("{}", ["--training.gama", "1"], "--training.gama: is not a setting"),
        ("{}", ["stray"], "must be --section.setting VALUE, got 'stray'"),
        ("coordination: {message_loss: 0.1}", [], "has no effect with protocol 'none', got 0.1"),
    ],
)
def test_bad_input_gives_two_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, arguments: list[str], message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["validate-config", str(path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_process_ends_with_two_and_without_a_traceback(root: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "camac_dra.utils", "validate-config", "nowhere.yaml"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr == "error: nowhere.yaml: no such file.\n"


def test_schema_is_written_to_the_screen_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "schema.json"
    assert main(["schema", "--output", str(path)]) == 0
    assert main(["schema"]) == 0
    text = capsys.readouterr().out
    assert path.read_text() == text
    schema = json.loads(text)
    assert set(schema["properties"]) == {"environment", "model", "training", "coordination"}
    assert schema["additionalProperties"] is False


def test_default_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["default-config"]) == 0
    assert build_config(parse_yaml(capsys.readouterr().out, "printed")) == Config()


def test_output_that_cannot_be_written_gives_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["schema", "--output", str(tmp_path / "file" / "schema.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_stray_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--outptu=x"]) == 2
    assert "schema: takes no other arguments, got --outptu=x" in capsys.readouterr().err


def test_usage_errors_give_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_reader_who_stops_reading_is_no_error(root: Path) -> None:
    command = f"{sys.executable} -m camac_dra.utils schema | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigurationError("a: is wrong"), 2, "error: a: is wrong\n"),
        (OutputError("out: the disk is full"), 2, "error: out: the disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def command() -> int:
        raise error

    assert run_command(command) == code
    assert capsys.readouterr().err == message


def test_defects_keep_their_traceback() -> None:
    def command() -> int:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        run_command(command)
