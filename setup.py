"""Build script: everything declarative is in pyproject.toml.

What is left here:

- The compiled kernel and its switch, ``ASGIBRIDGE_SPEEDUPS``, which means the same when building
  as when running: ``off`` builds a pure package, ``require`` fails without the extension, ``auto``
  (the default) compiles it if it can. If it cannot, it says so; and because pip shows that with
  ``-v`` only, it leaves a file in the package, and the first import says so again.
- The page of the package, README.md, whose links lead into the repository from anywhere.
- With ``SOURCE_DATE_EPOCH`` set, a source distribution that is the same bytes whenever and by
  whomever it is made. (setuptools heeds that variable for wheels.)
"""

import contextlib
import gzip
import os
import platform
import re
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

CHOICES = ("auto", "require", "off")
SOURCES = sorted(str(path) for path in Path("src/_speedups").glob("*.pyx"))
ROOMS = sorted(str(path) for path in Path("src/_speedups").glob("*.pxi"))

choice = os.environ.get("ASGIBRIDGE_SPEEDUPS") or "auto"
if choice not in CHOICES:
    raise SystemExit(
        f"ASGIBRIDGE_SPEEDUPS={choice!r}: must be one of {', '.join(CHOICES)} (or unset, for auto)"
    )
if choice == "require" and platform.python_implementation() != "CPython":
    raise SystemExit(
        "ASGIBRIDGE_SPEEDUPS=require, but the compiled kernel is for CPython only: "
        "build with 'auto' or 'off'"
    )


def page():
    """README.md for a page that has no files beside it: relative links become addresses."""

    def find(pattern, path):
        return re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)[1]

    source = find(r'^Source = "(.*)"$', "pyproject.toml")
    version = find(r'^__version__ = "(.*)"$', "src/asgibridge/_version.py")
    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?=[\w./-]+\.md\b)", f"]({source}/blob/v{version}/", text)


class reproducible_sdist(sdist):
    """Takes out of the archive who made it and when, if ``SOURCE_DATE_EPOCH`` says what to put."""

    def make_archive(self, *names, **options):
        path = super().make_archive(*names, **options)
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch and path.endswith(".tar.gz"):
            self._rewrite(path, int(epoch))
        return path

    @staticmethod
    def _rewrite(path, when):
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(tarfile.open(path))
            raw = stack.enter_context(open(f"{path}.new", "wb"))
            # Without a name, which would be written into it.
            packed = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=when))
            new = stack.enter_context(tarfile.open(fileobj=packed, mode="w"))
            for member in sorted(old, key=lambda each: each.name):
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime = when
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}  # has the time, too
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
        os.replace(f"{path}.new", path)


options = {
    "cmdclass": {"sdist": reproducible_sdist},
    "long_description": page(),
    "long_description_content_type": "text/markdown",
}
if choice != "off" and platform.python_implementation() == "CPython":
    try:
        # Not cythonize(): that forgets `optional`, and puts the C file into the sdist.
        from Cython.Distutils.extension import Extension

        # Cython's where there is Cython; its own class is distutils', and knows less.
        from setuptools.command.build_ext import build_ext
    except ImportError:
        # Only without build isolation: pyproject.toml asks for it.
        if choice == "require":
            raise
        print("asgibridge: no Cython, so building without the compiled kernel", flush=True)
    else:

        class build_kernel(build_ext):
            """Compiles the kernel, or says that the package will do without."""

            def build_extension(self, ext):
                # CFLAGS takes the place of all flags that Python was compiled with, and who sets it
                # for a warning or a path does not mean to do without the optimizer.
                if self.compiler.compiler_type == "unix" and not any(
                    flag.startswith("-O") for flag in self.compiler.compiler_so
                ):
                    ext.extra_compile_args.append("-O3")
                try:
                    super().build_extension(ext)
                except Exception as error:  # setuptools passes over it if it is optional
                    if ext.optional:
                        self._remove_stale([ext])
                        self._notice(ext, error)
                    raise
                self._remove(self._notice_of(ext))

            def finalize_options(self):
                super().finalize_options()
                self.cython_c_in_temp = True

            def run(self):
                try:
                    super().run()
                except Exception as error:  # `optional` forgives the compiler's, not Cython's
                    if choice == "require":
                        raise
                    self._remove_stale(self.extensions)
                    self._notice(self.extensions[0], error)
                    self.extensions = []

            def _remove_stale(self, extensions):
                # What an earlier build of other sources left in the directory that is packed.
                for ext in extensions:
                    self._remove(self.get_ext_fullpath(ext.name))

            @staticmethod
            def _remove(path):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)

            def _notice_of(self, ext):
                return Path(self.get_ext_fullpath(ext.name)).with_name("_speedups.missing")

            def _notice(self, ext, error):
                why = f"{type(error).__name__}: {error}"
                path = self._notice_of(ext)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(why, encoding="utf-8")
                print(
                    f"asgibridge: building without the compiled kernel ({why}); everything works, "
                    "more slowly. ASGIBRIDGE_SPEEDUPS=require makes this an error",
                    flush=True,
                )

        options["cmdclass"]["build_ext"] = build_kernel
        options["ext_modules"] = [
            Extension(
                "asgibridge._speedups",
                SOURCES,
                depends=ROOMS,
                optional=choice == "auto",
            )
        ]

setup(**options)
