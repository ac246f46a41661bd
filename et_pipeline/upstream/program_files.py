"""An exported program is saved and loaded without what is computed in vain.

Worth 7 %: 1.5 for a trial of the file's canonical form, which upstream throws away, 2.5 for type hints, which it asks
of a class for each of a hundred thousand objects, and 3 for expressions, which it parses anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def cheap_files() -> Iterator[None]:
    """Within the context; see above."""
    import typing

    from torch._export.serde import schema, serialize
    from torch._export.serde.serialize import GraphModuleDeserializer

    get_type_hints, parse = typing.get_type_hints, GraphModuleDeserializer._parse_sym_expr
    hints: dict[Any, Any] = {}
    parsed: dict[Any, tuple[Any, Any]] = {}

    def known_hints(cls: Any, globalns: Any = None, **options: Any) -> Any:
        """Of a class, once; upstream asks for each of a hundred thousand objects."""
        if globalns is not vars(schema) or options:
            return get_type_hints(cls, globalns, **options)
        if cls not in hints:
            hints[cls] = get_type_hints(cls, globalns)
        return hints[cls]

    def known_expression(self: Any, text: Any, hint: Any = None) -> Any:
        """Of a text, once: what else upstream does with it is the same the second time."""
        if not isinstance(text, str):
            return parse(self, text, hint)
        symbols = self.symbol_name_to_symbol
        key = id(symbols), text, type(hint), hint
        if key not in parsed:
            parsed[key] = symbols, parse(self, text, hint)  # the symbols stay alive, so that no others get their id
        return parsed[key][1]

    with (
        # Upstream tries whether that works, and throws the result away.
        mock.patch.object(serialize, "canonicalize"),
        mock.patch.object(typing, "get_type_hints", known_hints),
        mock.patch.object(GraphModuleDeserializer, "_parse_sym_expr", known_expression),
    ):
        yield
