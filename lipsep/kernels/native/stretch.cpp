/* Sequences (B, n, C) stretched to (B, length, C) by repeating steps, nearest neighbour, several at once; and the
   transpose of that. C is a multiple of LANES. */

#include "depthwise.h"

enum { PARTS = 4 };

/* A sequence of fewer steps than what it is stretched to. */
struct Coarse {
    float *x;
    int64_t steps, length;
    /* The step that stands at step t of what it is stretched to; rounded as PyTorch does. */
    int64_t nearest(int64_t t) const {
        if (length % steps == 0) return t * steps / length;
        int64_t step = (int64_t)((float)t * ((float)steps / (float)length));
        return step < steps ? step : steps - 1;
    }
};

/* y (B, length, C) += all parts (B, n, C), stretched. */
template <int N>
static void add_parts(float *y, const Coarse *parts, int64_t batch, int64_t length, int64_t channels, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t row = 0; row < batch * length; row++) {
        const float *from[N];
        for (int i = 0; i < N; i++)
            from[i] = parts[i].x + (row / length * parts[i].steps + parts[i].nearest(row % length)) * channels;
        for (int64_t c = 0; c < channels; c += LANES) {
            vec sum = load(y + row * channels + c);
            for (int i = 0; i < N; i++) sum += load(from[i] + c);
            store(y + row * channels + c, sum);
        }
    }
}

/* parts (B, n, C) = sums of the steps of x (B, length, C) at which each of their steps would stand. */
template <int N>
static void sum_parts(const float *x, const Coarse *parts, int64_t batch, int64_t length, int64_t channels,
                      int64_t threads) {
    int64_t vectors = channels / LANES;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        int64_t first = thread * vectors / threads * LANES, last = (thread + 1) * vectors / threads * LANES;
        for (int i = 0; i < N; i++)
            for (int64_t row = 0; row < batch * parts[i].steps; row++)
                memset(parts[i].x + row * channels + first, 0, sizeof(float) * (last - first));
        for (int64_t row = 0; row < batch * length; row++) {
            float *to[N];
            for (int i = 0; i < N; i++)
                to[i] = parts[i].x + (row / length * parts[i].steps + parts[i].nearest(row % length)) * channels;
            for (int64_t c = first; c < last; c += LANES) {
                vec now = load(x + row * channels + c);
                for (int i = 0; i < N; i++) store(to[i] + c, load(to[i] + c) + now);
            }
        }
    }
}

/* y += a, b, c, d, of which the last may be NULL, as long as their numbers of steps say. Returns 0. */
extern "C" int add_stretched(float *y, float *a, float *b, float *c, float *d, int64_t a_steps, int64_t b_steps,
                             int64_t c_steps, int64_t d_steps, int64_t batch, int64_t length, int64_t channels,
                             int64_t threads) {
    Coarse parts[PARTS] = {{a, a_steps, length}, {b, b_steps, length}, {c, c_steps, length}, {d, d_steps, length}};
    (d ? add_parts<4> : c ? add_parts<3> : b ? add_parts<2> : add_parts<1>)(y, parts, batch, length, channels, threads);
    return 0;
}

/* a, b, c, d = what their gradients are when `x` is the gradient by what `add_stretched` gave. Returns 0. */
extern "C" int sum_stretched(const float *x, float *a, float *b, float *c, float *d, int64_t a_steps, int64_t b_steps,
                             int64_t c_steps, int64_t d_steps, int64_t batch, int64_t length, int64_t channels,
                             int64_t threads) {
    Coarse parts[PARTS] = {{a, a_steps, length}, {b, b_steps, length}, {c, c_steps, length}, {d, d_steps, length}};
    (d ? sum_parts<4> : c ? sum_parts<3> : b ? sum_parts<2> : sum_parts<1>)(x, parts, batch, length, channels, threads);
    return 0;
}
