"""The sample documents: what they are, what is expected of each, and how they are made.

    python -m tests.samples.make_samples

writes tests/samples/documents and tests/samples/README.md anew. The list below is the one place where a sample
is described; README.md is made of it, and tests/unit/test_samples.py holds the folder against it. Encrypted
samples are made only where they are missing; the Word file under a password needs msoffcrypto-tool for that.
"""

from __future__ import annotations

import json
import mailbox
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from tests.samples import formats, texts
from tests.samples.texts import Text

HERE = Path(__file__).parent
DOCUMENTS = HERE / "documents"
UNCLASSIFIED = "unclassified"


@dataclass(frozen=True)
class Sample:
    """`record_class` is that of the sample schedule; `findings` are codes, those of children with "child:"."""

    place: str
    what: str
    make: Callable[[], bytes]
    record_class: str = UNCLASSIFIED
    findings: tuple[str, ...] = ()
    children: int = 0
    salted: bool = False  # encryption makes other bytes each time, so it is made only where it is missing


def mail(text: Text, sender: str, to: str, number: int) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, text.title
    message["Date"] = format_datetime(formats.when(text))
    message["Message-ID"] = f"<{text.day:%Y%m%d}.{number}@example.org>"
    message.set_content("\n\n".join(text.paragraphs) + "\n", cte="quoted-printable")
    return message


def with_boundaries(message: EmailMessage, name: str) -> bytes:
    """Boundaries are random otherwise."""
    for number, part in enumerate(message.walk()):
        if part.is_multipart() and part.get_content_type() != "message/rfc822":
            part.set_boundary(f"=_{name}_{number}")
    return message.as_bytes()


OFFICE, CLINIC = "Neta Bar-Lev <neta@alon.example>", "Oak Street Clinic <office@oak.example>"
COMPLAINT = Text(
    "en",
    date(2022, 10, 3),
    "Complaint: waited fifty minutes",
    "Rina Sasson",
    (
        "Good morning, I had an appointment at 8:40 last Thursday and was called in at 9:30. Nobody said why.",
        "I know that emergencies happen. A word at the desk would have been enough: I could have gone to the "
        "pharmacy in the meantime. Two older people stood because there were no more chairs.",
        "Please tell me what you will do about it. Rina Sasson",
    ),
)
COVER = Text(
    "en",
    date(2016, 1, 5),
    "Signed: services agreement",
    "Neta Bar-Lev",
    (
        "Dear Amir, attached is the contract as signed yesterday, once as PDF and once as a Word file, and below it "
        "the message in which your director agreed to the fee.",
        "We begin on Monday. The plan of the first month follows. Best regards, Neta",
    ),
)
AGREED = Text(
    "en",
    date(2015, 12, 29),
    "Fee agreed",
    "Amir Haddad",
    ("Neta, the director agrees to 180,000 in six parts. Please send the contract for signature. Amir",),
)
INVITATION = Text(
    "he",
    date(2025, 9, 7),
    "הזמנה לסדנת פתיחת שנה",
    "נטע בר־לב",
    (
        "שלום לכולם, סדנת פתיחת השנה תתקיים ביום ראשון, 28.9.2025, בשעה 9:00, במשרדנו ברחובות.",
        "בחלק הראשון נעבור על לקחי השנה שחלפה; בחלק השני נתכנן יחד את הרבעון הקרוב. נא לאשר הגעה עד יום חמישי.",
        "להתראות, נטע",
    ),
)


def mail_with_attachments() -> bytes:
    message = mail(COVER, OFFICE, "Amir Haddad <amir@shaked.example>", 2)
    contract = texts.AGREEMENT
    message.add_attachment(formats.pdf(contract), maintype="application", subtype="pdf", filename="agreement.pdf")
    word = "vnd.openxmlformats-officedocument.wordprocessingml.document"
    message.add_attachment(
        formats.docx(texts.AGREEMENT_HE), maintype="application", subtype=word, filename="הסכם שירותים.docx"
    )
    message.add_attachment(mail(AGREED, "Amir Haddad <amir@shaked.example>", OFFICE, 1), filename="agreed.eml")
    return with_boundaries(message, "signed")


def hebrew_mail() -> bytes:
    message = mail(INVITATION, OFFICE, "team@alon.example", 3)
    message.set_content("\n".join(INVITATION.paragraphs) + "\n", charset="windows-1255", cte="base64")
    page = formats.html(INVITATION, "windows-1255").decode("windows-1255")
    message.add_alternative(page, subtype="html", charset="windows-1255", cte="quoted-printable")
    return with_boundaries(message, "invitation")


