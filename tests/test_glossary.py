"""The glossary: its terms are used where they are said to be earned, in order, and every notebook links to it."""

import json
import re

import pytest

from tests.support import ROOT
from tools.export import all_notebooks, read_notebook

TEXT = (ROOT / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (?:\[(.+?)\]\((.+?)\)|(\d)) \|$", TEXT, re.M)
FORMS = {"tying": "tied"}  # words that the chapter uses in another form only


def words(term: str) -> list[str]:
    """The words of a term, hyphens and commas apart."""
    return re.findall(r"\w[\w-]*", term)


def source(path: str) -> str:
    """What a reader of the page, notebook or script sees, without Markdown's stars."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text.replace("*", "")


def test_every_line_of_the_terms_is_read():
    rows = TEXT.split("## Terms")[1].count("\n| **")
    assert len(TERMS) == rows > 80


def test_terms_are_unique_and_in_alphabetical_order():
    names = [[re.sub(r"\W", "", part).lower() for part in term.split(",")] for term, *_ in TERMS]
    assert names == sorted(names)
    assert len({tuple(name) for name in names}) == len(names)


@pytest.mark.parametrize(("term", "path"), [(term, path) for term, _, _, path, _ in TERMS if path])
def test_a_term_is_used_where_it_is_earned(term, path):
    text = source(path)
    absent = [word for word in words(term) if not re.search(rf"\b{re.escape(FORMS.get(word, word))}", text, re.I)]
    assert not absent, f"{path} never says {absent}"


def test_every_notebook_links_to_the_glossary():
    notebooks = all_notebooks()
    assert len(notebooks) > 15
    for path in notebooks:
        first = read_notebook(path)["cells"][0]["source"]
        assert "glossary.md)" in first or "/README.md)" not in first, path  # an author's draft has an empty header
