"""The C that brings values of two bytes into the order of a product, as text.

It moves bits and knows no numbers: transposes matrices of values and of units of them, and
puts the right operand of a product into pairs of rows, as `c_bfloat16` multiplies it.
"""

PAIRS = r"""
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef uint16_t value; /* the upper half of a float */

/* Vectors of so many values, of pairs and fours of them, and of the bits of floats. */
typedef uint16_t h8 __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t pairs8 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint64_t quads8 __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint32_t bits16 __attribute__((vector_size(64), aligned(2), may_alias));

enum { SIDE = 16, TILE = SIDE * SIDE };

/* Each value with 16 bits before it that are 0. */
INLINE bits16 extended(h16 from)
{
#if defined(__AVX512F__)
    /* For that GCC 12 makes four instructions of one. */
    return (bits16)_mm512_cvtepu16_epi32((__m256i)from);
#else
    return __builtin_convertvector(from, bits16);
#endif
}

/* The two vectors that have the first four of both, and the last, in turns. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (__typeof__(a)){__VA_ARGS__})
#endif
#define FIRST(a, b) SHUFFLED(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define LAST(a, b) SHUFFLED(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

/* to[column][row] = from[row][column], of units of so many values; rows are so many values
   apart. By eight rows of eight. */
#define TRANSPOSE(NAME, UNIT, V)                                                      \
    INLINE void NAME##_8(const value *from, long from_row, value *to, long to_row)    \
    {                                                                                 \
        V rows[8], mixed[8];                                                          \
        UNROLLED for (int i = 0; i < 8; i++)                                          \
            rows[i] = *(const V *)(from + i * from_row);                              \
        UNROLLED for (int step = 0; step < 3; step++) {                               \
            UNROLLED for (int i = 0; i < 4; i++) {                                    \
                mixed[2 * i] = FIRST(rows[i], rows[i + 4]);                           \
                mixed[2 * i + 1] = LAST(rows[i], rows[i + 4]);                        \
            }                                                                         \
            UNROLLED for (int i = 0; i < 8; i++)                                      \
                rows[i] = mixed[i];                                                   \
        }                                                                             \
        UNROLLED for (int i = 0; i < 8; i++)                                          \
            *(V *)(to + i * to_row) = rows[i];                                        \
    }                                                                                 \
    INLINE void NAME(                                                                 \
        long rows, long columns, const value *from, long from_row, value *to,         \
        long to_row)                                                                  \
    {                                                                                 \
        for (long r = 0; r < rows; r += 8)                                            \
            for (long c = 0; c < columns; c += 8) {                                   \
                const value *corner = from + r * from_row + c * UNIT;                 \
                value *turned = to + c * to_row + r * UNIT;                           \
                if (r + 8 <= rows && c + 8 <= columns) {                              \
                    NAME##_8(corner, from_row, turned, to_row);                       \
                    continue;                                                         \
                }                                                                     \
                for (long i = 0; i < 8 && r + i < rows; i++)                          \
                    for (long j = 0; j < 8 && c + j < columns; j++)                   \
                        memcpy(turned + j * to_row + i * UNIT,                        \
                               corner + i * from_row + j * UNIT,                      \
                               UNIT * sizeof(value));                                 \
            }                                                                         \
    }
TRANSPOSE(transpose, 1, h8)
TRANSPOSE(transpose_pairs, 2, pairs8)
TRANSPOSE(transpose_quads, 4, quads8)

/* to[column / 16][row / 2][column % 16][row % 2] = from[row][column], and 0 up to
   2 * pairs rows: how the right operand of a product is read. */
INLINE void pair(
    long rows, long columns, const value *from, long from_row, value *to, long pairs)
{
    /* Tiles one after the other: who reads them waits for those that were just written. */
    for (long c = 0; c < columns; c += SIDE, to += SIDE * 2 * pairs)
        for (long r = 0; r < 2 * pairs; r += 2) {
            const value *corner = from + r * from_row + c;
            value *at = to + r * SIDE;
            const long whole = r + 2 <= rows ? (columns - c) / 8 * 8 : 0;
            if (whole >= SIDE) {
                const h16 one = *(const h16 *)corner;
                const h16 two = *(const h16 *)(corner + from_row);
                *(bits16 *)at = extended(one) | extended(two) << 16;
                continue;
            }
            if (whole) {
                const h8 one = *(const h8 *)corner;
                const h8 two = *(const h8 *)(corner + from_row);
                *(h8 *)at = FIRST(one, two);
                *(h8 *)(at + 8) = LAST(one, two);
            }
            for (long i = whole; i < SIDE && c + i < columns; i++) {
                at[2 * i] = r < rows ? corner[i] : 0;
                at[2 * i + 1] = r + 1 < rows ? corner[from_row + i] : 0;
            }
        }
}

/* The same of values with any steps from row to row and from column to column. */
INLINE void pack(
    long rows, long columns, const value *from, long row, long column, value *to,
    long pairs)
{
    if (column == 1) {
        pair(rows, columns, from, row, to, pairs);
        return;
    }
    for (long c = 0; c < columns; c += 8)
        for (long r = 0; r < 2 * pairs; r += 16) {
            const value *corner = from + r * row + c * column;
            value *at = to + c / SIDE * SIDE * 2 * pairs + r * SIDE + c % SIDE * 2;
            if (row == 1 && r + 16 <= rows && c + 8 <= columns) {
                transpose_pairs_8(corner, column, at, 2 * SIDE);
                continue;
            }
            for (long i = 0; i < 16 && r + i < 2 * pairs; i++)
                for (long j = 0; j < 8 && c + j < columns; j++)
                    at[i / 2 * 2 * SIDE + i % 2 + 2 * j]
                        = r + i < rows ? corner[i * row + j * column] : 0;
        }
}
"""
