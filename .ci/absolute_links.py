"""Make the relative links of a README absolute: `python .ci/absolute_links.py FILE ADDRESS`.

Called by `.ci/build` for a release: the package index shows the README without the files beside it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)(?=[^)\s])")


def with_absolute_links(text: str, address: str) -> str:
    """Return a Markdown text with all links absolute.

    :param address: of the folder that the links are relative to
    :raises ValueError: when that isn't an https address
    """
    if urlsplit(address).scheme != "https" or not urlsplit(address).netloc:
        raise ValueError(f"ADDRESS is {address!r}; it must begin with https:// and a host")
    return RELATIVE_LINK.sub(lambda _: f"]({address.rstrip('/')}/", text)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_absolute_links(file.read_text(), sys.argv[2]))
