"""The C that is the same in all kernels for float32, as text: tiles in registers.

`beside_L` and `across_L` go through one product as `loops` parts it, in vectors of L
lanes; what else a kernel calls is behind them. The C of a structure, which calls these,
is from `c_loops`.
"""

FLOAT32 = r"""
typedef float value;

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

/* Of the lanes from `lane` on those that fill vectors of L, and the lane behind them:
   `beside_L` where they can be columns, `across_L` in general. */
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
    INLINE long beside_##L(Product p, long lane)                                      \
    {                                                                                 \
        for (; lane + 4 * L <= p.lanes; lane += 4 * L)                                \
            rows_##L##_4(side_by_side(p, lane, L), 1);                                \
        for (; lane + 3 * L <= p.lanes; lane += 3 * L)                                \
            rows_##L##_3(side_by_side(p, lane, L), 1);                                \
        for (; lane + 2 * L <= p.lanes; lane += 2 * L)                                \
            rows_##L##_2(side_by_side(p, lane, L), 1);                                \
        for (; lane + L <= p.lanes; lane += L)                                        \
            rows_##L##_1(side_by_side(p, lane, L), 1);                                \
        return lane;                                                                  \
    }                                                                                 \
    INLINE long across_##L(Product p, long lane)                                      \
    {                                                                                 \
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

/* Vectors of lanes as columns, where there are no others and left has one value for all
   of them. */
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

/* The features of some tokens, `row` values apart. */
static void copy(long n, long features, const float *from, float *to, long row)
{
    for (long i = 0; i < n; i++)
        memcpy(to + i * row, from + i * features, features * sizeof(float));
}

static void add_bias(long n, long features, const float *bias, float *y)
{
    for (long i = 0; i < n; i++)
        for (long j = 0; j < features; j++)
            y[i * features + j] += bias[j];
}
"""
