/* Depthwise convolutions of three taps, one vector of channels at a time, and what their gradients are made of. */

#ifndef LIPSEP_DEPTHWISE_H
#define LIPSEP_DEPTHWISE_H

#include "vectors.h"

enum { STEPS = 32 }; /* of a sequence, worked on together */

/* A few steps of one of the sequences (B, T, channels). */
struct Piece {
    int64_t sequence, start, stop; /* `sequence` is where it begins, in steps */
    Piece(int64_t number, int64_t length) {
        int64_t pieces = n_pieces(1, length);
        sequence = number / pieces * length, start = number % pieces * STEPS;
        stop = start + STEPS < length ? start + STEPS : length;
    }
    static int64_t n_pieces(int64_t batch, int64_t length) { return batch * ((length + STEPS - 1) / STEPS); }
};

/* One vector of channels of a sequence (T, channels); zeros before and behind it. */
struct Column {
    const float *x;
    int64_t length, channels;
    bool has(int64_t t) const { return t >= 0 && t < length; }
    vec at(int64_t t) const { return has(t) ? load(x + t * channels) : vec{}; }
};

/* Filters (channels, 3) and bias (channels) as four rows. */
INLINE void pack_filters(const float *weight, const float *bias, int64_t channels, float *rows) {
    for (int64_t c = 0; c < channels; c++) {
        for (int i = 0; i < 3; i++) rows[i * channels + c] = weight[3 * c + i];
        rows[3 * channels + c] = bias[c];
    }
}

/* The filters of one vector of channels, or sums over time that become their gradients. */
struct Filter {
    vec taps[3], bias;
    Filter(const float *rows, int64_t channels) {
        for (int i = 0; i < 3; i++) taps[i] = load(rows + i * channels);
        bias = load(rows + 3 * channels);
    }
    vec convolve(vec before, vec now, vec after) const {
        return bias + taps[0] * before + taps[1] * now + taps[2] * after;
    }
    /* The gradient by a step, from those by what was made of it and its neighbours. */
    vec spread(vec before, vec now, vec after) const { return taps[0] * after + taps[1] * now + taps[2] * before; }
    void add(vec grad, vec before, vec now, vec after) {
        taps[0] += grad * before, taps[1] += grad * now, taps[2] += grad * after, bias += grad;
    }
    void keep(float *rows, int64_t channels) const {
        for (int i = 0; i < 3; i++) store(rows + i * channels, taps[i]);
        store(rows + 3 * channels, bias);
    }
};

/* The gradients of several threads, (threads, size) with these rows at `rows`, as filters (channels, 3) and bias. */
INLINE void unpack_sums(const float *rows, int64_t size, int64_t threads, int64_t channels, float *weight,
                        float *bias) {
    for (int64_t c = 0; c < channels; c++) {
        float found[4] = {};
        for (int64_t thread = 0; thread < threads; thread++)
            for (int i = 0; i < 4; i++) found[i] += rows[thread * size + i * channels + c];
        for (int i = 0; i < 3; i++) weight[3 * c + i] = found[i];
        bias[c] = found[3];
    }
}

#endif
