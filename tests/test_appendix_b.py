"""Appendix B: identifiers are well-formed and unique, every entry says why to read it, every work the course cites is listed."""

import calendar
import re
from typing import NamedTuple

import pytest

from tests.support import ROOT
from tools import checks
from tools.export import all_notebooks, read_notebook

PAGE = ROOT / "appendix-B" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
WORKS, COURSES = TEXT.split("## Other courses", 1)

NAME = r"[A-ZÀ-Ý][\w'’-]*[a-zß-ÿ](?: [A-ZÀ-Ý][\w'’-]*[a-zß-ÿ])*"  # Dao; Gomez Hidalgo; Press
AUTHORS = rf"({NAME})(?:, {NAME})*(?: et al\.| and others|,? (?:and|&) {NAME})?"
YEAR = r"((?:19[2-9]|20[0-2])\d)\b"
NOT_AUTHORS = {*calendar.month_name[1:], "Python"}
# named in the text in other forms
OTHERWISE = [("Gage", "1994"), ("Glorot", "2010"), ("Wang", "2021"), ("Chowdhery", "2022")]  # codespell:ignore gage


class Entry(NamedTuple):
    line: str
    authors: str
    year: str
    title: str
    source: str
    reason: str


def entries(page: str) -> list[Entry]:
    """Every entry of the lists of works: one line that names it, one line that says why."""
    pattern = r"^- (\*\*(.+), (\d{4})\.\*\* \*(.+?[.?])\* (.+?))(?: <!--.*-->)?\n((?:  \S.*\n?)*)"
    return [Entry(*match) for match in re.findall(pattern, page, re.M)]


def links(text: str) -> list[tuple[str, str]]:
    """Text and address of every Markdown link; an address may hold balanced parentheses."""
    return re.findall(r"\[([^\]]+)\]\(([^\s)]+(?:\([^\s)]*\)[^\s)]*)*)\)", text)


def problem(entry: Entry) -> str | None:
    """What is wrong with an entry's identifier or year, if anything."""
    if not 1920 <= int(entry.year) <= 2026:
        return f"the year {entry.year}"
    for label, address in links(entry.source):
        if label.startswith("arXiv:") or "arxiv.org" in address:
            number = re.fullmatch(r"arXiv:(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})", label)
            if not number or address != f"https://arxiv.org/abs/{label.removeprefix('arXiv:')}":
                return f"{label} with the address {address}"
            if len(number[3]) != (5 if int(number[1]) >= 15 else 4):
                return f"the number of digits of {label}"
            if 2000 + int(number[1]) > int(entry.year):
                return f"{label} is later than {entry.year}"
        elif label.startswith("doi:"):
            if not re.fullmatch(r"doi:10\.\d{4,9}/\S+", label) or address != f"https://doi.org/{label.removeprefix('doi:')}":
                return f"{label} with the address {address}"
        elif not re.match(r"https://\S+\.\S+", address):
            return f"the address {address}"
    return None


def cited(text: str) -> set[tuple[str, str]]:
    """First author and year of every "(Name ..., year)" and "Name et al. (year)" in the text."""
    text = re.sub(r"\s+", " ", text)
    found = {
        pair
        for group in re.findall(r"\(([^()]*)\)", text)
        for pair in re.findall(rf"\b{AUTHORS}(?:,|(?<=al\.)|(?<=others)) {YEAR}", group)
    }
    found |= set(re.findall(rf"\b({NAME})(?: et al\.| and others| (?:and|&) {NAME}) \({YEAR}", text))
    return {(author, year) for author, year in found if author.split()[0] not in NOT_AUTHORS}


def comments(code: str) -> str:
    """What a cell or module says in docstrings and comments."""
    return "\n".join(re.findall(r'"""(.*?)"""', code, re.S) + re.findall(r"#(.*)", code))


def sources() -> dict[str, str]:
    """Everything that may cite: pages, notebooks, the data's programs."""
    texts = {p: p.read_text(encoding="utf-8") for p in checks.pages() if p != PAGE}
    for path in all_notebooks():
        cells = read_notebook(path)["cells"]
        texts[path] = "\n\n".join(c["source"] if c["cell_type"] == "markdown" else comments(c["source"]) for c in cells)
    texts |= {p: comments(p.read_text(encoding="utf-8")) for p in (ROOT / "data").glob("*.py")}
    return {path.relative_to(ROOT).as_posix(): text for path, text in texts.items()}


def listed(page: str) -> set[tuple[str, str]]:
    """First author with every year under which an entry may be cited: its own, its conference's, its preprint's."""
    pairs = set()
    for entry in entries(page):
        first = re.match(NAME, entry.authors)[0]
        numbers = re.findall(r"\[arXiv:(\d\d)", entry.source)
        years = {entry.year, *re.findall(rf"\b{YEAR}", re.sub(r"\[.*?\]\(\S*\)", "", entry.source)), *(f"20{n}" for n in numbers)}
        pairs |= {(first, year) for year in years}
    return pairs


def test_the_page_is_in_order():
    assert not list(checks.text_problems([TEXT], PAGE))
    legend = WORKS.split("## ")[0]
    assert legend.count("†") == 1, "the legend of the dagger is missing"
    assert ("no entry carries one" in legend) == (TEXT.count("†") == 1), "the legend doesn't say how many entries carry the dagger"


