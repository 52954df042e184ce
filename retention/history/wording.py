"""What each event says, in words: for somebody who reads the life of a record and knows neither PREMIS nor us.

Rules of this module:
- Pure. An event is its entry as the ledger holds it; what its ids are called comes with `Known`.
- A shape is a code of the PREMIS vocabulary, an outcome, and the exact keys of the detail. An event of no shape is said
  with its detail as it stands, and never left out; a test fails on any event of ours that has none.
- Codes become words. A code that is not in the lists here was typed by a person (a reason), and is read as it is.
- No date of a person stands in an event. `Known.days` has those whose sealed line opened; of one that is gone it says
  that it was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Detail = Mapping[str, Any]

_CODES = {
    # why an item of a plan stayed (retention.disposition)
    "changed": "it changed after the plan was made",
    "due-locked": "a lock on it has not ended",
    "extended": "a reviewer had extended it",
    "held": "a hold has it",
    "not-accepted": "the receiver did not accept it",
    "not-due": "it is not due any more",
    "other-action": "the schedule asks for something gentler now",
    "restricted": "it is restricted (GDPR art. 18)",
    "transfer-not-acknowledged": "the receiver never acknowledged it",
    "unit-grew": "its case file or family has grown",
    "unit-held": "a hold has one that it goes together with",
    "unit-kept": "one that it goes together with is kept",
    "unit-not-due": "one that it goes together with is not due",
    "unverified": "nobody has verified the rule",
    # what is answered to a person, and why (retention.requests)
    "copy": "a copy was asked for",
    "destroy": "its retention has ended",
    "destroy-unverified": "its retention has ended, by a rule that nobody has verified",
    "disagreed": "the two calculations of its end differ",
    "disposition": "by disposition",
    "floor": "a law asks for it longer",
    "hit": "words of it match: a person must look",
    "hold": "a hold has it",
    "hold-past-ceiling": "a hold has it beyond its longest term",
    "looked-at": "a person looked at it",
    "no-end": "its period has not begun to run",
    "no-rule": "no rule says how long, so it is kept until somebody decides",
    "not-read": "it could not be read",
    "notice": "its notice still runs",
    "permanent": "it is kept for good",
    "review": "its retention has ended",
    "review-unverified": "its retention has ended, by a rule that nobody has verified",
    "transfer": "its retention has ended",
    "transfer-unverified": "its retention has ended, by a rule that nobody has verified",
    "unit": "it goes only together with others, which a law asks for",
    # grounds of GDPR art. 18(1), and of art. 12(3)
    "accuracy": "its accuracy is contested (GDPR art. 18(1)(a))",
    "unlawful": "the processing is unlawful (GDPR art. 18(1)(b))",
    "claims": "the person needs it for legal claims (GDPR art. 18(1)(c))",
    "objection": "the person objected (GDPR art. 18(1)(d))",
    "complexity": "the request is complex (GDPR art. 12(3))",
    "number": "there are many requests (GDPR art. 12(3))",
    "unstated": "no reason was given",
}
_KINDS = {
    "disposition": "the disposition plan",
    "schedule": "the load of a schedule",
    "trigger": "an event that makes something due sooner",
    "retraction": "the retraction of an event",
    "resumption": "the end of a suspension",
    "hold-release": "the release of a hold",
    "rejected": "the destruction of rejected documents",
    "enrolment": "a new approver",
    "revocation": "the end of an approver's right to sign",
}
_ANSWERS = {
    "refused": "refused",
    "restricted": "restricted: stored, and nothing else (GDPR art. 18)",
    "proposed": "to be erased: it is in a disposition plan",
    "waiting": "to be erased, and in no plan yet",
    "erasing": "it is being erased",
    "erased": "erased",
    "transferred": "transferred to another archive before",
    "lost": "it is lost: it was in no copy when the archive was restored",
    "included": "included in the copy",
    "unreadable": "not included in the copy",
    "check": "to be checked by a person",
    "not-about": "it is not about the person",
}
_REQUESTS = {
    "erase": "erasure (GDPR art. 17)",
    "access": "a copy (GDPR art. 15; 45 CFR 164.524)",
    "restrict": "restriction (GDPR art. 18)",
}
_DECISIONS = {
    "approve": "approved what the plan proposes for it",
    "extend": "decided to keep it longer",
    "relabel": "decided that it belongs to another class",
    "hold": "decided to hold it",
}
_READ = {
    "find": "found by a search",
    "show": "shown",
    "explain": "shown: why it is kept, with the dates of its events",
    "history": "shown: its history",
    "events": "shown: the dates of its events",
    "quarantine": "looked at in quarantine",
    "approval": "shown to who is to sign: the dates of its events",
    "case-files": "listed with other case files",
    "query": "the words of a search were shown",
    "hold": "shown: its matter, authority and scope",
    "holds": "shown in the list of holds: its matter",
    "request": "shown: whom it is about, who asked, what was answered",
    "report": "shown in a report with names",
}


@dataclass(frozen=True, slots=True)
class Words:
    """What an event says: what was done, why, and what it changed."""

    what: str
    why: str = ""
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ids and codes of events mean to who reads them now; what is not in it is shown as its id."""

    names: Mapping[str, str] = field(default_factory=dict)  # people, sources, case files; holds with their matter
    days: Mapping[str, str] = field(default_factory=dict)  # of trigger events whose sealed line opened
    titles: Mapping[str, str] = field(default_factory=dict)  # of classes
    laws: Mapping[tuple[str, str, str], str] = field(default_factory=dict)  # plan, class and rule -> what it stands on
    due: Mapping[str, str] = field(default_factory=dict)  # plan -> by which law, and until when, it found it due
    restricted: bool = False  # nothing that is sealed may be opened

    def name(self, id_: object) -> str:
        return self.names.get(str(id_), str(id_))

    def hold(self, id_: object) -> str:
        said = self.names.get(str(id_))
        return f"hold {id_} ({said})" if said else f"hold {id_}"

    def of_class(self, class_id: str) -> str:
        title = self.titles.get(class_id)
        return f"class {class_id} ({title})" if title else f"class {class_id}"

    def day(self, trigger_event: str) -> str:
        if said := self.days.get(trigger_event):
            return said
        if self.restricted:
            return "its date is not shown, because the record is restricted"
        return "its date is gone, with the key that it was sealed under"


