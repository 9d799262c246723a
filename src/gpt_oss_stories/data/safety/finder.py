"""The child-safety filter: which sentences of a text are unsafe for children, why, and how severely.

A text is looked at in three rounds, from the cheapest on:

1. Its words, split at white space, are compared with those already known to begin no pattern. Of the patterns that do
   begin at one of the others, those stay of which all words are in the text; when their severities cannot add up to
   what the policy minds, the text is safe. Most stories end here.
2. Each sentence in which one of them may be found is split into words; disguises are undone (`spelling`), and harmless
   phrases are taken out (`terms.HARMLESS`).
3. The patterns of `terms.TERMS` that begin at one of its words are tried. Each that matches weighs as much as its
   severity, less what eases it: a negation before it, a villain of the tales as its victim, pretence. The severity of a
   category in a sentence is that of the gravest pattern and half of all others that lie beside it, at most 4.

The first round only leaves out what the others would not report. All of this is a function of the text and the policy
alone; what is remembered between texts only saves time.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from .patterns import Pattern, cost, parse_pattern
from .policy import DEFAULT_POLICY, ROUGH, SEVERE, UNSUITABLE, Category, SafetyPolicy
from .slurs import SLURS, SLURS_IN_CONTEXT, slur_hash
from .spelling import PLAIN, SPACED, TOKEN, folded, spaced_words, undisguised
from .terms import (
    CLASSES,
    CLAUSE_WORDS,
    DISGUISED,
    EASED_BY_FOES,
    EASED_BY_PRETENCE,
    HARM,
    HARMLESS,
    MADE_LIGHT_OF,
    NEGATIONS,
    NEVER_NEGATED,
    TERMS,
)

SENTENCE_LIMIT = 1_000
"""A longer sentence, in characters, is looked at in pieces of at most this length."""

NEGATION_REACH = 4
"""How many words before a pattern a negation is looked for."""

MEMORY_LIMIT = 50_000
"""How many different words are remembered before memory is emptied; with all that belongs to them about 20 MB."""

LONGEST_REMEMBERED = 40
"""In characters: a longer word is looked at each time."""

_SENTENCE_END = re.compile(r"[.!?…;\n](?:(?<=\n)|[\"'”’)\]]*(?=\s|$))")
_ABBREVIATIONS = ("Mr.", "Mrs.", "Ms.", "Dr.", "St.")
_MASKED = ""
NAME = "%name"
"""What the patterns see in place of a name."""

_TYPOGRAPHIC = (("’", "'"), *((mark, " ") for mark in "‘“”„«»…—–\u00a0"))
_WITHOUT_PUNCTUATION = bytes.maketrans(b'.,;:?"()[]{}<>-_/\\&#+=~%^`', b" " * 26)
"""What parts words in `spelling.TOKEN`: all but the apostrophe and the signs that may stand for letters."""
_LETTERS_ALONE = frozenset("aio")


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence that is unsafe for one reason."""

    category: Category
    severity: int
    """1 (mentioned) to 4 (the gravest), see `policy`."""
    words: tuple[str, ...]
    """The words that were found, as they stand in the text."""
    start: int
    end: int
    """Where the found words begin and end in the text, in characters."""
    sentence: str


@dataclass(frozen=True, slots=True)
class _Term:
    """A pattern with what it says when it is found."""

    pattern: Pattern
    category: Category
    weight: int
    others: tuple[frozenset[bytes], ...]
    """What else must be in the text: the words of each place but the key's, in UTF-8, the rarest first."""


def _term(written: str, category: Category, weight: int) -> _Term:
    pattern = parse_pattern(written, CLASSES)
    others = [
        element.forms
        for number, element in enumerate(pattern.elements)
        if number != pattern.key and not element.optional and NAME not in element.forms
    ]
    as_bytes = (frozenset(word.encode() for word in words) for words in sorted(others, key=cost))
    return _Term(pattern, category, weight, tuple(as_bytes))


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """All tables, by the word at which a search begins."""

    terms: dict[str, tuple[_Term, ...]]
    harmless: dict[str, tuple[Pattern, ...]]
    known: frozenset[str]
    """All words of the tables; a capitalised word that is none of them may be a name."""
    worth_disguising: frozenset[str]


