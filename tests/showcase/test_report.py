"""The report: one page that needs no other file."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from abduce.showcase import plots, report


class Page(HTMLParser):
    """Reads a page: its tags, its text, and whether every tag was closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path):
    picture = report.Picture(
        "dots", "Dots & dashes", "What <they> are.", lambda: plots.grid([plots.Row("", np.eye(3)[None])])
    )
    table = report.Table(("task", "ours"), [("fill <20 %>", "0.1 *")], frozenset({(0, 1)}))
    report.write(tmp_path / "out" / "report.html", "A title", "A lead.", [table, "A paragraph.", picture])
    return tmp_path / "out"


def test_the_page_needs_no_other_file(page):
    text = (page / "report.html").read_text()
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', text)
    assert len(sources) == 2
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).width > 50


def test_the_page_is_well_formed_and_says_what_it_was_given(page):
    read = Page((page / "report.html").read_text())
    assert not read.open
    words = "".join(read.words)
    for said in ("A title", "A lead.", "A paragraph.", "fill <20 %>", "Dots & dashes", "What <they> are."):
        assert said in words
    assert [tag for tag, _ in read.tags].count("b") == 1


def test_the_page_is_made_for_phones_and_for_the_dark(page):
    read = Page((page / "report.html").read_text())
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.tags
    (dark,) = [attrs for tag, attrs in read.tags if tag == "source"]
    assert dark["media"] == "(prefers-color-scheme: dark)"


def test_pictures_also_lie_beside_the_page(page):
    assert [p.name for p in (page / "pictures").iterdir()] == ["dots.png"]
