/* Simple recurrent units after their products with weights: gates, carries, outputs, and the gradients of all of them.

   Maps (G, rows, D, M, H) hold for each group, row and direction what follows from the input: z, a, p and, where there
   are four, what the reset gate chooses besides the carry; where there are three, that is the layer's input. All else is
   (rows, G, D, H). A row is a step of a sequence, `step` and `sequence` rows from its neighbours: any order will do. The
   second direction goes through time from its end. H is a multiple of LANES. */

#include "vectors.h"

enum { TOGETHER = 16 }; /* sequences that go through time side by side, so that memory is read in long stretches */

struct Layout {
    int64_t steps, sequences, groups, directions, hidden, maps, step, sequence;
    int64_t channels() const { return groups * directions * hidden; }
    int64_t row(int64_t t, int64_t n, int64_t d) const { return (d ? steps - 1 - t : t) * step + n * sequence; }
    int64_t map(int64_t row, int64_t g, int64_t d) const {
        return ((g * steps * sequences + row) * directions + d) * maps * hidden;
    }
    int64_t place(int64_t g, int64_t d) const { return (g * directions + d) * hidden; }
};

/* Of some channels, from (4, G, D, H): v_f, v_r, b_f, b_r. */
struct Weights {
    vec v_f, v_r, b_f, b_r;
    Weights(const float *weights, int64_t place, int64_t channels)
        : v_f(load(weights + place)), v_r(load(weights + channels + place)), b_f(load(weights + 2 * channels + place)),
          b_r(load(weights + 3 * channels + place)) {}
};

/* What a step of one group and direction computes, from where it lies. */
struct Gates {
    vec forget, reset, carry, output;
    Gates(const float *maps, const float *skip, const Weights &weights, vec before, int64_t hidden) {
        vec z = load(maps);
        forget = sigmoid(load(maps + hidden) + weights.b_f + weights.v_f * before);
        reset = sigmoid(load(maps + 2 * hidden) + weights.b_r + weights.v_r * before);
        carry = z + forget * (before - z);
        vec s = load(skip);
        output = s + reset * (carry - s);
    }
};

/* input: (rows, G, D, H), or NULL where there are four maps. carries: of every step, or NULL. state: (N, G, D, H), the
   carries before the first step; afterwards those of the last. */
extern "C" int recur(const float *maps, const float *input, const float *weights, float *state,
                     float *carries, float *outputs, int64_t steps, int64_t sequences, int64_t groups,
                     int64_t directions, int64_t hidden, int64_t step, int64_t sequence, int64_t threads) {
    Layout at{steps, sequences, groups, directions, hidden, input ? 3 : 4, step, sequence};
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t first = 0; first < sequences; first += TOGETHER) {
        int64_t end = first + TOGETHER < sequences ? first + TOGETHER : sequences;
        for (int64_t t = 0; t < steps; t++)
            for (int64_t n = first; n < end; n++)
                for (int64_t g = 0; g < groups; g++)
                    for (int64_t d = 0; d < directions; d++) {
                        int64_t row = at.row(t, n, d), place = at.place(g, d), there = row * at.channels() + place;
                        const float *map = maps + at.map(row, g, d);
                        const float *skip = input ? input + there : map + 3 * hidden;
                        float *carry = state + n * at.channels() + place;
                        for (int64_t i = 0; i < hidden; i += LANES) {
                            Weights own(weights, place + i, at.channels());
                            Gates found(map + i, skip + i, own, load(carry + i), hidden);
                            store(carry + i, found.carry);
                            store(outputs + there + i, found.output);
                            if (carries) store(carries + there + i, found.carry);
                        }
                    }
    }
    return 0;
}

/* start: the carries before the first step. grad_state: by the last carries; afterwards by `start`. sums:
   (ceil(N / TOGETHER), 4, G, D, H) zeros, to which the gradients by the weights are added. */
extern "C" int recur_back(const float *maps, const float *input, const float *weights,
                          const float *start, const float *carries, const float *grad_outputs, float *grad_state,
                          float *grad_maps, float *grad_input, float *sums, int64_t steps, int64_t sequences,
                          int64_t groups, int64_t directions, int64_t hidden, int64_t step, int64_t sequence,
                          int64_t threads) {
    Layout at{steps, sequences, groups, directions, hidden, input ? 3 : 4, step, sequence};
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t first = 0; first < sequences; first += TOGETHER) {
        int64_t end = first + TOGETHER < sequences ? first + TOGETHER : sequences;
        float *by = sums + first / TOGETHER * 4 * at.channels();
        for (int64_t t = steps - 1; t >= 0; t--)
            for (int64_t n = first; n < end; n++)
                for (int64_t g = 0; g < groups; g++)
                    for (int64_t d = 0; d < directions; d++) {
                        int64_t row = at.row(t, n, d), place = at.place(g, d), there = row * at.channels() + place;
                        int64_t map = at.map(row, g, d), own = n * at.channels() + place;
                        const float *skip = input ? input + there : maps + map + 3 * hidden;
                        float *by_skip = input ? grad_input + there : grad_maps + map + 3 * hidden;
                        const float *earlier = t ? carries + at.row(t - 1, n, d) * at.channels() + place : start + own;
                        for (int64_t i = 0; i < hidden; i += LANES) {
                            Weights here(weights, place + i, at.channels());
                            vec before = load(earlier + i), grad = load(grad_outputs + there + i);
                            Gates found(maps + map + i, skip + i, here, before, hidden);
                            vec f = found.forget, r = found.reset;
                            vec by_carry = grad * r + load(grad_state + own + i);
                            vec by_p = grad * (found.carry - load(skip + i)) * r * (1.0f - r);
                            vec by_a = by_carry * (before - load(maps + map + i)) * f * (1.0f - f);
                            store(by_skip + i, grad * (1.0f - r));
                            store(grad_maps + map + i, by_carry * (1.0f - f));
                            store(grad_maps + map + hidden + i, by_a);
                            store(grad_maps + map + 2 * hidden + i, by_p);
                            store(grad_state + own + i, by_carry * f + by_a * here.v_f + by_p * here.v_r);
                            vec by_weights[] = {by_a * before, by_p * before, by_a, by_p};
                            for (int64_t k = 0; k < 4; k++) {
                                float *sum = by + k * at.channels() + place + i;
                                store(sum, load(sum) + by_weights[k]);
                            }
                        }
                    }
    }
    return 0;
}
