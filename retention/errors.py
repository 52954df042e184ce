"""What can go wrong, grouped by who must act.

Rules of this module:
- A message names the thing, what was expected, what was found, and the next step.
- A refusal begins with "refusing to".
- Each group has the exit code of the command line (docs/design.md, *The command line*); nothing else
  decides an exit code. A user's mistake never shows a traceback.
"""

from __future__ import annotations


class MunimentError(Exception):
    """Any condition that Muniment foresaw; `str()` of it is written for the person who reads it."""

    exit_code = 1


class UsageError(MunimentError):
    """The person at the command line, or the writer of a configuration file, must change something."""

    exit_code = 2


class Refused(MunimentError):
    """A rule forbids it: a hold, a lock, four eyes, a limit. The records officer decides."""

    exit_code = 3


class ServiceUnavailable(MunimentError):
    """PostgreSQL, the vault or a source does not answer; the IT operator must act. Running again is safe."""

    exit_code = 4


class NotFound(MunimentError):
    """The named thing does not exist (a record, an object, a run)."""

    exit_code = 2


class Damaged(MunimentError):
    """Bytes are not what their digest says, or a store answered what it cannot mean. Never retried blindly."""

    exit_code = 1
