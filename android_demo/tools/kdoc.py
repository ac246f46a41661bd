"""The library's API as pages, made with Dokka from what stands beside the code; engine must have it everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from artifacts import BuildError, fetch_all, read_lock
from compiling import CORE, ENGINE
from steps import BUILD, class_path, say, step
from toolbox import Toolbox, prepare

LAUNCHER = Path(__file__).with_name("Kdoc.java")


def make_kdoc() -> Path:
    """Writes the pages of `core` and `engine` to build/kdoc.

    Raises:
        BuildError: Something public of `engine` has no KDoc, or a link in one leads nowhere.
    """
    tools = prepare()
    dokka = fetch_all([artifact for artifact in read_lock() if artifact.scope == "dokka"]).values()

    def make(folder: Path) -> None:
        settings = folder.with_suffix(".json")
        settings.write_text(json.dumps(_settings(tools, folder)), encoding="utf-8")
        command = ["java", "-Xmx2g", "-cp", class_path(dokka), str(LAUNCHER), str(settings)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            faults = [line for line in done.stdout.splitlines() if line.startswith(("WARN", "ERROR"))]
            sys.stdout.write("\n".join(faults or [done.stdout, done.stderr]) + "\n")
            if not faults:
                raise BuildError("Dokka failed, see above.")
            raise BuildError(
                f"Dokka found {len(faults)} faults, see above: what is public needs its word beside the code."
            )

    sources, path = [CORE / "main", ENGINE / "main"], _class_path_of_engine(tools)
    target = step("kdoc", "Dokka: core and engine", [*sources, LAUNCHER, *dokka, *path, tools.project.version], make)
    say(f"{target.relative_to(BUILD.parent)}/index.html")
    return target


def _class_path_of_engine(tools: Toolbox) -> list[Path]:
    return [*tools.jars_of("core", "engine"), tools.runtime / "classes.jar", tools.android]


def _settings(tools: Toolbox, target: Path) -> dict[str, Any]:
    """What Dokka is told, in the words of its `DokkaConfigurationImpl`."""

    def source_set(name: str, sources: Path, path: list[Path], beside: list[str]) -> dict[str, Any]:
        return {
            "displayName": name,
            "sourceSetID": {"scopeId": "library", "sourceSetName": name},
            "dependentSourceSets": [{"scopeId": "library", "sourceSetName": other} for other in beside],
            "sourceRoots": [str(sources / "main" / "kotlin")],
            "classpath": [str(part) for part in path],
            "reportUndocumented": name == "engine",  # of core the manifest's fields are described by its schema
            "jdkVersion": 17,
            "noStdlibLink": True,  # the pages are made offline
            "noJdkLink": True,
        }

    return {
        "moduleName": "The engine in your own app",
        "moduleVersion": tools.project.version,
        "outputDir": str(target),
        "offlineMode": True,
        "failOnWarning": True,
        "sourceSets": [
            source_set("core", CORE, tools.jars_of("core"), []),
            source_set("engine", ENGINE, _class_path_of_engine(tools), ["core"]),
        ],
    }