@cache
def _lexicon() -> _Lexicon:
    """The parsed tables; parsing takes about 40 ms and is done when the first text is looked at."""
    terms: dict[str, list[_Term]] = {}
    harmless: dict[str, list[Pattern]] = {}
    known: set[str] = set()
    worth = set(DISGUISED)
    for category, by_weight in TERMS.items():
        for weight, written in by_weight.items():
            for text in written:
                term = _term(text, category, weight)
                for word in sorted(term.pattern.keys):
                    terms.setdefault(word, []).append(term)
                known.update(*(element.forms for element in term.pattern.elements))
                if weight >= UNSUITABLE and len(term.pattern.elements) == 1:
                    worth |= term.pattern.keys
    for text in HARMLESS:
        pattern = parse_pattern(text, CLASSES)
        for word in sorted(pattern.keys):
            harmless.setdefault(word, []).append(pattern)
    for words in CLASSES.values():
        known |= words
    return _Lexicon(
        {word: tuple(found) for word, found in terms.items()},
        {word: tuple(found) for word, found in harmless.items()},
        frozenset(known),
        frozenset(word for word in worth if word.isascii() and word.isalpha() and len(word) > 2),
    )


def _words_of(token: str) -> tuple[str, ...]:
    """What a token of the text is to the patterns: mostly one word, the word it disguises, or the words between signs.

    "Dog's" is `dog`, "k1ll" is `kill`, "wow!then" is `wow`, `then`; a slur is `%slur` or `%maybe-slur`.
    """
    word = undisguised(token, _lexicon().worth_disguising)
    if word is not None:
        return (word,)
    folded_token = folded(token)
    slur = _slur(folded_token)
    if slur is not None:
        return (slur,)
    return tuple(_without_possessive(part) for part in PLAIN.findall(folded_token))


def _without_possessive(word: str) -> str:
    return word[:-2] if word.endswith("'s") else word


_AS_LETTERS = tuple(str.maketrans("0134578@$!|", f"o{one}eastbas{one}{one}"[:11]) for one in "il")


