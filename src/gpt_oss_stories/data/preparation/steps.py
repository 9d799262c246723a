"""The steps of the stage `tell`, in the order in which a story passes them.

They are pipeline steps of `datatrove`: each takes the documents of the step before it and passes on those that it
keeps. A document's `metadata["record"]` is its `StoryRecord`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...tokenization import TokenizationError, Vocabulary, harmony_vocabulary
from ..cleaning import clean_text, repair_encoding, tidy_text
from ..quality import QualityRules, find_flaw
from ..reading_level import ReadingLevel
from ..records import StoryRecord
from ..safety import DEFAULT_POLICY, OLD_TALES_POLICY, YOUNG_POLICY, SafetyPolicy, reason_unsafe
from ..words import words_of
from .notes import CONTAMINATED, UNENCODABLE, TaskNotes
from .plan import APART_NAME, Ingredient, Plan, read_plan, read_stories_of
from .spool import SpoolWriter
from .telling import TellingRules, story_digest, tell_on_request, tell_plainly, times_told

if TYPE_CHECKING:
    from ...tokenization.many_texts import ManyTexts
    from ..many_levels import ManyLevels
    from ..near_copies import NgramIndex

Documents = Iterator[Document]

TOGETHER = 256
"""Stories that are looked at in one call where that is quicker than one by one."""


class StoryStep(PipelineStep):
    """A step that knows the plan, by the work folder that it stands in, and shares notes with the steps around it."""

    type = "STORIES"

    def __init__(self, work: Path, notes: TaskNotes) -> None:
        super().__init__()
        self.work = work
        self.notes = notes

    @property
    def plan(self) -> Plan:
        """What is to be done."""
        return read_plan(self.work)

    def ingredient(self, rank: int) -> Ingredient:
        """The source of a task's stories."""
        return self.plan.ingredients[self.plan.pieces[rank].source]


class ReadStories(StoryStep):
    """Reads the stories of this task's piece."""

    name = "read"

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Begins the task's notes and passes on a document for each story."""
        self.notes.start(self.work, rank)
        piece = self.plan.pieces[rank]
        for record in read_stories_of(piece, self.ingredient(rank), self.plan.config, self.notes.report):
            yield Document(text=record.text, id=record.place, metadata={"record": record})


class CleanText(StoryStep):
    """Repairs broken encodings and normalises the text."""

    name = "clean"

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Changes each document's text."""
        repair = self.plan.config.repair_text and not self.ingredient(rank).built_in
        for document in data:
            self.notes.repaired += repair and repair_encoding(document.text) != document.text
            document.text = tidy_text(document.text) if repair else clean_text(document.text)
            yield document


class CountWords(StoryStep):
    """Counts words, sentences and syllables, which tell how hard a story is to read."""

    name = "words"

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Adds `words` to each document's metadata."""
        while group := list(islice(data, TOGETHER)):
            texts = [document.text for document in group]
            found = _many_levels().words(texts) if self.plan.is_large else list(map(words_of, texts))
            for document, words in zip(group, found, strict=True):
                document.metadata["words"] = words
                yield document


class LeaveOutStep(StoryStep):
    """A step that leaves out stories for a reason; stories of the package pass unseen."""

    @abstractmethod
    def reason(self, document: Document) -> str | None:
        """Why this story is not kept, None if it is."""

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Passes on the stories without a reason to leave them out."""
        if self.ingredient(rank).built_in:
            yield from data
            return
        for document in data:
            if reason := self.reason(document):
                self.notes.leave_out(reason, place=document.id, text=document.text)
            else:
                yield document


class LeaveOutFlawed(LeaveOutStep):
    """Leaves out what is too short or long, in another language, unfinished or repeats itself."""

    name = "quality"

    @cached_property
    def rules(self) -> QualityRules:
        """What makes a flaw, of the plan's settings."""
        config = self.plan.config
        rules = QualityRules(
            language=None if config.language == "any" else config.language,
            min_words=config.min_story_words,
            max_characters=config.max_story_characters,
            require_ending=config.require_ending,
        )
        return rules if config.drop_repetitive else replace(rules, max_repetition=None, max_loop=None)

    def reason(self, document: Document) -> str | None:
        """The first rule that a story breaks."""
        return find_flaw(document.text, self.rules, document.metadata["words"].counts)


class LeaveOutUnsafe(LeaveOutStep):
    """Leaves out what is not for children."""

    name = "safety"

    @cached_property
    def policy(self) -> SafetyPolicy:
        """What is not for children, of the plan's settings."""
        return {"usual": DEFAULT_POLICY, "young": YOUNG_POLICY, "old-tales": OLD_TALES_POLICY}[
            self.plan.config.child_safety
        ]

    def reason(self, document: Document) -> str | None:
        """The category of what was found."""
        return reason_unsafe(document.text, self.policy)


class LeaveOutContaminated(LeaveOutStep):
    """Leaves out stories that share a passage with stories that are to be kept apart for evaluation."""

    name = "decontaminate"

    @cached_property
    def index(self) -> NgramIndex:
        """The passages to keep apart."""
        from ..near_copies import NgramIndex

        return NgramIndex.load(self.work / APART_NAME)

    def reason(self, document: Document) -> str | None:
        """Whether any passage is shared."""
        return CONTAMINATED if self.index.contaminates(document.text) else None


