"""Commands on configurations.

::

    python -m camac_dra.utils validate-config FILE [--section.setting VALUE ...]
    python -m camac_dra.utils schema [--output FILE]
    python -m camac_dra.utils default-config [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

from camac_dra.utils.command_line import add_config_file, config_file, run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError
from camac_dra.utils.file_handler import atomic_write_text
from camac_dra.utils.overrides import parse_overrides, split_settings
from camac_dra.utils.schema import Config
from camac_dra.utils.schema.catalog import json_schema
from camac_dra.utils.schema.commented import commented_yaml

HEADER = (
    "yaml-language-server: $schema=schema.json\n"
    "The default configuration: every setting, its default, its meaning, unit and choices.\n"
    "Written by `make configs` from the typed schema. In a file of your own, write only what differs."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser("python -m camac_dra.utils", description="Check configurations.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    validate = commands.add_parser(
        "validate-config", help="check a configuration file; exit code 0 or 2", allow_abbrev=False
    )
    add_config_file(validate)
    for name, summary in (
        ("schema", "print the JSON schema of configurations, for editors"),
        ("default-config", "print the default configuration, every setting with its meaning"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("--output", metavar="FILE", help="write there instead of to the screen")
    tokens, settings = split_settings(sys.argv[1:] if arguments is None else arguments)
    known, rest = parser.parse_known_args(tokens)
    return run_command(partial(_run, known, [*rest, *settings]))


def _run(known: argparse.Namespace, rest: Sequence[str]) -> int:
    if known.command == "validate-config":
        file = config_file(known)
        build_config(file, parse_overrides(rest))
        print(f"{file}: valid")
        return 0
    if rest:
        raise ConfigurationError(f"{known.command}: takes no other arguments, got {' '.join(rest)}")
    if known.command == "schema":
        text = json.dumps(json_schema(), indent=2) + "\n"
    else:
        text = commented_yaml(Config(), HEADER)
    if known.output is None:
        sys.stdout.write(text)
    else:
        atomic_write_text(known.output, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
