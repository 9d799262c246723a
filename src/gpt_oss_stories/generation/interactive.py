"""Telling stories in a conversation with the keyboard.

`InteractiveSession` is the logic: it takes lines and writes to two streams, so tests drive it without a terminal.
`run_interactive` connects it with the keyboard, or with a pipe: there no prompts are shown, the stories go to standard
output and everything else to standard error.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from ..config import Config, ConfigError, GenerationConfig, field_types
from ..errors import StoryError
from .engine import DEFAULT_PROMPT, Storyteller
from .output import harmless, heading, is_terminal, show_stream, write_safely
from .sampling import fresh_seed, story_seed

READY = "story> "
"""What a terminal shows when it is the listener's turn."""


@dataclass(frozen=True)
class _Command:
    name: str
    argument: str
    help: str
    setting: str | None = None
    """The field of GenerationConfig that it sets."""


COMMANDS = (
    _Command("/help", "", "show this help"),
    _Command("/temperature", "X", "0 always takes the likeliest word; above 1 is bold", "temperature"),
    _Command("/top-k", "K", "choose among the K likeliest tokens; 0 is no limit", "top_k"),
    _Command("/top-p", "P", "choose among the likeliest tokens with probability P together; 1 is no limit", "top_p"),
    _Command("/repetition-penalty", "X", "above 1 avoids words that already appeared", "repetition_penalty"),
    _Command("/max-tokens", "N", "longest continuation", "max_tokens"),
    _Command("/seed", "N", "the same seed tells the same stories; 'none' for new ones each time", "seed"),
    _Command("/samples", "N", "stories to tell for each beginning", "num_samples"),
    _Command("/settings", "", "show the settings"),
    _Command("/again", "", "another story from the same beginning"),
    _Command("/quit", "", "end (also Ctrl-D)"),
)


def banner(storyteller: Storyteller) -> str:
    """What is told here, by what, and how to begin."""
    config, vocabulary = storyteller.network.config, storyteller.vocabulary
    kind = f"the {vocabulary.kind} vocabulary" if vocabulary is not None else "no vocabulary"
    report = config.parameters()
    return (
        "GPT-OSS stories\n"
        f"  model       {config.n_layer} layers, {config.n_embd} wide, {config.num_experts} experts, context of "
        f"{config.block_size:,} tokens\n"
        f"  parameters  {report.total:,}, of which {report.active:,} are active per token\n"
        f"  vocabulary  {config.vocab_size:,} tokens ({kind})\n"
        f'Type how a story begins and press Enter; an empty line begins with "{DEFAULT_PROMPT}".\n'
        "/help shows the commands, Ctrl-C stops a story, Ctrl-D ends.\n"
    )


