"""The C that is the same in all kernels for bfloat16, as text: products of matrices.

Values are multiplied by the processor's matrix unit (AMX) where it has one, by its dot
products of pairs (AVX512-BF16) where it has these, and as floats elsewhere; all add up in
float32. A structure's C, which calls `multiply_all` and `add_gradient`, is from `c_matrices`.
"""

BFLOAT16 = r"""
typedef uint16_t h32 __attribute__((vector_size(64), aligned(2), may_alias));

INLINE float wide(value from)
{
    const uint32_t bits = (uint32_t)from << 16;
    float to;
    memcpy(&to, &bits, sizeof to);
    return to;
}

INLINE v16 wide_16(h16 from)
{
    return (v16)(extended(from) << 16);
}

/* To the nearest, and of two as near to the even one. */
INLINE h16 narrow_16(v16 from)
{
#if defined(__AVX512BF16__)
    return (h16)_mm512_cvtneps_pbh((__m512)from);
#else
    const bits16 bits = (bits16)from, is_number = (bits16)(from == from);
    const bits16 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector((rounded & is_number) | (0x7fc0 & ~is_number), h16);
#endif
}

INLINE h32 narrow_32(v16 first, v16 second)
{
#if defined(__AVX512BF16__)
    return (h32)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#else
    const h16 halves[2] = {narrow_16(first), narrow_16(second)};
    return *(const h32 *)halves;
#endif
}

INLINE value narrow(float from)
{
    return narrow_16(from - (v16){0})[0];
}

/* out[row][lane] = sum of left[row][k] * right[k][lane] for k below steps * step, right
   as `pair` leaves it. Where there are sums, it is left in these instead, tile by tile, and
   added to what they hold if it `adds`. */
typedef struct {
    long rows, steps, step, lanes;
    const value *left;
    long left_row;
    const value *right;
    value *out;
    long out_row;
    float *sums;
    int adds;
} Product;

/* Up to two tiles by two: where their operands and sums are. */
typedef struct {
    const value *left[2], *right[2];
    float *total[2][2];
    int tall, wide;
} Tiles;

#if defined(__AMX_BF16__) && defined(__linux__)
static int has_tiles;

/* Linux lends a process the matrix unit when it is asked to. */
__attribute__((constructor)) static void ask_for_tiles(void)
{
    const long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    has_tiles = !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

/* Compilers do not see what the instructions for tiles read. */
INLINE void all_is_written(const void *memory)
{
    __asm__ volatile("" : : "r"(memory) : "memory");
}

/* Of a thread: tiles 0 to 3 are sums, 4 and 5 left, 6 and 7 right operands. */
static void use_tiles(long rows, long step)
{
    struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.rows[i] = i < 6 ? rows : step / 2;
        shapes.bytes[i] = i == 4 || i == 5 ? 2 * step : 64;
    }
    all_is_written(&shapes);
    if (has_tiles)
        _tile_loadconfig(&shapes);
}

static void end_tiles(void)
{
    if (has_tiles)
        _tile_release();
}

INLINE void multiply_tiles(Product p, Tiles t)
{
    const int tall = t.tall, wide = t.wide;
    all_is_written(p.left);
    if (p.adds) {
        _tile_loadd(0, t.total[0][0], 64);
        if (wide)
            _tile_loadd(1, t.total[0][1], 64);
        if (tall)
            _tile_loadd(2, t.total[1][0], 64);
        if (tall && wide)
            _tile_loadd(3, t.total[1][1], 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < p.steps * p.step; k += p.step) {
        _tile_loadd(6, t.right[0] + k * SIDE, 64);
        _tile_loadd(4, t.left[0] + k, 2 * p.left_row);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, t.right[1] + k * SIDE, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_loadd(5, t.left[1] + k, 2 * p.left_row);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (tall && wide)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, t.total[0][0], 64);
    if (wide)
        _tile_stored(1, t.total[0][1], 64);
    if (tall)
        _tile_stored(2, t.total[1][0], 64);
    if (tall && wide)
        _tile_stored(3, t.total[1][1], 64);
}
#else
#define has_tiles 0
#define use_tiles(rows, step)
#define end_tiles()
#define multiply_tiles(product, tiles)
#endif

/* Some rows of a tile, without a matrix unit. */
INLINE void multiply_rows(
    const int rows, Product p, const value *left, const value *right, float *total)
{
    v16 sums[4];
    UNROLLED for (int r = 0; r < rows; r++)
        sums[r] = p.adds ? *(const v16 *)(total + r * SIDE) : (v16){0};
    for (long k = 0; k < p.steps * p.step; k += 2) {
        const bits16 pairs = *(const bits16 *)(right + k * SIDE);
        UNROLLED for (int r = 0; r < rows; r++) {
            const value *at = left + r * p.left_row + k;
#if defined(__AVX512BF16__)
            const bits16 both = (at[0] | (uint32_t)at[1] << 16) - (bits16){0};
            sums[r] = (v16)_mm512_dpbf16_ps((__m512)sums[r], (__m512bh)both, (__m512bh)pairs);
#else
            sums[r] += wide(at[0]) * (v16)(pairs << 16);
            sums[r] += wide(at[1]) * (v16)(pairs & 0xffff0000);
#endif
        }
    }
    UNROLLED for (int r = 0; r < rows; r++)
        *(v16 *)(total + r * SIDE) = sums[r];
}

INLINE void multiply_floats(Product p, long rows, Tiles t)
{
    for (int i = 0; i <= t.tall; i++)
        for (int j = 0; j <= t.wide; j++) {
            const value *left = t.left[i];
            float *total = t.total[i][j];
            for (long r = 0; r < rows / 4; r++, left += 4 * p.left_row, total += 4 * SIDE)
                multiply_rows(4, p, left, t.right[j], total);
            for (long r = 0; r < rows % 4; r++, left += p.left_row, total += SIDE)
                multiply_rows(1, p, left, t.right[j], total);
        }
}

/* Rows of two tiles side by side, as many lanes as out has. */
INLINE void store(float *const tiles[2], long rows, long lanes, value *out, long out_row)
{
    for (long r = 0; r < rows; r++) {
        const v16 *first = (const v16 *)(tiles[0] + r * SIDE);
        const v16 *second = (const v16 *)(tiles[1] + r * SIDE);
        const h16 half = narrow_16(*first);
        value *to = out + r * out_row;
        if (lanes >= 2 * SIDE)
            *(h32 *)to = narrow_32(*first, *second);
        else if (lanes >= SIDE)
            *(h16 *)to = half;
        else
            memcpy(to, &half, lanes * sizeof(value));
        if (lanes > SIDE && lanes < 2 * SIDE) {
            const h16 rest = narrow_16(*second);
            memcpy(to + SIDE, &rest, (lanes - SIDE) * sizeof(value));
        }
    }
}

/* The tiles have `rows` rows, of which the last ones are multiplied twice where they do
   not part the product's rows; sums have room for more. */
INLINE void multiply(Product p, long rows)
{
    float totals[4][TILE] __attribute__((aligned(64)));
    const long depth = p.steps * p.step, tiles = (p.lanes + SIDE - 1) / SIDE;
    for (long lane = 0; lane < p.lanes; lane += 2 * SIDE)
        for (long row = 0; row < p.rows; row += 2 * SIDE) {
            Tiles t = {.tall = row + SIDE < p.rows, .wide = lane + SIDE < p.lanes};
            long starts[2] = {row, row + SIDE};
            for (int i = 0; i < 2; i++) {
                if (!p.sums && starts[i] + rows > p.rows)
                    starts[i] = p.rows - rows;
                t.left[i] = p.left + starts[i] * p.left_row;
                t.right[i] = p.right + (lane + i * SIDE) * depth;
                for (int j = 0; j < 2; j++)
                    t.total[i][j] = totals[2 * i + j];
                if (p.sums)
                    for (int j = 0; j < 2; j++)
                        t.total[i][j] = p.sums
                            + ((row / SIDE + i) * tiles + lane / SIDE + j) * TILE;
            }
            if (has_tiles)
                multiply_tiles(p, t);
            else
                multiply_floats(p, rows, t);
            for (int i = 0; !p.sums && i <= t.tall; i++) {
                value *out = p.out + starts[i] * p.out_row + lane;
                store(t.total[i], rows, p.lanes - lane, out, p.out_row);
            }
        }
}

/* As many matrices as `batch` side by side, of `taken` columns into `given`, a right one
   with `steps` times `step` rows; then how far apart two rows are, and two matrices. */
typedef struct {
    long batch, taken, given, steps, step;
    long taken_row, taken_width, given_row, given_width;
} Matrices;

/* A weight in pairs: all of it, or what `put` makes of one of its matrices at a time. */
typedef struct {
    const value *all, *given;
    void (*put)(long b, const value *given, value *matrix);
    value *matrix;
} Weight;

INLINE void multiply_all(
    long rows, Matrices m, const value *left, Weight weight, value *out)
{
    const long tile = rows < SIDE ? rows : SIDE;
    const long size = (m.given + SIDE - 1) / SIDE * SIDE * m.steps * m.step;
    use_tiles(tile, m.step);
    for (long b = 0; b < m.batch; b++) {
        if (!weight.all)
            weight.put(b, weight.given, weight.matrix);
        const Product p = {
            .rows = rows, .steps = m.steps, .step = m.step, .lanes = m.given,
            .left = left + b * m.taken_width, .left_row = m.taken_row,
            .right = weight.all ? weight.all + b * size : weight.matrix,
            .out = out + b * m.given_width, .out_row = m.given_row,
        };
        multiply(p, tile);
    }
}

/* A weight's gradient: the sums of all matrices, added to what is there where it `adds`;
   or what `add_up` makes at once of those of one matrix at a time, in `to`. */
typedef struct {
    float *sums;
    int adds;
    void (*add_up)(long b, long parts, long size, const float *sums, value *to);
    value *to;
} Gradient;

/* sums[taken][given] = sum over rows of left[row][taken] * right[row][given] for each
   matrix, in whole tiles, by what `scratch` holds of one: left's columns and pairs. */
INLINE void add_gradient(
    long rows, Matrices m, const value *left, const value *right, Gradient gradient,
    value *scratch)
{
    const long depth = (rows + 2 * SIDE - 1) / (2 * SIDE) * 2 * SIDE;
    const long tall = (m.taken + SIDE - 1) / SIDE, broad = (m.given + SIDE - 1) / SIDE;
    value *pairs = scratch + tall * SIDE * depth;
    if (depth > rows)
        memset(scratch, 0, tall * SIDE * depth * sizeof(value));
    use_tiles(SIDE, 2 * SIDE);
    for (long b = 0; b < m.batch; b++) {
        transpose(rows, m.taken, left + b * m.taken_width, m.taken_row, scratch, depth);
        pair(rows, m.given, right + b * m.given_width, m.given_row, pairs, depth / 2);
        const Product p = {
            .rows = m.taken, .steps = depth / (2 * SIDE), .step = 2 * SIDE,
            .lanes = m.given, .left = scratch, .left_row = depth, .right = pairs,
            .sums = gradient.sums + (gradient.to ? 0 : b * tall * broad * TILE),
            .adds = gradient.adds,
        };
        multiply(p, SIDE);
        if (gradient.to)
            gradient.add_up(b, 1, 0, p.sums, gradient.to);
    }
}

/* to[row][column] = the sums of all parts, `size` apart: of one matrix, tile by tile. */
INLINE void add_tiles(
    long rows, long columns, long parts, long size, const float *sums, value *to,
    long row, long column)
{
    for (long r = 0; r < rows; r += SIDE)
        for (long c = 0; c < columns; c += SIDE, sums += TILE) {
            value total[TILE], *corner = to + r * row + c * column;
            const long tall = rows - r < SIDE ? rows - r : SIDE;
            const long wide = columns - c < SIDE ? columns - c : SIDE;
            const int is_there = column == 1 && wide == SIDE;
            for (long i = 0; i < tall; i++) {
                v16 sum = {0};
                for (long part = 0; part < parts; part++)
                    sum += *(const v16 *)(sums + part * size + i * SIDE);
                *(h16 *)(is_there ? corner + i * row : total + i * SIDE) = narrow_16(sum);
            }
            if (is_there)
                continue;
            if (row == 1)
                transpose(tall, wide, total, SIDE, corner, column);
            else
                for (long i = 0; i < tall; i++)
                    for (long j = 0; j < wide; j++)
                        corner[i * row + j * column] = total[i * SIDE + j];
        }
}

static void add_bias(long n, long features, const value *bias, value *y)
{
    const long whole = features / SIDE * SIDE;
    for (long i = 0; i < n; i++) {
        for (long j = 0; j < whole; j += SIDE) {
            h16 *at = (h16 *)(y + i * features + j);
            *at = narrow_16(wide_16(*at) + wide_16(*(const h16 *)(bias + j)));
        }
        for (long j = whole; j < features; j++)
            y[i * features + j] = narrow(wide(y[i * features + j]) + wide(bias[j]));
    }
}
"""
