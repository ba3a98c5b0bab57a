"""What is the same in all generated files with the fused kernel, as text.

The kernel of two contractions in Triton, the operator around it with its gradients and
its FLOPs, and where it is used. Nothing here imports Triton, and the text does without:
then the plain operations compute everything.
"""

IMPORTS = """\
import math
{partial}from typing import ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import register_flop_formula

try:
    import triton
    import triton.language as tl

    # Before that it failed on one batched product after another.
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        triton = None
except ImportError:  # the plain operations do without
    triton = None
"""

KERNEL = '''\
if triton is not None:

    @triton.jit(do_not_specialize=["n"])
    def _kernel(
        x,
        first,
        second,
        y,
        n,
        G: tl.constexpr,
        A: tl.constexpr,
        F: tl.constexpr,
        R: tl.constexpr,
        E: tl.constexpr,
        X_N: tl.constexpr,
        X_G: tl.constexpr,
        X_A: tl.constexpr,
        FIRST_G: tl.constexpr,
        FIRST_A: tl.constexpr,
        FIRST_F: tl.constexpr,
        FIRST_R: tl.constexpr,
        SECOND_F: tl.constexpr,
        SECOND_G: tl.constexpr,
        SECOND_R: tl.constexpr,
        SECOND_E: tl.constexpr,
        BLOCK_N: tl.constexpr,
        BLOCK_G: tl.constexpr,
        BLOCK_A: tl.constexpr,
        BLOCK_F: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_E: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """y[n, f, e] = x[n, g, a] * first[g, a, f, r] * second[f, g, r, e].

        A program has BLOCK_N tokens and BLOCK_F of f. It goes through g in blocks: z of
        a block stays in registers, and what y has from it is added up in float32.
        """
        # Programs side by side have the same tokens: x comes from the cache.
        programs = tl.cdiv(F, BLOCK_F)
        first_n = (tl.program_id(0) // programs).to(tl.int64) * BLOCK_N
        first_f = tl.program_id(0) % programs * BLOCK_F
        token = first_n + tl.arange(0, BLOCK_N)[None, :, None]
        e = tl.arange(0, BLOCK_E)[None, None, :]
        f = first_f + tl.arange(0, BLOCK_F)[:, None, None]
        # The columns of the first product are f*r, the rows of the second g*r.
        column = tl.arange(0, BLOCK_F * BLOCK_R)[None, None, :]
        column_f, column_r = first_f + column // BLOCK_R, column % BLOCK_R
        row = tl.arange(0, BLOCK_G * BLOCK_R)[None, :, None]
        row_r = row % BLOCK_R
        total = tl.zeros((BLOCK_F, BLOCK_N, BLOCK_E), tl.float32)
        for first_g in range(0, G, BLOCK_G):
            g = first_g + tl.arange(0, BLOCK_G)[:, None, None]
            z = tl.zeros((BLOCK_G, BLOCK_N, BLOCK_F * BLOCK_R), tl.float32)
            for first_a in range(0, A, BLOCK_A):
                a = first_a + tl.arange(0, BLOCK_A)[None, None, :]
                rows = tl.load(
                    x + token * X_N + (g * X_G + a * X_A),
                    mask=(token < n) & (g < G) & (a < A),
                    other=0.0,
                )
                a = first_a + tl.arange(0, BLOCK_A)[None, :, None]
                weight = tl.load(
                    first
                    + (g * FIRST_G + a * FIRST_A)
                    + (column_f * FIRST_F + column_r * FIRST_R),
                    mask=(g < G) & (a < A) & (column_f < F) & (column_r < R),
                    other=0.0,
                )
                z = tl.dot(rows, weight, z, input_precision=PRECISION)
            z = z.to(x.dtype.element_ty)
            z = z.reshape(BLOCK_G, BLOCK_N, BLOCK_F, BLOCK_R)
            z = z.permute(2, 1, 0, 3).reshape(BLOCK_F, BLOCK_N, BLOCK_G * BLOCK_R)
            row_g = first_g + row // BLOCK_R
            weight = tl.load(
                second
                + (row_g * SECOND_G + row_r * SECOND_R)
                + (f * SECOND_F + e * SECOND_E),
                mask=(f < F) & (row_g < G) & (row_r < R) & (e < E),
                other=0.0,
            )
            total = tl.dot(z, weight, total, input_precision=PRECISION)
        tl.store(
            y + token * (F * E) + (f * E + e),
            total.to(y.dtype.element_ty),
            mask=(token < n) & (f < F) & (e < E),
        )


def _launch(
    x: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    blocks: list[int],
    blocks_back: list[int],
) -> torch.Tensor:
    """(n, g, a), (g, a, f, r) and (f, g, r, e), however they lie, to (n, f, e).

    `blocks` is what of tokens, g, a and f a program takes at a time: powers of two.
    """
    (n, g, a), (f, _, r, e) = x.shape, second.shape
    y = x.new_empty(n, f, e)
    if n == 0:
        return y
    block_n, block_g, block_a, block_f = blocks
    block_r, block_e = triton.next_power_of_2(r), max(16, triton.next_power_of_2(e))
    grid = (triton.cdiv(n, block_n) * triton.cdiv(f, block_f),)
    with torch.cuda.device_of(x):
        _kernel[grid](
            *(x, first, second, y, n),
            *(g, a, f, r, e),
            *(*x.stride(), *first.stride(), *second.stride()),
            *(block_n, block_g, block_a, block_f, block_r, block_e),
            "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
            num_warps=8 if block_n * block_f * block_e > 16384 else 4,
            num_stages=2,
        )
    return y
'''

