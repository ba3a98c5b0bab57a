"""What is the same in all generated files with a native kernel, as text.

The C around a structure's products, and in Python how it is compiled and what operator
of torch it becomes, with its gradients and its FLOPs. Nothing here imports torch.
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

TILES = r"""
#include <stdint.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Values in a vector, and rows of a tile with up to two columns of vectors, with three and
   with four, so that its sums fill the registers; and of one for the rows that are left. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { TALL = 12, EVEN = 8, WIDE = 6, FEW = 4 };
#else
enum { TALL = 6, EVEN = 4, WIDE = 3, FEW = 2 };
#endif
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

/* out[row, column, lane] (+)= sum of left[row, sum, lane] * right[sum, column, lane].
   A step is how far apart two values are, 0 where they are the same. */
typedef struct {
    long rows, sum, columns, lanes;
    const float *left;
    long left_row, left_sum, left_lane;
    const float *right;
    long right_sum, right_column, right_lane;
    float *out;
    long out_row, out_column, out_lane;
    int add;
} Product;

/* A tile of R rows and C columns of vectors with L lanes. Where out has no lanes, they are
   summed over: `vectors` of them, before the lanes of the sums are added up. */
#define TILE(L, R, C)                                                                 \
    INLINE void tile_##L##_##R##_##C(Product p, long vectors)                         \
    {                                                                                 \
        v##L total[R][C];                                                             \
        UNROLLED for (int r = 0; r < R; r++)                                          \
            UNROLLED for (int c = 0; c < C; c++)                                      \
                total[r][c] = (v##L){0};                                              \
        const float *lefts = p.left, *rights = p.right;                               \
        for (long i = 0; i < vectors; i++) {                                          \
            for (long s = 0; s < p.sum; s++) {                                        \
                v##L right[C];                                                        \
                UNROLLED for (int c = 0; c < C; c++)                                  \
                    right[c] = load_##L(                                              \
                        rights + s * p.right_sum + c * p.right_column, p.right_lane); \
                UNROLLED for (int r = 0; r < R; r++) {                                \
                    const v##L left = load_##L(                                       \
                        lefts + r * p.left_row + s * p.left_sum, p.left_lane);        \
                    UNROLLED for (int c = 0; c < C; c++)                              \
                        total[r][c] += left * right[c];                               \
                }                                                                     \
            }                                                                         \
            lefts += L * p.left_lane;                                                 \
            rights += L * p.right_lane;                                               \
        }                                                                             \
        UNROLLED for (int r = 0; r < R; r++)                                          \
            UNROLLED for (int c = 0; c < C; c++)                                      \
                store_##L(p.out + r * p.out_row + c * p.out_column, p, total[r][c]);  \
    }

/* The tiles of C columns, and all rows of a product in them, R at a time. */
#define COLUMNS(L, C, R)                                                              \
    TILE(L, R, C)                                                                     \
    TILE(L, FEW, C)                                                                   \
    TILE(L, 1, C)                                                                     \
    INLINE void rows_##L##_##C(Product p, long vectors)                               \
    {                                                                                 \
        long left = p.rows;                                                           \
        for (; left >= R; left -= R, p = below(p, R))                                 \
            tile_##L##_##R##_##C(p, vectors);                                         \
        for (; left >= FEW; left -= FEW, p = below(p, FEW))                           \
            tile_##L##_FEW_##C(p, vectors);                                           \
        for (; left > 0; left--, p = below(p, 1))                                     \
            tile_##L##_1_##C(p, vectors);                                             \
    }