def code(said: str) -> str:
    """A code in words."""
    return _CODES.get(said, said.replace("-", " "))


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# ---------------------------------------------------------------- what comes in


def _ingested(d: Detail, known: Known) -> Words:
    parts = [f"taken in as a record of {known.of_class(d['class'])}", f"{count(d['bytes'], 'byte')}"]
    if d.get("format"):
        parts.append(f"{d['format']}" + (f" ({d['puid']})" if d.get("puid") else ""))
    parts.append(f"received {d['received']}")
    parts += [f"{said} {d[key]}" for key, said in (("document_date", "dated"), ("modified", "changed")) if key in d]
    if "parent" in d:
        parts.append(f"inside record {d['parent']}")
    changed = f"it is the newer version of record {d['supersedes']}" if "supersedes" in d else ""
    return Words(", ".join(parts) + _found(d), f"classified by “{d['rule']}”", changed)


def _found(d: Detail) -> str:
    return f"; found {', '.join(d['findings'])}" if d["findings"] else ""


def _turned_away(d: Detail, _: Known) -> Words:
    return Words("turned away: the document did not become a record", f"found {', '.join(d['findings'])}")


def _quarantined(d: Detail, _: Known) -> Words:
    why = f"found {', '.join(d['findings'])}"
    return Words(f"put into quarantine, {count(d['bytes'], 'byte')}", why, "an officer must decide")


def _begun(d: Detail, known: Known) -> Words:
    return Words(
        f"the run began that took it in, from “{known.name(d['source'])}”, under schedule version {d['schedule']}"
    )


def _ended(d: Detail, _: Known) -> Words:
    sums = ", ".join(f"{d[key]:,} {key}" for key in ("discovered", "admitted", "quarantined", "rejected", "known"))
    return Words(f"the run ended: {sums}; its account has SHA-256 {d['reconciliation']}")


