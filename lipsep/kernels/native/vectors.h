/* Vectors of floats in the width of the machine's registers, by the vector extensions of GCC and Clang.

   Sums run over lanes and are never reordered by the compiler (no -ffast-math), so NaNs stay NaNs. */

#ifndef LIPSEP_VECTORS_H
#define LIPSEP_VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define ROWS 8 /* queries that are worked on together: as many sums as registers hold */
#else
#define LANES 8
#define ROWS 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* anywhere in memory */

INLINE vec load(const float *x) { return *(const loose *)x; }
INLINE void store(float *x, vec y) { *(loose *)x = y; }
/* The same of the first `left` lanes alone, the others zeros. */
INLINE vec load_some(const float *x, int64_t left) {
    if (left >= LANES) return load(x);
    float some[LANES] = {};
    memcpy(some, x, sizeof(float) * left);
    return load(some);
}
INLINE void store_some(float *x, vec y, int64_t left) {
    if (left >= LANES) return store(x, y);
    float some[LANES];
    store(some, y);
    memcpy(x, some, sizeof(float) * left);
}
INLINE vec all(float x) { return x - vec{}; }

INLINE float sum_of(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

INLINE float greatest_of(vec x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* e^x to one or two units in the last place; below -87 as at -87, above 88 as at 88. */
INLINE vec exponential(vec x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to whole numbers, which then are the lowest bits */
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    vec shifted = x * 1.44269504f + shift, whole = shifted - shift;
    vec f = x - whole * 0.693359375f + whole * 2.12194440e-4f; /* x less whole * log(2), in two steps: -0.35 to 0.35 */
    vec power = all(1.9875692e-4f);                            /* e^f = 1 + f + f^2 (1 / 2 + ...) */
    power = power * f + 1.3981999e-3f;
    power = power * f + 8.3334519e-3f;
    power = power * f + 4.1665796e-2f;
    power = power * f + 1.6666665e-1f;
    power = power * f + 5.0e-1f;
    power = power * (f * f) + f + 1.0f;
    return (vec)((ivec)power + ((ivec)shifted << 23)); /* times 2^whole */
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* Dropout that stores nothing: whether a number is dropped follows from a seed and its place in the tensor, by a hash
   whose bits are as good as random (the multipliers are those of Wellons' "lowbias32"). The rest counts `factor` times. */
struct Dropout {
    uint32_t first, second, limit;
    float factor;
    Dropout(int64_t seed, float p)
        : first((uint32_t)seed), second((uint32_t)(seed >> 32)), limit((uint32_t)(p * 4294967296.0)), factor(1.0f / (1.0f - p)) {}
    vec keep(vec x, int64_t place) const {
        if (!limit) return x;
        uvec hash;
        for (int i = 0; i < LANES; i++) hash[i] = (uint32_t)i;
        hash = (hash + (uint32_t)place) ^ (first + (uint32_t)(place >> 32));
        hash = (hash ^ hash >> 16) * 0x7feb352du;
        hash = (hash ^ hash >> 15) * 0x846ca68bu ^ second;
        hash = (hash ^ hash >> 16) * 0x7feb352du;
        hash ^= hash >> 15;
        return hash < limit ? vec{} : x * factor;
    }
};

INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Memory for some floats, at the start of a cache line; NULL where there is none. */
INLINE float *room(int64_t count) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, sizeof(float) * (size_t)(count ? count : 1)) ? NULL : (float *)memory;
}

/* Memory for several tensors, which is freed at the end of the block. */
class Room {
    float *memory, *next;

  public:
    explicit Room(int64_t count) : memory(room(count)), next(memory) {}
    ~Room() { free(memory); }
    Room(const Room &) = delete;
    bool failed() const { return !memory; }
    float *take(int64_t count) {
        next += count;
        return next - count;
    }
};

#endif
