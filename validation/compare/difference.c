/* All statistics of a Difference in one pass over candidate and reference, and a digest (validation/compare/native.py calls it).

   Elements are taken a block at a time: decoded to double where they are not double, in a buffer that stays in the first
   cache, and then added up in lanes, whose order is that of the source and not of a compiler. Each block's sums are added to the
   total with what the addition loses (Neumaier), so that the error does not grow with the number of elements. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Vectors are as wide as the processor's. Of wider ones, and of conversions and maxima that are not named by their instruction,
   compilers make detours over memory: a bf16 took six cycles where the processor could have taken one. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH 8
#elif defined(__AVX__)
#include <immintrin.h>
#define WIDTH 4
#else
#define WIDTH 2
#endif

#define BLOCK 1024
#define LANES 8
#define PARTS (LANES / WIDTH)

typedef double lanes __attribute__((vector_size(8 * WIDTH)));
typedef int64_t counts __attribute__((vector_size(8 * WIDTH)));
typedef float singles __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));

enum kind { F64, F32, BF16, F16, I64, I32, I16, I8, U8 };

static inline float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact for every half: exponents are moved by a product with a power of two, which no half rounds. */
static inline float from_half(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu;
    float value = from_bits(magnitude << 13) * from_bits(0x77800000u);
    uint32_t bits, special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
    memcpy(&bits, &value, sizeof bits);
    return from_bits(bits | special | (uint32_t)(half & 0x8000u) << 16);
}

#define DECODE(type, expression)                                   \
    {                                                              \
        const type *from = (const type *)source + start;           \
        for (int64_t i = 0; i < length; i++) {                     \
            type x = from[i];                                      \
            to[i] = (double)(expression);                          \
        }                                                          \
        break;                                                     \
    }

/* The elements from `start` on as double, and zeros up to a whole block: these change no statistic. */
static void decode(const void *source, int kind, int64_t start, int64_t length, double *to)
{
    switch (kind) {
    case F64: DECODE(double, x)
    case F32: DECODE(float, x)
    case BF16: DECODE(uint16_t, from_bits((uint32_t)x << 16))
    case F16: DECODE(uint16_t, from_half(x))
    case I64: DECODE(int64_t, x)
    case I32: DECODE(int32_t, x)
    case I16: DECODE(int16_t, x)
    case I8: DECODE(int8_t, x)
    case U8: DECODE(uint8_t, x)
    }
    for (int64_t i = length; i < BLOCK; i++)
        to[i] = 0.0;
}

struct sum { double total, lost; };

static inline void add(struct sum *sum, const lanes *parts)
{
    double each[LANES];
    memcpy(each, parts, sizeof each);
    double part = ((each[0] + each[1]) + (each[2] + each[3])) + ((each[4] + each[5]) + (each[6] + each[7]));
    double total = sum->total + part;
    sum->lost += fabs(sum->total) >= fabs(part) ? (sum->total - total) + part : (part - total) + sum->total;
    sum->total = total;
}

struct totals { struct sum absolute, squares, reference_squares, cross; int64_t differing; };

#define INLINE static inline __attribute__((always_inline))

INLINE lanes widened(singles from)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_cvtps_pd((__m256)from);
#elif defined(__AVX__)
    return (lanes)_mm256_cvtps_pd((__m128)from);
#else
    return __builtin_convertvector(from, lanes);
#endif
}

/* Of two vectors without NaN. */
INLINE lanes larger(lanes one, lanes other)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_max_pd((__m512d)one, (__m512d)other);
#elif defined(__AVX__)
    return (lanes)_mm256_max_pd((__m256d)one, (__m256d)other);
#else
    counts above = one > other;
    return (lanes)(((counts)one & above) | ((counts)other & ~above));
#endif
}

/* How many lanes are zero. */
INLINE int64_t zeros(lanes of)
{
#if defined(__AVX512F__)
    return __builtin_popcount(_mm512_cmp_pd_mask((__m512d)of, _mm512_setzero_pd(), _CMP_EQ_OQ));
#elif defined(__AVX__)
    return __builtin_popcount(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)of, _mm256_setzero_pd(), _CMP_EQ_OQ)));
#else
    counts zero = of == (lanes){0};
    return -(zero[0] + zero[1]);
#endif
}

/* Vector `part` of the 2 * PARTS in the 2 * LANES elements from `start` on, as double; for the kinds that models are held in
   without a buffer between.

   Two bf16 lie in one word: the even elements are one vector and the odd ones another, which spares sorting them. */
INLINE lanes taken(const void *source, int kind, int64_t start, int part)
{
    if (kind == BF16) {
        words both;
        memcpy(&both, (const uint16_t *)source + start + part % PARTS * 2 * WIDTH, sizeof both);
        return widened((singles)(part >= PARTS ? both & 0xffff0000u : both << 16));
    }
    if (kind == F32) {
        singles raw;
        memcpy(&raw, (const float *)source + start + part * WIDTH, sizeof raw);
        return widened(raw);
    }
    lanes raw;
    memcpy(&raw, (const double *)source + start + part * WIDTH, sizeof raw);
    return raw;
}