def _ended_badly(d: Detail, _: Known) -> Words:
    missing = d["discovered"] - d["admitted"] - d["quarantined"] - d["rejected"] - d["known"]
    return Words("the run ended, and does not add up", f"{missing:,} documents are in no list; the next run finds them")


# ---------------------------------------------------------------- what happens to it


def _triggered(d: Detail, known: Known) -> Words:
    kind = d["kind"].replace("_", " ")
    if d["kind"] == "superseded":
        return Words(f"a newer version of it came in: {known.day(d['trigger_event'])}")
    return Words(f"“{kind}” was recorded: {known.day(d['trigger_event'])}", "", "rules that wait for it count from it")


def _retracted(d: Detail, _: Known) -> Words:
    return Words(
        f"an event that was wrong was taken back (event {d['retracts']})", "", "it counts no more; it stays here"
    )


def _due(d: Detail, known: Known) -> Words:
    return Words(f"found due, and put into disposition plan {d['plan']}", known.due.get(d["plan"], ""))


def _decided(d: Detail, known: Known) -> Words:
    more = f": until {d['not_before']}" if "not_before" in d else ""
    more += f": {known.of_class(d['to_class'])}" if "to_class" in d else ""
    return Words(_DECISIONS[d["decision"]] + more, code(d["reason"]) if "reason" in d else "")


def _kept(d: Detail, _: Known) -> Words:
    of = f"plan {d['plan']}" if "plan" in d else f"proposal {d['proposal']}"
    return Words(f"not done: it is kept, although {of} was approved", code(d["kept"]))


def _proposed_plan(d: Detail, _: Known) -> Words:
    others = f"; {count(d['disagreed'], 'record')} left out, on which two calculations differ" if d["disagreed"] else ""
    what = (
        f"plan {d['plan']} was made as of {d['as_of']}, of {count(d['items'], 'record')}, {count(d['bytes'], 'byte')}"
    )
    return Words(f"{what}, under schedule version {d['schedule']}{others}")


def _gone(d: Detail, known: Known) -> Words:
    law = known.laws.get((d["plan"], d["class"], d["rule"]), f"rule {d['rule']}")
    if d["outcome"] == "transferred":
        what = "its bytes and its key here were destroyed, after the receiver had accepted it"
    else:
        what = "destroyed: its key, and every version of its sealed bytes"
    return Words(
        what, f"{law}; kept until and with {d['retain_until']}", f"it was sealed as SHA-256 {d['sealed_sha256']}"
    )


def _acknowledged(d: Detail, known: Known) -> Words:
    what = (
        f"“{known.name(d['recipient'])}” acknowledged the transfer: {d['accepted']:,} accepted, {d['rejected']:,} not"
    )
    return Words(what, f"its answer is record {d['acknowledgement']}")


# ---------------------------------------------------------------- holds


def _held(d: Detail, known: Known) -> Words:
    more = "and what arrives later" if d["mode"] == "dynamic" else "and nothing that arrives later"
    what = f"put under {known.hold(d['hold'])}, with {count(d['members'], 'record')} now, {more}"
    return Words(what, f"to be reviewed on {d['review_on']}", "it is not destroyed while the hold is in force")


def _released(d: Detail, known: Known) -> Words:
    still = f"; {d['still_held']:,} of them are under another hold" if d["still_held"] else ""
    return Words(
        f"{known.hold(d['hold'])} was released: {count(d['released'], 'record')}{still}", f"by proposal {d['proposal']}"
    )


def _joined(d: Detail, _: Known) -> Words:
    said = "became a part of" if d["joined"] else "was let go from"
    return Words(f"second vault {d['backup_vault']} {said} this archive")


def _opened(d: Detail, known: Known) -> Words:
    said = "opened to" if d["open"] else "closed again to"
    return Words(f"{known.of_class(d['class'])} was {said} the auditor “{known.name(d['auditor'])}”")


# ---------------------------------------------------------------- requests of persons


