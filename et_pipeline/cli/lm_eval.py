"""`python -m et_pipeline.cli.lm_eval`: lm-evaluation-harness's own command, which takes `--model et_bundle` then.

Its registry has no entry points: whoever wants a model in it must have imported that first.
"""

from __future__ import annotations

import sys

from et_pipeline.cli.bundle.evaluate import harness_needed
from et_pipeline.errors import EXIT_USER, UserError

if __name__ == "__main__":
    try:
        with harness_needed("et_pipeline.cli.lm_eval"):
            from lm_eval.__main__ import cli_evaluate

            from et_pipeline.bundle import harness  # noqa: F401  registers it
        cli_evaluate()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USER)
