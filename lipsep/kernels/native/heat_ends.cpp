/* What stands before and behind the heat diffusion of an operator.

   Before: a depthwise convolution of three taps, then one with two filters per channel: the first half of the channels
   becomes the heat, the last half the gate. Behind: a layer norm of the heat, times gate * sigmoid(gate), and another
   depthwise convolution. Sequences are (B, T, C), C a multiple of 2 * LANES. */

#include "depthwise.h"

/* Each of the first, or of the last, LANES / 2 numbers twice in a row. */
INLINE void twice(vec x, vec &first, vec &last) {
#if LANES == 16
    first = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    last = __builtin_shufflevector(x, x, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
#else
    first = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3);
    last = __builtin_shufflevector(x, x, 4, 4, 5, 5, 6, 6, 7, 7);
#endif
}

/* The sums of neighbours: the transpose of `twice`. */
INLINE vec sums_of_twos(vec first, vec last) {
#if LANES == 16
    return __builtin_shufflevector(first, last, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(first, last, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    return __builtin_shufflevector(first, last, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(first, last, 1, 3, 5, 7, 9, 11, 13, 15);
#endif
}

/* The first convolution of some channels for the steps from `start` - 1 to `stop`; zeros beyond the ends. */
INLINE void convolve_first(const Column &x, const Filter &filter, const Piece &piece, vec *found) {
    vec before = x.at(piece.start - 2), now = x.at(piece.start - 1);
    for (int64_t t = piece.start - 1; t <= piece.stop; t++) {
        vec after = x.at(t + 1);
        *found++ = x.has(t) ? filter.convolve(before, now, after) : vec{};
        before = now, now = after;
    }
}

/* x, heat, gate (B, T, C), weight (C, 3), bias (C), weights (2 C, 3), biases (2 C). 1 where there is no memory. */
extern "C" int heat_and_gate(const float *x, const float *weight, const float *bias, const float *weights,
                             const float *biases, float *heat, float *gate, int64_t batch, int64_t length,
                             int64_t channels, int64_t threads) {
    Room space(12 * channels);
    if (space.failed()) return 1;
    float *first_rows = space.take(4 * channels), *rows = space.take(8 * channels);
    pack_filters<3>(weight, bias, channels, first_rows);
    pack_filters<3>(weights, biases, 2 * channels, rows);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t) {
        for (int64_t c = 0; c < channels; c += LANES) {
            Column column = {x + piece.sequence * channels + c, length, channels};
            vec z[STEPS + 2];
            convolve_first(column, Filter(first_rows + c, channels), piece, z);
            Filter to_first(rows + 2 * c, 2 * channels), to_last(rows + 2 * c + LANES, 2 * channels);
            float *out = (2 * c < channels ? heat + 2 * c : gate + 2 * c - channels) + piece.sequence * channels;
            vec f0, f1, f2, l0, l1, l2;
            twice(z[0], f0, l0), twice(z[1], f1, l1);
            for (int64_t t = piece.start; t < piece.stop; t++) {
                twice(z[t - piece.start + 2], f2, l2);
                store(out + t * channels, to_first.convolve(f0, f1, f2));
                store(out + t * channels + LANES, to_last.convolve(l0, l1, l2));
                f0 = f1, f1 = f2, l0 = l1, l1 = l2;
            }
        }
    });
    return 0;
}

/* Gradients by x and all filters for those by heat and gate. 1 where there is no memory. */
extern "C" int heat_and_gate_backward(const float *grad_heat, const float *grad_gate, const float *x,
                                      const float *weight, const float *bias, const float *weights,
                                      const float *biases, float *grad_x, float *grad_weight, float *grad_bias,
                                      float *grad_weights, float *grad_biases, int64_t batch, int64_t length,
                                      int64_t channels, int64_t threads) {
    int64_t size = 12 * channels;
    Room space(size * (1 + threads));
    if (space.failed()) return 1;
    float *first_rows = space.take(4 * channels), *rows = space.take(8 * channels), *sums = space.take(size * threads);
    pack_filters<3>(weight, bias, channels, first_rows);
    pack_filters<3>(weights, biases, 2 * channels, rows);
    memset(sums, 0, sizeof(float) * size * threads);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t thread) {
        for (int64_t c = 0; c < channels; c += LANES) {
            float *first_own = sums + thread * size + c, *own = sums + thread * size + 4 * channels + 2 * c;
            const float *from = 2 * c < channels ? grad_heat + 2 * c : grad_gate + 2 * c - channels;
            Column column = {x + piece.sequence * channels + c, length, channels};
            Column by_first = {from + piece.sequence * channels, length, channels};
            Column by_last = {by_first.x + LANES, length, channels};
            Filter filter(first_rows + c, channels), first_sums(first_own, channels);
            Filter to_first(rows + 2 * c, 2 * channels), to_last(rows + 2 * c + LANES, 2 * channels);
            Filter sums_first(own, 2 * channels), sums_last(own + LANES, 2 * channels);
            vec z[STEPS + 2], grad_z[STEPS + 2]; /* of the steps from `start` - 1 to `stop` */
            convolve_first(column, filter, piece, z);
            vec f0 = by_first.at(piece.start - 2), f1 = by_first.at(piece.start - 1);
            vec l0 = by_last.at(piece.start - 2), l1 = by_last.at(piece.start - 1);
            for (int64_t t = piece.start - 1; t <= piece.stop; t++) {
                int64_t i = t - piece.start + 1;
                vec f2 = by_first.at(t + 1), l2 = by_last.at(t + 1);
                grad_z[i] = column.has(t) ? sums_of_twos(to_first.spread(f0, f1, f2), to_last.spread(l0, l1, l2)) : vec{};
                if (t >= piece.start && t < piece.stop) {
                    vec before[2], now[2], after[2];
                    twice(z[i - 1], before[0], before[1]), twice(z[i], now[0], now[1]), twice(z[i + 1], after[0], after[1]);
                    sums_first.add(f1, before[0], now[0], after[0]);
                    sums_last.add(l1, before[1], now[1], after[1]);
                }
                f0 = f1, f1 = f2, l0 = l1, l1 = l2;
            }
            sums_first.keep(own, 2 * channels), sums_last.keep(own + LANES, 2 * channels);
            for (int64_t t = piece.start; t < piece.stop; t++) {
                int64_t i = t - piece.start + 1;
                store(grad_x + (piece.sequence + t) * channels + c, filter.spread(grad_z[i - 1], grad_z[i], grad_z[i + 1]));
                first_sums.add(grad_z[i], column.at(t - 1), column.at(t), column.at(t + 1));
            }
            first_sums.keep(first_own, channels);
        }
    });
    unpack_sums<3>(sums, size, threads, channels, grad_weight, grad_bias);
    unpack_sums<3>(sums + 4 * channels, size, threads, 2 * channels, grad_weights, grad_biases);
    return 0;
}

