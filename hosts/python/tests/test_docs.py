# SPDX-License-Identifier: Apache-2.0
"""The guide runs: every block of Python of docs/python.md, in one namespace a section."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "python.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, list[tuple[int, str]]]:
    """The blocks below each heading of the second level, with the line each begins at."""
    text = GUIDE.read_text(encoding="utf-8")
    starts = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)]
    found = {}
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        blocks = [
            (text.count("\n", 0, match.start(1)), match[1])
            for match in FENCE.finditer(text, start, end)
        ]
        if blocks:
            found[text[start + 3 : text.index("\n", start)]] = blocks
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_opens_a_block_closes_it(page):
    fences = re.findall(r"^```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(fence == "```" for fence in fences[1::2]) and len(fences) % 2 == 0


def test_every_block_belongs_to_a_section():
    in_sections = sum(len(blocks) for blocks in sections().values())
    assert in_sections == len(FENCE.findall(GUIDE.read_text(encoding="utf-8"))) > 5


@pytest.mark.parametrize("section", sections())
def test_a_section_runs(section, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, block in sections()[section]:
        # Blank lines above give tracebacks the line numbers of the guide.
        exec(compile("\n" * line + block, str(GUIDE), "exec"), namespace)