class TellStories(StoryStep):
    """Gives each story its digest and its tellings as tokens."""

    name = "tell"

    @property
    def vocabulary(self) -> Vocabulary:
        """What spells the stories."""
        return harmony_vocabulary()

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Adds `digest`, `told` and `tellings` to each document's metadata."""
        config, weight = self.plan.config, self.ingredient(rank).weight
        rules = TellingRules(request_fraction=config.request_fraction, data_seed=config.data_seed)
        while group := list(islice(data, TOGETHER)):
            plain = self._encode([document.text for document in group])
            for document, ids in zip(group, plain, strict=True):
                if (tellings := self._tell(document, ids, weight, rules)) is None:
                    self.notes.leave_out(UNENCODABLE, place=document.id, text=document.text)
                else:
                    document.metadata |= tellings
                    yield document

    def _tell(
        self, document: Document, ids: NDArray[np.uint32] | None, weight: float, rules: TellingRules
    ) -> dict[str, Any] | None:
        """What is added to a document's metadata; None if the story cannot be encoded."""
        if ids is None:
            return None
        vocabulary, record, text = self.vocabulary, document.metadata["record"], document.text
        digest = story_digest(text)
        told = times_told(weight, digest)
        tellings = []
        for number in range(max(told, 1)):
            try:
                telling = tell_on_request(vocabulary, record, text, rules, digest, number)
            except TokenizationError:
                return None
            tellings.append(telling or tell_plainly(vocabulary, ids))
        return {"digest": digest, "told": told, "tellings": tellings}

    def _encode(self, texts: list[str]) -> list[NDArray[np.uint32] | None]:
        """The ids of some texts, None for one that cannot be encoded."""
        if self.plan.is_large:
            try:
                return list(_many_texts().encode(texts))
            except TokenizationError:
                pass  # one of them: find out which
        encoded: list[NDArray[np.uint32] | None] = []
        for text in texts:
            try:
                encoded.append(np.asarray(self.vocabulary.encode(text), dtype=np.uint32))
            except TokenizationError:
                encoded.append(None)
        return encoded


@cache
def _many_texts() -> ManyTexts:
    from ...tokenization.many_texts import ManyTexts

    return ManyTexts(harmony_vocabulary())


@cache
def _many_levels() -> ManyLevels:
    from ..many_levels import ManyLevels

    return ManyLevels()


class SignStories(StoryStep):
    """Writes the MinHash signature of each story; those of the package are not compared with others."""

    name = "sign"

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Passes all documents on."""
        from ..near_copies import MinhashConfig, SignatureWriter, signatures

        config = MinhashConfig()
        with SignatureWriter(self.work / "signatures", rank, config) as writer:
            if self.ingredient(rank).built_in:
                yield from data
                return
            begin = 0
            while group := list(islice(data, TOGETHER)):
                writer.add(*signatures([document.text for document in group], config), range(begin, begin + len(group)))
                begin += len(group)
                yield from group


class SpoolStories(StoryStep):
    """Annotates the stories and puts them into the task's folder; ends the task's notes."""

    name = "spool"

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        """Takes all documents; passes none on."""
        source = self.plan.pieces[rank].source
        with SpoolWriter(spool_path(self.work, rank)) as spool:
            for document in data:
                record: StoryRecord = document.metadata["record"]
                spool.add(
                    document.metadata["digest"],
                    document.metadata["tellings"],
                    text_bytes=len(document.text.encode("utf-8")),
                    told=document.metadata["told"],
                    source=source,
                    about=about(record, document.metadata["words"].level),
                )
        self.notes.finish()


def about(record: StoryRecord, level: ReadingLevel) -> dict[str, Any]:
    """What is kept beside a story's tokens; see `spool.ABOUT`."""
    request = record.prompt
    if record.request is not None and record.request.given_fields():
        request = json.dumps(record.request.to_dict(), ensure_ascii=False)
    return {
        "place": record.place,
        "source": record.source,
        "title": record.title,
        "license": record.license,
        "attribution": record.attribution,
        "request": request,
        "questions": len(record.questions),
        "words": level.words,
        "grade": level.flesch_kincaid_grade,
    }


def spool_path(work: Path, rank: int) -> Path:
    """The folder of a task's tokens."""
    return work / "spool" / f"{rank:05d}"


def tell_steps(work: Path) -> list[PipelineStep]:
    """The pipeline of the stage `tell`."""
    plan = read_plan(work)
    config = plan.config
    notes = TaskNotes()
    steps: list[type[StoryStep]] = [ReadStories, CleanText, CountWords, LeaveOutFlawed]
    if config.child_safety != "off":
        steps.append(LeaveOutUnsafe)
    if config.decontaminate is not None:
        steps.append(LeaveOutContaminated)
    steps.append(TellStories)
    if plan.seeks_near_copies:
        steps.append(SignStories)
    return [step(work, notes) for step in (*steps, SpoolStories)]