/* One block into the totals; returns the bits of its largest |d|. */
INLINE int64_t block_of(const void *candidate, int candidate_kind, const void *reference, int reference_kind, int64_t start,
                        struct totals *totals)
{
    lanes absolute[PARTS] = {0}, squares[PARTS] = {0}, reference_squares[PARTS] = {0}, cross[PARTS] = {0}, top[PARTS] = {0};
    int64_t alike = 0;
    for (int64_t i = start; i < start + BLOCK; i += 2 * LANES)
#pragma GCC unroll 8
        for (int part = 0; part < 2 * PARTS; part++) {
            lanes c = taken(candidate, candidate_kind, i, part), r = taken(reference, reference_kind, i, part), d = c - r;
            lanes magnitude = (lanes)((counts)d & INT64_MAX);
            int lane = part % PARTS;
            absolute[lane] += magnitude;
            squares[lane] += d * d;
            reference_squares[lane] += r * r;
            cross[lane] += c * r;
            top[lane] = larger(magnitude, top[lane]);
            alike += zeros(d);
        }
    add(&totals->absolute, absolute);
    add(&totals->squares, squares);
    add(&totals->reference_squares, reference_squares);
    add(&totals->cross, cross);
    totals->differing += BLOCK - alike;
    /* Of numbers that are not negative the bits, taken as integers, have the order of the numbers. */
    int64_t largest = 0, each[LANES];
    memcpy(each, top, sizeof each);
    for (int lane = 0; lane < LANES; lane++)
        largest = each[lane] > largest ? each[lane] : largest;
    return largest;
}

static int64_t block(const void *candidate, int candidate_kind, const void *reference, int reference_kind, int64_t start,
                     int64_t length, struct totals *totals)
{
    /* A kind that is a constant leaves no question in the loop. */
#define DIRECTLY(c, r)                                                       \
    if (length == BLOCK && candidate_kind == c && reference_kind == r)       \
        return block_of(candidate, c, reference, r, start, totals);
    DIRECTLY(F64, F64)
    DIRECTLY(F32, F32)
    DIRECTLY(F32, F64)
    DIRECTLY(BF16, BF16)
    double buffers[2][BLOCK] __attribute__((aligned(64)));
    decode(candidate, candidate_kind, start, length, buffers[0]);
    decode(reference, reference_kind, start, length, buffers[1]);
    return block_of(buffers[0], F64, buffers[1], F64, 0, totals);
}

/* The first place of a block where |d| has these bits. */
static int64_t place_of(const void *candidate, int candidate_kind, const void *reference, int reference_kind, int64_t start,
                        int64_t length, int64_t bits)
{
    double buffers[2][BLOCK], largest;
    memcpy(&largest, &bits, sizeof largest);
    decode(candidate, candidate_kind, start, length, buffers[0]);
    decode(reference, reference_kind, start, length, buffers[1]);
    int64_t place = 0;
    while (place < length - 1 && fabs(buffers[0][place] - buffers[1][place]) != largest)
        place++;
    return start + place;
}

/* sums: |d|, d d, r r, c r, largest |d|. places: how many differ, the first place of the largest.
   What is not finite leaves a sum that is not, and then the other results mean nothing. */
void plumbline_difference(const void *candidate, int candidate_kind, const void *reference, int reference_kind, int64_t length,
                          double *sums, int64_t *places)
{
    struct totals totals = {{0, 0}, {0, 0}, {0, 0}, {0, 0}, 0};
    int64_t largest = 0, block_of_largest = 0;
    for (int64_t start = 0; start < length; start += BLOCK) {
        int64_t held = length - start < BLOCK ? length - start : BLOCK;
        int64_t found = block(candidate, candidate_kind, reference, reference_kind, start, held, &totals);
        if (found > largest) {
            largest = found;
            block_of_largest = start;
        }
    }
    struct sum every[] = {totals.absolute, totals.squares, totals.reference_squares, totals.cross};
    for (int i = 0; i < 4; i++)
        sums[i] = every[i].total + every[i].lost;
    memcpy(sums + 4, &largest, sizeof largest);
    places[0] = totals.differing;
    places[1] = 0;
    if (largest != 0) {
        int64_t held = length - block_of_largest < BLOCK ? length - block_of_largest : BLOCK;
        places[1] = place_of(candidate, candidate_kind, reference, reference_kind, block_of_largest, held, largest);
    }
}

/* Every bit of a word on every bit of the result: MurmurHash3's last step. */
static inline uint64_t mixed(uint64_t word)
{
    word = (word ^ word >> 33) * 0xff51afd7ed558ccdu;
    word = (word ^ word >> 33) * 0xc4ceb9fe1a85ec53u;
    return word ^ word >> 33;
}

/* The sum of all words, each mixed with its place; bytes behind the last whole word are one more, with their number. */
uint64_t plumbline_digest(const void *data, int64_t bytes)
{
    const uint64_t step = 0x9e3779b97f4a7c15u;
    uint64_t sum = 0, word, rest = (uint64_t)bytes & 7;
    int64_t whole = bytes / 8;
    for (int64_t i = 0; i < whole; i++) {
        memcpy(&word, (const char *)data + 8 * i, 8);
        sum += mixed(word + (uint64_t)i * step);
    }
    word = rest << 56;
    memcpy(&word, (const char *)data + 8 * whole, rest);
    return sum + mixed(word + (uint64_t)whole * step);
}
