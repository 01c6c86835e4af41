"""What the README tells people to type, typed: its lines against a running system, its settings against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e import pages
from tests.e2e.quickstarts import PROJECT, Quickstart

NOT_RUN_HERE = ("make ", "export ")  # the suite itself runs from make; the environment is given


def blocks() -> list[tuple[str, str]]:
    return [(language, text) for language, text in pages.blocks("README.md") if not text.startswith(NOT_RUN_HERE)]


def test_there_are_lines_for_curl_python_and_the_command() -> None:
    texts = "".join(text for _, text in blocks())
    for word in ("curl ", "tritonclient", "cyxwiz deploy", "cyxwiz nodes token"):
        assert word in texts


@pytest.mark.parametrize(("language", "text"), blocks(), ids=lambda value: value.split("\n")[0][:30])
def test_what_the_readme_says_works(language: str, text: str, system: Quickstart, digits: str, tmp_path: Path) -> None:
    printed = pages.typed(language, text, url=system.url, key=str(system.state["api_key"]), home=tmp_path)
    assert '"error"' not in printed
    if "tritonclient" in text:
        assert printed.strip() == "[9 4 6 4 8]"


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text()
    code = (PROJECT / "cyxwiz_site" / "settings.py").read_text()
    names = re.findall(r'env\.(?:text|flag|number|words)\("([A-Z_]+)"', code)
    assert len(names) > 5
    assert [name for name in names if f"`{name}`" not in page] == []
