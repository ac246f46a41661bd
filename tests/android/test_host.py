from __future__ import annotations

import platform
import re
import shutil
import subprocess

import host
import pytest
from artifacts import BuildError

needs_compiler = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64" or not shutil.which("gcc") or not shutil.which("nm"),
    reason="the libraries are for x86-64 Linux and made with gcc",
)

X86 = host.Target([], "nm", "jmp *{}@GOTPCREL(%rip)", host.ALIASES | host.QUADRUPLE)


def _library(folder, name, code, *flags):
    source = folder / f"{name}.c"
    source.write_text(code)
    library = folder / f"{name}.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", library, source, *flags], check=True)
    return library


def _versioned(folder, name, symbols):
    """A library with versions in the manner of Android's libc; `symbols` is version to symbol."""
    script = folder / f"{name}.map"
    script.write_text("".join(f"{version} {{ global: {symbol}; }};\n" for version, symbol in symbols.items()))
    code = "".join(f"int {symbol}() {{ return 0; }}\n" for symbol in symbols.values())
    return _library(folder, name, code, f"-Wl,--version-script,{script}", "-fno-builtin")


@needs_compiler
def test_imports_are_the_symbols_of_androids_libc_with_their_versions(tmp_path):
    libc = _versioned(tmp_path, "like_libc", {"LIBC": "puts", "LIBC_R": "android_only"})
    other = _versioned(tmp_path, "like_another", {"OTHER": "other"})
    code = "int {0}(); int other(); int unversioned(); int use_{0}() {{ return {0}() + other() + unversioned(); }}"
    users = [_library(tmp_path, name, code.format(name), libc, other) for name in ("puts", "android_only")]
    assert host.imports(users, "nm") == {"puts": {"LIBC"}, "android_only": {"LIBC_R"}}


def test_symbols_are_jumps_or_our_own_functions_under_the_versions_asked_for(tmp_path):
    needed = {"strlen": {"LIBC"}, "__errno": {"LIBC"}, "fputs": {"LIBC_N"}, "getauxval": {"LIBC", "LIBC_N"}}
    host.write_symbols(needed, tmp_path, X86)
    jumps, own, versions = ((tmp_path / name).read_text() for name in ("jumps.S", "versions.h", "versions.map"))
    assert "to_strlen: jmp *strlen@GOTPCREL(%rip)" in jumps
    assert "to___errno: jmp *__errno_location@GOTPCREL(%rip)" in jumps  # glibc's name for it
    assert re.findall(r"\.symver to_getauxval, (\S+)", jumps) == ["getauxval@LIBC", "getauxval@LIBC_N"]
    assert "fputs" not in jumps  # its FILE differs: host/libc.c has one of our own
    assert own == '__asm__(".symver bionic_fputs, fputs@LIBC_N");\n'
    assert versions.splitlines() == [
        "LIBC { global: __errno; getauxval; strlen; local: *; };",
        "LIBC_N { global: fputs; getauxval; } LIBC;",
    ]


def test_another_processor_has_other_jumps_and_functions(tmp_path):
    jump = "adrp x16, :got:{0}; ldr x16, [x16, :got_lo12:{0}]; br x16"
    target = host.Target([], "nm", jump, host.ALIASES, [host.SOURCES / "arm64.c"])
    host.write_symbols({"strlen": {"LIBC"}, "frexpl": {"LIBC"}, "open": {"LIBC"}}, tmp_path, target)
    jumps, own = ((tmp_path / name).read_text() for name in ("jumps.S", "versions.h"))
    assert "to_strlen: adrp x16, :got:strlen; ldr x16, [x16, :got_lo12:strlen]; br x16" in jumps
    assert "got:frexpl;" in jumps  # long double is the same there
    assert own == '__asm__(".symver bionic_open, open@LIBC");\n'


@needs_compiler
def test_the_library_made_has_every_symbol_under_its_version(tmp_path):
    needed = {"strlen": {"LIBC"}, "__errno": {"LIBC"}, "getauxval": {"LIBC_N"}}
    host.write_symbols(needed, tmp_path, X86)
    library = tmp_path / "libc.so"
    script = f"-Wl,--version-script,{tmp_path / 'versions.map'},-z,defs"
    subprocess.run(["gcc", *host.FLAGS, "-o", library, tmp_path / "jumps.S", script], check=True)
    listing = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    assert dict(re.findall(r" T (\w+)@+(LIBC\w*)$", listing, re.MULTILINE)) == {
        name: version for name, (version,) in needed.items()
    }
    assert " U __errno_location@" in listing


def test_without_a_compiler_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="install gcc"):
        host.this_machine()
