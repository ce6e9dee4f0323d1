"""What a folder of several runs belongs to, so that nobody goes on in it with something else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from camac_dra.utils.config_loader import as_portable_dict
from camac_dra.utils.schema import Config


def kept_settings(config: Config, left_out: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the configuration by section, as JSON gives it back, without these settings of ``training``."""
    data: dict[str, dict[str, Any]] = json.loads(json.dumps(as_portable_dict(config)))
    for name in left_out:
        del data["training"][name]
    return data


def differing_settings(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Any]) -> list[str]:
    """Return the dotted paths of the settings that are not what they were."""
    return [
        f"{section}.{name}"
        for section, values in now.items()
        for name, value in values.items()
        if before.get(section, {}).get(name) != value
    ]
