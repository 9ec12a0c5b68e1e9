"""Builds mars_megatron._C from csrc/. Everything else about the package is in pyproject.toml.

torch must be installed already, and visible to the build: `pip install -e . --no-build-isolation`.
"""

import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.errors import CompileError

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    raise SystemExit(
        "the build needs torch: install it first (torch==2.13.0), then run `pip install -e . --no-build-isolation`"
    ) from error


class BuildWithOpenMP(BuildExtension):
    """Adds OpenMP, which at::parallel_for runs on, where the compiler has it; copies are serial elsewhere."""

    def build_extensions(self):
        if self._compiles("#include <omp.h>\n", "-fopenmp"):
            for extension in self.extensions:
                extension.extra_compile_args["cxx"].append("-fopenmp")
                extension.extra_link_args.append("-fopenmp")
        super().build_extensions()

    def _compiles(self, source: str, flag: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.cpp"
            path.write_text(source)
            try:
                self.compiler.compile([str(path)], output_dir=folder, extra_postargs=[flag])
            except CompileError:
                return False
        return True


setup(
    ext_modules=[
        CppExtension(
            "mars_megatron._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            extra_compile_args={"cxx": ["-O3"]},
            extra_link_args=[],
        )
    ],
    cmdclass={"build_ext": BuildWithOpenMP},
)
