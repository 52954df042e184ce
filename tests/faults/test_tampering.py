"""Whatever is changed in a published ledger is found and named, with nothing but the folder and the key.

TAMPERINGS=10000 changes it more often."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from retention import merkle
from retention.errors import UsageError
from retention.history import offline
from retention.tlog import checkpoint, note, tiles
from retention.tlog.checkpoint import Checkpoint
from retention.tlog.note import Signer
from retention.tlog.tiles import Tile

ORIGIN = "records.example.org/ledger"
SIGNER = note.parse_skey(note.skey(ORIGIN, 1, bytes(range(32))))
SIZES = (3, 256, 300, 700)  # of the checkpoints that were made one after the other
ROUNDS = int(os.environ.get("TAMPERINGS", "600"))


def entries(count: int, start: int = 0) -> list[bytes]:
    return [f'{{"number":{number},"detail":{{}}}}'.encode() for number in range(start, start + count)]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def publish(folder: Path, all_entries: list[bytes], old: int, signer: Signer = SIGNER) -> None:
    """As a log does, over the files that stand there."""
    leaves = [merkle.leaf_hash(entry) for entry in all_entries]
    for tile, content in tiles.grow(old, lambda tile: (folder / tile.path).read_bytes(), leaves[old:]):
        write(folder / tile.path, content)
        if tile.level == 0:
            first = tile.index * tiles.WIDTH
            write(folder / tile.entries.path, tiles.encode(all_entries[first : first + tile.width]))
    signed = checkpoint.sign(Checkpoint(ORIGIN, len(leaves), merkle.tree_root(leaves)), signer).encode()
    write(folder / "checkpoint", signed)
    write(folder / f"checkpoints/{len(leaves):020}", signed)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    old = 0
    for size in SIZES:
        publish(folder, entries(size), old)
        old = size
    return folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "copy")
    return tmp_path / "copy"


def check(folder: Path) -> offline.Verified:
    return offline.verify(folder, [SIGNER.verifier], processes=1)


def test_what_was_published_is_whole(copy: Path) -> None:
    told: list[tuple[int, int]] = []
    found = offline.verify(copy, [SIGNER.verifier], lambda *counts: told.append(counts), processes=1)
    assert (found.problems, found.size, found.checkpoints) == ([], 700, 5)
    assert found.root == merkle.tree_root(map(merkle.leaf_hash, entries(700)))
    assert found.signed_by == (SIGNER.verifier,)
    assert told == [(256, 700), (512, 700), (700, 700)]


def test_several_processes_find_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_CHUNK", 1)
    monkeypatch.setattr(offline, "_WORTH", 0)
    (copy / "tile/0/001").unlink()
    found = offline.verify(copy, [SIGNER.verifier], processes=2)
    assert [problem.path for problem in found.problems] == ["tile/0/001"] and found.root == check(copy).root


# ---------------------------------------------------------------- at random


def _flip(path: Path, chance: Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _insert(path: Path, chance: Random) -> None:
    content, at = path.read_bytes(), chance.randrange(path.stat().st_size + 1)
    path.write_bytes(content[:at] + chance.randbytes(1) + content[at:])


def _cut(path: Path, chance: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def _remove(path: Path, chance: Random) -> None:
    path.unlink()


def _double(path: Path, chance: Random) -> None:
    path.write_bytes(path.read_bytes() * 2)


def _reorder(path: Path, chance: Random) -> None:
    """Two parts of it change places."""
    content = path.read_bytes()
    while True:
        a, b, c = sorted(chance.randrange(len(content) + 1) for _ in range(3))
        changed = content[:a] + content[b:c] + content[a:b] + content[c:]
        if changed != content:
            path.write_bytes(changed)
            return


CHANGES: list[Callable[[Path, Random], None]] = [_flip, _insert, _cut, _remove, _double, _reorder]


def test_any_change_is_found_and_the_file_named(published: Path, copy: Path) -> None:
    chance = Random(20260301)
    files = sorted(str(path.relative_to(published)) for path in published.rglob("*") if path.is_file())
    kinds = {kind: [f for f in files if f.startswith(kind)] for kind in ("checkpoint", "tile/0", "tile/1", "tile/e")}
    for number in range(ROUNDS):
        name = chance.choice(chance.choice(list(kinds.values())))
        change = CHANGES[number % len(CHANGES)]
        present = {name for name in files if not name.startswith("checkpoint")} - _older(files)
        if change is _remove and (name in _older(files) or not (name == "checkpoint" or name in present)):
            continue  # an older file may go; a copy of an older checkpoint is the next test's
        change(copy / name, chance)
        if name == "checkpoint" and change is _remove:
            with pytest.raises(UsageError, match="expected a published ledger"):
                check(copy)
        else:
            named = {problem.path for problem in check(copy).problems}
            assert name in named, (number, change.__name__, name, named)
        shutil.copyfile(published / name, copy / name)
    assert check(copy).ok


def _older(files: list[str]) -> set[str]:
    """Partial files that a later one took the place of."""
    tiles_of = {path: tile for path in files if (tile := tiles.parse_path(path))}
    present = set(tiles.growth(0, SIZES[-1]))
    present |= {tile.entries for tile in present if tile.level == 0}
    return {path for path, tile in tiles_of.items() if tile not in present}


# ---------------------------------------------------------------- by somebody who knows how


def paths(found: offline.Verified) -> list[str]:
    return [problem.path for problem in found.problems]


def test_an_entry_that_was_changed_is_named_alone(copy: Path) -> None:
    bundle = copy / "tile/entries/001"
    bundle.write_bytes(bundle.read_bytes().replace(b'"number":300', b'"number":999'))
    (problem,) = check(copy).problems
    assert problem.path == "tile/entries/001"
    assert problem.said.startswith("entry 44 (event 300) is not the one that was logged")


def test_history_that_was_rewritten_whole_does_not_fit_what_was_signed(copy: Path) -> None:
    """All tiles are made anew over a forged entry; without the key the checkpoints cannot be."""
    forged = entries(700)
    forged[100] = b'{"number":100,"detail":{"forged":true}}'
    kept = {path: path.read_bytes() for path in [copy / "checkpoint", *(copy / "checkpoints").iterdir()]}
    shutil.rmtree(copy / "tile")
    publish(copy, forged, 0)
    for path, content in kept.items():
        path.write_bytes(content)
    found = check(copy)
    assert paths(found) == ["checkpoint", *(f"checkpoints/{size:020}" for size in (256, 300, 700))]
    assert all("rewritten after it was signed" in problem.said for problem in found.problems)


def test_a_fork_that_was_signed_is_found_by_the_older_copies(copy: Path) -> None:
    """Even the log's own key does not help: what it signed before stands there."""
    forged = entries(700)
    forged[100] = b'{"number":100,"detail":{"forged":true}}'
    shutil.rmtree(copy / "tile")
    publish(copy, forged, 0)
    assert paths(check(copy)) == ["checkpoints/00000000000000000256", "checkpoints/00000000000000000300"]


