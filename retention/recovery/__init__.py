"""A catalog that is gone, made once more from vault, ledger and key safe; from a recovery point where there is one.

Rules of this package (requirements: storage, *Backup and disaster recovery*):
- Into an empty catalog only, in one transaction: cut anywhere, the catalog is empty still, and the same is run again.
- The published ledger is the truth: events come from it, checked first; rows are what the events make of them
  (`tables`). A dump, the vault and sealed lines give what no event tells (`staging`).
- What was destroyed stays destroyed, what was held is held: the history says so up to its newest checkpoint, however
  old the dump is. Of a key that the history has ended no row comes back.
- Without a dump the keys of records are in no copy but for what the vault keeps of them: the record is there, with its
  dates, its state and its holds, and cannot be opened until the rows of its keys come back.
- What could not be recovered is told by `verify`, which compares everything; nothing is made up to satisfy it.
"""

from __future__ import annotations

from retention.recovery.rebuilding import Rebuilt, rebuild
from retention.recovery.restoring import Restored, restore

__all__ = ["Rebuilt", "Restored", "rebuild", "restore"]