class InteractiveSession:
    """Answers lines: a command, or the beginning of a story.

    Args:
        storyteller: who tells.
        config: settings to begin with; commands change the session's copy.
        out: gets stories and the answers to commands.
        talk: gets remarks about the stories and complaints.
    """

    def __init__(self, storyteller: Storyteller, config: GenerationConfig, out: TextIO, talk: TextIO) -> None:
        self._storyteller, self.config = storyteller, config
        self._out, self._talk = out, talk
        self._beginning: str | None = None
        self._told = 0
        """Stories told from this beginning; each has a seed of its own, also where /seed fixed the first."""

    def answer(self, line: str) -> bool:
        """Answer one line.

        Returns:
            whether the session goes on.

        Raises:
            KeyboardInterrupt: never while a story is told; that only stops the story.
        """
        text = line.strip("\r\n")
        if text.lstrip().startswith("/"):
            return self._command(text.strip())
        self._beginning, self._told = text if text.strip() else DEFAULT_PROMPT, 0
        self._tell(self._beginning)
        return True

    def _command(self, text: str) -> bool:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        command = next((command for command in COMMANDS if command.name == name.lower()), None)
        if command is None:
            near = difflib.get_close_matches(name.lower(), [command.name for command in COMMANDS], n=1)
            hint = f"did you mean {near[0]}?" if near else "/help shows the commands"
            self._say(f"there is no command {name}: {hint}")
        elif bool(command.argument) != bool(argument):
            self._say(f"usage: {command.name} {command.argument}".rstrip() + f"  ({command.help})")
        elif command.setting is not None:
            self._set(command, argument)
        elif command.name == "/help":
            self._print("".join(f"  {f'{c.name} {c.argument}':<25}{c.help}\n" for c in COMMANDS))
            self._print("Any other line is the beginning of a story.\n")
        elif command.name == "/settings":
            self._print("".join(f"  {self._describe(c)}\n" for c in COMMANDS if c.setting is not None))
        elif command.name == "/again":
            if self._beginning is None:
                self._say("no story has been told yet: type how one begins")
            else:
                self._tell(self._beginning)
        return name.lower() != "/quit"

    def _set(self, command: _Command, argument: str) -> None:
        assert command.setting is not None
        try:
            value = _parse(GenerationConfig, command.setting, argument)
            self.config = self.config.replace(**{command.setting: value})
        except ConfigError as error:
            self._say(str(error).removeprefix("GenerationConfig: "))
            return
        if command.name == "/seed":
            self._told = 0
        self._say(self._describe(command))

    def _describe(self, command: _Command) -> str:
        assert command.setting is not None
        value = getattr(self.config, command.setting)
        return f"{command.name[1:]} is {'a new one each time' if value is None else value}"

    def _tell(self, beginning: str) -> None:
        count = self.config.num_samples
        try:
            for number in range(1, count + 1):
                if count > 1:
                    self._print(f"{heading(number, count)}\n\n")
                if not self._tell_one(beginning):
                    return
        except StoryError as error:
            self._say(str(error))

    def _tell_one(self, beginning: str) -> bool:
        """Stream one story; false when the listener stopped it."""
        seed = fresh_seed() if self.config.seed is None else story_seed(self.config.seed, self._told)
        self._told += 1
        stream = self._storyteller.stream(beginning, self.config.replace(seed=seed))
        show_stream(stream, self._out, self._talk)
        return stream.story.finish_reason != "cancelled"

    def _print(self, text: str) -> None:
        write_safely(self._out, text)
        self._out.flush()

    def _say(self, text: str) -> None:
        write_safely(self._talk, harmless(text) + "\n")
        self._talk.flush()


def _parse(config_class: type[Config], name: str, text: str) -> int | float | None:
    """The value of a numeric field from what was typed.

    Raises:
        ConfigError: it is not a number of the field's kind.
    """
    plain, optional = field_types(config_class)[name]
    if optional and text.lower() in ("none", "new", "random"):
        return None
    try:
        return int(text) if plain is int else float(text)
    except ValueError:
        kind = "a whole number" if plain is int else "a number"
        raise ConfigError(f"{text!r} is not {kind}") from None


def run_interactive(
    storyteller: Storyteller,
    config: GenerationConfig,
    stdin: TextIO,
    stdout: TextIO,
    stderr: TextIO,
    *,
    first: str | None = None,
) -> int:
    """Talk with the keyboard, or with a pipe, until /quit or the end of the input.

    Args:
        storyteller: who tells.
        config: settings to begin with.
        stdin, stdout, stderr: the streams; what is not a story goes to `stderr` unless `stdout` is a terminal.
        first: how the first story begins, as if it had been typed.

    Returns:
        the exit code: 0, or 130 after Ctrl-C where no keyboard is read.
    """
    talk = stdout if is_terminal(stdout) else stderr
    session = InteractiveSession(storyteller, config, stdout, talk)
    write_safely(talk, banner(storyteller) + "\n")
    talk.flush()
    read = _line_reader(stdin, stdout, talk)
    pending = first
    going = True
    while going:
        try:
            line, pending = pending, None
            if line is None:
                line = read()
            if line is None:
                break
            going = session.answer(line)
        except KeyboardInterrupt:
            if not is_terminal(stdin):
                return 130
            talk.write("\n(Ctrl-D or /quit ends)\n")
    return 0


def _line_reader(stdin: TextIO, stdout: TextIO, talk: TextIO) -> Callable[[], str | None]:
    """A function that gives the next line, or None at the end of the input."""
    if not is_terminal(stdin):
        if hasattr(stdin, "reconfigure"):
            stdin.reconfigure(errors="replace")  # bytes that are no text shall not end the session
        return lambda: stdin.readline() or None

    if not is_terminal(stdout):  # `input` would put its prompt among the stories

        def ask_beside() -> str | None:
            write_safely(talk, READY)
            talk.flush()
            return stdin.readline() or None

        return ask_beside

    with contextlib.suppress(ImportError):  # arrow keys and history, where Python was built with them
        import readline  # noqa: F401

    def ask() -> str | None:
        try:
            return input(READY)
        except EOFError:
            talk.write("\n")
            return None

    return ask
