"""How the C library keeps the memory that arrays are made of, and how to refuse what takes too much of it."""

from __future__ import annotations

import ctypes

from camac_dra.utils.errors import ConfigurationError

MMAP_THRESHOLD = -3  # glibc's names for mallopt are not exported
TRIM_THRESHOLD = -1
LARGEST_POOLED = 32 * 2**20  # bytes; larger arrays still go back to the system at once
LARGEST_KEPT = 512 * 2**20  # bytes of free memory that a process keeps at most


def keep_freed_memory() -> bool:
    """Let this process reuse freed arrays of up to 32 MiB instead of asking the system for new pages.

    Sampling and learning free and allocate arrays of about a megabyte thousands of times per second; glibc
    gives such memory back and the kernel then clears every page anew, which took a fifth of a training step.
    Returns whether it took effect; with other C libraries than glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_POOLED)) and bool(mallopt(TRIM_THRESHOLD, LARGEST_KEPT))


def gib(size: float) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"


def too_large(setting: str, what: str, needed: float, most: str, remedy: str) -> ConfigurationError:
    """Return the error for a setting by which ``what`` takes ``needed`` bytes, more than ``most`` says."""
    return ConfigurationError(f"{setting}: {what}; must be at most {most}, got {gib(needed)}: {remedy}")
