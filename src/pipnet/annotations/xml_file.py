"""XML files of annotation tools: parsed without entities, and written atomically."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from pipnet.errors import DataError, one_line
from pipnet.io.atomic import write_text
from pipnet.io.text import read_text

_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def parse_xml(path: Path) -> ET.Element:
    """Return the root of an XML file.

    Raises:
        DataError: the file cannot be read, is not XML, or declares entities.
    """
    text = read_text(path)
    # Entities can grow without limit or refer to other files. No tool writes them: they are refused.
    # The text is decoded already, so no other encoding can hide a declaration from this search.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise DataError(f"{path}: declares a DOCTYPE or ENTITY, which CVAT and imglab never do: not read")
    try:
        return ET.fromstring(text)  # noqa: S314 (see above)
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path}: not XML, or cut off: {one_line(error)}") from None


def write_xml(path: Path, root: ET.Element) -> None:
    """Write an XML file.

    Raises:
        DataError: a text has a character that XML does not allow.
        WriteError: the file cannot be written.
    """
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    if _NOT_XML.search(text):
        raise DataError(f"{path}: a name has a character that XML does not allow")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')