/* The mean of a row, and 1 / its standard deviation. */
INLINE void moments(const float *row, int64_t channels, float *mean, float *inverse) {
    vec sum = {}, squares = {};
    for (int64_t c = 0; c < channels; c += LANES) sum += load(row + c);
    *mean = sum_of(sum) / (float)channels;
    for (int64_t c = 0; c < channels; c += LANES) {
        vec centred = load(row + c) - *mean;
        squares += centred * centred;
    }
    *inverse = 1.0f / __builtin_sqrtf(sum_of(squares) / (float)channels + 1e-5f);
}

/* (norm(heat) * gain + offset) * gate * sigmoid(gate) for the steps from `start` - 1 to `stop`: (STEPS + 2, C). */
INLINE void release(const float *heat, const float *gate, const float *gain, const float *offset, const Piece &piece,
                    int64_t length, int64_t channels, float *found) {
    for (int64_t t = piece.start - 1; t <= piece.stop; t++, found += channels) {
        if (t < 0 || t >= length) {
            memset(found, 0, sizeof(float) * channels);
            continue;
        }
        const float *row = heat + (piece.sequence + t) * channels, *gates = gate + (piece.sequence + t) * channels;
        float mean, inverse;
        moments(row, channels, &mean, &inverse);
        for (int64_t c = 0; c < channels; c += LANES) {
            vec g = load(gates + c);
            vec normed = (load(row + c) - mean) * inverse * load(gain + c) + load(offset + c);
            store(found + c, normed * g * sigmoid(g));
        }
    }
}