def thread() -> bytes:
    """Three messages of one conversation in a mailbox."""
    with tempfile.TemporaryDirectory() as folder:
        box = mailbox.mbox(Path(folder) / "box")
        for number, (text, sender, to) in enumerate(
            ((COMPLAINT, "rina@mail.example", CLINIC), (AGREED, CLINIC, OFFICE), (INVITATION, OFFICE, CLINIC)), 11
        ):
            item = mailbox.mboxMessage(mail(text, sender, to, number))
            item.set_from("sender@mail.example", formats.when(text).timetuple())
            box.add(item)
        box.close()
        return (Path(folder) / "box").read_bytes()


TRIAL_BALANCE = Text(
    "he",
    date(2018, 12, 31),
    "מאזן בוחן לשנת 2018",
    "הנהלת חשבונות",
    (
        (
            ("חשבון", "חובה", "זכות"),
            ("בנק", "412,300", ""),
            ("לקוחות", "186,950", ""),
            ("ספקים", "", "97,410"),
            ("הון", "", "501,840"),
        ),
        "המאזן הופק לאחר התאמות סוף שנה ונבדק מול דפי הבנק. הפרשי שער נזקפו לסעיף המימון.",
    ),
)
NARCOTICS = Text(
    "en",
    date(2019, 5, 1),
    "Controlled substances inventory",
    "Oak Street Clinic",
    (
        "Taken at opening of business on 1 May 2019 by M. Halevi and R. Sasson. Quantities were counted twice.",
        (
            ("Substance", "Form", "Strength", "Counted"),
            ("Morphine", "ampoule", "10 mg", "14"),
            ("Fentanyl", "patch", "25 mcg", "6"),
            ("Diazepam", "tablet", "5 mg", "88"),
        ),
        "Two expired ampoules were handed to the authority against receipt 5519.",
    ),
)
OSHA = Text(
    "en",
    date(2013, 1, 31),
    "OSHA 300 log of work-related injuries and illnesses, 2012",
    "Facilities",
    (
        (
            ("Case", "Job", "Date", "Where", "Injury", "Days away"),
            ("1", "Fitter", "2012-03-14", "Workshop", "Cut of the left hand", "3"),
            ("2", "Driver", "2012-07-02", "Yard", "Sprained ankle", "9"),
            ("3", "Clerk", "2012-11-20", "Archive", "Strained back", "2"),
        ),
        "Names are kept apart in the confidential list. Summary posted from 1 February to 30 April 2013.",
    ),
)
PAYMENTS = """date,payee,reference,amount,currency
2025-01-05,Carmel Paper Ltd,2024-0117,3037.32,ILS
2025-01-12,מדיקל ציוד רפואי,88,4860.00,ILS
2025-02-02,"Cohen & Co, auditors",INV-20,11700.00,ILS
2025-02-20,Binyan Computers Ltd,SRV-6,2460.00,ILS
"""
FEED = {
    "account": "0420-118-55701",
    "from": "2026-03-01",
    "to": "2026-03-31",
    "note": "תנועות חשבון לחודש מרץ",
    "entries": [
        {"day": "2026-03-03", "text": "Transfer from Shaked Water Utility", "amount": 30000.0},
        {"day": "2026-03-15", "text": "Rent, 8 Palm Street", "amount": -9400.0},
        {"day": "2026-03-28", "text": "Salaries", "amount": -74250.5},
    ],
}
ORDERS_XML = """<?xml version="1.0" encoding="UTF-8"?>
<stock xmlns="urn:example:stock" counted="2025-12-31" place="Oak Street Clinic">
  <shelf name="Room 2"><article code="G-120" count="38">Nitrile gloves, box</article>
    <article code="T-006" count="5">Infrared thermometer</article></shelf>
  <shelf name="מחסן"><article code="P-020" count="12">נייר צילום, חבילה</article>
    <article code="C-048" count="31">Examination couch roll</article></shelf>
  <remark>Counted by two people at the end of the year; differences are in the remarks of the articles.</remark>
</stock>
"""
XXE = """<?xml version="1.0"?>
<!DOCTYPE note [<!ENTITY secret SYSTEM "file:///etc/hostname">]>
<note><to>archive</to><text>The name of this computer is &secret;.</text></note>
"""