def test_an_older_checkpoint_in_the_place_of_the_newest(copy: Path) -> None:
    shutil.copyfile(copy / "checkpoints/00000000000000000300", copy / "checkpoint")
    (problem,) = check(copy).problems
    assert problem.path == "checkpoint" and "rolled back" in problem.said


def test_events_that_were_cut_off_with_all_that_names_them(copy: Path) -> None:
    """Who removes the newest copies too is found by whoever remembers a checkpoint: a witness. Here the files tell."""
    shutil.copyfile(copy / "checkpoints/00000000000000000300", copy / "checkpoint")
    (copy / "checkpoints/00000000000000000700").unlink()
    assert {*paths(check(copy))} >= {"tile/0/001", "tile/entries/001"}


def test_another_key(copy: Path) -> None:
    stranger = note.parse_skey(note.skey(ORIGIN, 1, bytes(32)))
    found = offline.verify(copy, [stranger.verifier], processes=1)
    assert paths(found) == ["checkpoint", *(f"checkpoints/{size:020}" for size in SIZES)]
    publish(copy, entries(700), 700, stranger)
    assert paths(check(copy)) == ["checkpoint", "checkpoints/00000000000000000700"]


def test_what_belongs_to_no_ledger(copy: Path) -> None:
    write(copy / "tile/0/000.p/257", b"")
    write(copy / "tile/0/x000/000", b"")
    write(copy / "notes.txt", b"")
    write(copy / "tile/7/000", b"")
    assert sorted(paths(check(copy))) == ["notes.txt", "tile/0/000.p/257", "tile/0/x000/000", "tile/7/000"]


def test_a_folder_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a published ledger with its `checkpoint`"):
        check(tmp_path)


def test_many_problems_are_counted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "MOST", 2)
    for path in _bundles(copy):
        path.unlink()
    found = check(copy)
    assert len(found.problems) == 2 and found.more >= 1


def _bundles(folder: Path) -> Iterator[Path]:
    for tile in tiles.growth(0, SIZES[-1]):
        if tile.level == 0:
            yield folder / Tile(tiles.ENTRIES, tile.index, tile.width).path
