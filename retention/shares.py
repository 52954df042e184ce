"""A root key in shares, of which some make it once more and fewer tell nothing (SLIP-39, Shamir's scheme).

Rules of this module:
- A share is 33 words of SLIP-0039 with a checksum, so that a holder can keep it on paper, and any SLIP-39 tool makes
  the 32 bytes of the root's secret of enough of them (no passphrase, one group). Lines above the words, which begin
  with #, say which root it is of and which share it is; without them the words suffice.
- Shares are combined before they are handed out: what was never tried is no escrow.
- What is wrong is said by the name of the share: damaged, of another root, of another set, too few. More than are
  needed are all tried, so that a drill tells which holder's share is worth nothing.
- No word of a share is in a message, a log or `repr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import shamir_mnemonic
from shamir_mnemonic.share import Share as Words

from retention.errors import Damaged, UsageError
from retention.roots import Root, identity_of, in_file

MOST = 16  # of SLIP-39
_SAID = re.compile(r"^# (root|share): +(\S+(?: of \d+)?)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Share:
    """What one holder keeps. `root` and `holders` are None where the lines that say it are not there."""

    number: int
    threshold: int
    words: str = field(repr=False)
    holders: int | None = None
    root: UUID | None = None


def split(root: Root, holders: int, threshold: int) -> list[Share]:
    """Shares for so many holders, any `threshold` of whom make the root. Raises UsageError for other numbers."""
    if not 2 <= threshold <= holders <= MOST:
        raise UsageError(
            f"{threshold} of {holders} holders: expected at least two who are needed, no more than there are holders, "
            f"and at most {MOST} holders. One who suffices alone has the root itself: copy root.key."
        )
    (made,) = shamir_mnemonic.generate_mnemonics(1, [(threshold, holders)], root.secret)
    shares = [Share(n, threshold, words, holders, root.id) for n, words in enumerate(made, 1)]
    if combine({f"share {one.number}": one for one in shares}).id != root.id:
        raise Damaged("the shares that were made do not make the root again. Nothing was written; try once more.")
    return shares


def text(share: Share, made_at: datetime) -> str:
    """The file of one share."""
    return (
        f"# One share of a root key of Muniment. It opens nothing alone; keep it apart from the others, and from no\n"
        f"# computer that is online. {share.threshold} of {share.holders} make the root: muniment key recover\n"
        f"# root:  {share.root}\n"
        f"# share: {share.number} of {share.holders}\n"
        f"# made:  {made_at:%Y-%m-%d}\n"
        f"{share.words}\n"
    )


def parse(content: str, name: str) -> Share:
    """A share as `text` wrote it, or its words alone. Raises Damaged for what was changed, UsageError for no share."""
    said = dict(_SAID.findall(content))
    words = " ".join(line for line in content.splitlines() if not line.lstrip().startswith("#")).split()
    if len(words) != 33:
        raise UsageError(f"{name}: expected the 33 words of a share, found {len(words)}.")
    try:
        found = Words.from_mnemonic(" ".join(words).lower())
    except shamir_mnemonic.MnemonicError:  # its message has words of the share
        raise Damaged(
            f"{name}: a word of this share was changed, or two changed places. Compare it with paper."
        ) from None
    number, _, holders = said.get("share", "").partition(" of ")
    share = Share(
        found.index + 1,
        found.member_threshold,
        found.mnemonic(),
        int(holders) if holders else None,
        _uuid(said["root"], name) if "root" in said else None,
    )
    if number and int(number) != share.number:
        raise Damaged(f"{name}: it says that it is share {number}, its words are those of share {share.number}.")
    return share


def combine(shares: Mapping[str, Share]) -> Root:
    """The root of these shares, by the name of each. Raises UsageError for too few and for those of several roots,
    Damaged for shares that do not fit together."""
    _one_root(shares)
    numbers = {share.number: name for name, share in reversed(list(shares.items()))}
    distinct = {number: shares[name] for number, name in sorted(numbers.items())}
    first = next(iter(distinct.values()), None)
    if first is None or len(distinct) < first.threshold:
        needed = f"{first.threshold}" if first else "at least two"
        raise UsageError(
            f"expected {needed} different shares, found {len(distinct)}"
            f"{' (' + ', '.join(map(str, distinct)) + ')' if distinct else ''}. Ask another holder."
        )
    kept = list(distinct.values())
    secret = _secret(kept[: first.threshold], numbers)
    for more in kept[first.threshold :]:
        if _secret([*kept[: first.threshold - 1], more], numbers) != secret:
            raise Damaged(f"{numbers[more.number]}: with it another secret comes out: it is of another root.")
    root = in_file(identity_of(secret))
    for name, share in shares.items():
        if share.root not in (None, root.id):
            raise Damaged(f"{name}: it says that it is of root {share.root}; with the others it makes root {root.id}.")
    return root


def _one_root(shares: Mapping[str, Share]) -> None:
    """Of several the names of each are said."""
    of: dict[str, list[str]] = {}
    for name, share in shares.items():
        identifier = Words.from_mnemonic(share.words).common_parameters()
        known = f"root {share.root}, set {identifier.identifier}" if share.root else f"set {identifier.identifier}"
        of.setdefault(known, []).append(name)
    sets = {known.rpartition("set ")[2] for known in of}
    if len(sets) > 1 or len({share.root for share in shares.values() if share.root}) > 1:
        listed = "".join(f"\n  {known}: {', '.join(names)}" for known, names in of.items())
        raise UsageError(f"these shares are not of one escrow, and do not go together. Choose those of one:{listed}")


def _secret(shares: Sequence[Share], names: Mapping[int, str]) -> bytes:
    try:
        return bytes(shamir_mnemonic.combine_mnemonics([share.words for share in shares]))
    except shamir_mnemonic.MnemonicError:
        raise Damaged(
            f"{', '.join(names[share.number] for share in shares)}: they do not fit together: one of them was changed. "
            "Try with another in its place."
        ) from None


def _uuid(given: str, name: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        raise Damaged(f"{name}: expected the id of a root after `# root:`, found {given[:40]!r}.") from None
