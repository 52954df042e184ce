"""PREMIS 3 (Preservation Metadata, Library of Congress) as XML: what was done to which object, by whom, and why.

Rules of this module:
- Streamed: objects first, then events, agents and rights, the order that the schema wants; memory does not grow
  with their number.
- Text that XML 1.0 cannot hold (control characters, lone surrogates) is written as \\uNNNN, never dropped.
- Reading trusts nothing: no entity, no DTD, no network.
- The schema is the Library of Congress's own file, version 3.0 of 18 January 2016 (premis-v3-0.xsd), a
  work of the United States government and in the public domain. It is not edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from lxml import etree

from retention.model import EVENT_TYPES, AgentKind
from retention.rules import Authority

NAMESPACE = "http://www.loc.gov/premis/v3"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_PREFIXES: Any = {None: NAMESPACE, "xsi": _XSI}  # None is the default namespace, which lxml-stubs do not know
_VOCABULARY = "http://id.loc.gov/vocabulary/preservation"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SCOPELESS = frozenset(("", "any"))  # jurisdictions of a policy that is no statute


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier and what kind it is: `UUID`, `bag path`, `ledger position`, `retention rule`."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Relationship:
    """To another object, with terms of PREMIS's vocabularies, such as structural, is part of."""

    kind: str
    sub_kind: str
    related: Identifier


@dataclass(frozen=True, slots=True)
class FileObject:
    """One file. `fixity` is algorithm -> digest; `location` is its path in the package."""

    identifier: Identifier
    fixity: Mapping[str, bytes]
    size: int
    location: str
    mime: str | None = None
    puid: str | None = None
    original_name: str | None = None
    relationships: Sequence[Relationship] = ()
    rights: Sequence[str] = ()  # ids of rules


@dataclass(frozen=True, slots=True)
class Rights:
    """A retention rule as the basis on which the repository kept, and now hands over, an object."""

    rule: str
    authority: Authority
    note: str


@contextmanager
def document(file: BinaryIO) -> Iterator[Any]:
    """The open `premis` element: write what the functions below make, in the schema's order."""
    with etree.xmlfile(file, encoding="UTF-8") as xml:
        xml.write_declaration()
        where = f"{NAMESPACE} https://www.loc.gov/standards/premis/premis.xsd"
        attributes = {"version": "3.0", f"{{{_XSI}}}schemaLocation": where}
        with xml.element(f"{{{NAMESPACE}}}premis", attributes, nsmap=_PREFIXES):
            yield xml


def file_object(given: FileObject) -> etree._Element:
    made = _object("file")
    _identifier(made, "objectIdentifier", given.identifier)
    characteristics = _add(made, "objectCharacteristics")
    _add(characteristics, "compositionLevel", "0")
    for algorithm, digest in given.fixity.items():
        fixity = _add(characteristics, "fixity")
        _add(fixity, "messageDigestAlgorithm", algorithm)
        _add(fixity, "messageDigest", digest.hex())
    _add(characteristics, "size", str(given.size))
    form = _add(characteristics, "format")
    _add(_add(form, "formatDesignation"), "formatName", given.mime or "application/octet-stream")
    if given.puid:
        registry = _add(form, "formatRegistry")
        _add(registry, "formatRegistryName", "PRONOM")
        _add(registry, "formatRegistryKey", given.puid)
    if given.original_name is not None:
        _add(made, "originalName", given.original_name)
    location = _add(_add(made, "storage"), "contentLocation")
    _add(location, "contentLocationType", "bag path")
    _add(location, "contentLocationValue", given.location)
    for one in given.relationships:
        relationship = _add(made, "relationship")
        _add(relationship, "relationshipType", one.kind)
        _add(relationship, "relationshipSubType", one.sub_kind)
        _identifier(relationship, "relatedObjectIdentifier", one.related)
    for rule in given.rights:
        _identifier(made, "linkingRightsStatementIdentifier", Identifier("retention rule", rule))
    return made


def intellectual_entity(identifier: Identifier) -> etree._Element:
    """An aggregation: what several files are part of."""
    made = _object("intellectualEntity")
    _identifier(made, "objectIdentifier", identifier)
    return made


