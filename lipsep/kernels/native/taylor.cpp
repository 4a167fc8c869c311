/* Attention with exp(s) replaced by 1 + s + s^2 / 2 = (1 + s)^2 / 2 + 1 / 2, within each frame.

   With x' = (1, x_1 ... x_d) the expansion is that of (q' . k')^2, so what a frame's keys and values come to are the
   sums over its pixels of v'_e k'_a k'_b for a <= b, with v' = (v, 1): the last row gives the sum of the weights. Where
   a frame's pixels do not fill the last vector, the 1s are zeros, and nothing counts.

   Tensors are (heads, D, frames, N) as in memory; one frame of one head is copied into (D + 1, padded N) at a time. */

#include "vectors.h"

enum { D = 8, PLUS = D + 1, PAIRS = PLUS * (PLUS + 1) / 2 };

struct Sizes {
    int64_t frames, n, padded;
};

/* One frame: x (D rows, frames * N apart) -> (D + 1, padded), the row of ones first or last. */
static void take_frame(const Sizes &s, const float *x, bool ones_first, float *frame) {
    float *ones = ones_first ? frame : frame + D * s.padded, *rows = ones_first ? frame + s.padded : frame;
    memset(frame, 0, sizeof(float) * (PLUS * s.padded));
    for (int64_t p = 0; p < s.n; p++) ones[p] = 1.0f;
    for (int i = 0; i < D; i++) memcpy(rows + i * s.padded, x + i * s.frames * s.n, sizeof(float) * s.n);
}

static void put_frame(const Sizes &s, const float *rows, float *x) {
    for (int i = 0; i < D; i++) memcpy(x + i * s.frames * s.n, rows + i * s.padded, sizeof(float) * s.n);
}

/* One frame's keys, values and queries, and `more` arrays of the same size. */
struct Frame {
    Room space;
    float *keys = NULL, *values = NULL, *queries = NULL;
    Frame(const Sizes &s, const float *q, const float *k, const float *v, int more) : space((3 + more) * PLUS * s.padded) {
        if (space.failed()) return;
        keys = space.take(PLUS * s.padded), values = space.take(PLUS * s.padded), queries = space.take(PLUS * s.padded);
        take_frame(s, k, true, keys);
        take_frame(s, v, false, values);
        take_frame(s, q, true, queries);
    }
};

/* totals[pair][e]: sums over the pixels of v_e x_a x_b; x, v (D + 1, padded). */
static void add_up(const Sizes &s, const float *x, const float *v, float totals[PAIRS][PLUS]) {
    for (int a = 0, pair = 0; a < PLUS; a++)
        for (int b = a; b < PLUS;) {
            int at_once = b + 1 < PLUS ? 2 : 1, other = b + at_once - 1;
            vec first[PLUS] = {}, second[PLUS] = {};
            for (int64_t p = 0; p < s.padded; p += LANES) {
                vec number = load(x + a * s.padded + p);
                vec product = number * load(x + b * s.padded + p), next = number * load(x + other * s.padded + p);
                for (int e = 0; e < PLUS; e++) {
                    vec value = load(v + e * s.padded + p);
                    first[e] += value * product;
                    second[e] += value * next;
                }
            }
            for (int e = 0; e < PLUS; e++) totals[pair][e] = sum_of(first[e]);
            for (int e = 0; e < PLUS && at_once == 2; e++) totals[pair + 1][e] = sum_of(second[e]);
            b += at_once, pair += at_once;
        }
}

/* What counts half, the squares, is halved; but not 1 * 1. */
static void halve_squares(float totals[PAIRS][PLUS]) {
    for (int a = 1, pair = PLUS; a < PLUS; pair += PLUS - a, a++)
        for (int e = 0; e < PLUS; e++) totals[pair][e] *= 0.5f;
}

/* The sum over pairs of totals[pair][e] x_a x_b, for each e and two vectors of pixels from p on. */
INLINE void look_up(const Sizes &s, const float *x, int64_t p, const float totals[PAIRS][PLUS], vec out[PLUS][2]) {
    memset(out, 0, sizeof(vec) * PLUS * 2);
    for (int a = 0, pair = 0; a < PLUS; a++)
        for (int b = a; b < PLUS; b++, pair++) {
            vec first = load(x + a * s.padded + p) * load(x + b * s.padded + p);
            vec second = load(x + a * s.padded + p + LANES) * load(x + b * s.padded + p + LANES);
            for (int e = 0; e < PLUS; e++) {
                vec total = all(totals[pair][e]);
                out[e][0] += total * first;
                out[e][1] += total * second;
            }
        }
}

