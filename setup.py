"""Build script: everything declarative is in pyproject.toml.

What is left here is the compiled kernel and its switch, ``ASGIBRIDGE_SPEEDUPS``, which means the
same when building as when running: ``off`` builds a pure package, ``require`` fails without the
extension, ``auto`` (the default) compiles it if it can. If it cannot, it says so; and because pip
shows that with ``-v`` only, it leaves a file in the package, and the first import says so again.
"""

import contextlib
import os
import platform
from pathlib import Path

from setuptools import setup

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

options = {}
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

        options = {
            "cmdclass": {"build_ext": build_kernel},
            "ext_modules": [
                Extension(
                    "asgibridge._speedups",
                    SOURCES,
                    depends=ROOMS,
                    optional=choice == "auto",
                )
            ],
        }

setup(**options)
