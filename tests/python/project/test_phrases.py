"""The check that keeps phrases of dev/phrases.txt out of the project's texts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DEV = Path(__file__).resolve().parents[3] / "dev"

if not (DEV / "phrases.py").is_file():
    pytest.skip("the check is not part of the installed package", allow_module_level=True)


@pytest.fixture(scope="module")
def phrases():
    specification = importlib.util.spec_from_file_location("phrases", DEV / "phrases.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


PLANTED = {
    "comment.py": "x = 1  # the table whereof\n",
    "docstring.py": 'def f():\n    """Return it.\n\n    The table\n    whereof which.\n    """\n',
    "message.py": 'raise ValueError(f"{x}: the table "\n    f"whereof {y}")\n',
    "comment.R": "f <- 1 # the table\n# whereof\n",
    "message.R": 'stop("the table ",\n  "x whereof y")\n',
    "page.md": "# Title\n\nThe table *whereof* which.\n",
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_phrase_is_found(phrases, tmp_path, capsys, name):
    file = tmp_path / name
    file.write_text(PLANTED[name], encoding="utf-8")
    assert phrases.main([str(file)]) == 1
    line = PLANTED[name][: PLANTED[name].index("whereof")].count("\n") + 1
    assert f"{file}:{line}: 'whereof': write of which" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "n_found"),
    [
        ("which is none of them", 1),
        ("is\n# none", 1),
        ('"is "\n    f"none"', 1),
        ("where it is None", 0),
        ("this none", 0),
        ("is nonetheless", 0),
    ],
)
def test_phrase_of_several_words(phrases, text, n_found):
    assert len(phrases.as_pattern("is none").findall(text)) == n_found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("code.py", "whereof = whereof(whereof)\n"),
        ("code.R", "whereof <- function(x) whereof\n"),
    ],
)
def test_code_is_not_checked(phrases, tmp_path, name, source):
    file = tmp_path / name
    file.write_text(source, encoding="utf-8")
    assert phrases.main([str(file)]) == 0


def test_project_has_none_of_the_phrases(phrases, capsys):
    assert phrases.main([]) == 0, capsys.readouterr().out
