/* A depthwise convolution of three taps with its bias, and the gated linear unit behind it: of 2 H channels that were
   convolved, the first H count as much as the sigmoids of the last H say.

   Sequences are (B, T, channels). A few steps at a time are worked through, channel by channel; the steps beyond both
   ends are zeros. */

#include "vectors.h"

enum { STEPS = 64 }; /* of a sequence, worked on together */

/* Filters (2 H, 3) and bias (2 H) as four rows of 2 H. */
static void pack_filters(const float *weight, const float *bias, int64_t channels, float *rows) {
    for (int64_t c = 0; c < channels; c++) {
        for (int i = 0; i < 3; i++) rows[i * channels + c] = weight[3 * c + i];
        rows[3 * channels + c] = bias[c];
    }
}

/* One vector of channels of a sequence (T, channels). */
struct Column {
    const float *x;
    int64_t length, channels;
    vec at(int64_t t) const { return t >= 0 && t < length ? load(x + t * channels) : vec{}; }
};

struct Filter {
    vec taps[3], bias;
    Filter(const float *rows, int64_t channels) {
        for (int i = 0; i < 3; i++) taps[i] = load(rows + i * channels);
        bias = load(rows + 3 * channels);
    }
    vec operator()(vec before, vec now, vec after) const {
        return bias + taps[0] * before + taps[1] * now + taps[2] * after;
    }
};

/* x (B, T, 2 H), weight (2 H, 3), bias (2 H) -> y (B, T, H), H a multiple of LANES. 1 where there is no memory. */
extern "C" int conv_glu(const float *x, const float *weight, const float *bias, float *y, int64_t batch,
                        int64_t length, int64_t half, int64_t threads) {
    int64_t channels = 2 * half, pieces = (length + STEPS - 1) / STEPS;
    Room space(4 * channels);
    if (space.failed()) return 1;
    float *rows = space.take(4 * channels);
    pack_filters(weight, bias, channels, rows);
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t piece = 0; piece < batch * pieces; piece++) {
        int64_t sequence = piece / pieces * length, start = piece % pieces * STEPS;
        int64_t stop = start + STEPS < length ? start + STEPS : length;
        for (int64_t c = 0; c < half; c += LANES) {
            Column value = {x + sequence * channels + c, length, channels};
            Column gate = {x + sequence * channels + half + c, length, channels};
            Filter of_value(rows + c, channels), of_gate(rows + half + c, channels);
            vec v0 = value.at(start - 1), v1 = value.at(start), g0 = gate.at(start - 1), g1 = gate.at(start);
            for (int64_t t = start; t < stop; t++) {
                vec v2 = value.at(t + 1), g2 = gate.at(t + 1);
                store(y + (sequence + t) * half + c, of_value(v0, v1, v2) * sigmoid(of_gate(g0, g1, g2)));
                v0 = v1, v1 = v2, g0 = g1, g1 = g2;
            }
        }
    }
    return 0;
}

/* What a filter's gradients are made of: sums over time, kept in memory between pieces. */
struct Sums {
    vec taps[3], bias;
    Sums(const float *rows, int64_t channels) {
        for (int i = 0; i < 3; i++) taps[i] = load(rows + i * channels);
        bias = load(rows + 3 * channels);
    }
    void add(vec grad, vec before, vec now, vec after) {
        taps[0] += grad * before, taps[1] += grad * now, taps[2] += grad * after, bias += grad;
    }
    void keep(float *rows, int64_t channels) const {
        for (int i = 0; i < 3; i++) store(rows + i * channels, taps[i]);
        store(rows + 3 * channels, bias);
    }
};

/* Gradients by x, weight and bias for `grad` (B, T, H). 1 where there is no memory. */
extern "C" int conv_glu_backward(const float *grad, const float *x, const float *weight, const float *bias,
                                 float *grad_x, float *grad_weight, float *grad_bias, int64_t batch, int64_t length,
                                 int64_t half, int64_t threads) {
    int64_t channels = 2 * half, pieces = (length + STEPS - 1) / STEPS;
    Room space(4 * channels * (1 + threads));
    if (space.failed()) return 1;
    float *rows = space.take(4 * channels), *sums = space.take(4 * channels * threads);
    pack_filters(weight, bias, channels, rows);
    memset(sums, 0, sizeof(float) * 4 * channels * threads);
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (int64_t share = 0; share < threads; share++) {
        float *own = sums + share * 4 * channels;
        for (int64_t piece = share * batch * pieces / threads; piece < (share + 1) * batch * pieces / threads; piece++) {
            int64_t sequence = piece / pieces * length, start = piece % pieces * STEPS;
            int64_t stop = start + STEPS < length ? start + STEPS : length;
            for (int64_t c = 0; c < half; c += LANES) {
                Column value = {x + sequence * channels + c, length, channels};
                Column gate = {x + sequence * channels + half + c, length, channels};
                Column above = {grad + sequence * half + c, length, half};
                Filter of_value(rows + c, channels), of_gate(rows + half + c, channels);
                Sums value_sums(own + c, channels), gate_sums(own + half + c, channels);
                float *grad_value = grad_x + sequence * channels + c, *grad_gate = grad_value + half;
                vec v0 = value.at(start - 2), v1 = value.at(start - 1), g0 = gate.at(start - 2), g1 = gate.at(start - 1);
                vec by_value[2] = {}, by_gate[2] = {}; /* by what was convolved, of the two steps before */
                for (int64_t t = start - 1; t <= stop; t++) {
                    vec v2 = value.at(t + 1), g2 = gate.at(t + 1), now = above.at(t);
                    vec share_of = sigmoid(of_gate(g0, g1, g2));
                    vec to_value = now * share_of;
                    vec to_gate = to_value * of_value(v0, v1, v2) * (1.0f - share_of);
                    if (t >= start && t < stop) {
                        value_sums.add(to_value, v0, v1, v2);
                        gate_sums.add(to_gate, g0, g1, g2);
                    }
                    if (t > start) {
                        const vec *v = of_value.taps, *g = of_gate.taps;
                        store(grad_value + (t - 1) * channels,
                              v[0] * to_value + v[1] * by_value[1] + v[2] * by_value[0]);
                        store(grad_gate + (t - 1) * channels, g[0] * to_gate + g[1] * by_gate[1] + g[2] * by_gate[0]);
                    }
                    by_value[0] = by_value[1], by_value[1] = to_value, by_gate[0] = by_gate[1], by_gate[1] = to_gate;
                    v0 = v1, v1 = v2, g0 = g1, g1 = g2;
                }
                value_sums.keep(own + c, channels);
                gate_sums.keep(own + half + c, channels);
            }
        }
    }
    for (int64_t c = 0; c < channels; c++) {
        float found[4] = {};
        for (int64_t share = 0; share < threads; share++)
            for (int i = 0; i < 4; i++) found[i] += sums[share * 4 * channels + i * channels + c];
        for (int i = 0; i < 3; i++) grad_weight[3 * c + i] = found[i];
        grad_bias[c] = found[3];
    }
    return 0;
}