SAMPLES: tuple[Sample, ...] = (
    Sample(
        "accounts/bank-2026-03.json",
        "movements of an account",
        lambda: json.dumps(FEED, indent=1, ensure_ascii=False).encode(),
    ),
    Sample(
        "accounts/invoice-2003-077.html",
        "invoice of 2003 as a page",
        lambda: formats.html(texts.INVOICE_2003),
        "IL-FIN-010",
    ),
    Sample("accounts/invoice-2024-0117.pdf", "invoice", lambda: formats.pdf(texts.INVOICE_EN), "IL-FIN-010"),
    Sample("accounts/payments-2025.csv", "table of payments", PAYMENTS.encode),
    Sample(
        "accounts/purchase-order-2015-332.docx", "purchase order", lambda: formats.docx(texts.ORDER_EN), "IL-FIN-030"
    ),
    Sample("accounts/stock-2025.xml", "stock list in a vocabulary of its own", ORDERS_XML.encode),
    Sample("accounts/הזמנת-רכש-88.odt", "purchase order, Hebrew", lambda: formats.odt(texts.ORDER_HE), "IL-FIN-030"),
    Sample("accounts/חשבונית-מס-2045.pdf", "tax invoice, Hebrew", lambda: formats.pdf(texts.INVOICE_HE), "IL-FIN-010"),
    Sample("accounts/מאזן-בוחן-2018.ods", "trial balance, Hebrew", lambda: formats.ods(TRIAL_BALANCE), "IL-FIN-020"),
    Sample("clinic/chest-x-ray-2005.pdf", "X-ray report", lambda: formats.pdf(texts.XRAY), "IL-MED-030"),
    Sample(
        "clinic/controlled-substances-2019.xlsx", "inventory; long due", lambda: formats.xlsx(NARCOTICS), "US-DEA-010"
    ),
    Sample(
        "clinic/discharge-summary-2011.pdf", "discharge summary", lambda: formats.pdf(texts.DISCHARGE_EN), "IL-MED-020"
    ),
    Sample("clinic/evacuation-plan.png", "picture of a page", lambda: formats.png(texts.PLAN)),
    Sample(
        "clinic/laboratory-report-2015.pdf",
        "laboratory report; long due",
        lambda: formats.pdf(texts.LABORATORY),
        "US-LAB-010",
    ),
    Sample("clinic/notice-board.jpg", "photograph with EXIF", lambda: formats.jpeg(texts.PLAN)),
    Sample(
        "clinic/referral-letter-knee.pdf",
        "referral letter to a clinic",
        lambda: formats.pdf(texts.REFERRAL_KNEE),
        "IL-MED-040",
    ),
    Sample(
        "clinic/הפניה-לבית-חולים.pdf",
        "referral letter to a hospital, Hebrew",
        lambda: formats.pdf(texts.REFERRAL_CARDIO),
        "IL-MED-010",
    ),
    Sample(
        "clinic/טופס-קליטה-סרוק.pdf",
        "intake form, scanned",
        lambda: formats.scanned_pdf(texts.INTAKE),
        UNCLASSIFIED,
        ("SCANNED",),
    ),
    Sample(
        "clinic/סיכום-אשפוז-2019.docx",
        "discharge summary, Hebrew",
        lambda: formats.docx(texts.DISCHARGE_HE),
        "IL-MED-020",
    ),
    Sample("clinic/סיכום-ביקור.rtf", "visit summary, Hebrew", lambda: formats.rtf(texts.VISIT_HE), "IL-MED-040"),
    Sample(
        "consulting/best-practice-handover.html", "best practice", lambda: formats.html(texts.BEST_PRACTICE), "KM-030"
    ),
    Sample("consulting/case-study-queues.pptx", "case study", lambda: formats.pptx(texts.CASE_STUDY), "KM-020"),
    Sample(
        "consulting/lessons-learned-2012.docx",
        "lessons learned, superseded in 2016",
        lambda: formats.docx(texts.LESSONS),
        "KM-010",
    ),
    Sample("consulting/services-agreement-2016.docx", "contract", lambda: formats.docx(texts.AGREEMENT), "IL-CON-010"),
    Sample(
        "consulting/הסכם-שירותים-2018.pdf", "contract, Hebrew", lambda: formats.pdf(texts.AGREEMENT_HE), "IL-CON-010"
    ),
    Sample(
        "consulting/הפקת-לקחים-רשומה.odt", "lessons learned, Hebrew", lambda: formats.odt(texts.LESSONS_HE), "KM-010"
    ),
    Sample(
        "consulting/פרוטוקול-2004.txt",
        "minutes, ISO-8859-8 in visual order",
        lambda: formats.visual(texts.MINUTES_OLD, "iso-8859-8"),
        "IL-CORP-010",
        ("VISUAL-ORDER",),
    ),
    Sample(
        "consulting/פרוטוקול-דירקטוריון-41.pdf",
        "minutes of the board, Hebrew",
        lambda: formats.pdf(texts.MINUTES),
        "IL-CORP-010",
    ),
    Sample(
        "consulting/תזכיר-חגים-2014.txt",
        "internal memo, windows-1255",
        lambda: formats.plain(texts.MEMO_HE, "windows-1255"),
        "IL-ADM-010",
    ),
    Sample(
        "damaged/agreement-cut-off.docx",
        "the first half of a Word file",
        lambda: formats.docx(texts.AGREEMENT)[:1500],
        UNCLASSIFIED,
        ("TRUNCATED",),
    ),
    Sample(
        "damaged/case-study-cut-off.pdf",
        "the first 60 % of a PDF",
        lambda: _part(formats.pdf(texts.CASE_STUDY), 0.6),
        "KM-020",
        ("TRUNCATED",),
    ),
    Sample(
        "damaged/computer-name.xml", "XML that asks for a file of the reader", XXE.encode, UNCLASSIFIED, ("UNSAFE-XML",)
    ),
    Sample("damaged/empty.txt", "no bytes", bytes, UNCLASSIFIED, ("EMPTY",)),
    Sample(
        "damaged/plan-from-2031.docx",
        "written by a computer whose clock was wrong",
        lambda: formats.docx(texts.FUTURE),
        UNCLASSIFIED,
        ("DATE-IN-FUTURE",),
    ),
    Sample(
        "damaged/salaries-2023.docx",
        "Word file under a password",
        lambda: formats.encrypted_docx(texts.SALARY, "four words long enough"),
        UNCLASSIFIED,
        ("ENCRYPTED", "MIME-MISMATCH"),
        salted=True,
    ),
    Sample(
        "damaged/salaries-2023.pdf",
        "PDF that opens with a password only",
        lambda: formats.encrypted_pdf(texts.SALARY, user="open", owner="own"),
        UNCLASSIFIED,
        ("PDF-ENCRYPTED",),
        salted=True,
    ),
    Sample(
        "damaged/tender-14-2021.pdf",
        "PDF that all may read and none may change",
        lambda: formats.encrypted_pdf(texts.TENDER, user="", owner="own"),
        UNCLASSIFIED,
        ("OWNER-PASSWORD",),
        salted=True,
    ),
    Sample(
        "damaged/working-notes.pdf",
        "plain text with the extension of a PDF",
        lambda: formats.plain(texts.PLAN, "ascii"),
        UNCLASSIFIED,
        ("MIME-MISMATCH",),
    ),
    Sample(
        "hr/application-noa-shalev.pdf", "letter of application", lambda: formats.pdf(texts.APPLICATION), "US-HR-050"
    ),
    Sample("hr/cv-noa-shalev.docx", "curriculum vitae", lambda: formats.docx(texts.CV_EN), "US-HR-050"),
    Sample("hr/fax-cv-2013.tif", "two faxed pages", lambda: formats.tiff(texts.CV_HE, texts.CV_EN)),
    Sample("hr/osha-300-log-2012.xlsx", "log of injuries; long due", lambda: formats.xlsx(OSHA), "US-HR-020"),
    Sample("hr/קורות-חיים-איתן-רז.docx", "curriculum vitae, Hebrew", lambda: formats.docx(texts.CV_HE), "US-HR-050"),
    Sample(
        "mail/complaint-2022.eml",
        "a message",
        lambda: mail(COMPLAINT, "Rina Sasson <rina@mail.example>", CLINIC, 1).as_bytes(),
    ),
    Sample("mail/conversation.mbox", "a mailbox of three messages", thread, UNCLASSIFIED, (), 3),
    Sample(
        "mail/signed-agreement.eml",
        "a message with a PDF, a Word file and a message",
        mail_with_attachments,
        UNCLASSIFIED,
        (),
        3,
    ),
    Sample("mail/הזמנה-לסדנה.eml", "Hebrew message in windows-1255, as text and as a page", hebrew_mail),
)


