"""Regular expressions of the schedule file, bounded so that no document can make one run for ever.

Rules of this module:
- A pattern is refused unless the number of ways in which it can be tried from one place of the text is known
  from the pattern alone and at most `MAX_WAYS`, and the longest match is at most `MAX_WIDTH` characters. So
  the work on a text is at most its length times both.
- Hence every repeat has an upper bound, and there are no back references, look-arounds or conditionals.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

MAX_WAYS = 2_000
MAX_WIDTH = 2_000
MAX_LENGTH = 500

# The standard library's own parser: what it yields is what re.compile compiles. It has no public name
# since sre_parse was deprecated.
_parser: Any = import_module("re._parser")


def bounded(pattern: str) -> re.Pattern[str]:
    """`pattern` compiled, ignoring case, `^` and `$` at lines. Raises ValueError with what to write instead."""
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"expected a pattern of at most {MAX_LENGTH} characters")
    try:
        tree = _parser.parse(pattern, re.IGNORECASE | re.MULTILINE)
        ways = _ways(tree)
        compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a regular expression ({error})") from error
    if tree.getwidth()[1] > MAX_WIDTH:
        raise ValueError(f"expected a pattern that matches at most {MAX_WIDTH} characters")
    if ways > MAX_WAYS:
        raise ValueError(
            f"expected a pattern that can be tried in at most {MAX_WAYS} ways from one place; "
            "make the upper bounds of its repeats smaller"
        )
    return compiled


def _ways(tree: Any) -> int:
    """How many ways lead through a sequence; capped just above the limit."""
    total = 1
    for operator, argument in tree:
        total = min(total * _item(str(operator), argument), MAX_WAYS + 1)
    return total


def _item(operator: str, argument: Any) -> int:
    if operator in {"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "RANGE", "CATEGORY"}:
        return 1
    if operator == "SUBPATTERN":
        return _ways(argument[3])
    if operator == "BRANCH":
        return min(sum(_ways(branch) for branch in argument[1]), MAX_WAYS + 1)
    if operator in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        least, most, body = argument
        if most is _parser.MAXREPEAT:
            raise ValueError(r"expected a repeat with an upper bound, such as \s{1,5} for \s+ and .{0,80} for .*")
        one, total = _ways(body), 0
        for count in range(int(least), int(most) + 1):
            total += one**count if one > 1 else 1
            if total > MAX_WAYS:
                return MAX_WAYS + 1
        return max(total, 1)
    raise ValueError("expected no back reference, look-around or conditional")
