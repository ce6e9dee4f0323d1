"""``Logger``: messages with time, level and name, on standard error and, if wanted, in a file."""

from __future__ import annotations

import logging
from pathlib import Path

from camac_dra.utils.errors import ConfigurationError, OutputError, did_you_mean

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Logger:
    """A named logger; two of the same name share handlers, so that no message is written twice."""

    def __init__(self, name: str, level: str = "INFO") -> None:
        known = level.upper() if isinstance(level, str) else level
        if known not in LEVELS:
            hint = did_you_mean(str(known), LEVELS)
            raise ConfigurationError(f"level: must be one of {', '.join(LEVELS)}, got {level!r}.{hint}")
        self._logger = logging.getLogger(name)
        self._logger.setLevel(known)
        if not any(type(handler) is logging.StreamHandler for handler in self._logger.handlers):
            self._add(logging.StreamHandler())

    def debug(self, message: str) -> None:
        """Log a message for whoever looks for a defect."""
        self._logger.debug("%s", message)

    def info(self, message: str) -> None:
        """Log what is going on."""
        self._logger.info("%s", message)

    def warning(self, message: str) -> None:
        """Log what may turn out wrong."""
        self._logger.warning("%s", message)

    def error(self, message: str) -> None:
        """Log what went wrong."""
        self._logger.error("%s", message)

    def configure_file_handler(self, log_file: str | Path) -> None:
        """Write all messages into a file too, after what it has; asking twice for one file changes nothing.

        Raises:
            OutputError: the file cannot be written.
        """
        path = Path(log_file).resolve()
        handlers = self._logger.handlers
        if any(isinstance(h, logging.FileHandler) and Path(h.baseFilename) == path for h in handlers):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{log_file}: the log cannot be written there: {error.strerror}") from error
        self._add(handler)

    def close(self) -> None:
        """Close the files and let the name's messages go where they went before."""
        for handler in list(self._logger.handlers):
            self._logger.removeHandler(handler)
            handler.close()
        self._logger.propagate = True

    def _add(self, handler: logging.Handler) -> None:
        handler.setFormatter(logging.Formatter(FORMAT))
        self._logger.addHandler(handler)
        self._logger.propagate = False  # else the root logger writes the message once more