def _slur(word: str) -> str | None:
    """Whether a word is a slur, also with digits and signs for letters."""
    word = _without_possessive(word)
    spellings = {word} if word.isalpha() else {word, *(word.translate(letters) for letters in _AS_LETTERS)}
    hashes = {slur_hash(spelling) for spelling in spellings}
    return "%slur" if hashes & SLURS else "%maybe-slur" if hashes & SLURS_IN_CONTEXT else None


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A piece of text without white space and punctuation, unless it is plain: one word at which no pattern begins."""

    terms: tuple[tuple[str, _Term], ...]
    """The patterns that begin at its words, each with the word."""
    words: frozenset[bytes]
    """Its words as the patterns see them, in UTF-8."""
    is_one_word: bool
    """Whether it is itself its only word."""
    has_letter: bool
    """Whether it has a single letter, other than "a", "i" and "o", that may be one of a spaced word."""
    is_disguised: bool


class _Memory:
    """What was found out about words and pieces of text; it saves time and changes no result."""

    def __init__(self) -> None:
        self.plain: set[bytes] = set()
        """Pieces that are one word at which no pattern begins."""
        self.chunks: dict[bytes, _Chunk] = {}
        """All others."""
        self.tokens: dict[str, tuple[str, ...]] = {}

    def chunk(self, piece: bytes) -> _Chunk:
        """What is to know about a piece of text, given in lower case and in UTF-8."""
        chunk = self.chunks.get(piece)
        if chunk is None:
            chunk = self._look_at(piece.decode("utf-8", "surrogatepass"))
            if len(piece) <= LONGEST_REMEMBERED:
                if len(self.chunks) + len(self.plain) >= MEMORY_LIMIT:
                    self.chunks.clear()
                    self.plain.clear()
                if chunk.terms or chunk.has_letter or not chunk.is_one_word:
                    self.chunks[piece] = chunk
                else:
                    self.plain.add(piece)
        return chunk

    def _look_at(self, piece: str) -> _Chunk:
        starting = _lexicon().terms
        tokens = [match.group() for match in TOKEN.finditer(piece)]
        words = [word for token in tokens for word in self.words_of(token)]
        return _Chunk(
            tuple((word, term) for word in words for term in starting.get(word, ())),
            frozenset(word.encode("utf-8", "surrogatepass") for word in words),
            words == [piece],
            any(len(token) == 1 and token.isalpha() and token not in _LETTERS_ALONE for token in tokens),
            any(_is_disguise(token, self.words_of(token)) for token in tokens),
        )

    def words_of(self, token: str) -> tuple[str, ...]:
        """`_words_of` for a token in lower case."""
        words = self.tokens.get(token)
        if words is None:
            words = _words_of(token)
            if len(token) <= LONGEST_REMEMBERED:
                if len(self.tokens) >= MEMORY_LIMIT:
                    self.tokens.clear()
                self.tokens[token] = words
        return words


_MEMORY = _Memory()


def _is_disguise(token: str, words: tuple[str, ...]) -> bool:
    return len(words) == 1 and words[0] not in token and words[0] in _lexicon().worth_disguising


def find_unsafe(text: str, policy: SafetyPolicy = DEFAULT_POLICY) -> list[Finding]:
    """What in a text is unsafe for children under a policy, in the order of the text.

    A sentence may be found for several categories, each with its own finding.
    """
    lowered = text.lower()
    if not lowered.isascii():
        for mark, instead in _TYPOGRAPHIC:
            lowered = lowered.replace(mark, instead)
    candidates = _candidates(lowered, policy)
    if not candidates:
        return []
    spans = _sentences(text)
    if len(lowered) == len(text):
        starts = [start for start, _ in spans]
        places = {place for piece in candidates for place in _places(lowered, piece)}
        numbers = [
            number
            for number in sorted({bisect_right(starts, place) - 1 for place in places})
            if _candidates(lowered[slice(*spans[number])], policy)
        ]
    else:  # the lower case of a few letters, such as the Turkish dotted I, is longer: places cannot be compared
        numbers = list(range(len(spans)))
    return [finding for number in numbers for finding in _findings(text, spans, number, policy)]


def find_unsafe_slowly(text: str, policy: SafetyPolicy = DEFAULT_POLICY) -> list[Finding]:
    """The same as `find_unsafe` without its first round: every sentence is looked at. For tests."""
    spans = _sentences(text)
    return [finding for number in range(len(spans)) for finding in _findings(text, spans, number, policy)]


def _candidates(lowered: str, policy: SafetyPolicy) -> list[str]:
    """The pieces of a text in lower case at which patterns begin that may add up to what a policy minds."""
    words = set(lowered.replace("! ", "  ").encode("utf-8", "surrogatepass").translate(_WITHOUT_PUNCTUATION).split())
    known = _MEMORY.chunks
    starts: list[tuple[bytes, _Chunk]] = []
    letters = False
    for piece in words - _MEMORY.plain:
        chunk = known.get(piece) or _MEMORY.chunk(piece)
        if not chunk.is_one_word:
            words |= chunk.words
        if chunk.terms:
            starts.append((piece, chunk))
        if chunk.has_letter:
            letters = True
            starts.append((piece, chunk))
    if letters and SPACED.search(lowered):
        # Spaced letters may be any word, so nothing can be left out.
        found = {piece for piece, _ in starts}
    else:
        keys = _possible_keys(words, [chunk for _, chunk in starts], policy) if starts else set()
        found = {piece for piece, chunk in starts if any(word in keys for word, _ in chunk.terms)} if keys else set()
    return [piece.decode("utf-8", "surrogatepass") for piece in found]


def _possible_keys(words: set[bytes], chunks: list[_Chunk], policy: SafetyPolicy) -> set[str]:
    """The words at which patterns begin that may be found in a text, in categories that may add up to a finding.

    Args:
        words: all words of the text, in lower case and in UTF-8.
        chunks: what is known of its pieces at whose words patterns begin.
    """
    there: list[tuple[str, _Term]] = []
    for chunk in chunks:
        for word_and_term in chunk.terms:
            for other in word_and_term[1].others:
                if words.isdisjoint(other):
                    break
            else:
                there.append(word_and_term)
    if not there:
        return set()
    # Every pattern may weigh one more for a disguise, and one more for making light of a danger.
    disguise = any(chunk.is_disguised for chunk in chunks)
    weights: dict[Category, dict[int, int]] = {}
    harm: dict[int, int] = {}
    for _, term in there:
        more = disguise + (term.category in MADE_LIGHT_OF)
        weights.setdefault(term.category, {})[id(term)] = term.weight + more
        if term.category in HARM:
            harm[id(term)] = term.weight + more
    enough: set[Category] = {
        category
        for category, found in weights.items()
        if _severity(max(found.values()), sum((harm if category in HARM else found).values())) >= policy.least(category)
    }
    return {word for word, term in there if term.category in enough} if enough else set()


def _severity(gravest: int, all_together: int) -> int:
    """The severity of patterns in a sentence, of which one has the weight `gravest`."""
    severity = min(SEVERE, gravest + (all_together - gravest) // 2)
    # What is only mentioned does not become unsuitable by being many things.
    return severity if gravest >= ROUGH else min(severity, ROUGH)


def reason_unsafe(text: str, policy: SafetyPolicy = DEFAULT_POLICY) -> str | None:
    """Why a text is unsafe for children under a policy, such as "unsafe: graphic violence", or None when it is safe.

    Where there are several reasons it is the most severe one, then the one that `Category` names first.
    """
    findings = find_unsafe(text, policy)
    if not findings:
        return None
    order = list(Category)
    worst = min(findings, key=lambda finding: (-finding.severity, order.index(finding.category)))
    return f"unsafe: {worst.category.value}"


def _places(text: str, part: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + len(part))


def _sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end, with no text between them left out, none longer than `SENTENCE_LIMIT`."""
    found: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if text.endswith(_ABBREVIATIONS, start, end):
            continue
        if end - start <= SENTENCE_LIMIT:
            found.append((start, end))
        else:
            found += _pieces(text, start, end)
        start = end
    if start < len(text):
        found += _pieces(text, start, len(text))
    return found


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > SENTENCE_LIMIT:
        space = text.rfind(" ", start + 1, start + SENTENCE_LIMIT)
        cut = space if space > start else start + SENTENCE_LIMIT
        yield start, cut
        start = cut
    yield start, end


