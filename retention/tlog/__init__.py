"""The published ledger as values: the C2SP transparency log formats. Pure: no files, no keys kept, no clock.

Rules of this package:
- The formats are those of c2sp.org: tlog-tiles, signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof@v1; so
  any client of theirs reads what this writes, and checks it without Muniment.
- One text has one form. Numbers, base64 and keys are accepted only as this package would write them, so that no
  byte of a published file can change and still mean the same.
- What was published and cannot be right raises Damaged, with the place; a key that a person gave, UsageError.
"""
