/* A depthwise convolution of three taps with its bias, the gated linear unit behind it (of 2 H channels that were
   convolved, the first H count as much as the sigmoids of the last H say) and dropout. Sequences are (B, T, channels), H is a
   multiple of LANES. */

#include "depthwise.h"

/* x (B, T, 2 H), weight (2 H, 3), bias (2 H) -> y (B, T, H). 1 where there is no memory. */
extern "C" int conv_glu(const float *x, const float *weight, const float *bias, float *y, int64_t seed,
                        float p, int64_t batch, int64_t length, int64_t half, int64_t threads) {
    Dropout dropout(seed, p);
    int64_t channels = 2 * half;
    Room space(4 * channels);
    if (space.failed()) return 1;
    float *rows = space.take(4 * channels);
    pack_filters<3>(weight, bias, channels, rows);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t) {
        for (int64_t c = 0; c < half; c += LANES) {
            Column value = {x + piece.sequence * channels + c, length, channels};
            Column gate = {value.x + half, length, channels};
            Filter of_value(rows + c, channels), of_gate(rows + half + c, channels);
            vec v0 = value.at(piece.start - 1), v1 = value.at(piece.start);
            vec g0 = gate.at(piece.start - 1), g1 = gate.at(piece.start);
            for (int64_t t = piece.start; t < piece.stop; t++) {
                vec v2 = value.at(t + 1), g2 = gate.at(t + 1);
                vec share = sigmoid(of_gate.convolve(g0, g1, g2));
                int64_t place = (piece.sequence + t) * half + c;
                store(y + place, dropout.keep(of_value.convolve(v0, v1, v2) * share, place));
                v0 = v1, v1 = v2, g0 = g1, g1 = g2;
            }
        }
    });
    return 0;
}

/* Gradients by x, weight and bias for `grad` (B, T, H). 1 where there is no memory. */
extern "C" int conv_glu_backward(const float *grad, const float *x, const float *weight, const float *bias,
                                 float *grad_x, float *grad_weight, float *grad_bias, int64_t seed, float p,
                                 int64_t batch, int64_t length, int64_t half, int64_t threads) {
    Dropout dropout(seed, p);
    int64_t channels = 2 * half, size = 4 * channels;
    Room space(size * (1 + threads));
    if (space.failed()) return 1;
    float *rows = space.take(size), *sums = space.take(size * threads);
    pack_filters<3>(weight, bias, channels, rows);
    memset(sums, 0, sizeof(float) * size * threads);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t thread) {
        for (int64_t c = 0; c < half; c += LANES) {
            float *own = sums + thread * size + c, *grad_value = grad_x + piece.sequence * channels + c;
            Column value = {x + piece.sequence * channels + c, length, channels};
            Column gate = {value.x + half, length, channels};
            Column above = {grad + piece.sequence * half + c, length, half};
            Filter of_value(rows + c, channels), of_gate(rows + half + c, channels);
            Filter value_sums(own, channels), gate_sums(own + half, channels);
            vec v0 = value.at(piece.start - 2), v1 = value.at(piece.start - 1);
            vec g0 = gate.at(piece.start - 2), g1 = gate.at(piece.start - 1);
            vec to_value[3] = {}, to_gate[3] = {}; /* by what was convolved, of this step and the two before */
            for (int64_t t = piece.start - 1; t <= piece.stop; t++) {
                vec v2 = value.at(t + 1), g2 = gate.at(t + 1);
                vec share = sigmoid(of_gate.convolve(g0, g1, g2));
                to_value[0] = dropout.keep(above.at(t), (piece.sequence + t) * half + c) * share;
                to_gate[0] = to_value[0] * of_value.convolve(v0, v1, v2) * (1.0f - share);
                if (t >= piece.start && t < piece.stop) {
                    value_sums.add(to_value[0], v0, v1, v2);
                    gate_sums.add(to_gate[0], g0, g1, g2);
                }
                if (t > piece.start) {
                    float *at = grad_value + (t - 1) * channels;
                    store(at, of_value.spread(to_value[2], to_value[1], to_value[0]));
                    store(at + half, of_gate.spread(to_gate[2], to_gate[1], to_gate[0]));
                }
                to_value[2] = to_value[1], to_value[1] = to_value[0], to_gate[2] = to_gate[1], to_gate[1] = to_gate[0];
                v0 = v1, v1 = v2, g0 = g1, g1 = g2;
            }
            value_sums.keep(own, channels);
            gate_sums.keep(own + half, channels);
        }
    });
    unpack_sums<3>(sums, size, threads, channels, grad_weight, grad_bias);
    return 0;
}
