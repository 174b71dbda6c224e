"""XML files as small trees that know their line numbers, read safely.

Entities, which make XML a way to read other files or to fill the memory, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dataset_tools.errors import InputError

DEEPEST = 100


@dataclass(slots=True)
class Node:
    """An element: its name without a namespace prefix, its attributes, its own text, its line."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, tag: str) -> Node | None:
        """The first child called `tag`."""
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def all(self, tag: str) -> Iterator[Node]:
        """All children called `tag`."""
        return (child for child in self.children if child.tag == tag)

    def text_of(self, tag: str) -> str:
        """Text of the first child called `tag`; "" if there is none."""
        child = self.child(tag)
        return "" if child is None else child.text


def parse_xml(path: str | Path, content: bytes | None = None) -> Node:
    """The root element of an XML file, or of its `content` where that was read already.

    InputError with line and column if it is not well-formed.
    """
    from xml.parsers.expat import ErrorString, ExpatError, ParserCreate

    if content is None:
        content = Path(path).read_bytes()
    parser = ParserCreate()
    parser.buffer_text = True
    top = Node("", 0)
    open_nodes = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        if len(open_nodes) > DEEPEST:
            raise InputError(f"{path}:{line}: nested too deeply to be a label file.")
        node = Node(name.rpartition(":")[2] if ":" in name else name, line, attributes, "", [])
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_: str) -> None:
        node = open_nodes.pop()
        node.text = node.text.strip()

    def characters(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(*_: object) -> NoReturn:
        raise InputError(f"{path}: XML with entities or external parts is not read.")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = refuse
    try:
        parser.Parse(content, True)
    except ExpatError as error:
        raise InputError(
            f"{path}: broken XML at line {error.lineno}, column {error.offset + 1}: "
            f"{ErrorString(error.code)}. Mend or remove the file."
        ) from error
    except (LookupError, ValueError) as error:  # encodings that Python does not know
        raise InputError(f"{path}: cannot be read as XML: {error}.") from error
    finally:
        # The handlers know the parser and it them: without this, each file waits for the collector.
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = None
    return top.children[0]
