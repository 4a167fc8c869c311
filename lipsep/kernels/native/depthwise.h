/* Depthwise convolutions, one vector of channels at a time, and what their gradients are made of. */

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

/* work(piece, thread) for every piece of the sequences; each thread has its own share of them, one after the other. */
template <class Work> INLINE void for_pieces(int64_t batch, int64_t length, int64_t threads, Work work) {
    int64_t pieces = Piece::n_pieces(batch, length);
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t thread = 0; thread < threads; thread++)
        for (int64_t number = thread * pieces / threads; number < (thread + 1) * pieces / threads; number++)
            work(Piece(number, length), thread);
}

/* One vector of channels of a sequence (T, channels); zeros before and behind it. */
struct Column {
    const float *x;
    int64_t length, channels;
    bool has(int64_t t) const { return t >= 0 && t < length; }
    vec at(int64_t t) const { return has(t) ? load(x + t * channels) : vec{}; }
};

/* Filters (channels, N) and bias (channels) as N + 1 rows. */
template <int N> INLINE void pack_filters(const float *weight, const float *bias, int64_t channels, float *rows) {
    for (int64_t c = 0; c < channels; c++) {
        for (int i = 0; i < N; i++) rows[i * channels + c] = weight[N * c + i];
        rows[N * channels + c] = bias[c];
    }
}

/* The filters of one vector of channels. */
template <int N> struct Taps {
    vec taps[N], bias;
    Taps(const float *rows, int64_t channels) : bias(load(rows + N * channels)) {
        for (int i = 0; i < N; i++) taps[i] = load(rows + i * channels);
    }
    vec convolve(const vec *heard) const {
        vec sum = bias;
        for (int i = 0; i < N; i++) sum += taps[i] * heard[i];
        return sum;
    }
};

/* Three taps, or sums over time that become their gradients. */
struct Filter : Taps<3> {
    using Taps<3>::Taps;
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

/* The gradients of several threads, (threads, size) with these rows at `rows`, as filters (channels, N) and bias. */
template <int N>
INLINE void unpack_sums(const float *rows, int64_t size, int64_t threads, int64_t channels, float *weight,
                        float *bias) {
    for (int64_t c = 0; c < channels; c++) {
        float found[N + 1] = {};
        for (int64_t thread = 0; thread < threads; thread++)
            for (int i = 0; i <= N; i++) found[i] += rows[thread * size + i * channels + c];
        for (int i = 0; i < N; i++) weight[N * c + i] = found[i];
        bias[c] = found[N];
    }
}

#endif
