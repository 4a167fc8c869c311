/* The first convolution of both paths of the video encoder: K x K x K on grey pictures, K = 7, a few channels out.

   Along the columns of a picture, several vectors of pixels and all channels of a group are summed together. Each frame's
   49 products are added up by themselves first: a sum of 343 in one go would lose twice as much to rounding. */

#include "vectors.h"

enum { K = 7, REACH = K / 2, TAPS = K * K * K, GROUP = 8, AT_ONCE = 3 }; /* channels, vectors of pixels at once */

/* One frame with zeros around it: (size, size) -> (size + 2 REACH, width). */
static void pad_frame(const float *frame, int64_t size, int64_t width, float *padded) {
    memset(padded, 0, sizeof(float) * (size + 2 * REACH) * width);
    for (int64_t row = 0; row < size && frame; row++)
        memcpy(padded + (row + REACH) * width + REACH, frame + row * size, sizeof(float) * size);
}

/* One row of one group of channels into sums (GROUP, width): frames[K] point to the padded frames around it, at the
   row's first column; taps (TAPS, GROUP), bias (GROUP). */
static void convolve_row(const float *const frames[K], int64_t size, int64_t width, const float *taps,
                         const float *bias, float *sums) {
    for (int64_t start = 0; start < size; start += AT_ONCE * LANES) {
        for (int c = 0; c < GROUP; c++)
            for (int i = 0; i < AT_ONCE; i++) store(sums + c * width + start + i * LANES, all(bias[c]));
        for (int f = 0; f < K; f++) {
            vec of_frame[GROUP][AT_ONCE] = {};
            for (int row = 0; row < K; row++)
                for (int column = 0; column < K; column++) {
                    const float *pixels = frames[f] + row * width + start + column;
                    const float *weights = taps + ((f * K + row) * K + column) * GROUP;
                    for (int i = 0; i < AT_ONCE; i++) {
                        vec x = load(pixels + i * LANES);
                        for (int c = 0; c < GROUP; c++) of_frame[c][i] += weights[c] * x;
                    }
                }
            for (int c = 0; c < GROUP; c++)
                for (int i = 0; i < AT_ONCE; i++) {
                    float *sum = sums + c * width + start + i * LANES;
                    store(sum, load(sum) + of_frame[c][i]);
                }
        }
    }
}

/* lips (B, F, size, size), weight (n, K, K, K), bias (n) -> y (n / channels, B, F, size, size, channels): a tensor for
   each path. 1 where there is no memory. */
extern "C" int stem(const float *lips, const float *weight, const float *bias, float *y, int64_t batch, int64_t frames,
                    int64_t size, int64_t n, int64_t channels, int64_t threads) {
    int64_t width = round_up(size, AT_ONCE * LANES) + 2 * REACH, area = (size + 2 * REACH) * width;
    int64_t n_padded = round_up(n, GROUP), n_frames = batch * (frames + 2 * REACH);
    Room space(n_padded * (TAPS + 1) + n_frames * area + LANES + threads * GROUP * width);
    if (space.failed()) return 1;
    float *taps = space.take(n_padded * TAPS), *offsets = space.take(n_padded);
    float *padded = space.take(n_frames * area + LANES), *sums = space.take(threads * GROUP * width);
    memset(taps, 0, sizeof(float) * n_padded * (TAPS + 1));
    memcpy(offsets, bias, sizeof(float) * n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t tap = 0; tap < TAPS; tap++)
            taps[(i / GROUP * TAPS + tap) * GROUP + i % GROUP] = weight[i * TAPS + tap];
    for (int64_t i = 0; i < n_frames; i++) {
        int64_t sequence = i / (frames + 2 * REACH), frame = i % (frames + 2 * REACH) - REACH;
        bool seen = frame >= 0 && frame < frames;
        pad_frame(seen ? lips + (sequence * frames + frame) * size * size : NULL, size, width, padded + i * area);
    }
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t thread = 0; thread < threads; thread++)
        for (int64_t i = thread * batch * frames / threads; i < (thread + 1) * batch * frames / threads; i++) {
            const float *first = padded + (i / frames * (frames + 2 * REACH) + i % frames) * area;
            float *found = sums + thread * GROUP * width;
            for (int64_t row = 0; row < size; row++) {
                const float *around[K];
                for (int f = 0; f < K; f++) around[f] = first + f * area + row * width;
                for (int64_t c = 0; c < n; c += GROUP) {
                    convolve_row(around, size, width, taps + c * TAPS, offsets + c, found);
                    for (int64_t of = c; of < n && of < c + GROUP; of++) {
                        int64_t pixel = ((of / channels * batch * frames + i) * size + row) * size;
                        float *to = y + pixel * channels + of % channels;
                        const float *from = found + (of - c) * width;
                        for (int64_t column = 0; column < size; column++) to[column * channels] = from[column];
                    }
                }
            }
        }
    return 0;
}