def _part(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def readme() -> str:
    """README.md, out of the list."""
    rows = "\n".join(
        f"| {sample.place} | {sample.what} | {sample.record_class} | {', '.join(sample.findings)} | "
        f"{sample.children or ''} |"
        for sample in SAMPLES
    )
    return f"""# Sample documents

{len(SAMPLES)} documents of a small clinic and its consultants, in English and Hebrew, written for this project;
every person, company and number in them is invented. `make run` takes them in. They are small, but not simple:
old encodings, scans, passwords, half files, mail within mail.

*Class* is what the sample schedule makes of it, *findings* the codes that an officer sees, *children* the
documents within it that become records of their own. Two things cannot be kept in a repository and are made by
the tests: a file name with a line break, and one that is not UTF-8.

This page and the documents are made by `python -m tests.samples.make_samples` and are not edited by hand.

| document | what it is | class | findings | children |
|---|---|---|---|---|
{rows}
"""


def main() -> None:
    for sample in SAMPLES:
        path = DOCUMENTS / sample.place
        path.parent.mkdir(parents=True, exist_ok=True)
        if sample.salted and path.exists():
            continue
        path.write_bytes(sample.make())
    wanted = {DOCUMENTS / sample.place for sample in SAMPLES}
    for path in DOCUMENTS.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    (HERE / "README.md").write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
