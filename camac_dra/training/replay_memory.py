"""How much memory replay takes, and whether the machine has it."""

from __future__ import annotations

import math

from camac_dra.models.transitions import SPARE
from camac_dra.utils.memory import gib, too_large
from camac_dra.utils.provenance import memory_bytes

SHARE = 0.8  # of the machine's memory; the rest is for everything else
OWN_BYTES, FEATURE_BYTES, COMPONENT_BYTES = 28, 4, 4  # of a transition, see `TransitionMemory`
PRIORITY_BYTES = 32  # at most: of the sum tree, which is rounded up to a power of two


def transition_bytes(
    features: int, components: int = 1, mask_size: int = 0, *, prioritized: bool = False
) -> float:
    """Return what a transition takes in an `ExperienceBuffer` in memory.

    That is of ``features`` numbers in an observation, ``components`` of an action, and ``mask_size`` actions
    with masks, 0 without. Where it takes part in priorities, it is the most that it can be.
    """
    own = OWN_BYTES + COMPONENT_BYTES * (components - 1) + mask_size
    return own + FEATURE_BYTES * features * (1 + 1 / SPARE) + PRIORITY_BYTES * prioritized


def check_replay_fits(size: int, row: float, *, policies: int = 1, brought: float = math.inf) -> None:
    """Refuse buffers of ``size`` transitions, ``row`` bytes each, that the machine has no memory for.

    Room is taken as it fills, so that of several policies together counts what a training can bring. Nothing
    is refused where the system does not tell how much memory there is.

    Args:
        size: transitions kept, for each policy.
        row: bytes of a transition, see `transition_bytes`.
        policies: how many have a buffer.
        brought: transitions that the training brings to all of them together.

    Raises:
        ConfigurationError: they do not fit; it says what would.
    """
    memory = memory_bytes()
    if memory is None:
        return
    needed = row * max(size, min(policies * size, brought))
    if needed <= SHARE * memory:
        return
    each = f" for each of {policies} policies" if policies > 1 else ""
    raise too_large(
        "training.replay_buffer_size",
        f"{size} transitions{each}",
        needed,
        f"{SHARE:.0%} of this machine's {gib(memory)}",
        f"at most {int(SHARE * memory / (row * policies))} fit",
    )
