"""Generated source to a class, in this process; and from a class to its structure.

Tracebacks and `inspect` see the source, and instances can be pickled within the
process: each text becomes one module, known to `sys.modules` by a digest of it.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from types import ModuleType

from torch import nn

from einc import compiler
from einc.analysis.profile import Profile
from einc.codegen.choices import Backward, Dtype, Kernels
from einc.errors import UsageError
from einc.sizes import Binding

_BINDINGS: dict[type, Binding] = {}


def class_of(
    report: Profile,
    class_name: str = "",
    dtype: Dtype = "float32",
    backward: Backward = "manual",
    kernels: Kernels = "torch",
) -> type[nn.Module]:
    """The generated class of what was analysed at one shape, laid out for `dtype`.

    Raises `UsageError` where the features were left open.
    """
    module = compiler.module(report, class_name, dtype, backward, kernels)
    source = compiler.source(report.structure, [module])
    assert report.figures is not None
    return module_class(source, module.name, report.figures.binding)


def module_class(source: str, class_name: str, binding: Binding) -> type[nn.Module]:
    """The class `class_name` of a generated file; the same object for equal text.

    `binding` is what it was generated from.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f"einc_generated_{class_name}_{digest}"
    module = sys.modules.get(name)
    if module is None:
        filename = f"<{name}>"
        module = ModuleType(name)
        module.__file__ = filename
        # No modification time: the cache must not look for a file.
        lines = source.splitlines(keepends=True)
        linecache.cache[filename] = (len(source), None, lines, filename)
        exec(compile(source, filename, "exec"), module.__dict__)
        sys.modules[name] = module
    generated: type[nn.Module] = getattr(module, class_name)
    _BINDINGS[generated] = binding
    return generated


def binding_of(module: nn.Module) -> Binding:
    """The structure and sizes of a module whose class was made in this process.

    Raises `UsageError` for another one.
    """
    try:
        return _BINDINGS[type(module)]
    except KeyError:
        raise UsageError(
            f"{type(module).__name__} was not made by einc in this process"
        ) from None
