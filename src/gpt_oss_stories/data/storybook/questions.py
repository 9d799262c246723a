"""Questions about a story: the answer, two wrong ones that the story does not support, in random order."""

from __future__ import annotations

from ...tokenization.conversation import Question
from .agreement import mend_articles, polish
from .telling import Telling

QUESTIONS_PER_STORY = 3


def questions_for(w: Telling, text: str) -> tuple[Question, ...]:
    """Up to three of the questions that the plot can ask, in the story's order."""
    asked = list(w.asked)
    while len(asked) > QUESTIONS_PER_STORY or (len(asked) == QUESTIONS_PER_STORY and w.chance(0.3)):
        asked.pop(int(w.random() * len(asked)))
        if len(asked) < QUESTIONS_PER_STORY:
            break
    return tuple(_question(w, text, *parts) for parts in asked)


def _question(w: Telling, text: str, question: str, answer: str, pool: tuple[str, ...]) -> Question:
    words = polish(w.word(question))
    answer = mend_articles(w.word(answer))
    wrong = [choice for choice in dict.fromkeys(mend_articles(w.word(choice)) for choice in pool) if choice != answer]
    # What the text never mentions cannot be right by accident; what it does mention makes a harder question.
    unsaid = [choice for choice in wrong if choice not in text]
    choices = w.draw(unsaid if len(unsaid) > 1 else wrong, 2)
    index = int(w.random() * 3)
    choices.insert(index, answer)
    return Question(question=words, answer=answer, choices=tuple(choices), answer_index=index)
