"""What is the same in all generated files with a native kernel, as text.

How the C is compiled, and what operators of torch it becomes, with their gradients and
their FLOPs. The C itself is in the modules beside. Nothing here imports torch.
"""

IMPORTS = """\
import ctypes
import hashlib
import math
import os
import shlex
import shutil
import subprocess
import tempfile
{partial}from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import register_flop_formula
"""

KERNEL = '''\
def _compiler() -> list[str]:
    """The command of the C compiler, CC or cc, or nothing where there is none."""
    try:
        command = shlex.split(os.environ.get("CC") or "cc")
    except ValueError:  # a quotation without end
        return []
    found = shutil.which(command[0]) if command else None
    return [os.path.abspath(found), *command[1:]] if found else []


COMPILER = _compiler()


class _Kernel:
    """A structure's C, compiled when it is first called, and its operators of torch.

    `shapes` are those of x, the weights and y for one token in `equation`, `multiplies`
    the multiply-adds of each product for a token.
    """

    def __init__(self, dtype, source, equation, shapes, multiplies, least):
        self.dtype, self.source = dtype, source
        self.equation, self.shapes = equation, shapes
        self.multiplies, self.least, self.library = multiplies, least, None
        what = f"{source} {equation} {shapes}"
        digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        weights = ", ".join(f"Tensor w{i}" for i in range(len(multiplies)))
        self.operator = self._registered(
            f"native_DIGEST_{digest}",
            f"(Tensor x, Tensor? bias, {weights}) -> Tensor",
            self._forward,
            lambda x, *_: x.new_empty(x.shape[0], math.prod(shapes[-1])),
            lambda x, bias, *weights, **_: 2 * x[0] * sum(multiplies),
            self._gradients,
        )
        self.back = self._registered(
            f"native_DIGEST_{digest}_back",
            "(Tensor grad, Tensor x, Tensor[] weights, bool[] wanted) -> Tensor[]",
            self._backward,
            self._gradients_like,
            self._flops_back,
        )

    def _registered(self, name, schema, run, shape, flops, gradients=None):
        """Once in a process: equal names are equal code."""
        qualified = f"einc::{name}"
        if not hasattr(torch.ops.einc, name):
            torch.library.define(qualified, schema)
            torch.library.impl(qualified, "CPU", run)
            torch.library.register_fake(qualified, shape)
            if gradients is not None:
                torch.library.register_autograd(
                    qualified, gradients, setup_context=self._save
                )
            register_flop_formula(getattr(torch.ops.einc, name))(flops)
        return getattr(torch.ops.einc, name).default

    def takes(self, bias, x, *weights) -> bool:
        """Whether the kernel computes it, and not plain operations.

        It does on CPUs in its dtype, also where autocast has it, if there is a C
        compiler, from `least` tokens on, the second number where there are gradients.
        """
        tensors = [x, *weights, *([] if bias is None else [bias])]
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if not COMPILER or torch.compiler.is_exporting():
            return False  # what is exported is to run elsewhere, for any batch
        if x.shape[0] < self.least[trains]:
            return False
        fit = [t.is_cpu and _dtype(t) is self.dtype for t in tensors]
        return all(fit) and not _is_transformed(*tensors)

    def __call__(self, bias, x, *weights) -> torch.Tensor:
        """(n, in) to (n, out), with the bias."""
        tensors = [
            t if t is None or t.dtype is self.dtype else t.to(self.dtype)
            for t in (x, bias, *weights)
        ]
        return self.operator(*tensors)

    def compiled(self):
        """The C as a library, for this processor; a compiler without OpenMP has a thread.

        RuntimeError where it does not compile.
        """
        if self.library is None:
            command = [*COMPILER, "-O3", "-march=native", "-ffp-contract=fast"]
            # gcc 12 miscompiles strided loads with it, and vectors are written out.
            command += ["-fno-tree-slp-vectorize"]
            command += ["-shared", "-fPIC", "kernel.c", "-o", "kernel.so"]
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "kernel.c").write_text(self.source)
                try:
                    for more in (["-fopenmp"], []):
                        ended = subprocess.run(
                            [*command, *more],
                            check=False,
                            cwd=folder,
                            capture_output=True,
                            text=True,
                        )
                        if ended.returncode == 0:
                            break
                    else:
                        raise OSError(ended.stderr)
                    library = ctypes.CDLL(str(Path(folder, "kernel.so")))
                except OSError as error:
                    message = f"{COMPILER[0]} does not compile the kernel:"
                    raise RuntimeError(f"{message}\\n{error}") from error
            sizes = [ctypes.c_long] * 2
            for name, pointers in (("forward", 5), ("backward", 6)):
                # An attribute is kept, and an item is made anew each time.
                space, run = getattr(library, f"space_{name}"), getattr(library, name)
                space.argtypes, space.restype = sizes, ctypes.c_long
                run.argtypes = [*sizes, *[ctypes.c_void_p] * pointers]
                run.restype = None
            self.library = library  # last: other threads call what they find here
        return self.library

    def _forward(self, x, bias, *weights):
        # By names of their own: C has pointers, which keep nothing alive.
        x, weights = x.contiguous(), [w.contiguous() for w in weights]
        bias = bias if bias is None else bias.contiguous()
        y = x.new_empty(len(x), math.prod(self.shapes[-1]))
        self._call("forward", x, weights, bias, y)
        return y

    def _backward(self, grad, x, weights, wanted):
        x, weights = x.contiguous(), [w.contiguous() for w in weights]
        grad = grad.contiguous()
        found = self._gradients_like(grad, x, weights, wanted)
        dx, *totals = _where(wanted, found)
        self._call("backward", x, weights, grad, dx, totals)
        return found

    def _call(self, name, x, *tensors):
        """A function of the C, and the memory that it asks for."""
        library = self.compiled()
        sizes = [len(x), torch.get_num_threads()]
        floats = getattr(library, f"space_{name}")(*sizes)
        space = torch.empty(floats, dtype=torch.float32)
        getattr(library, name)(*sizes, *map(_pointer, (x, *tensors, space)))

    def _gradients_like(self, grad, x, weights, wanted):
        """What is to hold them; nothing where they are not wanted."""
        return [
            x.new_empty(t.shape if is_wanted else 0)
            for t, is_wanted in zip((x, *weights), wanted, strict=True)
        ]

    def _flops_back(self, grad, x, weights, wanted, **_):
        """Those of both gradients of a product, and of what is computed again."""
        count = 0
        for i, macs in enumerate(self.multiplies):
            of_x, of_weight = any(wanted[: i + 1]), wanted[i + 1]
            count += macs * (of_x + of_weight + any(wanted[i + 2 :]))
        return 2 * x[0] * count

    @staticmethod
    def _save(ctx, inputs, output):
        x, _, *weights = inputs
        ctx.save_for_backward(x, *weights)

    def _gradients(self, ctx, grad):
        x, *weights = ctx.saved_tensors
        of_x, of_bias, *of_weights = ctx.needs_input_grad
        wanted = [of_x, *of_weights]
        # Operators have no rules for gradients of gradients, or for many at once.
        if torch.is_grad_enabled() or _is_batched(grad):
            found = torch.func.vjp(self._plain, x, *weights)[1](grad)
        else:
            found = self.back(grad, x, weights, wanted)
        dx, *totals = _where(wanted, found)
        return dx, grad.sum(0) if of_bias else None, *totals

    def _plain(self, x, *weights):
        """The same without the kernel."""
        first, *others = self.shapes[:-1]
        factors = [w.reshape(shape) for w, shape in zip(weights, others, strict=True)]
        y = torch.einsum(self.equation, x.reshape(-1, *first), *factors)
        return y.reshape(x.shape[0], -1)


def _is_batched(tensor) -> bool:
    """Whether it is of many gradients at once, as of `is_grads_batched`."""
    kinds = torch._C._functorch
    return kinds.is_legacy_batchedtensor(tensor) or kinds.is_batchedtensor(tensor)


def _where(wanted, tensors):
    """Those that are wanted, and None for the others."""
    pairs = zip(tensors, wanted, strict=True)
    return [tensor if is_wanted else None for tensor, is_wanted in pairs]


def _pointer(tensor):
    """Of a tensor or a list of them, for C; None is a null pointer."""
    if isinstance(tensor, list):
        return (ctypes.c_void_p * len(tensor))(*map(_pointer, tensor))
    return None if tensor is None else tensor.data_ptr()
'''