OPERATOR = '''\
def _shape(x, first, second, blocks, blocks_back):
    return x.new_empty(x.shape[0], second.shape[0], second.shape[3])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.blocks = inputs[3:]


def _gradients(ctx, grad):
    """The gradient of x is the same map with the weights the other way round."""
    x, first, second = ctx.saved_tensors
    blocks, blocks_back = ctx.blocks
    grad_x = grad_first = grad_second = None
    if ctx.needs_input_grad[0]:
        weights = second.permute(0, 3, 1, 2), first.permute(0, 2, 3, 1)
        grad_x = _operator(grad, *weights, blocks_back, blocks)
    if ctx.needs_input_grad[1]:
        grad_first = _gradient_of_first(x, second, grad)
    if ctx.needs_input_grad[2]:
        grad_second = _gradient_of_second(x, first, grad)
    return grad_x, grad_first, grad_second, None, None


def _gradient_of_first(x, second, grad) -> torch.Tensor:
    """(g, a, f, r). What z pulls back is computed again, its tokens innermost."""
    (f, g, r, e), (n, _, a) = second.shape, x.shape
    second = second.permute(0, 2, 1, 3).reshape(f, r * g, e)
    grad_z = torch.bmm(second, grad.permute(1, 2, 0))  # f, r*g, n
    grad_z = grad_z.reshape(f * r, g, n).permute(1, 2, 0)  # g, n, f*r
    return torch.bmm(x.permute(1, 2, 0), grad_z).reshape(g, a, f, r)


def _gradient_of_second(x, first, grad) -> torch.Tensor:
    """(f, g, r, e). z is computed again, its tokens innermost."""
    (g, a, f, r), (n, _, e) = first.shape, grad.shape
    first = first.permute(0, 3, 2, 1).reshape(g, r * f, a)
    z = torch.bmm(first, x.permute(1, 2, 0))  # g, r*f, n
    z = z.reshape(g * r, f, n).permute(1, 0, 2)  # f, g*r, n
    return torch.bmm(z, grad.permute(1, 0, 2)).reshape(f, g, r, e)


def _registered(name: str):
    """`_launch` as an operator of torch, once in a process: equal names are equal code.

    torch.compile sees one node, and FlopCounterMode the products of all weights.
    """
    qualified = f"einc::{name}"
    if not hasattr(torch.ops.einc, name):
        torch.library.define(
            qualified,
            "(Tensor x, Tensor first, Tensor second, int[] blocks, int[] blocks_back)"
            " -> Tensor",
        )
        torch.library.impl(qualified, "default", _launch)
        torch.library.register_fake(qualified, _shape)
        torch.library.register_autograd(qualified, _gradients, setup_context=_save)
        register_flop_formula(getattr(torch.ops.einc, name))(
            lambda x, first, second, *blocks, **other: (
                2 * x[0] * (math.prod(first) + math.prod(second))
            )
        )
    return getattr(torch.ops.einc, name)


_operator = _registered("fused_DIGEST")
'''

USE = '''\
def _is_on_gpu(*tensors: torch.Tensor) -> bool:
    if triton is None or torch.version.cuda is None:
        return False
    if not all(t.is_cuda for t in tensors):
        return False
    return torch.cuda.get_device_capability(tensors[0].device) >= (8, 0)


def _is_fused(
    blocks: dict[int, tuple[list[int], list[int]]], *tensors: torch.Tensor
) -> bool:
    """Whether the kernel takes x and the weights, and not the plain operations.

    It does on NVIDIA GPUs with enough matrix units and shared memory, in one dtype.
    """
    if not _is_on_gpu(*tensors) or _is_transformed(*tensors):
        return False
    dtypes = {_dtype(t) for t in tensors}
    return len(dtypes) == 1 and dtypes.pop().itemsize in blocks


def _fused(
    blocks: dict[int, tuple[list[int], list[int]]],
    x: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
) -> torch.Tensor:
    """Both products in one kernel, with the blocks for values of that many bytes."""
    x, first, second = (t.to(_dtype(t)) for t in (x, first, second))
    return _operator(x, first, second, *blocks[x.element_size()])
'''
