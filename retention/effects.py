"""What an approved proposal does, by its kind: the one place that knows who takes effect.

Rules of this module:
- Each effect runs in the transaction of the last signature (retention.approvals), or refuses, and then nothing was
  signed either.
"""

from __future__ import annotations

from collections.abc import Mapping

from retention import approvals, holds, policy, triggers
from retention.approvals import Effect, Kind
from retention.disposition import rejected, reviewing

EFFECTS: Mapping[Kind, Effect] = {
    Kind.DISPOSITION: reviewing.approved,
    Kind.SCHEDULE: policy.take_effect,
    Kind.HOLD_RELEASE: holds.take_effect,
    Kind.REJECTED: rejected.take_effect,
    Kind.TRIGGER: triggers.take_effect,
    Kind.RETRACTION: triggers.take_effect,
    Kind.RESUMPTION: triggers.take_effect,
    Kind.ENROLMENT: approvals.enrol_approved,
    Kind.REVOCATION: approvals.revoke_approved,
}
