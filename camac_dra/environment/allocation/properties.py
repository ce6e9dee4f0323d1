"""What each mechanism guarantees: every entry is proven, or refuted by a counterexample, in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Holds(StrEnum):
    """How far a property holds."""

    ALWAYS = "always"
    DISJOINT = "disjoint"  # while no agent is in two groups
    NEVER = "never"  # a counterexample with one group exists


_ALWAYS, _DISJOINT, _NEVER = Holds.ALWAYS, Holds.DISJOINT, Holds.NEVER

_COLUMNS = (
    "within_request",  # 0 <= grant <= request
    "feasible",  # every group's load is within its capacity
    "work_conserving",  # per resource, an unmet request has a full group (or no access)
    "equivariant",  # renumbering the agents renumbers the grants
    "capacity_monotone",  # more of any capacity cuts nobody's grants
    "request_monotone",  # asking for more of a resource cuts none of one's own grants
    "envy_free",  # among members of the same groups nobody would rather have another's grants
    "scale_invariant",  # in other units the grants are the same amounts
)

_TABLE = {
    "proportional": (_ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _ALWAYS, _ALWAYS, _NEVER, _ALWAYS),
    "equal": (_ALWAYS, _ALWAYS, _NEVER, _ALWAYS, _ALWAYS, _ALWAYS, _ALWAYS, _ALWAYS),
    "max_min": (_ALWAYS, _ALWAYS, _ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _ALWAYS, _ALWAYS),
    "weighted_max_min": (_ALWAYS, _ALWAYS, _ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _ALWAYS, _ALWAYS),
    "proportional_fair": (_ALWAYS, _ALWAYS, _ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _ALWAYS, _ALWAYS),
    "drf": (_ALWAYS, _ALWAYS, _NEVER, _ALWAYS, _NEVER, _NEVER, _ALWAYS, _ALWAYS),
    "priority": (_ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _DISJOINT, _ALWAYS, _NEVER, _ALWAYS),
    "first_come": (_ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _DISJOINT, _ALWAYS, _NEVER, _ALWAYS),
    "weighted_random": (_ALWAYS, _ALWAYS, _ALWAYS, _NEVER, _DISJOINT, _ALWAYS, _NEVER, _ALWAYS),
    "auction": (_ALWAYS, _ALWAYS, _DISJOINT, _ALWAYS, _DISJOINT, _ALWAYS, _NEVER, _ALWAYS),
}

PROPERTIES: Mapping[str, Mapping[str, Holds]] = MappingProxyType(
    {name: MappingProxyType(dict(zip(_COLUMNS, row, strict=True))) for name, row in _TABLE.items()}
)
"""`PROPERTIES[strategy][property]` says how far it holds.

Notes. `work_conserving` fails for the ranked mechanisms only where equal ranks share over overlapping groups.
`drf` keeps bundles whole: it is work-conserving for bundles (who wants more draws on something full) and free
of envy for bundles. `weighted_random` is equivariant in distribution; its other entries compare the same
draw. `envy_free` for `weighted_max_min` and `proportional_fair` is of grants per unit of weight, for `equal`,
`max_min` and `drf` of grants.
"""
