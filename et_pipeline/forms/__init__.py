"""The kinds of program that are made. This is the only room that asks which one it is.

`choose` looks the form up once, from the task and the backend; stages are handed its name and ask it. A new form is one
file beside these and one entry in `FORMS`. What a form says of itself needs no torch: only its methods import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from et_pipeline.backends import get_backend
from et_pipeline.errors import UserError
from et_pipeline.settings import Frozen

if TYPE_CHECKING:
    from et_pipeline.forms.base import Form
    from et_pipeline.settings import Backend

# By what the model does, what the backend takes, and whether the caller holds the cache.
FORMS = {
    ("text-generation", "dynamic"): "decoder",
    ("text-generation", "static"): "static_decoder",
    ("text-generation", "prefill"): "external_cache",
    ("embedding", "dynamic"): "encoder",
    ("embedding", "static"): "static_encoder",
}


class Kind(Frozen):
    """Which form a program has, as stages are told it."""

    name: str


def choose(task: str, backend: Backend) -> Kind:
    """The form of a program for a task on a backend.

    Raises:
        UserError: there is none.
    """
    shape = "static" if get_backend(backend.name).static else "dynamic"
    name = FORMS.get((task, "prefill" if backend.prefill else shape))
    if name is None:
        raise UserError("backend.prefill=true is for models that answer; model.task=embedding takes a text in one call")
    return Kind(name=name)


def get(kind: Kind) -> Form:
    """The form itself."""
    module = import_module(f"{__name__}.{kind.name}")
    made: Form = module.FORM
    return made
