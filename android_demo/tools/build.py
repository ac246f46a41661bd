"""Builds and tests the Gradle project beside this folder with a JDK 17 and Python only.

No Gradle, no Android SDK: compilers and libraries come from the registries as `dependencies.lock` names them, and the
Android framework to compile against and to test on is Robolectric's build of Android itself. Versions and settings are
those of the Gradle files. A step whose inputs have not changed is not repeated.

    python3 tools/build.py apk [--release] [--bundle FOLDER ...]
    python3 tools/build.py library
    python3 tools/build.py kdoc
    python3 tools/build.py test [--bundle FOLDER] [--references FILE] [--filter TEXT ...] [--record-screenshots]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from artifacts import BuildError
from compiling import compile_library
from jvm_tests import make_tests
from kdoc import make_kdoc
from library import make_library
from package import make_apk
from steps import use_jdk
from toolbox import prepare


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds and tests the app without Gradle and without Android's SDK.")
    commands = parser.add_subparsers(dest="command", required=True)
    apk = commands.add_parser("apk", help="build a signed APK")
    apk.add_argument("--release", action="store_true", help="shrink with R8")
    apk.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle's folder to put inside")
    commands.add_parser("library", help="build the library for other apps, as a Maven repository")
    commands.add_parser("kdoc", help="make the pages of the library's API, which must all be documented")
    test = commands.add_parser("test", help="run the tests")
    test.add_argument("--bundle", type=Path, help="a bundle's folder for the tests with a real model")
    test.add_argument("--references", type=Path, help="answers of the Python runner, from tools/references.py")
    test.add_argument("--filter", action="append", default=[], help="only classes with this in their name")
    test.add_argument("--record-screenshots", action="store_true", help="draw them anew instead of comparing")
    arguments = parser.parse_args()
    try:
        use_jdk()
        if arguments.command == "apk":
            make_apk(arguments.bundle, release=arguments.release)
        elif arguments.command == "library":
            tools = prepare()
            make_library(tools.project, *compile_library(tools))
        elif arguments.command == "kdoc":
            make_kdoc()
        elif not make_tests(
            arguments.bundle, arguments.references, arguments.filter, record=arguments.record_screenshots
        ):
            sys.exit(1)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
