"""What Ray must find in the environment of the process that starts it."""

from __future__ import annotations

import os

# No reports to its makers, and an explicit choice about authentication, without which the processes of one
# cluster may disagree.
SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def set_surroundings() -> None:
    """Set what Ray reads from the environment, where the user has not."""
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
