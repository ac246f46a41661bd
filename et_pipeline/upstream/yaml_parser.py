"""executorch's table of operators, read by libyaml: five CPU seconds less for every process that imports it.

Upstream (executorch 1.5.1) reads it with a parser in pure Python, of ruamel. To go when it no longer does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def quick_yaml() -> Iterator[None]:
    """Within the context; see above."""
    if "executorch.exir.dialects.edge._ops" in sys.modules:
        yield
        return
    import yaml
    from ruamel.yaml import YAML

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with mock.patch.object(YAML, "load", lambda _self, text: yaml.load(text, loader)):
        yield
