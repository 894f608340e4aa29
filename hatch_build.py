"""hatchling's build hook: compile the native library into the package, where there is a compiler.

Without one the package installs all the same, as pure Python, and runs these models on torch.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("src/embedway/kernels")


class KernelBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("EMBEDWAY_NO_KERNELS"):
            return
        spec = importlib.util.spec_from_file_location("embedway_compile", Path(self.root, PACKAGE, "compile.py"))
        assert spec is not None
        assert spec.loader is not None
        compiler = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiler)
        library = Path(self.root, PACKAGE, compiler.LIBRARY_NAME)
        try:
            known = compiler.compile_library(library)
        except compiler.CompileError as error:
            library.unlink(missing_ok=True)  # of other sources
            self.app.display_warning(f"embedway: no native library, models will run on torch: {error}")
            return
        self.app.display_info(f"embedway: native library for {', '.join(known)}")
        if version != "editable":
            build_data["artifacts"].append(str(PACKAGE / compiler.LIBRARY_NAME))
        # one library for every Python of this platform: it is loaded through ctypes
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