def _asked(d: Detail, _: Known) -> Words:
    asked = _REQUESTS[d["kind"]]
    return Words(
        f"a person asked for {asked}, received {d['received']}: request {d['request']}",
        f"to be answered until {d['due_on']}",
    )


def _answered(d: Detail, _: Known) -> Words:
    return Words(f"answered to request {d['request']}: {_ANSWERS.get(d['answer'], d['answer'])}", code(d["reason"]))


def _restricted(d: Detail, _: Known) -> Words:
    if d["restricted"]:
        return Words("restricted: stored, and nothing else (GDPR art. 18)", f"by request {d['request']}")
    return Words("the restriction ended", f"of request {d['request']}")


# ---------------------------------------------------------------- handed out, and looked at


def _handed_out(d: Detail, known: Known) -> Words:
    of = f"{count(d['records'], 'record')}, {count(d['files'], 'file')}, {count(d['bytes'], 'byte')}"
    to = f" to “{known.name(d['recipient'])}”" if "recipient" in d else ""
    return Words(f"handed out{to} in the package {d['package']}: {of}; digest {d['digest']}", f"for {d['purpose']}")


def _exported(d: Detail, known: Known) -> Words:
    to = f" to “{known.name(d['recipient'])}”" if "recipient" in d else ""
    among = f", with {count(d['records'] - 1, 'other record')}" if d["records"] > 1 else ""
    if d["export"] == "key":
        gone = "that copy can be opened when the key here is destroyed"
        return Words(f"handed out{to}, sealed, with the key that opens it{among}", code(d["why"]), gone)
    return Words(f"handed out{to} as a file{among}", code(d["why"]))


def _read(d: Detail, _: Known) -> Words:
    query = f"; the words of the search are sealed as {d['query']}" if "query" in d else ""
    among = f", with {count(d['shown'] - 1, 'other record')}" if d["shown"] > 1 else ""
    return Words(f"{_READ[d['read']]}{among}{query}", code(d["why"]))


