"""The page of a report, parsed, and results for it."""

from __future__ import annotations

import warnings
from html.parser import HTMLParser

import numpy as np

import scvibridge as sb

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "$\\frac{1}$ & 'x' {{7*7}}",
)


class Page(HTMLParser):
    """What is on a page: its tags with attributes, its text, and its tables by caption."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.errors, words = [], [], [], []
        self.words = words
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.errors
        assert not self.open
        self.text = " ".join(" ".join(words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def quietly(*arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(*arguments, progress=False, **settings)


def hostile(result):
    """The result with names that look like HTML everywhere."""
    made = result.copy()
    genes = list(made.var_names)
    genes[:3] = HOSTILE
    made.var_names = genes
    for column in ("batch", "cell_type", "condition"):
        categories = made.obs[column].cat.categories
        names = dict(zip(categories, HOSTILE, strict=False))
        made.obs[column] = made.obs[column].cat.rename_categories(names)
        if column == "batch":
            uns = made.uns["scvibridge"]
            uns["batches"] = np.array([names[b] for b in uns["batches"]], dtype=object)
            uns["transform_batch"] = np.array([names["V3"]], dtype=object)
    made.uns["scvibridge"]["notes"] = np.array(list(HOSTILE), dtype=object)
    return made
