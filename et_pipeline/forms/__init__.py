"""The kinds of program that are made. This is the only room that asks which one it is.

`choose` looks the form up once, from the task and the backend; stages are handed its name and ask it. A new form is one
file beside these and one entry in `FORMS` and in `get`; one of another package (see `plugins`) says itself for which of
its backends it is. What a form says of itself needs no torch: only its methods import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline import plugins
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
    for name in plugins.names("forms") if backend.name in plugins.names("backends") else ():
        form = get(Kind(name=name))
        if backend.name in form.backends and form.embeds == (task == "embedding"):
            return Kind(name=name)
    ours = FORMS.get((task, "prefill" if backend.prefill else shape))
    if ours is None:
        raise UserError("backend.prefill=true is for models that answer; model.task=embedding takes a text in one call")
    return Kind(name=ours)


def get(kind: Kind) -> Form:
    """The form itself."""
    from et_pipeline.forms import decoder, encoder, external_cache, static_decoder, static_encoder
    from et_pipeline.forms.base import Form

    # By imports that can be read in the source: it is by these that a change of a form's code makes results anew.
    ours = (decoder, encoder, external_cache, static_decoder, static_encoder)
    made: dict[str, Form] = {module.__name__.rpartition(".")[2]: module.FORM for module in ours}
    found: Form | None = made.get(kind.name) or plugins.load("forms", kind.name, Form)
    assert found is not None, kind
    return found