# ---------------------------------------------------------------- every shape


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of event that is appended, and its words.

    `needs` and `may` are the keys of its detail; `key=value` tells it from others with the same keys. `words` is a
    function, or text: what, why and what it changed, with bars between, and `{key}` for values of the detail."""

    code: str
    needs: str
    words: Callable[[Detail, Known], Words] | str
    may: str = ""
    failed: bool = False

    def fits(self, entry: Mapping[str, Any]) -> bool:
        detail, given = entry["detail"], [one.partition("=") for one in self.needs.split()]
        needs = {key for key, _, _ in given}
        return (
            (entry["type"], entry["outcome"]) == (self.code, "failure" if self.failed else "success")
            and needs <= set(detail) <= needs | set(self.may.split())
            and all(detail[key] == value for key, _, value in given if value)
        )

    def say(self, detail: Detail, known: Known) -> Words:
        if not isinstance(self.words, str):
            return self.words(detail, known)
        called = _Called(detail, known)
        return Words(*(text.format_map(called) for text in self.words.split(" | ")))


class _Called(dict[str, object]):
    """The values of a detail, as people call them."""

    def __init__(self, detail: Detail, known: Known) -> None:
        super().__init__(detail)
        called: Mapping[str, Callable[[str], str]] = {
            "hold": known.hold,
            "class": known.of_class,
            "reason": code,
            "kind": lambda kind: _KINDS.get(kind, kind),
            **dict.fromkeys(("signer", "approver", "to"), known.name),
        }
        self.update({key: called[key](detail[key]) for key in detail.keys() & called.keys()})


_LINE = "descriptor descriptor_sha256"
_SEALED = "bytes document sealed_bytes sealed_sha256 version"
_SUMS = "discovered admitted quarantined rejected known children deferred bytes"
_LOCK = "lock locked_until"
_END = "plan class rule retain_until sealed_sha256"
_DRILL = "milliseconds records objects lost resurrected problems late"
_PACKAGE = "package digest purpose records files bytes"

SHAPES = (
    # runs, capture, quarantine
    Shape("ins", "run source schedule", _begun),
    Shape("ine", f"run reconciliation batches {_SUMS}", _ended),
    Shape("ine", f"run reconciliation batches {_SUMS}", _ended_badly, failed=True),
    Shape(
        *("ine", "run batches", "the run was cut short | its process was gone | what it had taken in stands"),
        failed=True,
    ),
    Shape("ine", "dag dag_run", "the scheduler's run ended well"),
    Shape("ine", "dag dag_run", "the scheduler's run failed", failed=True),
    Shape(
        *("ing", f"run batch findings {_LINE} {_SEALED} class rule received", _ingested),
        may=f"item aggregation parent document_date modified supersedes format puid libmagic {_LOCK}",
    ),
    Shape("ing", f"run batch item findings {_LINE}", _turned_away, failed=True),
    Shape("qua", f"run batch item findings {_LINE} {_SEALED}", _quarantined, may="supersedes"),
    Shape("qua", "decision=reject reason", "rejected from quarantine | {reason}"),
    Shape("unq", "decision=release", "released from quarantine, and became a record"),
    # what is looked after by night
    Shape("fix", "read", "its bytes were read in the vault again, and were those that were captured"),
    Shape(
        "fix", "damaged", "its bytes were read in the vault again, and were not those that were captured", failed=True
    ),
    Shape(
        *("rec", f"drill backup_vault point {_DRILL}"),
        "a restore from {backup_vault} was tried: {records} records came back and were verified, in {milliseconds} ms",
        may="escrowed",
    ),
    Shape(
        *("rec", f"drill backup_vault point {_DRILL}"),
        "a restore from {backup_vault} was tried, and was not as it should be | {problems} problems, {lost} lost, "
        "{late} classes too late",
        may="escrowed",
        failed=True,
    ),
    Shape(
        *("rec", "drill backup_vault", "a restore from {backup_vault} was tried, and came to no end"),
        may="escrowed",
        failed=True,
    ),
    Shape(
        *("rec", "restored point records lost documents"),
        "the archive was restored from recovery point {point}, and brought to {restored} events",
    ),
    Shape(
        "rec", "healed versions", "its bytes were healed from a second vault, and are again those that were captured"
    ),
    Shape("rec", "versions", "its sealed bytes were copied to the vault of the restored archive"),
    Shape(
        "rec", "lost", "it is lost | its content or its key was in no copy when the archive was restored", failed=True
    ),
    Shape("rec", "table unrecovered", "what the catalog said beside the history was in no copy", failed=True),
    Shape("poa", "locks_compared differ", "locks and legal holds were compared with the vault, and were as wanted"),
    Shape("poa", "backup_vault joined", _joined),
    Shape(
        *("rep", "backup_vault point taken size objects bytes copied problems"),
        "recovery point {point} was taken in {backup_vault}: {objects} objects, {copied} of them copied now",
    ),
    Shape(
        "rep",
        "backup_vault point taken size objects bytes copied problems",
        "recovery point {point} was taken in {backup_vault} | {problems} objects could not be copied",
        failed=True,
    ),
    Shape("fix", "backup_vault whole broken objects read problems", "the recovery points in {backup_vault} were whole"),
    Shape(
        "fix",
        "backup_vault whole broken objects read problems",
        "recovery points in {backup_vault} were missing something, or changed | {problems} problems",
        failed=True,
    ),
    Shape(
        *("poa", "backup_vault pruned objects pages safes"),
        "recovery points in {backup_vault} that the schedule does not keep were taken away, with {objects} objects",
    ),
    Shape("poa", "locks_compared differ", "its lock or legal hold was not as wanted in the vault", failed=True),
    Shape("val", "attempts not_kept vault", "the store of the vault was probed, and kept what was locked"),
    Shape(
        *("val", "attempts not_kept vault", "the store of the vault was probed, and did not keep what was locked"),
        failed=True,
    ),
    Shape("dig", "verified root tables problems", "the archive was checked against its history, and was whole"),
    Shape("dig", "verified root tables problems", "the archive was not as its history says", failed=True),
    # case files, triggers, suspensions
    Shape("cre", f"aggregation {_LINE}", "its case file was opened (a {aggregation})"),
    Shape(
        "mem", "aggregation=assigned to", "put into the case file {to} |  | what happens to the case file holds for it"
    ),
    Shape("mem", f"trigger_event kind {_LINE}", _triggered),
    Shape("mem", f"trigger_event retracts {_LINE}", _retracted),
    Shape("mem", "suspension starts reason", "suspended from {starts} on | {reason} | its clock stands still"),
    Shape("mem", "suspension ends", "the suspension ended with {ends} |  | its clock goes on"),
    # holds
    Shape("poa", "hold mode review_on members members_sha256 added quarantined too_late", _held, may=_LINE),
    Shape("poa", "hold held", "came under {hold} |  | it is not destroyed while the hold is in force"),
    Shape("poa", "hold arrived", "came under {hold} |  | it is not destroyed while the hold is in force"),
    Shape("poa", "hold too_late", "{hold} came too late: it was being destroyed", failed=True),
    Shape("poa", "hold review_on was", "{hold} is still needed | to be reviewed on {review_on} (before, {was})"),
    Shape("poa", "hold proposal released still_held since_proposed quarantined", _released),
    Shape("exp", "hold digest records not_included", "{hold} was produced: {records} records, {not_included} left out"),
    # people who sign, and what they sign
    Shape(
        *("poa", "proposal kind state=proposed days", "{kind} was proposed: proposal {proposal}"),
        may="statement_sha256 payload_sha256",
    ),
    Shape("poa", "proposal kind state=approved", "{kind} was approved: enough people had signed"),
    Shape("poa", "proposal state=withdrawn", "proposal {proposal} was withdrawn"),
    Shape("poa", "proposal state=expired", "proposal {proposal} expired undecided", failed=True),
    Shape(
        *("dig", "proposal signer statement_sha256 signature_sha256"),
        "{signer} signed it: SHA-256 {statement_sha256}",
    ),
    Shape("poa", "auditor class open", _opened),
    Shape("poa", "approver key state=enrolled", "{approver} may sign from now on, with key {key}", may="by"),
    Shape("poa", "approver state=revoked", "{approver} may sign no more"),
    Shape("poa", "schedule digest classes", "schedule version {schedule} came in force, of {classes} classes"),
    # disposition
    Shape("poa", "notice=due-soon retain_until", "notice was given that it is kept until and with {retain_until}"),
    Shape("app", "plan as_of schedule items bytes list_sha256 disagreed over_limit", _proposed_plan),
    Shape("app", "plan class action rule retain_until", _due, may="units"),
    Shape("app", "plan class stage name_sha256", "stage {stage} of the review of {class} began"),
    Shape("app", "plan decision stage", _decided, may="reason not_before to_class"),
    Shape("app", "plan class stage lapsed", "stage {stage} of the review of {class} ended: all is decided"),
    Shape("app", "plan class stage lapsed", "stage {stage} of the review of {class} lapsed undecided", failed=True),
    Shape(
        *("app", "plan decisions_sha256 statement_sha256 needed over_limit"),
        "the review ended: {needed} people sign SHA-256 {statement_sha256}",
    ),
    Shape(
        *("mem", "plan class"),
        "moved to {class} | decided in plan {plan} | the rules of that class hold from now on",
        may=_LOCK,
    ),
    Shape("poa", "plan state=executing", "the execution of plan {plan} began"),
    Shape("dea", "plan state=destroying", "marked for destruction: its date, holds and locks were checked once more"),
    Shape(
        "dea",
        "plan state=key-destroyed",
        "its key was destroyed: nobody can read it any more",
        may="annexes annexes_sha256",
    ),
    Shape("dea", "cause remains=bucket", "keys were destroyed beside others: their bucket gets a new key by and by"),
    Shape("dea", "cause remains=descriptor", "descriptions were made unreadable in an object that others share"),
    Shape("dea", "proposal state=destroying", "its key was destroyed: nobody can read it any more"),
    Shape("app", "plan kept", _kept, failed=True),
    Shape("app", "proposal kept", _kept, failed=True),
    Shape("del", f"{_END} outcome=destroyed", _gone),
    Shape("tra", f"{_END} outcome=transferred", _gone),
    Shape("del", "plan aggregation=empty", "its case file was closed, and the key destroyed | no record is left in it"),
    Shape("del", "outcome document=rejected", "the bytes of the rejected document were erased"),
    Shape("ipc", _PACKAGE, _handed_out),
    Shape("tra", "plan recipient acknowledgement acknowledgement_sha256 accepted rejected", _acknowledged),
    Shape("poa", "plan transfer=given-up", "the transfer was given up | nobody acknowledged it", failed=True),
    Shape("poa", "plan state=executed certificate", "plan {plan} was executed to its end: certificate {certificate}"),
    # requests of persons
    Shape("poa", f"request kind finds received due_on {_LINE}", _asked, may="ground"),
    Shape("poa", "request due_on reason", "request {request} takes longer, until {due_on} | {reason}"),
    Shape("poa", "request answered", "request {request} was answered: the person was told"),
    Shape("poa", "request lifted", "the restriction of request {request} was lifted"),
    Shape("app", "request kind answer reason citation about", _answered, may="until"),
    Shape("app", "request kind withdrawn", "no longer found for request {request}: what was answered was withdrawn"),
    Shape("poa", "request restricted", _restricted),
    Shape(
        "val",
        "plan reach_certificate",
        "nothing that plan {plan} destroyed can be opened from a recovery point: certificate {reach_certificate}",
    ),
    # handed out, looked at
    Shape("exp", _PACKAGE, _handed_out),
    Shape("dis", f"{_PACKAGE} recipient", _handed_out),
    Shape("dis", "export records why", _exported, may="recipient"),
    Shape("dis", "export records", "it could not be handed out, or nobody knows that it was", failed=True),
    Shape("dis", "read shown why", _read, may="query query_commitment"),
    Shape("del", "orphans bytes keys_sha256", "{orphans} objects that no capture had ended were erased from the vault"),
    Shape(
        "enc",
        "by keys scope month generation",
        "a bucket of keys that lost some was replaced: {keys} keys were wrapped under a new one",
    ),
    Shape(
        "del", "bucket_keys", "the keys of {bucket_keys} buckets left the key safe | what they had wrapped is closed"
    ),
    Shape(
        *("rep", "key_object sha256 mode until"),
        "its key was written beside it, into {key_object} | that object is locked until {until}",
    ),
    Shape("del", "key_object", "{key_object}, which had its key beside it, is gone from the vault"),
    Shape("enc", "root kept replaces", "the key safe was sealed to another root key, {root}, kept in {kept}"),
    Shape("del", "root_keys", "{root_keys} former root keys left the key safe | nothing that is kept needs them"),
    Shape("dec", "keys", "{keys} keys, of this bucket and those tested with it, were unwrapped: each as it was"),
    Shape(
        *("dec", "bucket keys_damaged", "{keys_damaged} keys of bucket {bucket} did not unwrap, or had no bucket key"),
        failed=True,
    ),
    Shape("dec", "drill escrowed", "the copy of the root key that people keep was tried, and opened the archive"),
    Shape("rep", "holders threshold", "{holders} people got a share of the root key | {threshold} of them make it"),
    Shape("del", "queries", "the words of {queries} searches were destroyed | their term had ended"),
    # the ledger itself
    Shape("dsg", "what vkey", "a key of the ledger was made: {vkey}", may="before signed"),
)


def shape_of(entry: Mapping[str, Any]) -> Shape | None:
    """The shape of an event, by its entry (retention.ledger.canonical)."""
    return next((shape for shape in SHAPES if shape.fits(entry)), None)


def words(entry: Mapping[str, Any], known: Known) -> Words:
    """What an event says. One of an unknown shape, such as of a later version, is said as it stands."""
    shape = shape_of(entry)
    if shape is None:
        detail = json.dumps(entry["detail"], sort_keys=True, ensure_ascii=False)
        return Words(f"{entry['outcome']}, for which this version has no words: {detail}")
    return shape.say(entry["detail"], known)