def event(
    position: int, entry: Mapping[str, Any], detail: str, kinds: Mapping[str, AgentKind], objects: Sequence[str]
) -> etree._Element:
    """An entry of the ledger (`retention.ledger.canonical`, parsed). `objects` are the ids it is linked with."""
    made = _element("event")
    _identifier(made, "eventIdentifier", Identifier("ledger position", str(position)))
    code = entry["type"]
    kind = _add(made, "eventType", EVENT_TYPES.get(code, code))
    if code in EVENT_TYPES:
        kind.set("authority", "eventType")
        kind.set("authorityURI", f"{_VOCABULARY}/eventType")
        kind.set("valueURI", f"{_VOCABULARY}/eventType/{code}")
    _add(made, "eventDateTime", entry["time"])
    _add(_add(made, "eventDetailInformation"), "eventDetail", detail)
    _add(_add(made, "eventOutcomeInformation"), "eventOutcome", entry["outcome"])
    for key, role in (("id", "executing program"), ("for", "implementer")):
        if who := entry["agent"].get(key):
            linked = _identifier(made, "linkingAgentIdentifier", Identifier("UUID", who))
            known = kinds.get(who, AgentKind.SOFTWARE if key == "id" else AgentKind.PERSON)
            _add(linked, "linkingAgentRole", role if known is AgentKind.SOFTWARE else "implementer")
    for one in objects:
        _identifier(made, "linkingObjectIdentifier", Identifier("UUID", one))
    return made


def agent(pseudonym: str, kind: AgentKind | None, name: str | None, version: str | None) -> etree._Element:
    """Who acted: under a pseudonym, and by name while the name can still be read."""
    made = _element("agent")
    _identifier(made, "agentIdentifier", Identifier("UUID", pseudonym))
    if name is not None:
        _add(made, "agentName", name)
    if kind is not None:
        _add(made, "agentType", kind.value)
    if version is not None:
        _add(made, "agentVersion", version)
    return made


def rights(given: Rights) -> etree._Element:
    """The citation of a rule: a statute, or a policy of the house where no jurisdiction stands behind it."""
    made = _element("rights")
    statement = _add(made, "rightsStatement")
    _identifier(statement, "rightsStatementIdentifier", Identifier("retention rule", given.rule))
    authority = given.authority
    if authority.jurisdiction in _SCOPELESS:
        _add(statement, "rightsBasis", "other")
        other = _add(statement, "otherRightsInformation")
        if authority.url:
            _identifier(other, "otherRightsDocumentationIdentifier", Identifier("URI", authority.url))
        _add(other, "otherRightsBasis", authority.citation)
        _add(other, "otherRightsNote", given.note)
        return made
    _add(statement, "rightsBasis", "statute")
    statute = _add(statement, "statuteInformation")
    _add(statute, "statuteJurisdiction", authority.jurisdiction)
    _add(statute, "statuteCitation", authority.citation)
    if authority.verified_on is not None:
        _add(statute, "statuteInformationDeterminationDate", authority.verified_on.isoformat())
    _add(statute, "statuteNote", given.note)
    if authority.url:
        _identifier(statute, "statuteDocumentationIdentifier", Identifier("URI", authority.url))
    return made


def problems(path: Path, limit: int = 20) -> Iterator[str]:
    """What PREMIS's schema finds wrong with a file; nothing if it is valid. Streamed; at most `limit`."""
    try:
        options = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": True}
        events = etree.iterparse(path, events=("end",), schema=schema(), **options)
        for _, element in events:
            if element.getparent() is not None and element.getparent().getparent() is None:
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        if events.root.tag != f"{{{NAMESPACE}}}premis":
            yield f"premis.xml: expected {{{NAMESPACE}}}premis, found {events.root.tag}"
    except etree.XMLSyntaxError as error:
        told = [f"premis.xml, line {one.line}: {one.message}" for one in _log(error)]
        yield from told[:limit] or [f"premis.xml: {error}"]


def _log(error: etree.XMLSyntaxError) -> list[Any]:
    log: Any = error.error_log  # lxml-stubs do not know that it is a sequence
    return list(log)


@cache
def schema() -> etree.XMLSchema:
    """The Library of Congress's schema of PREMIS 3."""
    content = (resources.files("retention.packages") / "premis-v3-0.xsd").read_bytes()
    return etree.XMLSchema(etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True)))


# ---------------------------------------------------------------- elements


def xml_text(text: str) -> str:
    """`text` as XML 1.0 can hold it; what it cannot is written as \\uNNNN."""
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _element(name: str) -> etree._Element:
    return etree.Element(f"{{{NAMESPACE}}}{name}", nsmap=_PREFIXES)


def _object(kind: str) -> etree._Element:
    made = _element("object")
    made.set(f"{{{_XSI}}}type", kind)
    return made


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    made = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
    if text is not None:
        made.text = xml_text(text)
    return made


def _identifier(parent: etree._Element, name: str, given: Identifier) -> etree._Element:
    """`name` with its Type and Value, as every identifier of PREMIS has them."""
    made = _add(parent, name)
    _add(made, f"{name}Type", given.kind)
    _add(made, f"{name}Value", given.value)
    return made
