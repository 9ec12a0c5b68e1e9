"""Collects the problems of a configuration."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mars_megatron.config.schema import CorpusConfig, RunConfig
from mars_megatron.files.plain_text import is_unicode


class Problems:
    """Collects the problems of one configuration; values are looked up by their dotted name."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.lines: list[str] = []

    def value(self, setting: str) -> Any:
        """Value of a dotted setting."""
        value: Any = self.config
        for name in setting.split("."):
            value = value[int(name)] if name.isdigit() else getattr(value, name)
        return value

    def check(self, fine: bool, setting: str, accepted: str) -> None:
        """Record a problem of `setting` unless `fine`."""
        if not fine:
            self.lines.append(f"{setting} is {self.value(setting)!r}; accepted: {accepted}")

    def at_least(self, minimum: float, *settings: str) -> None:
        """Each setting must be at least `minimum`."""
        for setting in settings:
            self.check(self.value(setting) >= minimum, setting, f"{minimum} or more")

    def above(self, bound: float, *settings: str) -> None:
        """Each setting must be above `bound`."""
        for setting in settings:
            self.check(self.value(setting) > bound, setting, f"a number above {bound}")

    def divides(self, divisor: str, setting: str) -> None:
        """The value of `divisor` must divide that of `setting`."""
        number = self.value(divisor)
        self.check(self.value(setting) % number == 0, setting, f"a multiple of {divisor}, which is {number}")

    def types(self) -> None:
        """Every leaf must have its declared type; the command line checks it, Python callers may not."""
        for setting, value, declared in leaves(self.config):
            if get_origin(declared) is Literal:
                choices = get_args(declared)
                self.check(value in choices, setting, ", ".join(map(str, choices)))
            elif declared is float:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                self.check(number and math.isfinite(value), setting, "a finite number")
            elif declared is int:
                self.check(isinstance(value, int) and not isinstance(value, bool), setting, "an integer")
            elif declared in (bool, str):
                self.check(isinstance(value, declared), setting, declared.__name__)
            elif declared == dict[str, Any]:
                mapping = isinstance(value, dict) and all(isinstance(name, str) for name in value)
                self.check(mapping, setting, "a mapping of names")
            elif declared == tuple[CorpusConfig, ...]:
                corpora = isinstance(value, tuple) and all(isinstance(item, CorpusConfig) for item in value)
                self.check(corpora, setting, "a tuple of CorpusConfig")
            else:
                strings = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
                self.check(strings, setting, "a tuple of strings")
            # A command line in another encoding; it could not be written to the checkpoint.
            texts = [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
            unicode = all(is_unicode(text) for text in texts if isinstance(text, str))
            self.check(unicode, setting, "text that can be written as UTF-8")

    def raise_if_any(self) -> None:
        """Raise ValueError with all the lines."""
        if self.lines:
            raise ValueError("invalid configuration:\n" + "\n".join(f"  {line}" for line in self.lines))


def leaves(node: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value, declared type) of every setting below a configuration dataclass."""
    found = []
    hints = get_type_hints(type(node))
    for field in dataclasses.fields(node):
        name, value = f"{prefix}{field.name}", getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            found += leaves(value, f"{name}.")
        elif value is not None or type(None) not in get_args(hints[field.name]):
            found.append((name, value, hints[field.name]))
            if isinstance(value, tuple):
                for number, item in enumerate(value):
                    found += leaves(item, f"{name}.{number}.") if dataclasses.is_dataclass(item) else []
    return found