@dataclass(slots=True)
class _Sentence:
    """The words of a sentence as the patterns see them."""

    words: list[str]
    spans: list[tuple[int, int]]
    breaks: set[int]
    """Indices of words that follow a comma, a colon, a dash or a quotation mark."""
    disguised: set[int]


def _sentence(text: str, start: int, end: int) -> _Sentence:
    lexicon = _lexicon()
    tokens = list(TOKEN.finditer(text, start, end))
    ends = [start, *(match.end() for match in tokens)]
    gaps = [text[before : match.start()] for before, match in zip(ends, tokens, strict=False)]
    lowered = [match.group().lower() for match in tokens]
    spaced = spaced_words(lowered, gaps, lexicon.worth_disguising) if any(len(t) == 1 for t in lowered) else {}
    found = _Sentence([], [], set(), set())
    skip_to = 0
    for number, (match, token, gap) in enumerate(zip(tokens, lowered, gaps, strict=True)):
        if number < skip_to:
            continue
        if number and not gap.isspace() and gap != "-":
            found.breaks.add(len(found.words))
        if number in spaced:
            skip_to, word = spaced[number]
            found.disguised.add(len(found.words))
            found.words.append(word)
            found.spans.append((match.start(), tokens[skip_to - 1].end()))
            continue
        words = _MEMORY.words_of(token)
        if _is_disguise(token, words):
            found.disguised.add(len(found.words))
        for word in words:
            if (
                number
                and len(words) == 1
                and text[match.start()].isupper()
                and gap == " "
                and word not in lexicon.known
                and len(word) > 1
            ):
                word = NAME
            found.words.append(word)
            found.spans.append(match.span())
    return found


_Hit = tuple[int, tuple[int, ...]]
"""The weight of a pattern that was found, and the places of its words in its sentence."""


