"""From what a source holds for one story, a text or named fields, to a checked `StoryRecord`.

A text is taken whole and as it is; only its line ends become LF and outer blanks go. Cleaning and the repair of broken
encodings come later, in this order: a repair needs characters that cleaning removes. Titles, summaries and prompts,
which nobody repairs later, are tidied here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...tokenization.conversation import Question, RequestError, StoryRequest
from ..cleaning import is_blank, tidy_text
from ..records import StoryRecord, length_of

TEXT_FIELDS = ("title", "summary", "prompt", "source", "license", "attribution")
REQUEST_FIELDS = ("age", "hero", "companions", "setting", "theme", "lesson", "words", "features")
KNOWN_FIELDS = frozenset(("text", "questions", "request", *TEXT_FIELDS, *REQUEST_FIELDS))
"""What is looked at in a row beside the column of the text."""


class BadStoryError(Exception):
    """A line, a row or a stretch of text is no usable story; the argument is the reason that is counted."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise BadStoryError("a key appears twice")
    return values


def _no_constant(name: str) -> Any:
    raise BadStoryError("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def row_of_json(content: bytes) -> dict[str, Any]:
    """The fields of a story that is given as a JSON object.

    Raises:
        BadStoryError: it is none, or one that could be understood in two ways.
    """
    if b"\0" in content:
        raise BadStoryError("NUL character")
    try:
        row = _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadStoryError("not UTF-8") from None
    except json.JSONDecodeError:
        raise BadStoryError("not JSON (old Mac line ends, CR alone)" if b"\r{" in content else "not JSON") from None
    except ValueError:  # Python refuses to convert whole numbers of more than 4,300 digits
        raise BadStoryError("a number too long to read") from None
    except RecursionError:
        raise BadStoryError("nested too deeply") from None
    if not isinstance(row, dict):
        raise BadStoryError("not a JSON object")
    return row


def record_of_row(
    row: Mapping[str, Any], *, column: str, source: str, place: str, ignored: Counter[str]
) -> StoryRecord:
    """The record of a story in a table or a JSON object.

    Raises:
        BadStoryError: there is no text in the column, or something cannot be used.
    """
    if column not in row:
        raise BadStoryError(f"no key {column!r}")
    if not isinstance(row[column], str):
        raise BadStoryError(f"{column!r} is not a text")
    if column != "text":
        row = {**row, "text": row[column]}
    return record_of_fields(row, source=source, place=place, ignored=ignored)


def record_of_text(text: str, *, source: str, place: str, ignored: Counter[str]) -> StoryRecord:
    """The record of a story from a text file: a plain text, or one with fields as in TinyStories-Instruct.

    Raises:
        BadStoryError: it cannot be used.
    """
    text = _checked_story(text)
    if (fields := instruct_fields(text)) is not None:
        return record_of_fields(fields, source=source, place=place, ignored=ignored)
    return StoryRecord(text=text, source=source, place=place)


def record_of_fields(row: Mapping[str, Any], *, source: str, ignored: Counter[str], place: str = "") -> StoryRecord:
    """The record of a story that is given as named fields; `row["text"]` is a str.

    Args:
        row: the fields.
        source: where the story is from, when the row itself does not say.
        ignored: counts fields whose value has another shape than expected.
        place: where the row stands.

    Raises:
        BadStoryError: the text, the questions or the request cannot be used.
    """
    text = _checked_story(row["text"])
    texts = {key: _optional_text(row, key, ignored) for key in TEXT_FIELDS}
    return StoryRecord(
        text=text,
        title=texts["title"],
        request=_request_of_fields(row, text, ignored),
        prompt=texts["prompt"],
        summary=texts["summary"],
        questions=_questions_of_fields(row),
        source=texts["source"] or source,
        license=texts["license"],
        attribution=texts["attribution"],
        place=place,
    )


def _checked_story(text: str) -> str:
    if "\0" in text:
        raise BadStoryError("NUL character")
    if not _is_unicode(text):
        # A file's undecodable bytes are in U+DC80..U+DCFF; other lone surrogates come from JSON escapes.
        stray = {character for character in text if "\ud800" <= character <= "\udfff"}
        raise BadStoryError(
            "not UTF-8" if all("\udc80" <= character <= "\udcff" for character in stray) else "half a surrogate pair"
        )
    if is_blank(text):
        raise BadStoryError("blank story")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip(" \t\n")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, which half a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _optional_text(row: Mapping[str, Any], key: str, ignored: Counter[str]) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
        ignored[key] += 1
        return None
    return tidy_text(value) or None


def _is_clean(value: Any) -> bool:
    """Whether every text within is free of NUL and of halves of surrogate pairs."""
    if isinstance(value, str):
        return "\0" not in value and _is_unicode(value)
    if isinstance(value, list | tuple):
        return all(map(_is_clean, value))
    return all(_is_clean(item) for item in value.values()) if isinstance(value, dict) else True


def _questions_of_fields(row: Mapping[str, Any]) -> tuple[Question, ...]:
    if "questions" not in row:
        return ()
    questions = row["questions"]
    if isinstance(questions, dict) and "question" in questions and all(isinstance(q, list) for q in questions.values()):
        # A table may hold a list of objects as an object of lists, one for each key.
        lengths = set(map(len, questions.values()))
        if len(lengths) == 1:
            questions = [dict(zip(questions, cells, strict=True)) for cells in zip(*questions.values(), strict=True)]
    if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
        raise BadStoryError("'questions' is not a list of objects")
    try:
        usable = tuple(map(_question_of_fields, questions))
    except RequestError:
        raise BadStoryError("'questions' cannot be used") from None
    if not all(_is_clean(question.to_dict()) for question in usable):
        raise BadStoryError("'questions' cannot be used")
    return usable


def _question_of_fields(fields: Mapping[str, Any]) -> Question:
    """A question; of several accepted `answers`, as FairytaleQA has them, the first stands for all."""
    known = {key: fields[key] for key in ("question", "answer", "choices", "answer_index") if key in fields}
    answers = fields.get("answers")
    if known.get("answer") is None and isinstance(answers, list) and answers:
        known["answer"] = answers[0]
    return Question.from_dict(known)


def _request_of_fields(row: Mapping[str, Any], text: str, ignored: Counter[str]) -> StoryRequest | None:
    """The request that a row states as one object or as separate fields; its length is found out from the story."""
    if row.get("request") is not None:
        try:
            request = StoryRequest.from_dict(row["request"])
        except RequestError:
            raise BadStoryError("'request' cannot be used") from None
        if not _is_clean(request.to_dict()):
            raise BadStoryError("'request' cannot be used")
        return request if request.given_fields() else None
    hero = row.get("hero")
    given: dict[str, Any] = {"age": row.get("age")}
    if isinstance(hero, dict):
        given |= {"hero_name": hero.get("name"), "hero_kind": hero.get("kind")}
    elif hero is not None:
        ignored["hero"] += 1
    given |= {key: row.get(key) for key in REQUEST_FIELDS[2:]}
    usable: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        try:
            request = StoryRequest.from_dict({key: value})
        except RequestError:
            ignored[key] += 1
            continue
        if not _is_clean(request.to_dict()):
            ignored[key] += 1
        elif request.given_fields():
            usable[key] = value
    return StoryRequest.from_dict({**usable, "length": length_of(text)}) if usable else None


_INSTRUCT_LABEL = re.compile(r"(Features|Words|Summary|Random sentence|Story):[ \t]*(.*)")
_INSTRUCT_FEATURES = {
    "dialogue": "dialogue",
    "badending": "a bad ending",
    "conflict": "a conflict",
    "moralvalue": "a moral",
    "foreshadowing": "foreshadowing",
    "twist": "a twist",
}
"""What the labels of TinyStories-Instruct are called in a request."""


def instruct_fields(text: str) -> dict[str, Any] | None:
    """The fields of a story as TinyStories-Instruct writes it; None for a text that is not written so.

    Labelled lines stand before the line "Story:", in any order, and a "Summary:" may stand behind the story. The first
    line must be labelled, so a story that speaks of a "Story:" somewhere is not taken for one.
    """
    if _INSTRUCT_LABEL.match(text) is None:
        return None
    lines = text.split("\n")
    found: dict[str, str] = {}
    begin = None
    label = ""
    for number, line in enumerate(lines):
        match = _INSTRUCT_LABEL.match(line)
        if match and match[1] == "Story":
            begin = number
            break
        if match and match[1] not in found:
            label = match[1]
            found[label] = match[2]
        elif line.strip():
            found[label] += "\n" + line
    if begin is None:
        return None
    body = [lines[begin].partition(":")[2], *lines[begin + 1 :]]
    while body:
        match = _INSTRUCT_LABEL.match(body[-1])
        if body[-1].strip() and (match is None or match[1] in found or match[1] == "Story"):
            break
        body.pop()
        if match:
            found[match[1]] = match[2]
    fields: dict[str, Any] = {"text": "\n".join(body)}
    if words := [word.strip() for word in found.get("Words", "").split(",") if word.strip()]:
        fields["words"] = words
    names = [name.strip() for name in found.get("Features", "").split(",") if name.strip()]
    features = [_INSTRUCT_FEATURES.get(name.lower(), name) for name in names]
    if sentence := " ".join(found.get("Random sentence", "").split()):
        features.append(f"the sentence “{sentence}”")
    if features:
        fields["features"] = features
    if summary := found.get("Summary", "").strip():
        fields["summary"] = summary
    return fields
