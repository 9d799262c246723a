"""Stories from files and from the Hub become checked `StoryRecord`s.

    parse_source(text)             what is to be read: a file, a folder, a pattern, a data set of the Hub
    plan_pieces(index, source)     pieces that workers can read apart from each other
    read_piece(piece, report)      the stories of a piece; the report counts what was taken and what was skipped
    read_stories(path)             all of it in one go, with tidied texts

A reader either takes a story whole or skips it and counts why; it never cuts one, joins two, or puts a replacement
character in a letter's place. Memory is bounded by `max_line_bytes`, however large the files are. A file read in many
pieces gives the same stories in the same order, and the same report, as read in one.

Files are .txt, .jsonl, .json, .csv (all of them also as .gz or .zst) and .parquet. What a row, a line or an item may
hold beside `text`: `title`, `summary`, `source`, `license`, `attribution`; `prompt`, an instruction that the story
answers; `questions`, a list of objects with `question`, `answer` (or several `answers`), `choices` and `answer_index`;
and what the story was asked to be, either as one object `request` with the fields of `StoryRequest`, or as the separate
fields of the original stories (`age`, `hero`, `companions`, `setting`, `theme`, `lesson`, `words`, `features`).
`questions` or `request` that cannot be used make a line bad; one of the separate fields that has another shape is
ignored and counted, because other data sets use these names differently. Other keys are not looked at. A key that
appears twice makes a line bad: either choice could be the wrong one.
"""

from __future__ import annotations

from ..cleaning import clean_text, is_blank
from .fields import record_of_fields
from .location import LAYOUTS, Source, parse_source, source_files
from .pieces import Piece, plan_pieces
from .reader import StoryReader, read_piece, read_stories
from .report import SEPARATOR, STORY_FILE_TYPES, DataError, Place, ReadReport, Skipped

__all__ = [
    "LAYOUTS",
    "SEPARATOR",
    "STORY_FILE_TYPES",
    "DataError",
    "Piece",
    "Place",
    "ReadReport",
    "Skipped",
    "Source",
    "StoryReader",
    "clean_text",
    "is_blank",
    "parse_source",
    "plan_pieces",
    "read_piece",
    "read_stories",
    "record_of_fields",
    "source_files",
]