def _hits(text: str, sentence: _Sentence, following: str) -> dict[Category, list[_Hit]]:
    """What is found in a sentence, each pattern once, where it weighs most.

    Args:
        following: the next sentence, which may make light of a danger, or warn of it.
    """
    lexicon = _lexicon()
    masked = list(sentence.words)
    for at, word in enumerate(sentence.words):
        for pattern in lexicon.harmless.get(word, ()):
            places = pattern.match(sentence.words, at)
            if places is not None and sentence.breaks.isdisjoint(range(places[0] + 1, places[-1] + 1)):
                for place in places:
                    masked[place] = _MASKED
    best: dict[Category, dict[str, _Hit]] = {}
    for at, word in enumerate(masked):
        for term in lexicon.terms.get(word, ()):
            places = term.pattern.match(masked, at)
            if places is None:
                continue
            weight = _eased(term, at, places, sentence, following)
            found = best.setdefault(term.category, {})
            if weight > found.get(term.pattern.written, (0,))[0]:
                found[term.pattern.written] = weight, places
    return {category: list(found.values()) for category, found in best.items() if found}


def _findings(text: str, spans: list[tuple[int, int]], number: int, policy: SafetyPolicy) -> Iterator[Finding]:
    """The findings of one of a text's sentences, of which `spans` has the places."""
    start, end = spans[number]
    following = text[slice(*spans[number + 1])] if number + 1 < len(spans) else ""
    sentence = _sentence(text, start, end)
    hits = _hits(text, sentence, following)
    for category in Category:
        if category not in hits:
            continue
        weights, places = _distinct(hits[category])
        together = sum(weights)
        if category in HARM:
            harm = [hit for other in HARM for hit in hits.get(other, ())]
            together = sum(_distinct(harm, first=hits[category])[0])
        severity = _severity(weights[0], together)
        if severity >= policy.least(category):
            found = [sentence.spans[place] for place in places]
            yield Finding(
                category=category,
                severity=severity,
                words=tuple(text[first:last] for first, last in dict.fromkeys(found)),
                start=min(first for first, _ in found),
                end=max(last for _, last in found),
                sentence=text[start:end].strip(),
            )


def _distinct(hits: list[_Hit], *, first: Collection[_Hit] = ()) -> tuple[list[int], tuple[int, ...]]:
    """The weights of patterns that share no word with a graver one, the gravest first, and the places of their words.

    Args:
        first: those of the hits that go before all others.
    """
    taken: set[int] = set()
    weights: list[int] = []
    for weight, places in sorted(hits, key=lambda hit: (hit not in first, -hit[0], -len(hit[1]), hit[1])):
        if taken.isdisjoint(places):
            taken.update(places)
            weights.append(weight)
    return weights, tuple(sorted(taken))


def _eased(term: _Term, at: int, places: tuple[int, ...], sentence: _Sentence, following: str) -> int:
    """The weight of a pattern where it stands; 0 or less when it says nothing bad there.

    Args:
        at: the place of its key.
        places: those of all its words.
    """
    words, category, weight = sentence.words, term.category, term.weight
    if sentence.disguised.intersection(places):
        weight += 1
    if category not in NEVER_NEGATED and (
        _is_negated(sentence, places[0], places) or _is_negated(sentence, at, places)
    ):
        weight -= 2
    if category in EASED_BY_FOES and _hits_a_foe(words, places):
        weight -= 1
    if category in EASED_BY_PRETENCE and not CLASSES["pretend"].isdisjoint(words):
        weight -= 1
    if category in MADE_LIGHT_OF and weight == ROUGH:
        around = {
            *words,
            *(word for match in TOKEN.finditer(following) for word in _MEMORY.words_of(match.group().lower())),
        }
        if around & CLASSES["warning"]:
            weight -= 1
        elif around & CLASSES["glory"]:
            weight += 1
    return min(weight, SEVERE)


def _is_negated(sentence: _Sentence, at: int, own: tuple[int, ...]) -> bool:
    """Whether a negation that is no word of the pattern stands shortly before a place, in the same clause."""
    for place in range(at - 1, max(at - 1 - NEGATION_REACH, -1), -1):
        if place + 1 in sentence.breaks or sentence.words[place] in CLAUSE_WORDS:
            return False
        if sentence.words[place] in NEGATIONS and place not in own:
            return True
    return False


def _hits_a_foe(words: list[str], places: tuple[int, ...]) -> bool:
    """Whether the words of a pattern, or the three after it, name a villain or beast, and nobody else comes first."""
    after = words[places[0] : places[-1] + 4]
    for word in after:
        if word in CLASSES["foe"]:
            return True
        if word in CLASSES["human"] or word == NAME:
            return False
    return False
