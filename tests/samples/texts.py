"""The words of the sample documents. Every person, company, number and address is invented."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Text:
    """One document: title, then paragraphs; a paragraph that is a tuple of tuples is a table."""

    lang: str  # "en" or "he"
    day: date
    title: str
    author: str
    body: tuple[str | tuple[tuple[str, ...], ...], ...]

    @property
    def paragraphs(self) -> list[str]:
        """The body as lines; a table row is one line, cells divided by two spaces."""
        return [
            line
            for part in self.body
            for line in ([part] if isinstance(part, str) else ["  ".join(row) for row in part])
        ]


REFERRAL_KNEE = Text(
    "en",
    date(2024, 5, 14),
    "Referral letter: right knee pain",
    "Dr Miriam Halevi",
    (
        "Dear Dr Aronov, thank you for seeing this patient, Mr Daniel Peretz (born 3 March 1971, file C-20417), "
        "who has had pain on the inner side of his right knee since February. It began after a long walk, is worse "
        "on stairs, and twice the joint has locked for some minutes.",
        "On examination there is a small effusion, tenderness over the medial joint line and a positive McMurray "
        "test. The ligaments are stable. A plain film taken on 2 May shows no fracture and little loss of joint "
        "space. He takes paracetamol, has no allergies, and his history is otherwise that of mild hypertension.",
        "Provisional diagnosis: tear of the medial meniscus. I should be grateful for your opinion and for an MRI "
        "if you think it will change what we do. He works as a roofer and asks when he may go back.",
        "With kind regards, Dr Miriam Halevi, Oak Street Clinic",
    ),
)
REFERRAL_CARDIO = Text(
    "he",
    date(2023, 11, 6),
    "מכתב הפניה לבית חולים",
    'ד"ר יואב שמעוני',
    (
        "לכבוד: חדר מיון, בית החולים הגלבוע. אני מפנה אליכם את המטופלת גב׳ רות אלמוג, ילידת 1948, מספר תיק 10352, "
        "עקב כאבים לוחצים בחזה שהחלו הבוקר במנוחה ונמשכו כעשרים דקות.",
        "ברקע: יתר לחץ דם, סוכרת סוג 2 מאוזנת, עישון בעבר. נוטלת אנלפריל, מטפורמין ואספירין. לא ידועה רגישות "
        "לתרופות. בבדיקה: לחץ דם 152/88, דופק 92 סדיר, ריאות נקיות, ללא בצקות ברגליים.",
        "בתרשים אק״ג שבוצע במרפאה נצפו צניחות ST בחיבורים הצדדיים שלא היו בתרשים קודם. ניתנו אספירין 300 מ״ג "
        "וניטרוגליצרין תת־לשוני עם הקלה חלקית.",
        'אבקש קבלתה לבירור ולהמשך טיפול. בברכה, ד"ר יואב שמעוני, מרפאת רחוב האלון.',
    ),
)
DISCHARGE_EN = Text(
    "en",
    date(2011, 9, 22),
    "Discharge summary",
    "Dr Lena Fischer",
    (
        "Patient: Helen Marsh, born 19 July 1939, hospital number H-771204. Date of admission 12 September 2011, "
        "date of discharge 22 September 2011, ward 4 East, consultant Dr Lena Fischer.",
        "Diagnosis: community-acquired pneumonia of the right lower lobe; chronic obstructive pulmonary disease. "
        "She was admitted with four days of fever, productive cough and breathlessness. Oxygen saturation on "
        "arrival was 86 % on air. The chest film showed consolidation at the right base.",
        "She was treated with intravenous ceftriaxone and oral clarithromycin, then amoxicillin, with nebulised "
        "salbutamol and a short course of prednisolone. Fever settled on the third day. She walked the corridor "
        "without oxygen from the eighth day.",
        "Medication on discharge: amoxicillin until 26 September, tiotropium once a day, salbutamol as needed. "
        "Please repeat the chest film in six weeks and offer help with giving up smoking.",
    ),
)
DISCHARGE_HE = Text(
    "he",
    date(2019, 2, 3),
    "סיכום אשפוז",
    'ד"ר נעמה כץ',
    (
        "שם המטופל: אבנר גולן, יליד 1962. תאריך קבלה: 28.1.2019. תאריך שחרור: 3.2.2019. מחלקה: כירורגיה ב׳.",
        "התקבל עקב כאבי בטן ימנית תחתונה וחום מזה יומיים. בבדיקת טומוגרפיה ממוחשבת הודגם תוספתן מעובה עם "
        "הסננת שומן סביבו, ללא מורסה. באותו לילה עבר כריתת תוספתן בגישה לפרוסקופית ללא סיבוכים.",
        "לאחר הניתוח טופל באנטיביוטיקה תוך־ורידית במשך שלושה ימים. החום ירד, פעילות המעיים חזרה והוא שוחרר "
        "לביתו במצב כללי טוב, עם פצעים נקיים.",
        "המלצות: מנוחה שבועיים, הימנעות מהרמת משא כבד חודש, ביקורת במרפאה כירורגית בעוד עשרה ימים.",
    ),
)
XRAY = Text(
    "en",
    date(2005, 3, 9),
    "X-ray report: chest",
    "Dr Samuel Oren",
    (
        "Patient: Yaakov Stern, born 1951, hospital number H-330918. Examination: chest, posteroanterior and "
        "lateral views, 9 March 2005. Clinical question: cough for six weeks, former miner.",
        "Findings: the heart is of normal size. There are fine nodular opacities in both upper zones, unchanged "
        "since the film of 2002. No pleural effusion, no enlarged hilar glands, no fracture of the ribs.",
        "Impression: appearances of simple pneumoconiosis without progression. No sign of tuberculosis. Films "
        "are kept in the archive of the department, envelope 05-1183.",
    ),
)
VISIT_HE = Text(
    "he",
    date(2025, 1, 19),
    "סיכום ביקור במרפאה",
    'ד"ר יואב שמעוני',
    (
        "שם המטופלת: תמר ברקת, ילידת 1990. סיבת הפנייה: כאב ראש מזה שלושה שבועות, בעיקר בשעות אחר הצהריים.",
        "הכאב דו־צדדי ולוחץ, ללא הקאות וללא הפרעות ראייה. ישנה כחמש שעות בלילה מאז שהחלה עבודה חדשה. בדיקה "
        "נוירולוגית תקינה, לחץ דם 118/76.",
        "אבחנה: כאב ראש מתחי. הומלץ על שינה סדירה, הפסקות מול מסך ופעילות גופנית. אקמול לפי צורך, לא יותר משלושה "
        "ימים בשבוע. ביקורת בעוד חודש או קודם לכן אם יופיע שינוי באופי הכאב.",
    ),
)
LABORATORY = Text(
    "en",
    date(2015, 6, 17),
    "Laboratory report",
    "Northgate Laboratory",
    (
        "Patient: Ruth Almog, file 10352. Specimen: venous blood, taken 16 June 2015 at 08:10, received 09:25. "
        "Requested by Dr Y. Shimoni.",
        (
            ("Test", "Result", "Unit", "Reference range"),
            ("Haemoglobin", "12.9", "g/dL", "12.0 - 15.5"),
            ("White cells", "6.4", "10^9/L", "4.0 - 10.0"),
            ("Fasting glucose", "138", "mg/dL", "70 - 99"),
            ("HbA1c", "7.1", "%", "below 5.7"),
            ("Creatinine", "0.81", "mg/dL", "0.51 - 0.95"),
        ),
        "Comment: glucose and HbA1c lie above the reference range and agree with known diabetes. The specimen "
        "was not haemolysed. Results outside the range were telephoned to the clinic on 17 June at 11:40.",
    ),
)
INTAKE = Text(
    "he",
    date(2017, 8, 30),
    "טופס קליטת מטופל",
    "מרפאת רחוב האלון",
    (
        "שם: גדעון לביא    שנת לידה: 1984    קופה: כללית",
        "האם יש רגישות לתרופות? כן, פניצילין.",
        "האם נוטל תרופות באופן קבוע? לא.",
        "אני מאשר שמסרתי פרטים נכונים ושקראתי את הודעת הפרטיות של המרפאה.",
        "חתימה: ____________    תאריך: 30.8.2017",
    ),
)
INVOICE_EN = Text(
    "en",
    date(2024, 2, 8),
    "Invoice 2024-0117",
    "Carmel Paper Ltd",
    (
        "Carmel Paper Ltd, 4 Harbour Road, Haifa. Tax ID 514200338. Invoice to: Oak Street Clinic, 12 Oak "
        "Street. Invoice date 8 February 2024, due 9 March 2024. Your order 2024-061 of 30 January.",
        (
            ("Item", "Quantity", "Price", "Amount"),
            ("Copier paper A4, box", "20", "92.00", "1,840.00"),
            ("Examination couch roll", "48", "14.50", "696.00"),
            ("Delivery", "1", "60.00", "60.00"),
            ("Subtotal", "", "", "2,596.00"),
            ("VAT 17 %", "", "", "441.32"),
            ("Total", "", "", "3,037.32"),
        ),
        "Amount due: 3,037.32 ILS. Payment terms: 30 days net, by transfer to account 0420-118-55701. Please "
        "quote the number of the invoice. Goods remain ours until they are paid for in full.",
    ),
)
INVOICE_HE = Text(
    "he",
    date(2022, 7, 31),
    "חשבונית מס מספר 2045",
    'אלון ייעוץ ארגוני בע"מ',
    (
        'אלון ייעוץ ארגוני בע"מ, ח.פ 515880017, רחוב הדקל 8, רחובות. לכבוד: מפעלי גליל בע"מ. תאריך: 31.7.2022.',
        (
            ("תיאור", "כמות", "מחיר", "סכום"),
            ("שעות ייעוץ, יולי 2022", "46", "380.00", "17,480.00"),
            ("סדנת מנהלים, יום אחד", "1", "4,200.00", "4,200.00"),
            ('סה"כ לפני מע"מ', "", "", "21,680.00"),
            ('מע"מ 17%', "", "", "3,685.60"),
            ('סה"כ לתשלום', "", "", "25,365.60"),
        ),
        "לתשלום עד 30.8.2022 בהעברה בנקאית. ניכוי מס במקור לפי אישור תקף. תודה על שיתוף הפעולה ועל האירוח במפעל.",
    ),
)
INVOICE_2003 = Text(
    "en",
    date(2003, 10, 27),
    "Invoice 2003-077",
    "Galil Office Furniture",
    (
        "Galil Office Furniture, Acre. Tax ID 510033721. To: Alon Organisational Consulting. Date 27 October 2003.",
        (
            ("Item", "Quantity", "Amount"),
            ("Desk, beech, 160 cm", "3", "2,970.00"),
            ("Chair with arms", "3", "1,185.00"),
            ("Total with VAT 18 %", "", "4,902.90"),
        ),
        "Delivered and assembled on 26 October 2003, signed for by N. Bar-Lev. Payment terms: 60 days from the "
        "end of the month. Guarantee of three years on the chairs, five on the desks.",
    ),
)
ORDER_EN = Text(
    "en",
    date(2015, 4, 21),
    "Purchase order 2015-332",
    "Alon Organisational Consulting",
    (
        "To: Binyan Computers Ltd. Please deliver to 8 Palm Street, Rehovot, between 9:00 and 15:00, not later "
        "than 10 May 2015. Contact: Neta Bar-Lev, telephone 08-555-0144.",
        (
            ("Item", "Quantity", "Price"),
            ("Laptop 14 inch, 8 GB", "6", "3,450.00"),
            ("Docking station", "6", "520.00"),
            ("Three years of service on site", "6", "410.00"),
        ),
        "Total without VAT 26,280.00. Prices as in your offer B-7741 of 14 April. An item that fails within "
        "30 days is replaced by a new one, not repaired. Quote the number of this order on delivery note and bill.",
    ),
)
ORDER_HE = Text(
    "he",
    date(2020, 12, 2),
    "הזמנת רכש מספר 88",
    "מרפאת רחוב האלון",
    (
        'לכבוד: מדיקל ציוד רפואי בע"מ. נא לספק לכתובת רחוב האלון 12 עד ליום 20.12.2020, בתיאום עם מזכירות המרפאה.',
        (
            ("פריט", "כמות", "מחיר ליחידה"),
            ("מד לחץ דם לזרוע", "4", "310.00"),
            ("כפפות ניטריל, קופסה", "120", "27.00"),
            ("מד חום אינפרא אדום", "6", "145.00"),
        ),
        "התשלום בתנאי שוטף פלוס 30. יש לציין את מספר ההזמנה על תעודת המשלוח. ציוד פגום יוחזר תוך 14 יום.",
    ),
)
AGREEMENT = Text(
    "en",
    date(2016, 1, 4),
    "Services agreement",
    "Alon Organisational Consulting",
    (
        "This agreement is made on 4 January 2016 between Alon Organisational Consulting Ltd (hereinafter: the "
        "Consultant) and Shaked Water Utility (hereinafter: the Client).",
        "Whereas the Client wishes to reorganise its service centre, and the Consultant has experience of such "
        "work, the parties agree: the Consultant will study the work of the centre, propose a plan in three months, "
        "and accompany its first half year. The fee is 180,000 in six equal parts.",
        "Each side keeps secret what it learns of the other for five years after the end. Either may end the "
        "agreement by 45 days of written notice; work done until then is paid. The governing law is that of Israel.",
        "In witness whereof the parties have signed: N. Bar-Lev for the Consultant, A. Haddad for the Client.",
    ),
)
AGREEMENT_HE = Text(
    "he",
    date(2018, 9, 16),
    "הסכם שירותים",
    'אלון ייעוץ ארגוני בע"מ',
    (
        'שנערך ונחתם ביום 16.9.2018 בין אלון ייעוץ ארגוני בע"מ (להלן: היועץ) לבין רשת מרפאות האלון (להלן: המזמין).',
        "הואיל והמזמין מבקש לקצר את זמני ההמתנה במרפאותיו, והיועץ הצהיר כי יש לו הידע והניסיון הדרושים, הוסכם בין "
        "הצדדים כדלקמן: היועץ ימפה את תהליכי הקבלה, יגיש תוכנית עבודה תוך ששים יום וילווה את יישומה במשך שנה.",
        'התמורה: 12,000 ש"ח לחודש בתוספת מע"מ. כל צד רשאי לסיים את ההסכם בהודעה של שלושים יום. סודיות תישמר גם '
        "לאחר סיומו.",
        "ולראיה באו הצדדים על החתום: נטע בר־לב בשם היועץ, מרים הלוי בשם המזמין.",
    ),
)
LESSONS = Text(
    "en",
    date(2012, 6, 28),
    "Lessons learned: moving the service centre",
    "Neta Bar-Lev",
    (
        "Project: Shaked Water Utility, move of the service centre to one site, January to May 2012. Written after "
        "a conversation of two hours with nine people who took part. Superseded by the note of 2016.",
        "What went well: one person of each shift was in the planning group, so that nobody was surprised by the "
        "new roster. The old telephone lines stayed open for three weeks, and only 4 % of the calls went there.",
        "What we would do otherwise: the archive was packed last and by people who did not know it, and eleven "
        "boxes of meter readings were found two months later. Name an owner for paper before the first box is packed. "
        "Train on the new system with real cases, not with those of the manual.",
    ),
)
LESSONS_HE = Text(
    "he",
    date(2021, 3, 25),
    "הפקת לקחים: מעבר המרפאה לרשומה ממוחשבת",
    "מרים הלוי",
    (
        "המפגש התקיים שישה שבועות לאחר המעבר, בהשתתפות רופאים, אחיות ומזכירות. מטרתו ללמוד ולא לחפש אשמים.",
        "מה עבד: תורים מקוצרים בשבוע הראשון, ליווי צמוד של שתי אחיות שהתנסו מראש, ודף קיצורים ליד כל מחשב. "
        "זמן הרישום חזר לרגיל כבר בשבוע השלישי.",
        "מה נעשה אחרת: רשימת התרופות הועברה בלי בדיקה, ובשמונה תיקים חסרו רגישויות. להבא ייבדק כל תיק של מטופל "
        "קבוע בידי רופא לפני המעבר, ולא אחריו. כמו כן נשאיר מדפסת אחת שאינה תלויה ברשת.",
    ),
)
BEST_PRACTICE = Text(
    "en",
    date(2023, 3, 1),
    "Best practice: handing a project over",
    "Alon Organisational Consulting",
    (
        "When the consultant leaves, the client must be able to go on without a telephone call. This page says how "
        "we hand over. It was tried in fourteen projects and is reviewed every two years.",
        "Begin in the middle of the project, not in its last week. Name the person who takes over, and let "
        "that person lead two meetings while you listen. Write down decisions with their reasons; tasks age, "
        "reasons do not.",
        "In the last week walk through the open points together, agree on a date for a visit, "
        "and delete what you hold of the client's data. Note the deletion in the file of the contract.",
    ),
)
CASE_STUDY = Text(
    "en",
    date(2017, 11, 13),
    "Case study: shorter queues at a water utility",
    "Neta Bar-Lev",
    (
        "The service centre answered 61 % of its calls within two minutes. Complaints had doubled in three years, "
        "and of every ten people who joined, four left within the year.",
        "We listened to 240 calls with the teams. A third were about one unclear line of the bill. The line was "
        "rewritten in a week; the calls about it fell by four fifths, before anything else was changed.",
        "After a year 88 % of calls were answered within two minutes by the same number of people. What mattered "
        "was to look at why people call before looking at how fast one answers.",
    ),
)
MEMO_HE = Text(
    "he",
    date(2014, 10, 19),
    "תזכיר פנימי: שעות המזכירות בחגים",
    "הנהלת המשרד",
    (
        "אל: כל העובדים. בימי חול המועד תפעל המזכירות בין השעות 9:00 ל־13:00. בערב חג המשרד סגור.",
        "מי שמתכנן חופשה יעדכן את לוח הנוכחות עד יום חמישי. תורנות הטלפון תתחלק בין הצוותים לפי הרשימה שעל הלוח.",
        "לקוחות שממתינים לדוח יקבלו הודעה מראש. בשאלות אפשר לפנות אל נטע. חג שמח!",
    ),
)
MINUTES_OLD = Text(
    "he",
    date(2004, 5, 11),
    "פרוטוקול ישיבת דירקטוריון",
    "מזכיר החברה",
    (
        "נוכחים: א. בר-לב, נ. בר-לב, ש. גרוס. נעדרה: ר. דיין. הישיבה נפתחה בשעה 10:00 במשרדי החברה.",
        "אושר פרוטוקול הישיבה הקודמת. הוצגו הדוחות לשנת 2003: הכנסות 2,140,000 ורווח של 186,000.",
        "החלטות: לאשר את הדוחות; לשכור משרד נוסף ברחובות; לחתום על הסכם עם ספק המחשבים.",
    ),
)
MINUTES = Text(
    "he",
    date(2025, 6, 24),
    "פרוטוקול ישיבת דירקטוריון מספר 41",
    "מזכירת החברה",
    (
        'אלון ייעוץ ארגוני בע"מ. נוכחים: אורי בר־לב (יו"ר), נטע בר־לב, שרה גרוס, רונית דיין. נרשם מניין חוקי.',
        "על סדר היום: אישור הדוחות הכספיים לשנת 2024, מינוי רואה חשבון מבקר, מדיניות שמירת מסמכים.",
        "הוחלט פה אחד לאשר את הדוחות הכספיים. הוחלט למנות את משרד כהן ושות׳ כמבקרים לשנה נוספת.",
        "רונית דיין הציגה את לוח שמירת המסמכים. הוחלט לאמצו החל מיום 1.7.2025 ולבחון את יישומו בעוד חצי שנה. "
        "הישיבה ננעלה בשעה 12:15.",
    ),
)
CV_EN = Text(
    "en",
    date(2026, 1, 11),
    "Curriculum vitae: Noa Shalev",
    "Noa Shalev",
    (
        "Organisational psychologist, 9 years of work with public bodies. Rehovot. noa.shalev@example.org",
        "2019 to today: internal consultant, municipal education department. Led the merger of two support units, "
        "built a course for 60 new head teachers. 2016 to 2019: researcher, institute for work and health.",
        "Education: MA in organisational psychology (2016), BA in psychology and statistics (2013). Languages: "
        "Hebrew, English, Arabic (spoken). References are given when asked for.",
    ),
)
APPLICATION = Text(
    "en",
    date(2026, 1, 12),
    "Application for employment: consultant",
    "Noa Shalev",
    (
        "Dear Ms Bar-Lev, I apply for the post of consultant that you announced on 4 January. I read your paper "
        "on the water utility with pleasure: to ask why people call is what I try to do in my own work.",
        "In the education department I learned to lead change among people who do not report to me. I should like "
        "to do this with more kinds of organisation, and in a team that writes down what it learns.",
        "My curriculum vitae is attached. I could begin on 1 April. Yours sincerely, Noa Shalev",
    ),
)
CV_HE = Text(
    "he",
    date(2013, 2, 17),
    "קורות חיים: איתן רז",
    "איתן רז",
    (
        "רואה חשבון, שבע שנות ניסיון בהנהלת חשבונות של חברות שירותים. מתגורר בחיפה, נשוי ואב לשניים.",
        "2009 עד היום: חשב משנה, רשת מרפאות. אחראי על תקציב, שכר ודיווח חודשי. 2006 עד 2009: מתמחה ורואה חשבון "
        "במשרד כהן ושות׳.",
        "השכלה: תואר ראשון בחשבונאות וכלכלה, 2006. שפות: עברית, אנגלית, רוסית. המלצות יימסרו לפי בקשה.",
    ),
)
SALARY = Text(
    "en",
    date(2023, 12, 31),
    "Salaries 2023, confidential",
    "Accounts",
    (
        "This sheet lists what each employee earned in 2023. It is for the directors alone and must not be printed.",
        (("Name", "Month", "Year"), ("N. Bar-Lev", "24,000", "288,000"), ("S. Gross", "21,500", "258,000")),
        "Figures are before tax and include the thirteenth month. Questions to the head of accounts, in person.",
    ),
)
TENDER = Text(
    "en",
    date(2021, 9, 5),
    "Tender 14/2021: terms for bidders",
    "Shaked Water Utility",
    (
        "Shaked Water Utility invites offers for the study and renewal of its meter reading. Offers are to reach "
        "the tender box before noon of 3 October 2021.",
        "A bidder must show three studies of like size in the last five years, and name the people who will do "
        "the work. Price counts for 40 %, quality for 60 %. Questions are answered in writing to all.",
        "This document may be read by anyone and changed by no one.",
    ),
)
PLAN = Text(
    "en",
    date(2020, 8, 3),
    "Evacuation plan of the clinic",
    "Oak Street Clinic",
    (
        "When the alarm sounds, stop treatment, help the patient to dress if there is time, and leave by the "
        "nearest stairs. Never use the lift. Nurses check the four examination rooms, the secretary the waiting room.",
        "The meeting point is the car park of the school opposite. The physician on duty counts staff, the secretary "
        "counts patients by the list of the day, which she takes with her.",
        "Drills are held in March and September. The last one took four minutes and ten seconds.",
    ),
)
FUTURE = Text(
    "en",
    date(2031, 4, 1),
    "Working plan of the archive",
    "Oak Street Clinic",
    (
        "The computer on which this was written believed that it was the year 2031, so that its dates are wrong.",
        "The archive is sorted by year of birth. Files of patients who were not seen for seven years are set "
        "apart each January and listed for the physician in charge, who decides on each of them.",
        "Boxes are labelled on the short side, with year and first and last number.",
    ),
)
