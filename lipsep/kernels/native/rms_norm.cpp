/* Rows of C numbers over their root mean square, times a gain per column, and the gradients. C is a multiple of LANES. */

#include "vectors.h"

enum { CHUNK = 256 }; /* rows whose gradients by the gain are one sum */

/* inverse: (rows), 1 / root mean square, for `rms_norm_back`. */
extern "C" int rms_norm(const float *x, const float *gain, float *y, float *inverse, int64_t rows, int64_t channels,
                        float eps, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * channels;
        vec squares = {};
        for (int64_t c = 0; c < channels; c += LANES) squares += load(from + c) * load(from + c);
        float scale = 1.0f / __builtin_sqrtf(sum_of(squares) / (float)channels + eps);
        inverse[row] = scale;
        for (int64_t c = 0; c < channels; c += LANES) store(y + row * channels + c, load(from + c) * scale * load(gain + c));
    }
    return 0;
}

/* sums: (ceil(rows / CHUNK), C) zeros, to which the gradients by the gain are added. */
extern "C" int rms_norm_back(const float *x, const float *gain, const float *inverse, const float *grad_y,
                             float *grad_x, float *sums, int64_t rows, int64_t channels, int64_t threads) {
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t first = 0; first < rows; first += CHUNK) {
        int64_t end = first + CHUNK < rows ? first + CHUNK : rows;
        float *by_gain = sums + first / CHUNK * channels;
        for (int64_t row = first; row < end; row++) {
            const float *from = x + row * channels, *grad = grad_y + row * channels;
            float scale = inverse[row];
            vec along = {};
            for (int64_t c = 0; c < channels; c += LANES) {
                vec product = load(grad + c) * load(from + c);
                along += product * load(gain + c);
                store(by_gain + c, load(by_gain + c) + product * scale);
            }
            float back = sum_of(along) / (float)channels * scale * scale;
            for (int64_t c = 0; c < channels; c += LANES)
                store(grad_x + row * channels + c, scale * (load(grad + c) * load(gain + c) - load(from + c) * back));
        }
    }
    return 0;
}
