"""The compliance report: what is held, what is due, what waits, what came in, and whether all of it is in order.

    compile_report  reads one snapshot of the catalog into a `ComplianceReport`
    write           puts it into a folder as a page, as JSON and as lists in CSV

Rules of this package:
- No number without the list behind it (docs/design.md, invariant 10).
- A report that is kept holds ids, classes, codes, dates and digests; names are resolved when somebody looks
  (requirements' *Residue*). `names=True` makes a copy for the eye, kept apart, which `sweep_names` removes.
- What did not run is red (invariant 7).
"""

from __future__ import annotations

from retention.reports.compilation import compile_report
from retention.reports.files import sweep_names, write
from retention.reports.model import Check, ComplianceReport, Figure, Listing, Status

__all__ = [
    "Check",
    "ComplianceReport",
    "Figure",
    "Listing",
    "Status",
    "compile_report",
    "sweep_names",
    "write",
]
