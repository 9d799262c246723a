"""Command-line flags made from the configuration's fields, each declared once, in `config.py`.

A flag that was not given has the value None and never reaches a configuration, so it cannot override a preset. Inside
click a flag's value is kept under `<class>__<field>`: two configurations may both have a `seed` without meeting.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from .config import Config, field_types, flag_name

_Command = TypeVar("_Command", bound=Callable[..., Any])


class NearestChoice(click.Choice[str]):
    """A choice that names the most similar allowed value when it refuses one."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        message = f"{value!r} is not one of {', '.join(map(str, self.choices))}."
        if near := difflib.get_close_matches(str(value), list(self.choices), n=1):
            message += f" Did you mean {near[0]!r}?"
        return message


class GroupedOption(click.Option):
    """An option that knows under which heading `--help` shows it."""

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose `--help` shows its options under headings, in the order of their declaration."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one definition list for each heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option(*declarations: str, group: str = "Options", **attributes: Any) -> Callable[[_Command], _Command]:
    """Like `click.option`, under a heading; text choices name the nearest one when they refuse a value."""
    if choices := attributes.pop("choices", None):
        attributes["type"] = NearestChoice(list(choices))
    return click.option(*declarations, cls=GroupedOption, group=group, **attributes)


def public_fields(config_class: type[Config]) -> list[dataclasses.Field[Any]]:
    """The fields that have a flag, in the order of their declaration."""
    return [field for field in dataclasses.fields(config_class) if not field.metadata["internal"]]


def config_options(
    config_class: type[Config],
    group: str,
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Sequence[str] = (),
) -> Callable[[_Command], _Command]:
    """A decorator that gives a command one flag for each public field of `config_class`.

    Args:
        config_class: where the fields are declared.
        group: heading in `--help`.
        presets: settings by preset; a flag whose value differs between them shows the value of each.
        skip: fields that this command does not offer.
    """

    def decorate(command: _Command) -> _Command:
        # click shows options in the order of their decorators, which Python applies from the last to the first.
        for field in reversed(public_fields(config_class)):
            if field.name not in skip:
                command = _field_option(config_class, field, group, presets or {})(command)
        return command

    return decorate


def given_values(config_class: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config_class` whose flags were given, by field name, out of a command's keyword arguments."""
    prefix = f"{config_class.__name__}__"
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix) and value is not None
    }


def _field_option(
    config_class: type[Config], field: dataclasses.Field[Any], group: str, presets: Mapping[str, Mapping[str, Any]]
) -> Callable[[_Command], _Command]:
    plain, _ = field_types(config_class)[field.name]
    flag = flag_name(field)
    declaration = f"--{flag}/--no-{flag}" if plain is bool else f"--{flag}"
    return option(
        declaration,
        f"{config_class.__name__}__{field.name}",
        group=group,
        type=None if field.metadata["choices"] else plain,
        choices=field.metadata["choices"],
        default=None,
        help=f"{field.metadata['help']}  [{default_text(field, presets)}]",
    )


def default_text(field: dataclasses.Field[Any], presets: Mapping[str, Mapping[str, Any]]) -> str:
    """What `--help` says of a field's default: one value, and the presets whose value is another."""
    shown = {name: _show(preset.get(field.name, field.default)) for name, preset in presets.items()}
    usual, count = Counter(shown.values()).most_common(1)[0] if shown else (_show(field.default), 0)
    if count <= len(shown) / 2 and shown:
        return ", ".join(f"{name}: {value}" for name, value in shown.items())
    others = [f"{name}: {value}" for name, value in shown.items() if value != usual]
    return ", ".join([f"default: {usual}", *others])


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
