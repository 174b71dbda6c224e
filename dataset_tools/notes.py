"""What a reader dropped, mended or found suspicious: counted, named, and reported at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES_KEPT = 10
_PLACES_TOLD = 3


@dataclass(slots=True)
class Note:
    """One kind of thing noticed, how often, and the first places of it (`file:line` or alike)."""

    kind: str
    count: int = 0
    places: list[str] = field(default_factory=list)


class Notes:
    """Notes by kind, in the order in which the kinds first occurred.

    `dropped` are records that did not reach the output; `suspicious` ones did, as they were or
    mended. `remarks` are decisions taken.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.dropped: dict[str, Note] = {}
        self.suspicious: dict[str, Note] = {}

    def drop(self, kind: str, place: str) -> None:
        """Something was left out of the output."""
        self._add(self.dropped, kind, place)

    def suspect(self, kind: str, place: str) -> None:
        """Something was kept (as it is, or mended in the way `kind` says) but deserves a look."""
        self._add(self.suspicious, kind, place)

    def tell(self, remark: str) -> None:
        """Something was decided, in a way that the reader of the summary should know of."""
        if remark not in self.remarks:
            self.remarks.append(remark)

    def merge(self, other: Notes) -> None:
        """Take over the notes of another reader (or shard), after those already here."""
        for remark in other.remarks:
            self.tell(remark)
        for mine, theirs in (
            (self.dropped, other.dropped),
            (self.suspicious, other.suspicious),
        ):
            for note in theirs.values():
                kept = mine.setdefault(note.kind, Note(note.kind))
                kept.count += note.count
                kept.places += note.places[: EXAMPLES_KEPT - len(kept.places)]

    def lines(self) -> list[str]:
        """Text for the terminal: remarks, what was dropped and is suspicious, with first places."""
        return [
            *self.remarks,
            *_told("dropped", self.dropped),
            *_told("suspicious", self.suspicious),
        ]

    def __bool__(self) -> bool:
        return bool(self.dropped or self.suspicious)

    @staticmethod
    def _add(notes: dict[str, Note], kind: str, place: str) -> None:
        note = notes.setdefault(kind, Note(kind))
        note.count += 1
        if len(note.places) < EXAMPLES_KEPT:
            note.places.append(place)


def _told(heading: str, notes: dict[str, Note]) -> list[str]:
    lines = [f"{heading}:" if notes else f"{heading}: nothing"]
    for note in notes.values():
        places = note.places[:_PLACES_TOLD]
        more = ", …" if note.count > len(places) else ""
        lines.append(f"  {note.count:,} × {note.kind}: {', '.join(places)}{more}")
    return lines