def test_every_item_is_a_whole_entry():
    assert len(entries(WORKS)) == len(re.findall(r"^[-*] ", WORKS, re.M)) >= 50
    titles = [e.title.lower() for e in entries(WORKS)]
    assert len(set(titles)) == len(titles)


def test_every_chapter_has_its_list():
    heads = re.findall(r"^## (Chapter \d|Appendix \w)", WORKS, re.M)
    assert heads == [f"Chapter {n}" for n in range(1, 9)] + ["Appendix A"]
    assert all(entries(part) for part in WORKS.split("\n## ")[1:])


def test_identifiers_are_well_formed_and_years_possible():
    assert {e.title: problem(e) for e in entries(WORKS) if problem(e)} == {}


def test_identifiers_are_unique():
    addresses = [address for _, address in links(TEXT)]
    assert sorted(set(addresses)) == sorted(addresses)


def test_an_entry_without_an_address_names_its_place():
    assert all(len(e.source) > 20 for e in entries(WORKS) if not links(e.source))


def test_every_entry_says_in_one_line_why():
    for entry in entries(WORKS):
        lines = entry.reason.splitlines()
        assert len(lines) == 1, entry.title
        assert 40 < len(lines[0]) < 180, (entry.title, len(lines[0]))
        assert lines[0].rstrip().endswith("."), entry.title
    reasons = [e.reason for e in entries(WORKS)]
    assert len(set(reasons)) == len(reasons)


def test_courses_have_an_address_and_a_line():
    items = re.findall(r"^- (.+(?:\n  .+)*)", COURSES, re.M)
    assert len(items) >= 7
    for item in items:
        assert len(links(item)) == 1
        assert links(item)[0][1].startswith("https://")
        assert len(item) > 80
        assert item.rstrip().endswith(".")


def test_every_citation_of_the_course_is_listed():
    known, found = listed(WORKS), {}
    for path, text in sources().items():
        for pair in cited(text) - known:
            found.setdefault(pair, []).append(path)
    assert not found, f"cited but not in appendix-B/README.md, add an entry with a verified identifier: {found}"
    assert set(OTHERWISE) <= known


def test_the_course_is_really_searched():
    together = set().union(*map(cited, sources().values()))
    assert {("Vaswani", "2017"), ("Micikevicius", "2018"), ("Almeida", "2011"), ("Zhao", "2023")} <= together


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("(Vaswani et al., 2017, section 3.5)", {("Vaswani", "2017")}),
        ("(**RLHF**; Christiano et al.,\n2017, Ouyang et al., 2022)", {("Christiano", "2017"), ("Ouyang", "2022")}),
        ("(FSDP; Zhao et al., 2023, after ZeRO by Rajbhandari et al., 2020)", {("Zhao", "2023"), ("Rajbhandari", "2020")}),
        ("(prefix filtering: Chaudhuri, Ganti and Kaushik, 2006)", {("Chaudhuri", "2006")}),
        ("(Almeida, Gomez Hidalgo and Yamakami, 2011)", {("Almeida", "2011")}),
        ("(Witten & Bell, 1991); a rule of Kaplan and others (2020)", {("Witten", "1991"), ("Kaplan", "2020")}),
        ("(Wijmans and others, 2024, *Cut your losses*) (Shazeer, 2020)", {("Wijmans", "2024"), ("Shazeer", "2020")}),
        ("(Kaplan et al. 2020; Dao and others 2022)", {("Kaplan", "2020"), ("Dao", "2022")}),
        ("Cohen (see Table 2000), (March 2024; in March, 2024), (2000 tales), f(Linear, 2048), PaLM (2022), (Python, 2024)", set()),
    ],
)
def test_citations_are_found(text, pairs):
    assert cited(text) == pairs


@pytest.mark.parametrize(
    ("source", "year"),
    [
        ("[arXiv:1706.3762](https://arxiv.org/abs/1706.3762)", "2017"),
        ("[arXiv:1713.03762](https://arxiv.org/abs/1713.03762)", "2017"),
        ("[arXiv:1706.03762](https://arxiv.org/abs/1706.03763)", "2017"),
        ("[arXiv:1706.03762](https://arxiv.org/pdf/1706.03762)", "2017"),
        ("[arXiv:1706.03762](https://arxiv.org/abs/1706.03762)", "2016"),
        ("[paper](https://arxiv.org/abs/1706.03762)", "2017"),
        ("[doi:11.1145/103162](https://doi.org/11.1145/103162)", "1991"),
        ("[doi:10.1145/103162](https://doi.org/10.1145/103163)", "1991"),
        ("[report](http://example.org/x.pdf)", "2018"),
        ("A journal 3(4)", "1919"),
    ],
)
def test_a_wrong_identifier_is_noticed(source, year):
    (entry,) = entries(f"- **Somebody, {year}.** *A title.* {source}.\n  Because.\n")
    assert problem(entry)


def test_a_missing_entry_is_noticed():
    without = re.sub(r"- \*\*Micikevicius.*\n.*\n", "", WORKS)
    assert ("Micikevicius", "2018") in listed(WORKS) - listed(without)
