"""XML of annotation files without document types: no entity can expand, nothing is fetched."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ssd34.errors import DatasetError


def parse_xml(data: bytes, where: str) -> Element:
    """The root element of an XML document.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        DatasetError: not well-formed, or it declares a document type.
    """
    builder = TreeBuilder()

    def refuse(*_: object) -> None:
        raise DatasetError(f"{where}: declares a document type (DOCTYPE); take that line out")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DatasetError(f"{where}: not XML ({error})") from None