/* heat, gate, y (B, T, C), gain, offset (C) of the norm, weight (C, 3), bias (C). 1 where there is no memory. */
extern "C" int release_heat(const float *heat, const float *gate, const float *gain, const float *offset,
                            const float *weight, const float *bias, float *y, int64_t batch, int64_t length,
                            int64_t channels, int64_t threads) {
    int64_t held = (STEPS + 2) * channels;
    Room space(4 * channels + threads * held);
    if (space.failed()) return 1;
    float *rows = space.take(4 * channels), *found = space.take(threads * held);
    pack_filters<3>(weight, bias, channels, rows);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t thread) {
        float *u = found + thread * held;
        release(heat, gate, gain, offset, piece, length, channels, u);
        for (int64_t c = 0; c < channels; c += LANES) {
            Filter filter(rows + c, channels);
            vec before = load(u + c), now = load(u + channels + c);
            for (int64_t t = piece.start; t < piece.stop; t++) {
                vec after = load(u + (t - piece.start + 2) * channels + c);
                store(y + (piece.sequence + t) * channels + c, filter.convolve(before, now, after));
                before = now, now = after;
            }
        }
    });
    return 0;
}

/* Gradients by heat, gate, gain, offset, weight and bias for `grad`, that by y. 1 where there is no memory. */
extern "C" int release_heat_backward(const float *grad, const float *heat, const float *gate, const float *gain,
                                     const float *offset, const float *weight, const float *bias, float *grad_heat,
                                     float *grad_gate, float *grad_gain, float *grad_offset, float *grad_weight,
                                     float *grad_bias, int64_t batch, int64_t length, int64_t channels,
                                     int64_t threads) {
    int64_t held = (STEPS + 2) * channels, size = 6 * channels;
    Room space(4 * channels + threads * (size + held));
    if (space.failed()) return 1;
    float *rows = space.take(4 * channels), *sums = space.take(threads * size), *found = space.take(threads * held);
    pack_filters<3>(weight, bias, channels, rows);
    memset(sums, 0, sizeof(float) * threads * size);
    for_pieces(batch, length, threads, [=](Piece piece, int64_t thread) {
        float *u = found + thread * held, *own = sums + thread * size;
        release(heat, gate, gain, offset, piece, length, channels, u);
        for (int64_t c = 0; c < channels; c += LANES) { /* u gives way to the gradient by it */
            Filter filter(rows + c, channels), filter_sums(own + c, channels);
            Column above = {grad + piece.sequence * channels + c, length, channels};
            vec before = load(u + c), now = load(u + channels + c);
            for (int64_t t = piece.start; t < piece.stop; t++) {
                float *at = u + (t - piece.start + 1) * channels + c;
                vec after = load(at + channels);
                filter_sums.add(above.at(t), before, now, after);
                store(at, filter.spread(above.at(t - 1), above.at(t), above.at(t + 1)));
                before = now, now = after;
            }
            filter_sums.keep(own + c, channels);
        }
        for (int64_t t = piece.start; t < piece.stop; t++) {
            int64_t at = (piece.sequence + t) * channels;
            float *by_u = u + (t - piece.start + 1) * channels, mean, inverse;
            moments(heat + at, channels, &mean, &inverse);
            vec sum = {}, product = {};
            for (int64_t c = 0; c < channels; c += LANES) {
                vec g = load(gate + at + c), share = sigmoid(g), by = load(by_u + c);
                vec normed = (load(heat + at + c) - mean) * inverse;
                vec shifted = normed * load(gain + c) + load(offset + c);
                store(grad_gate + at + c, by * shifted * share * (1.0f + g * (1.0f - share)));
                vec by_norm = by * g * share;
                store(own + 4 * channels + c, load(own + 4 * channels + c) + by_norm * normed);
                store(own + 5 * channels + c, load(own + 5 * channels + c) + by_norm);
                by_norm *= load(gain + c);
                store(by_u + c, by_norm);
                sum += by_norm, product += by_norm * normed;
            }
            float mean_grad = sum_of(sum) / (float)channels, mean_product = sum_of(product) / (float)channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                vec normed = (load(heat + at + c) - mean) * inverse;
                store(grad_heat + at + c, (load(by_u + c) - mean_grad - normed * mean_product) * inverse);
            }
        }
    });
    unpack_sums<3>(sums, size, threads, channels, grad_weight, grad_bias);
    for (int64_t c = 0; c < channels; c++) {
        grad_gain[c] = grad_offset[c] = 0;
        for (int64_t thread = 0; thread < threads; thread++) {
            grad_gain[c] += sums[thread * size + 4 * channels + c];
            grad_offset[c] += sums[thread * size + 5 * channels + c];
        }
    }
    return 0;
}
