"""What is refused, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from camac_dra.utils.arguments import (
    check_kind,
    check_list,
    check_mapping,
    check_number,
    check_rows,
    check_text,
    check_whole,
)
from camac_dra.utils.errors import ProtocolError

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda e: check_text("name", "", e), "name must be text that is not empty, got ''"),
        (lambda e: check_text("name", 3, e), "name must be text that is not empty, got 3"),
        (lambda e: check_whole("n", 0, 1, e), "n must be a whole number of at least 1, got 0"),
        (lambda e: check_whole("n", True, 1, e), "n must be a whole number of at least 1, got True"),
        (lambda e: check_whole("n", None, 1, e), "n must be a whole number of at least 1, got None"),
        (
            lambda e: check_whole("n", "3", 1, e, optional="for all"),
            "n must be a whole number of at least 1, or None for all, got '3'",
        ),
        (lambda e: check_number("x", NAN, e), "x must be a number, got nan"),
        (lambda e: check_number("x", "1", e, least=0.0), "x must be a number of at least 0, got '1'"),
        (lambda e: check_number("x", -1, e, least=0.0), "x must be a number of at least 0, got -1"),
        (lambda e: check_kind("error", 3, OSError, e), "error must be an OSError, got 3"),
        (lambda e: check_kind("text", 3, str, e), "text must be a str, got 3"),
        (lambda e: check_mapping("state", [1], e), r"state must be a dict, got \[1\]"),
        (lambda e: check_list("agents", "ab", "ids", e), "agents must be a list of ids, got 'ab'"),
        (lambda e: check_list("agents", None, "ids", e), "agents must be a list of ids, got None"),
        (
            lambda e: check_rows("items:", [(1, 2), (1,)], ("a", "b"), e),
            r"items: must be a list of \(a, b\), got \(1,\) in it",
        ),
        (
            lambda e: check_rows("items:", ["ab"], ("a", "b"), e),
            r"items: must be a list of \(a, b\), got 'ab' in it",
        ),
    ],
)
def test_what_is_wrong_is_named_with_rule_and_value(check: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        check(ProtocolError)


def test_what_is_right_is_returned() -> None:
    assert check_text("name", "x", ProtocolError) == "x"
    assert check_whole("n", 1, 1, ProtocolError) == 1
    assert check_whole("n", None, 1, ProtocolError, optional="for all") is None
    assert check_number("x", 1, ProtocolError, least=1.0) == 1.0
    assert check_kind("x", 3, int, ProtocolError) == 3
    assert check_mapping("x", {1: 2}, ProtocolError) == {1: 2}
    assert check_list("x", (name for name in "ab"), "ids", ProtocolError) == ["a", "b"]
    assert check_rows("x", [(1, 2), [3, 4]], ("a", "b"), ProtocolError) == [(1, 2), [3, 4]]
