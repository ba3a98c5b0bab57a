"""The C that is the same in all native kernels, as text, whatever their dtype."""

COMMON = r"""
#include <stdint.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")
#define NOINLINE __attribute__((noinline)) /* compiled once for all that call it */

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* Large pages for what is to be written, where the system has them: it fills each new page
   with zeros, and that takes longer than many a product. */
static void use_large_pages(void *memory, long bytes)
{
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = 1 << 21, from = (uintptr_t)memory;
    const uintptr_t start = (from + page - 1) / page * page;
    const uintptr_t end = (from + bytes) / page * page;
    if (start < end)
        madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

/* Tokens are parted among so many threads: a few each are worth one. */
static long parts_of(long n, long threads)
{
    const long few = 16, most = n > few ? (n + few - 1) / few : 1;
    return threads < most ? threads : most;
}
"""