/* The lanes from `lane` on, in vectors of L, and the lane behind them. */
#define VECTORS(L)                                                                    \
    INLINE v##L load_##L(const float *from, long step)                                \
    {                                                                                 \
        if (step == 1)                                                                \
            return *(const v##L *)from;                                               \
        if (step == 0)                                                                \
            return *from - (v##L){0};                                                 \
        v##L values;                                                                  \
        for (int i = 0; i < L; i++)                                                   \
            values[i] = from[i * step];                                               \
        return values;                                                                \
    }                                                                                 \
    INLINE void store_##L(float *to, Product p, v##L values)                          \
    {                                                                                 \
        if (p.out_lane == 1) {                                                        \
            if (p.add)                                                                \
                values += *(const v##L *)to;                                          \
            *(v##L *)to = values;                                                     \
            return;                                                                   \
        }                                                                             \
        *to = (p.add ? *to : 0) + total_##L(values);                                  \
    }                                                                                 \
    COLUMNS(L, 1, TALL)                                                               \
    COLUMNS(L, 2, TALL)                                                               \
    COLUMNS(L, 3, EVEN)                                                               \
    COLUMNS(L, 4, WIDE)                                                               \
    INLINE long lanes_##L(Product p, long lane)                                       \
    {                                                                                 \
        if (p.columns == 1 && !p.left_lane && p.right_lane && p.out_lane) {           \
            for (; lane + 4 * L <= p.lanes; lane += 4 * L)                            \
                rows_##L##_4(side_by_side(p, lane, L), 1);                            \
            for (; lane + 3 * L <= p.lanes; lane += 3 * L)                            \
                rows_##L##_3(side_by_side(p, lane, L), 1);                            \
            for (; lane + 2 * L <= p.lanes; lane += 2 * L)                            \
                rows_##L##_2(side_by_side(p, lane, L), 1);                            \
        }                                                                             \
        const long rest = p.lanes - lane, vectors = p.out_lane ? 1 : rest / L;        \
        for (; lane + L <= p.lanes; lane += vectors * L) {                            \
            long column = 0;                                                          \
            for (; column + 4 <= p.columns; column += 4)                              \
                rows_##L##_4(at(p, lane, column), vectors);                           \
            for (; column + 2 <= p.columns; column += 2)                              \
                rows_##L##_2(at(p, lane, column), vectors);                           \
            for (; column < p.columns; column++)                                      \
                rows_##L##_1(at(p, lane, column), vectors);                           \
        }                                                                             \
        return lane;                                                                  \
    }

typedef float v1 __attribute__((vector_size(4), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

INLINE float total_1(v1 v)
{
    return v[0];
}

INLINE float total_4(v4 v)
{
    return (v[0] + v[1]) + (v[2] + v[3]);
}

INLINE float total_8(v8 v)
{
    const v4 *half = (const v4 *)&v;
    return total_4(half[0] + half[1]);
}

INLINE float total_16(v16 v)
{
    const v8 *half = (const v8 *)&v;
    return total_8(half[0] + half[1]);
}

INLINE Product below(Product p, long rows)
{
    p.left += rows * p.left_row;
    p.out += rows * p.out_row;
    return p;
}

INLINE Product at(Product p, long lane, long column)
{
    p.left += lane * p.left_lane;
    p.right += lane * p.right_lane + column * p.right_column;
    p.out += lane * p.out_lane + column * p.out_column;
    return p;
}

/* Vectors of lanes as columns, where left has one value for all of them. */
INLINE Product side_by_side(Product p, long lane, long lanes)
{
    p = at(p, lane, 0);
    p.right_column = lanes * p.right_lane;
    p.out_column = lanes * p.out_lane;
    return p;
}

#if LANES >= 16
VECTORS(16)
#endif
#if LANES >= 8
VECTORS(8)
#endif
VECTORS(4)
VECTORS(1)

INLINE void multiply(Product p)
{
    long lane = 0;
#if LANES >= 16
    lane = lanes_16(p, lane);
#endif
#if LANES >= 8
    lane = lanes_8(p, lane);
#endif
    lane = lanes_4(p, lane);
    lanes_1(p, lane);
}

/* The features of some tokens, `row` values apart. */
static void copy(long n, long features, const float *from, float *to, long row)
{
    for (long i = 0; i < n; i++)
        memcpy(to + i * row, from + i * features, features * sizeof(float));
}

/* Large pages for what is to be written, where the system has them: it fills each new page
   with zeros, and that takes longer than many a product. */
static void use_large_pages(float *values, long size)
{
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = 1 << 21, from = (uintptr_t)values;
    const uintptr_t start = (from + page - 1) / page * page;
    const uintptr_t end = (from + size * sizeof(float)) / page * page;
    if (start < end)
        madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)values, (void)size;
#endif
}

/* Tokens are parted among so many threads: a few each are worth one. */
static long parts_of(long n, long threads)
{
    const long most = n > TALL ? (n + TALL - 1) / TALL : 1;
    return threads < most ? threads : most;
}
"""

KERNEL = '''\
COMPILER = shlex.split(os.environ.get("CC") or "cc")
HAS_COMPILER = shutil.which(COMPILER[0]) is not None


class _Kernel:
    """A structure's C, compiled when it is first called, and its operators of torch.

    `shapes` are those of x, the weights and y for one token in `equation`, `multiplies`
    the multiply-adds of each product for a token.
    """

    def __init__(self, source, equation, shapes, multiplies, least):
        self.source, self.equation, self.shapes = source, equation, shapes
        self.multiplies, self.least, self.library = multiplies, least, None
        what = f"{source} {equation} {shapes}"
        digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        weights = ", ".join(f"Tensor w{i}" for i in range(len(multiplies)))
        self.operator = self._registered(
            f"native_DIGEST_{digest}",
            f"(Tensor x, Tensor? bias, {weights}) -> Tensor",
            self._forward,
            lambda x, bias, *weights: x.new_empty(len(x), math.prod(shapes[-1])),
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
        return getattr(torch.ops.einc, name)

    def takes(self, bias, x, *weights) -> bool:
        """Whether the kernel computes it, and not plain operations.

        It does on CPUs in float32, where there is a C compiler, from `least` tokens on,
        the second number where there will be gradients.
        """
        tensors = [x, *weights, *([] if bias is None else [bias])]
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if not HAS_COMPILER or len(x) < self.least[trains]:
            return False
        fit = [t.is_cpu and _dtype(t) is torch.float32 for t in tensors]
        return all(fit) and not _is_transformed(*tensors)

    def __call__(self, bias, x, *weights) -> torch.Tensor:
        """(n, in) to (n, out), with the bias."""
        return self.operator(x, bias, *weights)

    def _compiled(self):
        """The C as a library, for this processor; a compiler without OpenMP has a thread."""
        if self.library is None:
            command = [*COMPILER, "-O3", "-march=native", "-ffp-contract=fast"]
            command += ["-shared", "-fPIC", "kernel.c", "-o", "kernel.so"]
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "kernel.c").write_text(self.source)
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
                    message = f"{COMPILER[0]} does not compile the kernel:"
                    raise RuntimeError(f"{message}\\n{ended.stderr}")
                self.library = ctypes.CDLL(str(Path(folder, "kernel.so")))
            for name in ("space_forward", "space_backward"):
                self.library[name].restype = ctypes.c_long
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
        library = self._compiled()
        sizes = [ctypes.c_long(len(x)), ctypes.c_long(torch.get_num_threads())]
        space = x.new_empty(library[f"space_{name}"](*sizes))
        library[name](*sizes, *map(_pointer, (x, *tensors, space)))

    def _gradients_like(self, grad, x, weights, wanted):
        """What is to hold them; nothing where they are not wanted."""
        return [
            x.new_empty(t.shape if is_wanted else 0)
            for t, is_wanted in zip((x, *weights), wanted, strict=True)
        ]

    def _flops_back(self, grad, x, weights, wanted, **_):
        """Those of both gradients of a product, and of what is computed again."""
        *first, _ = self.multiplies
        count = sum(first) * any(wanted[2:])
        count += sum(self.multiplies[1:]) * any(wanted[:-1])
        each = zip((first[0], *self.multiplies), wanted, strict=True)
        return 2 * x[0] * (count + sum(macs for macs, is_wanted in each if is_wanted))

    @staticmethod
    def _save(ctx, inputs, output):
        x, _, *weights = inputs
        ctx.save_for_backward(x, *weights)

    def _gradients(self, ctx, grad):
        x, *weights = ctx.saved_tensors
        of_x, of_bias, *of_weights = ctx.needs_input_grad
        wanted = [of_x, *of_weights]
        if torch.is_grad_enabled():  # they will be differentiated again
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
        return y.reshape(len(x), -1)


def _where(wanted, tensors):
    """Those that are wanted, and None for the others."""
    pairs = zip(tensors, wanted, strict=True)
    return [tensor if is_wanted else None for tensor, is_wanted in pairs]


def _pointer(tensor):
    """Of a tensor or a list of them, for C; None is a null pointer."""
    if isinstance(tensor, list):
        return (ctypes.c_void_p * len(tensor))(*map(_pointer, tensor))
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
'''
