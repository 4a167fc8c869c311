/* Heat diffusion by FFT: what happens between the two transforms (see models/layers/heat.py for the mathematics).
   Spectra are (B, n, T / 2 + 1) complex numbers, as pairs of real ones. */

#include "vectors.h"

/* Real and imaginary parts in each other's places. */
INLINE vec swapped(vec x) {
#if LANES == 16
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#else
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#endif
}

/* For the orders n = 0 ... T / 2, in pairs, each row `padded` long:
   (pi n / T)^2 and that of T - n; cos(pi n / T) twice; sin and -sin of it; the same two of half the angle;
   and the squares once more, with 0 for order T / 2 the second time. */
struct Tables {
    const float *squares, *cosines, *sines, *half_cosines, *half_sines, *squares_once;
    Tables(const float *rows, int64_t padded)
        : squares(rows), cosines(rows + padded), sines(rows + 2 * padded), half_cosines(rows + 3 * padded),
          half_sines(rows + 4 * padded), squares_once(rows + 5 * padded) {}
};

/* V'_n = (d_n + d_{T-n}) / 2 V_n + exp(i pi n / T) (d_n - d_{T-n}) / 2 conj(V_n), d = exp(-k squares). */
INLINE vec filtered(vec x, vec gains, const Tables &tables, int64_t i) {
    vec other = swapped(gains), turned = load(tables.cosines + i) * x + load(tables.sines + i) * swapped(x);
    return 0.5f * ((gains + other) * x + (gains - other) * turned);
}

/* Spectra (B, n, size / 2) filtered by exp(-k squares), k (n): into `out`. */
extern "C" int heat_filter(const float *spectra, const float *k, const float *rows, float *out, int64_t batch,
                           int64_t n, int64_t size, int64_t threads) {
    Tables tables(rows, round_up(size, 16));
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t row = 0; row < batch * n; row++) {
        const float *x = spectra + row * size;
        float *y = out + row * size, slope = -k[row % n];
        for (int64_t i = 0; i < size; i += LANES) {
            vec gains = exponential(load(tables.squares + i) * slope);
            store_some(y + i, filtered(load_some(x + i, size - i), gains, tables, i), size - i);
        }
    }
    return 0;
}

/* Gradients for `grads`, the spectra of the gradient by the result: their filtered spectra into `out`, and by k (n). */
extern "C" int heat_filter_backward(const float *spectra, const float *grads, const float *k, const float *rows,
                                    float *out, float *grad_k, int64_t batch, int64_t n, int64_t size,
                                    int64_t length, int64_t threads) {
    Tables tables(rows, round_up(size, 16));
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t channel = 0; channel < n; channel++) {
        vec sum = {};
        for (int64_t sequence = 0; sequence < batch; sequence++) {
            int64_t row = (sequence * n + channel) * size;
            for (int64_t i = 0; i < size; i += LANES) {
                vec gains = exponential(load(tables.squares + i) * -k[channel]);
                vec x = load_some(spectra + row + i, size - i), g = load_some(grads + row + i, size - i);
                vec cosine = load(tables.half_cosines + i), sine = load(tables.half_sines + i);
                vec x_dct = cosine * x + sine * swapped(x), g_dct = cosine * g + sine * swapped(g);
                sum += load(tables.squares_once + i) * gains * x_dct * g_dct;
                store_some(out + row + i, filtered(g, gains, tables, i), size - i);
            }
        }
        grad_k[channel] = sum_of(sum) * (-2.0f / (float)length);
    }
    return 0;
}
