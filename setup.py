"""Builds mars_megatron._C from csrc/, with its CUDA kernels where torch is a CUDA build and there is an nvcc of the
same major version (in CUDA_HOME, or on the PATH) with its headers. MARS_CUDA=0 leaves the kernels out. Everything else
about the package is in pyproject.toml.

torch must be installed already, and visible to the build: `pip install -e . --no-build-isolation`.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.errors import CompileError

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension, include_paths
except ImportError as error:
    raise SystemExit(
        "the build needs torch: install it first (torch==2.13.0), then run `pip install -e . --no-build-isolation`"
    ) from error

NVCC = Path(CUDA_HOME or "") / "bin" / "nvcc"


class BuildWithOpenMP(BuildExtension):
    """Adds OpenMP, which at::parallel_for runs on, where the compiler has it; copies are serial elsewhere."""

    def build_extensions(self):
        if self._compiles("#include <omp.h>\n", "-fopenmp"):
            # Some wheels of torch bring a libgomp of another name: linked first, it serves here too. Of a second one,
            # torch.set_num_threads would know nothing.
            bundled = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
            renamed = [str(path) for path in bundled if path.name != "libgomp.so.1"]
            for extension in self.extensions:
                extension.extra_compile_args["cxx"].append("-fopenmp")
                extension.extra_link_args += [*(["-Wl,--as-needed", *renamed] if renamed else []), "-fopenmp"]
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


def nvcc(option: str) -> str:
    """What nvcc prints; nothing where it does not run."""
    try:
        return subprocess.run([str(NVCC), option], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def with_cuda() -> bool:
    """Whether to build the CUDA kernels; says why not where torch could use them."""
    if torch.version.cuda is None or os.environ.get("MARS_CUDA") == "0":
        return False
    release = re.search(r"release (\d+)\.", nvcc("--version"))
    wanted = torch.version.cuda.split(".")[0]
    if release and release[1] != wanted:
        found = f"{NVCC} is of CUDA {release[1]}"
    elif not release:
        found = f"{NVCC if CUDA_HOME else 'nvcc'} is not there or fails"
    elif not any((Path(folder) / "cuda_runtime.h").is_file() for folder in [*include_paths("cuda"), "/usr/include"]):
        found = f"there is no cuda_runtime.h in {Path(CUDA_HOME, 'include')}"
    else:
        return True
    print(f"mars_megatron._C without CUDA kernels: torch needs an nvcc of CUDA {wanted}, but {found}; set CUDA_HOME")
    return False


def architectures() -> str:
    """For TORCH_CUDA_ARCH_LIST: what nvcc can compile for. Later GPUs compile the PTX of the last one themselves."""
    supported = nvcc("--list-gpu-arch").split()
    listed = [name for name in ("7.5", "8.0", "9.0") if f"compute_{name.replace('.', '')}" in supported]
    return " ".join(listed) + "+PTX"


def extension():
    cuda = with_cuda()
    if cuda and not torch.cuda.is_available():
        # torch asks the GPUs for their architectures: a login node has none.
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", architectures())
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
