"""Shares of a root key: enough of them make it, and what is wrong is said by name and without a word of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retention import custody, seal, shares
from retention.errors import Damaged, MunimentError, Refused, UsageError
from retention.roots import Root, new_root
from retention.shares import Share

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ROOT = new_root()
MADE = shares.split(ROOT, 5, 3)


def some(*numbers: int, of: list[Share] = MADE) -> dict[str, Share]:
    return {f"holder {number}": of[number - 1] for number in numbers}


def test_any_of_them_that_are_enough() -> None:
    for chosen in itertools.combinations(range(1, 6), 3):
        assert shares.combine(some(*chosen)).file == ROOT.file
    assert shares.combine(some(5, 4, 3, 2, 1)).id == ROOT.id
    assert "holders=5" in repr(MADE[0]) and not any(word in repr(MADE[0]) for word in MADE[0].words.split())


def test_a_share_comes_back_from_its_file_and_from_its_words_alone() -> None:
    for share in MADE:
        assert shares.parse(shares.text(share, NOW), "x") == share
        typed = shares.parse(share.words.upper().replace(" ", "\n"), "x")
        assert (typed.number, typed.threshold, typed.root, typed.words) == (share.number, 3, None, share.words)
    assert shares.combine({str(n): shares.parse(one.words, "x") for n, one in enumerate(MADE[:3])}).id == ROOT.id


def test_another_tool_makes_the_same() -> None:
    """The words are SLIP-39's: its own program gives the secret of the root."""
    code = "import sys, shamir_mnemonic as s; print(s.combine_mnemonics(sys.stdin.read().splitlines()).hex())"
    given = "\n".join(share.words for share in MADE[1:4])
    found = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    assert bytes.fromhex(found.stdout) == ROOT.secret


def refused(kind: type[MunimentError], match: str, given: dict[str, Share]) -> None:
    with pytest.raises(kind, match=match) as caught:
        shares.combine(given)
    said = set(str(caught.value).lower().replace(",", " ").split())
    assert not {word for share in given.values() for word in share.words.split() if len(word) > 6} & said


def test_too_few() -> None:
    refused(UsageError, r"expected 3 different shares, found 2 \(1, 4\)", some(1, 4))
    refused(UsageError, r"expected 3 different shares, found 1", {"a": MADE[0], "b": MADE[0], "c": MADE[0]})
    refused(UsageError, "expected at least two different shares, found 0", {})


def test_of_another_root_and_of_another_escrow() -> None:
    other = new_root()
    foreign = shares.split(other, 5, 3)
    refused(UsageError, f"(?s)root {ROOT.id}.*holder 1, holder 2.*root {other.id}.*x", {**some(1, 2), "x": foreign[2]})
    again = shares.split(ROOT, 5, 3)  # of the same root
    refused(UsageError, "(?s)not of one escrow.*: holder 1, holder 2\n.*: x", {**some(1, 2), "x": again[2]})


def test_what_was_changed_is_named() -> None:
    words = MADE[0].words.split()
    changed = " ".join([*words[:20], "zero" if words[20] != "zero" else "yoga", *words[21:]])
    for content in (changed, shares.text(MADE[0], NOW).replace(MADE[0].words, changed), " ".join(reversed(words))):
        with pytest.raises(Damaged, match="holder 1: a word of this share was changed"):
            shares.parse(content, "holder 1")
    for content in ("", "# root: x\n", " ".join(words[:-1]), MADE[0].words + " zero"):
        with pytest.raises(UsageError, match="expected the 33 words of a share, found"):
            shares.parse(content, "holder 1")
    with pytest.raises(Damaged, match="it says that it is share 2, its words are those of share 1"):
        shares.parse(shares.text(MADE[0], NOW).replace("share: 1", "share: 2"), "holder 1")
    with pytest.raises(Damaged, match="expected the id of a root"):
        shares.parse(shares.text(MADE[0], NOW).replace(str(ROOT.id), "7"), "holder 1")


def test_shares_whose_checksum_was_made_right_again() -> None:
    """Somebody who forges a share: it fits with none, in whatever place it is given."""
    from shamir_mnemonic.share import Share as Words

    honest = Words.from_mnemonic(MADE[3].words)
    value = bytes([honest.value[0] ^ 1]) + honest.value[1:]
    forged = Share(4, 3, Words(*honest.group_parameters()[:6], honest.index, 3, value).mnemonic(), 5, ROOT.id)
    refused(Damaged, "(?s)holder 1, holder 2, x: they do not fit together", {**some(1, 2), "x": forged})
    refused(Damaged, "x: they do not fit together", {**some(1, 2, 3), "x": forged})
    lying = {f"holder {n}": Share(s.number, 3, s.words, 5, new_root().id) for n, s in enumerate(MADE[:1])}
    refused(UsageError, "not of one escrow", {**some(2, 3), **lying})


@pytest.mark.parametrize(("holders", "threshold"), [(1, 1), (3, 1), (2, 3), (17, 2), (0, 0)])
def test_numbers_that_make_no_escrow(holders: int, threshold: int) -> None:
    with pytest.raises(UsageError, match=f"^{threshold} of {holders} holders: expected"):
        shares.split(ROOT, holders, threshold)


# ---------------------------------------------------------------- a folder of keys


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, Root, Path]:
    """A folder of keys whose root is gone, the root that it was, and a folder of its shares."""
    safe = seal.open_safe(tmp_path / "keys", NOW)
    (tmp_path / "keys/root.key").unlink()
    folder = tmp_path / "shares"
    folder.mkdir()
    for share in shares.split(safe.root, 3, 2)[:2]:
        (folder / f"{share.number}.txt").write_text(shares.text(share, NOW))
    return tmp_path / "keys", safe.root, folder


def test_a_root_is_made_once_more(lost: tuple[Path, Root, Path]) -> None:
    keys, root, folder = lost
    for given in ([folder], sorted(folder.iterdir())):
        path = custody.recover(custody.root_of(given), keys)
        assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == root.file
    assert seal.open_safe(keys, NOW, may_create=False).root.id == root.id


def test_a_root_of_another_safe_is_not_put_there(lost: tuple[Path, Root, Path], tmp_path: Path) -> None:
    keys, root, folder = lost
    with pytest.raises(Refused, match=f"refusing to put root {ROOT.id} beside .*safe.age, which it does not open"):
        custody.recover(ROOT, keys)
    custody.recover(custody.root_of([folder]), keys)
    with pytest.raises(Refused, match=f"refusing to write over .*root.key, which is root {root.id}"):
        custody.recover(ROOT, keys)
    (folder / "notes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="notes: expected a share, cannot read it"):
        custody.root_of([folder])
