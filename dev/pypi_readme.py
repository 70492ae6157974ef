"""Make README.md the description of the package on PyPI, which has none of the files it links to.

hatchling runs this while it builds: links and pictures then name the files of the release's tag.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or a picture whose target is a path: [text](path), ![text](path). A badge, a picture
# within a link, is found as the two targets that it has.
_RELATIVE = re.compile(r"(?P<picture>!\[[^\]]*)?\]\((?!https?://|mailto:|#)(?P<path>[^)\s]+)\)")


def absolute(text: str, repository: str, tag: str) -> str:
    """Return a page with links to the files of a tag in place of relative ones.

    Parameters
    ----------
    text
        The page, in Markdown; its relative links start from the repository's root.
    repository
        The repository's address on GitHub.
    tag
        The tag.
    """
    pictures = repository.replace("//github.com/", "//raw.githubusercontent.com/")

    def replaced(match: re.Match[str]) -> str:
        picture, path = match["picture"] or "", match["path"]
        base = f"{pictures}/{tag}" if picture else f"{repository}/blob/{tag}"
        return f"{picture}]({base}/{path})"

    return _RELATIVE.sub(replaced, text)


class PyPIReadme(MetadataHookInterface):
    """Fills in the field `readme` of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description to the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata["urls"]["Homepage"], f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
