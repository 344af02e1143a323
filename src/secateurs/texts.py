"""Reading text: files a line or a row at a time, lists from Python, and the text that Python itself carries."""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from secateurs.errors import InputError
from secateurs.models.source import as_path

READ_LIMIT = 1 << 20
"""Bytes taken at a time, so that one endless line does not fill the memory."""
LINE_LIMIT = 64 << 20
"""Bytes in a row of a .jsonl, .tsv or .csv file at most."""
COLUMN_FORMATS = (".jsonl", ".tsv", ".csv")
MIN_PASSAGE_CHARACTERS = 200


@dataclass
class TextSource:
    """Texts from one place; remembers how far it was read."""

    name: str
    """Where the texts come from."""
    texts: Iterator[str]
    """Lines (running text, newlines kept) or rows."""
    is_running: bool
    """Whether the texts follow on from one another, rather than being rows of their own."""
    total_bytes: int | None = None
    """Size of the file, where there is one."""
    read_bytes: int = 0
    """Bytes read so far."""
    read_texts: int = 0
    """Texts handed out so far."""
    _put_back: int = field(default=0, repr=False)
    _finished: bool = field(default=False, repr=False)

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.read_texts += 1
            yield text
        self._finished = True

    def put_back(self, text: str) -> None:
        """Count this end of what was handed out as unread, since it was not used."""
        self._put_back += len(text.encode())

    @property
    def is_finished(self) -> bool:
        """Whether all of it was read."""
        return self._finished and not self._put_back

    @property
    def unread(self) -> str:
        """What was left, in words."""
        if self.is_finished:
            return "nothing"
        if self.total_bytes is not None:
            return f"about {self.total_bytes - self.read_bytes + self._put_back:,} of {self.total_bytes:,} bytes"
        return "the rest"


def open_texts(where: str | Path | Sequence[str] | None, column: str | None = None) -> TextSource:
    """Texts from a file, standard input ("-"), a list, or (None) the calibration part of Python's own documentation.

    Raises:
        InputError: the file is missing or of an unknown kind, or the column does not fit. Faults further inside are
            raised while reading, with their line number.
    """
    if where is None:
        return TextSource("text that comes with Python", iter(default_passages("calibration")), is_running=True)
    if isinstance(where, str | Path):
        return _open_file(str(where), column)
    rows = list(where)
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise InputError(f"calibration text {number} must be a string, got {type(row).__name__}")
    return TextSource(f"{len(rows)} texts", iter(rows), is_running=False)


def default_passages(part: Literal["calibration", "test"]) -> list[str]:
    """English paragraphs from the documentation that Python carries; no paragraph is in both parts.

    Topics go to the two parts in turn, three to one; a paragraph that stands in several topics counts where it first
    stands.
    """
    from pydoc_data.topics import topics

    chosen, seen = [], set()
    for number, topic in enumerate(sorted(topics)):
        mine = (number % 4 == 3) == (part == "test")
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(paragraph.split())
            if len(text) >= MIN_PASSAGE_CHARACTERS and text not in seen:
                seen.add(text)
                if mine:
                    chosen.append(text + "\n\n")
    return chosen


def _open_file(where: str, column: str | None) -> TextSource:
    if where == "-":
        source = TextSource("standard input", iter(()), is_running=True)
        source.texts = _lines(source, None)
        return source
    path = as_path(where)
    if not path.is_file():
        raise InputError(f"the text '{where}' must be a file, got {'a folder' if path.is_dir() else 'nothing there'}")
    suffix = path.suffix.lower()
    if suffix not in (".txt", *COLUMN_FORMATS):
        raise InputError(f"the text {where} must end in .txt, .jsonl, .tsv or .csv, got '{path.suffix}'")
    if column is not None and suffix == ".txt":
        raise InputError(f"a text column was named, but {where} has no columns")
    source = TextSource(path.name, iter(()), is_running=suffix == ".txt", total_bytes=path.stat().st_size)
    if suffix == ".txt":
        source.texts = _lines(source, path)
        return source
    lines = _whole_lines(source.name, _lines(source, path))
    if suffix == ".jsonl":
        source.texts = _json_rows(source.name, lines, column or "text")
    else:
        source.texts = _table_rows(source.name, lines, column, is_tsv=suffix == ".tsv")
    return source


def read_header(path: Path) -> list[str]:
    """The column names in the first row of a tab-separated file."""
    return next(_lines(TextSource(path.name, iter(()), is_running=True), path), "").rstrip("\n").split("\t")


def _lines(source: TextSource, path: Path | None) -> Iterator[str]:
    """Lines that end in a bare line feed; a line beyond READ_LIMIT comes in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    number, is_first, held_return = 1, True, False
    with _opened(path) as file:
        while piece := file.readline(READ_LIMIT):
            source.read_bytes += len(piece)
            try:
                text = decoder.decode(piece)
            except UnicodeDecodeError as error:
                raise InputError(f"{source.name} is not UTF-8 at line {number}: {error.reason}") from None
            if "\0" in text:
                raise InputError(f"{source.name} has a NUL character at line {number}; is it a text file?")
            text = ("\r" if held_return else "") + (text.removeprefix("\ufeff") if is_first else text)
            held_return, is_first = text.endswith("\r"), False
            text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
            number += piece.endswith(b"\n")
            yield from re.findall(r"[^\n]*\n|[^\n]+", text)
    if decoder.getstate()[0]:
        raise InputError(f"{source.name} is not UTF-8 at line {number}: it ends inside a character")


def _whole_lines(name: str, pieces: Iterable[str]) -> Iterator[str]:
    """Lines put together again from their pieces."""
    held: list[str] = []
    for number, piece in enumerate(pieces, start=1):
        held.append(piece)
        if len(held) > LINE_LIMIT // READ_LIMIT:
            raise InputError(f"{name} has a row of more than {LINE_LIMIT:,} bytes near line {number}")
        if piece.endswith("\n"):
            yield "".join(held)
            held = []
    if held:
        yield "".join(held)


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None


def _json_rows(name: str, lines: Iterable[str], column: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{name} line {number} is not JSON") from None
        if not isinstance(row, dict) or column not in row:
            found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise InputError(f"{name} line {number} has no field '{column}' (found: {found})")
        if not isinstance(row[column], str):
            raise InputError(f"{name} line {number}: '{column}' must be text, got {row[column]!r}")
        yield row[column]


def _table_rows(name: str, lines: Iterator[str], column: str | None, *, is_tsv: bool) -> Iterator[str]:
    # GLUE's TSV files hold bare quotation marks, so quoting is for .csv only
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        place = _find_column(name, header, column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{name} line {reader.line_num} has {len(row)} columns, the header has {len(header)}")
            yield row[place]
    except csv.Error as error:
        raise InputError(f"{name} line {reader.line_num} can't be read: {error}") from None


def _find_column(name: str, header: list[str], column: str | None) -> int:
    wanted = column or "text"
    if wanted in header:
        return header.index(wanted)
    if column is None and len(header) == 1:
        return 0
    raise InputError(f"{name} has no column '{wanted}' (found: {', '.join(header)}); name one with --text-column")
