"""The chat template of exported models: `tokenization.conversation` in the language that other programs render.

It writes what `render_conversation` and `render_prompt` write, so that an exported model is asked as it was trained. A
user's content is text, or a mapping with the fields of a story request, or one with a question and its choices:

    [{"role": "user", "content": {"hero_name": "Ida", "age": 5}}]
    [{"role": "user", "content": {"question": "Who swam?", "choices": ["a duck", "a fox"]}}]

Mappings are for `transformers`, whose messages may hold them. Text also goes through the smaller Jinja engine of
`llama.cpp`, hence the plain means. A text that spells a control token is refused, as it could pass for another message.
"""

from __future__ import annotations

import dataclasses
import json
import re

from ..tokenization import StoryRequest, conversation

_REQUEST_FIELDS = tuple(field.name for field in dataclasses.fields(StoryRequest))

# Whoever renders decides whether blanks around tags are kept, so every tag says that it wants none.
_TEMPLATE = r"""
{#- How this model was trained to converse: a request for a story, the story, then questions about it and answers.
    A user's content is text, or the fields of a story request, or a question and its choices:
    {"hero_name": "Ida", "hero_kind": "duck", "age": 5} or {"question": "Who swam?", "choices": ["Ida", "Bo"]} -#}

{%- macro one_line(text, field) -%}
  {%- if text is not string -%}{{- raise_exception(field ~ " is not a text") -}}{%- endif -%}
  {{- text.split() | join(" ") -}}
{%- endmacro -%}

{%- macro listed(texts, field, separator) -%}
  {%- if texts is string -%}{{- raise_exception(field ~ " is not a list of texts") -}}{%- endif -%}
  {%- set found = namespace(text="") -%}
  {%- for text in texts -%}
    {%- set text = one_line(text, field) -%}
    {%- if text -%}
      {%- set found.text = found.text + (separator if found.text else "") + text -%}
    {%- endif -%}
  {%- endfor -%}
  {{- found.text -}}
{%- endmacro -%}

{%- macro with_article(kind) -%}
  {%- set words = kind.lower().split() -%}
  {%- set first = words[0] -%}
  {%- set ending = words[-1][-2:] -%}
  {%- set plural = ending[-1:] == "s" and ending not in ["ss", "us", "is"] -%}
  {%- if plural or first in @DETERMINERS@ or first[-2:] in ["'s", "’s"] -%}
    {{- kind -}}
  {%- else -%}
    {%- set sound = namespace(vowel=first[:1] in ["a", "e", "i", "o", "u"]) -%}
    {%- for start in @SOUNDS_LIKE_YOU_OR_WON@ -%}
      {%- if first.startswith(start) -%}{%- set sound.vowel = false -%}{%- endif -%}
    {%- endfor -%}
    {%- for start in @SILENT_H@ -%}
      {%- if first.startswith(start) -%}{%- set sound.vowel = true -%}{%- endif -%}
    {%- endfor -%}
    {{- ("an " if sound.vowel else "a ") + kind -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro wish(label, text) -%}
  {%- if text -%}
    {{- "\n" + label + ": " + text + ("" if text[-1:] in [".", "!", "?"] else ".") -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro story_request(given) -%}
  {%- for field in given -%}
    {%- if field not in @REQUEST_FIELDS@ -%}
      {{- raise_exception("a story request has no field " ~ field ~ "; it has @REQUEST_FIELD_NAMES@") -}}
    {%- endif -%}
  {%- endfor -%}
  {#- In llama.cpp every mapping has a length. -#}
  {%- set length = (given["length"] if "length" in given else "") or "" -%}
  {%- if length == "medium" -%}
    {{- "Tell a story of medium length" -}}
  {%- elif length in @OTHER_LENGTHS@ -%}
    {{- "Tell a " + length + " story" -}}
  {%- elif length -%}
    {{- raise_exception("length is not one of @LENGTH_NAMES@") -}}
  {%- else -%}
    {{- "Tell a story" -}}
  {%- endif -%}
  {%- if given["age"] is integer and 0 <= given["age"] and given["age"] <= 120 -%}
    {{- " for a child of " ~ given["age"] ~ (" year" if given["age"] == 1 else " years") -}}
  {%- elif given["age"] is defined and given["age"] is not none -%}
    {{- raise_exception("age is not a whole number of years between 0 and 120") -}}
  {%- endif -%}
  {{- "." -}}
  {%- set kind = one_line(given["hero_kind"] or "", "hero_kind") -%}
  {{- wish("Hero", listed([given["hero_name"] or "", with_article(kind) if kind else ""], "hero_name", ", ")) -}}
  {{- wish("With", listed(given["companions"] or [], "companions", "; ")) -}}
  {{- wish("Place", one_line(given["setting"] or "", "setting")) -}}
  {{- wish("About", one_line(given["theme"] or "", "theme")) -}}
  {{- wish("Lesson", one_line(given["lesson"] or "", "lesson")) -}}
  {{- wish("Words", listed(given["words"] or [], "words", ", ")) -}}
  {{- wish("Also", listed(given["features"] or [], "features", "; ")) -}}
{%- endmacro -%}

{%- macro question(given) -%}
  {%- for field in given -%}
    {%- if field not in ["question", "choices"] -%}
      {{- raise_exception("a question has no field " ~ field ~ "; it has question, choices") -}}
    {%- endif -%}
  {%- endfor -%}
  {{- one_line(given["question"], "question") -}}
  {%- for choice in given["choices"] or [] -%}
    {{- "\n- " + one_line(choice, "choices") -}}
  {%- endfor -%}
{%- endmacro -%}

{%- macro written(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content is mapping -%}
    {{- question(content) if "question" in content else story_request(content) -}}
  {%- elif content is iterable -%}
    {%- for part in content -%}
      {{- part["text"] if part["type"] == "text" else raise_exception("content has a part that is not text") -}}
    {%- endfor -%}
  {%- else -%}
    {{- raise_exception("a message has no content") -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro plain(text) -%}
  {%- for part in text.split("<|")[1:] -%}
    {%- if "|>" in part and " " not in part.split("|>")[0] -%}
      {{- raise_exception("the text <|" ~ part.split("|>")[0] ~ "|> in a message would be read as a control token") -}}
    {%- endif -%}
  {%- endfor -%}
  {{- text -}}
{%- endmacro -%}

{%- set header = "<|start|>assistant<|channel|>final<|message|>" -%}
{%- for message in messages -%}
  {%- set expected = "assistant" if loop.index0 % 2 else "user" -%}
  {%- if message["role"] != expected -%}
    {{- raise_exception(
      "message " ~ loop.index ~ " has the role " ~ message["role"] ~ ", not " ~ expected
      ~ ": user and assistant take turns, and there is no other role") -}}
  {%- endif -%}
  {%- if expected == "user" -%}
    {{- "<|start|>user<|message|>" + plain(written(message["content"])) + "<|end|>" -}}
  {%- elif message["content"] is mapping -%}
    {{- raise_exception("message " ~ loop.index ~ " is the assistant's, whose content is text") -}}
  {%- elif loop.last and add_generation_prompt -%}
    {{- raise_exception("the last message is the assistant's: leave out add_generation_prompt") -}}
  {%- else -%}
    {%- set told = plain(written(message["content"])) + ("<|return|>" if loop.last else "<|end|>") -%}
    {{- header -}}
    @BEGIN_TRAINED@
    {{- told -}}
    @END_TRAINED@
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- header -}}
{%- endif -%}
"""


def chat_template(*, training_marks: bool = False) -> str:
    """The Jinja template, the same for every vocabulary.

    Args:
        training_marks: mark what the assistant says, so that `transformers` can give a mask of the tokens that training
            learns. Other programs may not know these marks.
    """
    values = {
        "DETERMINERS": json.dumps(conversation.DETERMINERS),
        "SOUNDS_LIKE_YOU_OR_WON": json.dumps(conversation.SOUNDS_LIKE_YOU_OR_WON),
        "SILENT_H": json.dumps(conversation.SILENT_H),
        "REQUEST_FIELDS": json.dumps(_REQUEST_FIELDS),
        "REQUEST_FIELD_NAMES": ", ".join(_REQUEST_FIELDS),
        "OTHER_LENGTHS": json.dumps([length for length in conversation.STORY_LENGTHS if length != "medium"]),
        "LENGTH_NAMES": ", ".join(conversation.STORY_LENGTHS),
        "BEGIN_TRAINED": "{%- generation -%}" if training_marks else "",
        "END_TRAINED": "{%- endgeneration -%}" if training_marks else "",
    }
    return re.sub(r"@([A-Z_]+)@", lambda name: values[name[1]], _TEMPLATE.lstrip())
