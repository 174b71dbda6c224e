"""XML files as small trees that know their line numbers, read safely.

Entities, which make XML a way to read other files or to fill the memory, are refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from dataset_tools.errors import InputError
from dataset_tools.files import read_bytes

DEEPEST = 100
CHUNK_BYTES = 64 * 1024
QUICK_BYTES = 256 * 1024
MOST_QUICK_BYTES = 16 * 1024 * 1024  # without an end tag of those that are looked for
_BLANKS = " \t\r\n"
_PLAIN_START = re.compile(
    rb"(<\?xml version=[\"']1\.0[\"']( encoding=[\"'](utf|UTF)-8[\"'])?\s*\?>)?\s*(?=<\w)"
)


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
    chunks = [read_bytes(path) if content is None else content]
    top = Node("", 0)
    for _ in _parse(path, chunks, [top]):
        pass
    return top.children[0]


def stream_xml(path: str | Path) -> Iterator[Node]:
    """The root element, before it has children, then each of its children when it is complete.

    A child is forgotten when the next one is asked for, so that the memory does not grow with the
    file. InputError as from `parse_xml`, but not before the place of the fault is reached.
    """
    open_nodes = [Node("", 0)]
    with open(path, "rb") as file:
        yield from _stream(path, iter(lambda: file.read(CHUNK_BYTES), b""), open_nodes, [])


def stream_xml_quickly(
    path: str | Path,
    tag: str,
    read: Callable[[str, int], Sequence[Any] | None],
    content: bytes | None = None,
) -> Iterator[Node | Any]:
    """As `stream_xml`, of a file or of `content` that is from it, but children called `tag` are
    first shown to `read`, as the text before their end tag and the line that they begin in.

    What it returns comes in their place; None if the parser has to read this one. `read` must
    return that of all that is not certainly a well-formed element without entities.
    """
    quick = _Quick(tag, read, [Node("", 0)])
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
        yield from _stream(path, quick.unread(file), quick.open_nodes, quick.found)


def _stream(
    path: str | Path, chunks: Iterable[bytes], open_nodes: list[Node], found: list[Any]
) -> Iterator[Node | Any]:
    """Children of the root as they get complete; after each chunk what it put into `found`."""
    top = open_nodes[0]
    root: Node | None = None
    for _ in _parse(path, chunks, open_nodes):
        if root is None and top.children:
            root = top.children[0]
            yield root
        # The last child may still be open: the top and the root are, besides it.
        while root is not None and len(root.children) > (len(open_nodes) > 2):
            yield root.children.pop(0)
        yield from found
        found.clear()


@dataclass
class _Quick:
    """Divides a file between a function for its most frequent elements and the parser."""

    tag: str
    read: Callable[[str, int], Sequence[Any] | None]
    open_nodes: list[Node]  # the parser's: its state
    found: list[Any] = field(default_factory=list)  # what was read since the last chunk
    line: int = 1

    def unread(self, file: IO[bytes]) -> Iterator[bytes]:
        """Chunks of the file with blank lines for the elements that were read."""
        end = f"</{self.tag}>".encode()
        rest = file.read(QUICK_BYTES)
        if start := _PLAIN_START.match(rest):
            yield start[0]
            self.line += start[0].count(b"\n")
            rest = rest[start.end() :]
        # Without comments, CDATA and declarations what looks like an element is one. Else, and if
        # there are none, all is the parser's from here on.
        while start and b"<!" not in rest and b"<?" not in rest and len(rest) < MOST_QUICK_BYTES:
            whole, there, after = rest.rpartition(end)
            if there:
                try:
                    text = whole.decode()
                except UnicodeDecodeError:
                    break
                rest = after
                yield from self._unread_pieces(text)
            if not (block := file.read(QUICK_BYTES)):
                break
            rest += block
        yield rest
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def _unread_pieces(self, text: str) -> Iterator[bytes]:
        """`text` ends before an end tag. What is `found` comes after the chunk that follows."""
        blank = ""
        for piece in text.split(f"</{self.tag}>"):
            before, start, inner = piece.partition(f"<{self.tag} ")
            is_whole = True
            if before.strip(_BLANKS):
                yield blank.encode()
                yield before.encode()
                blank = ""
                is_whole = before.rstrip(_BLANKS).endswith(">") and not before.count('"') % 2
            else:
                blank += before
            self.line += before.count("\n")
            is_child = is_whole and len(self.open_nodes) == 2
            results = self.read(start + inner, self.line) if is_child else None
            lines = inner.count("\n")
            self.line += lines
            if results is None:
                yield blank.encode()
                yield f"{start}{inner}</{self.tag}>".encode()
                blank = ""
            else:
                self.found += results
                blank += "\n" * lines
        yield blank.encode()


def _parse(
    path: str | Path, chunks: Iterable[bytes], open_nodes: list[Node]
) -> Iterator[list[Node]]:
    """Put the elements of a file into the last of `open_nodes`; after each chunk, and at the end,
    gives those still open."""
    from xml.parsers.expat import ErrorString, ExpatError, ParserCreate

    parser = ParserCreate()
    parser.buffer_text = True

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
        for chunk in chunks:
            parser.Parse(chunk, False)
            yield open_nodes
        parser.Parse(b"", True)
        yield open_nodes
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
