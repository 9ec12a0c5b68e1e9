"""Builds mars_megatron._C from csrc/, with its CUDA kernels where torch is a CUDA build and there is an nvcc
(CUDA_HOME or the PATH). Everything else about the package is in pyproject.toml.

torch must be installed already, and visible to the build: `pip install -e . --no-build-isolation`.
"""

import os
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.errors import CompileError

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
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


def extension():
    cuda = torch.version.cuda is not None and CUDA_HOME is not None
    if cuda and not torch.cuda.is_available():
        # torch asks the GPUs for their architectures: a login node has none. Later GPUs compile the PTX themselves.
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    sources = sorted(path for path in Path("csrc").iterdir() if path.suffix in (".cpp", ".cu"))
    return (CUDAExtension if cuda else CppExtension)(
        "mars_megatron._C",
        [str(path) for path in sources if cuda or not path.stem.endswith("_cuda")],
        depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
        extra_compile_args={"cxx": ["-O3"], "nvcc": ["-O3"]},
        extra_link_args=[],
    )


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildWithOpenMP},
)
