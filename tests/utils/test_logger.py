"""``Logger`` writes each message once, to the screen and to files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from camac_dra.utils import ConfigurationError, Logger, OutputError

NAME = "camac_dra.test_logger"


@pytest.fixture
def logger() -> Iterator[Logger]:
    logger = Logger(NAME, level="DEBUG")
    yield logger
    logger.close()


def test_messages_have_level_and_name_and_come_once(logger: Logger, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "debug.log"
    logger.configure_file_handler(str(path))
    logger.configure_file_handler(path)
    Logger(NAME, level="DEBUG").info("from another logger of the same name")
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)(f"{level} 100 %s")
    lines = path.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"INFO    {NAME}: from another logger of the same name",
        f"DEBUG   {NAME}: debug 100 %s",
        f"INFO    {NAME}: info 100 %s",
        f"WARNING {NAME}: warning 100 %s",
        f"ERROR   {NAME}: error 100 %s",
    ]


def test_messages_below_the_level_are_left_out(tmp_path: Path) -> None:
    logger = Logger(NAME, level="warning")
    logger.configure_file_handler(tmp_path / "log")
    logger.info("quiet")
    logger.error("loud")
    assert "quiet" not in (tmp_path / "log").read_text()
    assert "loud" in (tmp_path / "log").read_text()
    logger.close()


def test_messages_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler()  # what a program that uses us may have set up
    root.addHandler(handler)
    try:
        Logger(NAME)
        logger = Logger(NAME)
        logger.info("hello")
        logger.close()
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err.count("hello") == 1


def test_closing_lets_go_of_files(logger: Logger, tmp_path: Path) -> None:
    logger.configure_file_handler(tmp_path / "log")
    logger.close()
    assert logging.getLogger(NAME).handlers == []


def test_bad_level_and_bad_place_are_refused(logger: Logger, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"level: must be one of DEBUG, .*, got 'DEBGU'\. Did you mean 'DEBUG'"
    ):
        Logger(NAME, level="DEBGU")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/log: the log cannot be written there"):
        logger.configure_file_handler(tmp_path / "file" / "log")
