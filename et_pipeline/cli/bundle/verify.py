"""`et-bundle verify`."""

from __future__ import annotations

import dataclasses

from et_pipeline import bundle as bundles
from et_pipeline.cli.bundle.options import JsonOption, PathArgument, ThreadsOption
from et_pipeline.cli.bundle.terminal import print_json, print_table
from et_pipeline.errors import GateError


def verify(path: PathArgument, as_json: JsonOption = False, threads: ThreadsOption = None) -> None:
    """Check that a bundle is whole and works: hashes, programs, sample answers, quality.

    Every program that this computer can run is loaded, and must give the sample answers that the manifest holds. Exit
    code 0: all is well. 2: the bundle is broken. 3: it is whole, but its answers differ or its quality gate failed.
    """
    with bundles.open_bundle(path, threads=threads) as bundle:
        found = bundle.verify()
    if as_json:
        print_json({"passed": found.passed, **dataclasses.asdict(found)})
    else:
        rows = [("ok" if check.passed else "FAILED", check.name, check.detail) for check in found.checks]
        print_table(f"{bundle.manifest.what.name}", ("", "check", "result"), rows)
    if not found.passed:
        raise GateError(f"{path} did not pass: " + "; ".join(f"{check.name}: {check.detail}" for check in found.failed))