/* The gradient by x of the sum over e and pairs of totals[pair][e] other_e x_a x_b, squares counting half: (D, padded). */
static void differentiate(const Sizes &s, const float totals[PAIRS][PLUS], const float *other, const float *x,
                          float *grad) {
    for (int64_t p = 0; p < s.padded; p += LANES) {
        vec numbers[PLUS], others[PLUS], sums[PLUS] = {};
        for (int e = 0; e < PLUS; e++) numbers[e] = load(x + e * s.padded + p), others[e] = load(other + e * s.padded + p);
#pragma GCC unroll 9
        for (int a = 0, pair = 0; a < PLUS; a++)
#pragma GCC unroll 9
            for (int b = a; b < PLUS; b++, pair++) {
                vec slope = {};
                for (int e = 0; e < PLUS; e++) slope += totals[pair][e] * others[e];
                sums[b] += slope * numbers[a];
                if (a != b) sums[a] += slope * numbers[b];
            }
        for (int i = 0; i < D; i++) store(grad + i * s.padded + p, sums[i + 1]);
    }
}

/* work(frame, its place in memory, its number) for every frame of every head; 1 where there is no memory. */
template <class Work>
static int for_frames(const Sizes &s, const float *q, const float *k, const float *v, int64_t heads, int more,
                      int64_t threads, Work work) {
    int failed = 0;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t i = 0; i < heads * s.frames; i++) {
        int64_t offset = (i / s.frames * D * s.frames + i % s.frames) * s.n;
        Frame frame(s, q + offset, k + offset, v + offset, more);
        if (frame.space.failed())
            failed = 1;
        else
            work(frame, offset, i);
    }
    return failed;
}

/* y (heads, D, frames, N) and sums (heads, 1, frames, N) of q, k, v (heads, D, frames, N). 1 where there is no memory. */
extern "C" int taylor_attend(const float *q, const float *k, const float *v, float *y, float *sums, int64_t heads,
                             int64_t frames, int64_t n, int64_t threads) {
    Sizes s = {frames, n, round_up(n, 2 * LANES)};
    return for_frames(s, q, k, v, heads, 0, threads, [=](Frame &frame, int64_t offset, int64_t i) {
        float totals[PAIRS][PLUS], *values = frame.values; /* which give way to the results */
        add_up(s, frame.keys, values, totals);
        halve_squares(totals);
        for (int64_t p = 0; p < s.padded; p += 2 * LANES) {
            vec out[PLUS][2];
            look_up(s, frame.queries, p, totals, out);
            for (int h = 0; h < 2; h++) {
                vec least = all(1e-5f), weight = out[D][h] < least ? least : out[D][h];
                for (int e = 0; e < D; e++) store(values + e * s.padded + p + h * LANES, out[e][h] / weight);
                store(values + D * s.padded + p + h * LANES, weight);
            }
        }
        put_frame(s, values, y + offset);
        memcpy(sums + i * n, values + D * s.padded, sizeof(float) * n);
    });
}

/* Gradients by q, k and v for `grad`, that by y. 1 where there is no memory. */
extern "C" int taylor_attend_backward(const float *grad, const float *q, const float *k, const float *v, const float *y,
                                      const float *sums, float *grad_q, float *grad_k, float *grad_v, int64_t heads,
                                      int64_t frames, int64_t n, int64_t threads) {
    Sizes s = {frames, n, round_up(n, 2 * LANES)};
    return for_frames(s, q, k, v, heads, 2, threads, [=](Frame &frame, int64_t offset, int64_t i) {
        float *shares = frame.space.take(PLUS * s.padded), *out = frame.space.take(PLUS * s.padded);
        float totals[PAIRS][PLUS], grad_totals[PAIRS][PLUS];
        take_frame(s, grad + offset, false, shares);
        take_frame(s, y + offset, false, out);
        for (int64_t p = 0; p < n; p++) { /* grad / sum, and for the sum itself what all of them take from it */
            float sum = sums[i * n + p], of_sum = 0;
            for (int e = 0; e < D; e++) {
                float share = shares[e * s.padded + p] / sum;
                of_sum -= share * out[e * s.padded + p];
                shares[e * s.padded + p] = share;
            }
            shares[D * s.padded + p] = sum <= 1e-5f ? 0.0f : of_sum;
        }
        add_up(s, frame.keys, frame.values, totals);
        add_up(s, frame.queries, shares, grad_totals);
        differentiate(s, totals, shares, frame.queries, out);
        put_frame(s, out, grad_q + offset);
        differentiate(s, grad_totals, frame.values, frame.keys, out);
        put_frame(s, out, grad_k + offset);
        halve_squares(grad_totals);
        for (int64_t p = 0; p < s.padded; p += 2 * LANES) {
            vec found[PLUS][2];
            look_up(s, frame.keys, p, grad_totals, found);
            for (int e = 0; e < D; e++)
                for (int h = 0; h < 2; h++) store(out + e * s.padded + p + h * LANES, found[e][h]);
        }
        put_frame(s, out, grad_v + offset);
    });
}
