/* All statistics of a Difference in one pass over candidate and reference (validation/compare/native.py calls it).

   Elements are taken a block at a time: decoded to double where they are not double, in a buffer that stays in the first
   cache, and then added up in lanes, whose order is that of the source and not of a compiler. Each block's sums are added to the
   total with what the addition loses (Neumaier), so that the error does not grow with the number of elements. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024
#define LANES 8

typedef double lanes __attribute__((vector_size(8 * LANES)));
typedef int64_t counts __attribute__((vector_size(8 * LANES)));
typedef float singles __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

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

static inline void add(struct sum *sum, lanes parts)
{
    double part = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
    double total = sum->total + part;
    sum->lost += fabs(sum->total) >= fabs(part) ? (sum->total - total) + part : (part - total) + sum->total;
    sum->total = total;
}

struct totals { struct sum absolute, squares, reference_squares, cross; int64_t differing; };

/* Lane by lane: of GCC's own conversion of vectors comes a detour over halves. */
static inline __attribute__((always_inline)) lanes widened(singles from)
{
    double to[LANES];
    lanes found;
    for (int lane = 0; lane < LANES; lane++)
        to[lane] = (double)from[lane];
    memcpy(&found, to, sizeof found);
    return found;
}

/* LANES of the 2 * LANES elements from `start` on as double; for the kinds that models are held in without a buffer between.

   Two bf16 lie in one word: the even elements are one half and the odd ones the other, which spares sorting them. */
static inline __attribute__((always_inline)) lanes taken(const void *source, int kind, int64_t start, int half)
{
    if (kind == BF16) {
        words both;
        memcpy(&both, (const uint16_t *)source + start, sizeof both);
        return widened((singles)(half ? both & 0xffff0000u : both << 16));
    }
    if (kind == F32) {
        singles raw;
        memcpy(&raw, (const float *)source + start + half * LANES, sizeof raw);
        return widened(raw);
    }
    lanes raw;
    memcpy(&raw, (const double *)source + start + half * LANES, sizeof raw);
    return raw;
}

/* One block into the totals; returns the bits of its largest |d|. */
static inline __attribute__((always_inline)) int64_t block_of(const void *candidate, int candidate_kind, const void *reference,
                                                              int reference_kind, int64_t start, struct totals *totals)
{
    lanes absolute = {0}, squares = {0}, reference_squares = {0}, cross = {0};
    counts alike = {0}, top = {0};
    for (int64_t i = start; i < start + BLOCK; i += 2 * LANES)
        for (int half = 0; half < 2; half++) {
            lanes c = taken(candidate, candidate_kind, i, half), r = taken(reference, reference_kind, i, half), d = c - r;
            /* Of numbers that are not negative the bits, taken as integers, have the order of the numbers. */
            counts bits = (counts)d & INT64_MAX, above = bits > top;
            absolute += (lanes)bits;
            squares += d * d;
            reference_squares += r * r;
            cross += c * r;
            alike -= bits == 0;
            top = (bits & above) | (top & ~above);
        }
    add(&totals->absolute, absolute);
    add(&totals->squares, squares);
    add(&totals->reference_squares, reference_squares);
    add(&totals->cross, cross);
    int64_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) {
        totals->differing += BLOCK / LANES - alike[lane];
        largest = top[lane] > largest ? top[lane] : largest;
    }
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
