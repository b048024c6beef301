"""Makes what the packages hold but the repository does not: protobuf stubs and BPF objects."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PROTO = ROOT / "proto"
OBJECTS = ROOT / "kernel_collector" / "objects"


class BuildSources(build_py):
    """build_py, with the generated files made before they are copied."""

    def run(self) -> None:
        """Generate, then build as usual."""
        make_stubs()
        make_objects()
        super().run()


def make_stubs() -> None:
    """Compile proto/**/*.proto into Python modules beside them, with their types."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    outputs = ["--python_out=.", "--pyi_out=.", "--grpc_python_out=."]
    run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources], PROTO)


def make_objects() -> None:
    """Compile bpf/*.bpf.c for CO-RE: the objects serve every architecture, debug sections but BTF stripped."""
    if not shutil.which("clang"):
        raise SystemExit("clang is needed to compile bpf/*.bpf.c: apt-get install clang llvm libbpf-dev")
    for source in sorted((ROOT / "bpf").glob("*.bpf.c")):
        target = OBJECTS / f"{source.name.removesuffix('.c')}.o"
        # The third version of the instruction set has what takes a counter and clears it at once; Linux 5.12 knows it.
        options = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"]
        run(["clang", *options, "-c", str(source), "-o", str(target)], ROOT)
        run(["llvm-strip", "-g", str(target)], ROOT)


def run(command: list[str], directory: Path) -> None:
    """Run a step of the build; its own output says what failed."""
    if subprocess.run(command, cwd=directory, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


setup(cmdclass={"build_py": BuildSources})
