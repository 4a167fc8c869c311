/* Global norms of sequences (B, T, C): over time and channels together, then a gain and an offset per channel; with the
   PReLU behind them, or the depthwise convolution of five taps before them. C is a multiple of LANES.

   Memory is what they cost. So the convolution, and what stands before a PReLU, are computed again where gradients need
   them. Long sums are sums of sums over STEPS rows. */

#include "depthwise.h"

enum { TAPS = 5, REACH = TAPS / 2 };

/* How many values there were, their mean, and the sum of squares of their distances from it. */
struct Moments {
    double count, mean, squares;
    void add(const Moments &other) {
        double both = count + other.count, distance = other.mean - mean;
        mean += distance * other.count / both;
        squares += other.squares + distance * distance * count * other.count / both;
        count = both;
    }
};

static Moments moments_of(const float *x, int64_t count) {
    enum { CHAINS = 4, AT_ONCE = 64 * CHAINS * LANES }; /* sums that do not wait for each other; numbers in one sum */
    vec first = {};
    int64_t some = count < 64 * LANES ? count : 64 * LANES;
    for (int64_t i = 0; i < some; i += LANES) first += load(x + i);
    float centre = sum_of(first) / (float)some; /* near the mean, so that squares stay small */
    double sum = 0, squares = 0;
    for (int64_t start = 0; start < count; start += AT_ONCE) {
        int64_t i = start, stop = start + AT_ONCE < count ? start + AT_ONCE : count;
        vec sums[CHAINS] = {}, of_squares[CHAINS] = {};
        for (; i + CHAINS * LANES <= stop; i += CHAINS * LANES)
            for (int n = 0; n < CHAINS; n++) {
                vec distance = load(x + i + n * LANES) - centre;
                sums[n] += distance, of_squares[n] += distance * distance;
            }
        for (; i < stop; i += LANES) {
            vec distance = load(x + i) - centre;
            sums[0] += distance, of_squares[0] += distance * distance;
        }
        sum += sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
        squares += sum_of((of_squares[0] + of_squares[1]) + (of_squares[2] + of_squares[3]));
    }
    return {(double)count, centre + sum / (double)count, squares - sum * sum / (double)count};
}

/* What a recording's norm does, with the PReLU behind it, and how its gradient comes about. */
struct Norm {
    int64_t channels;
    float slope; /* of the PReLU, 1 where there is none */
    const float *gain;
    float *scale, *offset;                  /* rows: x * scale + offset is normalised */
    float mean = 0, inverse = 1, along = 0, constant = 0; /* 1 / standard deviation; the gradient is g * scale + x * along + constant */

    /* For a recording with these moments; without any, gain and bias alone are applied. */
    void prepare(const float *bias, const float *moments) {
        mean = moments ? moments[0] : 0, inverse = moments ? moments[1] : 1, along = constant = 0;
        for (int64_t c = 0; c < channels; c++) scale[c] = gain[c] * inverse;
        for (int64_t c = 0; c < channels; c++) offset[c] = bias[c] - mean * scale[c];
    }
    /* From each thread's sums over time of g (C) and of g x (C): gradients by gain and offset, added to those of other
       recordings, and what `gradient` needs. */
    void find_gradient(const float *sums, int64_t size, int64_t threads, int64_t steps, float *grad_gain,
                       float *grad_offset) {
        double of_gains = 0, of_offsets = 0, count = (double)(steps * channels);
        for (int64_t c = 0; c < channels; c++) {
            double total = 0, product = 0;
            for (int64_t thread = 0; thread < threads; thread++) {
                total += sums[thread * size + c];
                product += sums[thread * size + channels + c];
            }
            double by_gain = (product - total * mean) * inverse;
            grad_gain[c] += (float)by_gain, grad_offset[c] += (float)total;
            of_gains += by_gain * gain[c], of_offsets += total * gain[c];
        }
        double per_step = -(double)inverse / count;
        along = (float)(per_step * inverse * of_gains);
        constant = (float)(per_step * of_offsets - per_step * inverse * of_gains * mean);
    }
    vec ahead(vec x, int64_t c) const { return x * load(scale + c) + load(offset + c); }
    vec apply(vec x, int64_t c) const {
        vec z = ahead(x, c);
        return z > 0.0f ? z : z * slope;
    }
    vec gradient(vec grad, vec x, int64_t c) const {
        vec through = ahead(x, c) > 0.0f ? grad : grad * slope;
        return through * load(scale + c) + x * along + constant;
    }
};

/* Mean and 1 / standard deviation of a recording, from its pieces' moments. */
static void keep_moments(const Moments *pieces, int64_t steps, float eps, float *moments) {
    Moments whole = pieces[0];
    for (int64_t i = 1; i < Piece::n_pieces(1, steps); i++) whole.add(pieces[i]);
    moments[0] = (float)whole.mean;
    moments[1] = (float)(1 / __builtin_sqrt(whole.squares / whole.count + eps));
}

INLINE void add_to(float *sum, vec x) { store(sum, load(sum) + x); }

/* x, y (B, T, C), gain, bias (C), moments (B, 2): mean and 1 / standard deviation; NULL: gain and bias alone, no norm.
   1 where there is no memory. */
extern "C" int norm_prelu(const float *x, const float *gain, const float *bias, float *y, float *moments, float slope,
                          float eps, int64_t batch, int64_t steps, int64_t channels, int64_t threads) {
    Room space(2 * channels + 6 * Piece::n_pieces(1, steps));
    if (space.failed()) return 1;
    Norm norm = {channels, slope, gain, space.take(channels), space.take(channels)};
    Moments *pieces = (Moments *)space.take(6 * Piece::n_pieces(1, steps));
    for (int64_t b = 0; b < batch; b++, x += steps * channels, y += steps * channels) {
        if (moments) {
            for_pieces(1, steps, threads, [=](Piece piece, int64_t) {
                int64_t count = (piece.stop - piece.start) * channels;
                pieces[piece.start / STEPS] = moments_of(x + piece.start * channels, count);
            });
            keep_moments(pieces, steps, eps, moments + 2 * b);
        }
        norm.prepare(bias, moments ? moments + 2 * b : nullptr);
        for_pieces(1, steps, threads, [=](Piece piece, int64_t) {
            for (int64_t i = piece.start * channels; i < piece.stop * channels; i += channels)
                for (int64_t c = 0; c < channels; c += LANES) store(y + i + c, norm.apply(load(x + i + c), c));
        });
    }
    return 0;
}

/* Gradients by x, gain, bias and slope for `grad` (B, T, C). 1 where there is no memory. */
extern "C" int norm_prelu_backward(const float *grad, const float *x, const float *gain, const float *bias,
                                   const float *moments, float *grad_x, float *grad_gain, float *grad_bias,
                                   float *grad_slope, float slope, int64_t batch, int64_t steps, int64_t channels,
                                   int64_t threads) {
    int64_t size = 2 * channels + LANES;
    Room space(2 * channels + 2 * size * threads);
    if (space.failed()) return 1;
    Norm norm = {channels, slope, gain, space.take(channels), space.take(channels)};
    float *sums = space.take(size * threads), *of_pieces = space.take(size * threads);
    memset(grad_gain, 0, sizeof(float) * channels), memset(grad_bias, 0, sizeof(float) * channels), *grad_slope = 0;
    for (int64_t b = 0; b < batch; b++, x += steps * channels, grad += steps * channels, grad_x += steps * channels) {
        norm.prepare(bias, moments ? moments + 2 * b : nullptr);
        memset(sums, 0, sizeof(float) * size * threads);
        for_pieces(1, steps, threads, [=](Piece piece, int64_t thread) {
            float *total = of_pieces + thread * size, *product = total + channels;
            memset(total, 0, sizeof(float) * size);
            vec by_slope = {};
            for (int64_t i = piece.start * channels; i < piece.stop * channels; i += channels)
                for (int64_t c = 0; c < channels; c += LANES) {
                    vec now = load(x + i + c), from = load(grad + i + c), z = norm.ahead(now, c);
                    vec through = z > 0.0f ? from : from * slope;
                    by_slope += z > 0.0f ? vec{} : z * from;
                    add_to(total + c, through);
                    add_to(product + c, through * now);
                }
            store(total + 2 * channels, by_slope);
            for (int64_t i = 0; i < size; i += LANES) add_to(sums + thread * size + i, load(total + i));
        });
        norm.find_gradient(sums, size, threads, steps, grad_gain, grad_bias);
        for (int64_t thread = 0; thread < threads; thread++)
            *grad_slope += sum_of(load(sums + thread * size + 2 * channels));
        if (!moments) norm.along = norm.constant = 0;
        for_pieces(1, steps, threads, [=](Piece piece, int64_t) {
            for (int64_t i = piece.start * channels; i < piece.stop * channels; i += channels)
                for (int64_t c = 0; c < channels; c += LANES)
                    store(grad_x + i + c, norm.gradient(load(grad + i + c), load(x + i + c), c));
        });
    }
    return 0;
}

/* Rows are worked on four at a time, along which what they share is loaded once. */
template <int N> struct Rows {
    enum { COUNT = N };
};
template <class Work> INLINE void by_rows(int64_t start, int64_t stop, Work work) {
    for (; start + 4 <= stop; start += 4) work(Rows<4>(), start);
    for (; start < stop; start++) work(Rows<1>(), start);
}

/* Rows of a sequence (T, C); zeros before and behind it. */
struct Sequence {
    const float *x, *zeros;
    int64_t length, channels;
    template <int N> void find(int64_t first, const float **rows) const {
        for (int i = 0; i < N; i++)
            rows[i] = first + i < 0 || first + i >= length ? zeros : x + (first + i) * channels;
    }
};

template <int N> INLINE void load_all(const float *const *rows, int64_t c, vec *found) {
    for (int i = 0; i < N; i++) found[i] = load(rows[i] + c);
}

template <int STRIDE>
static int convolve_and_normalise(const float *x, const float *weight, const float *bias, const float *gain,
                                  const float *offset, float *y, float *moments, float eps, int64_t batch,
                                  int64_t length, int64_t steps, int64_t channels, int64_t threads) {
    Room space((TAPS + 4) * channels + 6 * Piece::n_pieces(1, steps));
    if (space.failed()) return 1;
    float *filters = space.take((TAPS + 1) * channels), *zeros = space.take(channels);
    Norm norm = {channels, 1, gain, space.take(channels), space.take(channels)};
    Moments *pieces = (Moments *)space.take(6 * Piece::n_pieces(1, steps));
    pack_filters<TAPS>(weight, bias, channels, filters);
    memset(zeros, 0, sizeof(float) * channels);
    for (int64_t b = 0; b < batch; b++, x += length * channels, y += steps * channels, moments += 2) {
        for_pieces(1, steps, threads, [=](Piece piece, int64_t) {
            by_rows(piece.start, piece.stop, [=](auto rows, int64_t t) {
                constexpr int N = decltype(rows)::COUNT, HEARD = STRIDE * (N - 1) + TAPS;
                const float *from[HEARD];
                Sequence{x, zeros, length, channels}.template find<HEARD>(STRIDE * t - REACH, from);
                for (int64_t c = 0; c < channels; c += LANES) {
                    Taps<TAPS> filter(filters + c, channels);
                    vec heard[HEARD];
                    load_all<HEARD>(from, c, heard);
                    for (int n = 0; n < N; n++) store(y + (t + n) * channels + c, filter.convolve(heard + STRIDE * n));
                }
            });
            pieces[piece.start / STEPS] = moments_of(y + piece.start * channels, (piece.stop - piece.start) * channels);
        });
        keep_moments(pieces, steps, eps, moments);
        norm.prepare(offset, moments);
        for_pieces(1, steps, threads, [=](Piece piece, int64_t) {
            for (int64_t i = piece.start * channels; i < piece.stop * channels; i += channels)
                for (int64_t c = 0; c < channels; c += LANES) store(y + i + c, norm.ahead(load(y + i + c), c));
        });
    }
    return 0;
}

template <int STRIDE>
static int find_gradients(const float *grad, const float *x, const float *weight, const float *bias, const float *gain,
                          const float *offset, const float *moments, float *grad_x, float *grad_weight,
                          float *grad_bias, float *grad_gain, float *grad_offset, int64_t adds, int64_t batch,
                          int64_t length, int64_t steps, int64_t channels, int64_t threads) {
    int64_t size = 2 * channels, taps_size = (TAPS + 1) * channels;
    int64_t width = channels + LANES; /* of a window's rows: a power of 2 apart, they would collide in the caches */
    int64_t window = (STEPS + 2 * REACH + 1) * width;
    Room space((TAPS + 4) * channels + (size + taps_size + window) * threads);
    if (space.failed()) return 1;
    float *filters = space.take(taps_size), *zeros = space.take(channels), *windows = space.take(window * threads);
    Norm norm = {channels, 1, gain, space.take(channels), space.take(channels)};
    float *sums = space.take(size * threads), *taps_sums = space.take(taps_size * threads);
    pack_filters<TAPS>(weight, bias, channels, filters);
    memset(taps_sums, 0, sizeof(float) * taps_size * threads), memset(zeros, 0, sizeof(float) * channels);
    memset(grad_gain, 0, sizeof(float) * channels), memset(grad_offset, 0, sizeof(float) * channels);
    for (int64_t b = 0; b < batch; b++, x += length * channels, grad += steps * channels, grad_x += length * channels) {
        Sequence source = {x, zeros, length, channels};
        norm.prepare(offset, moments + 2 * b);
        memset(sums, 0, sizeof(float) * size * threads);
        for_pieces(1, steps, threads, [=](Piece piece, int64_t thread) {
            by_rows(piece.start, piece.stop, [=](auto rows, int64_t t) {
                constexpr int N = decltype(rows)::COUNT, HEARD = STRIDE * (N - 1) + TAPS;
                const float *from[HEARD];
                source.template find<HEARD>(STRIDE * t - REACH, from);
                for (int64_t c = 0; c < channels; c += LANES) {
                    Taps<TAPS> filter(filters + c, channels);
                    vec heard[HEARD], total = {}, product = {};
                    load_all<HEARD>(from, c, heard);
                    for (int n = 0; n < N; n++) {
                        vec by = load(grad + (t + n) * channels + c);
                        total += by, product += by * filter.convolve(heard + STRIDE * n);
                    }
                    add_to(sums + thread * size + c, total);
                    add_to(sums + thread * size + channels + c, product);
                }
            });
        });
        norm.find_gradient(sums, size, threads, steps, grad_gain, grad_offset);
        for_pieces(1, steps, threads, [=](Piece piece, int64_t thread) {
            float *behind = windows + thread * window; /* gradients by what was convolved, from REACH steps before */
            auto find_behind = [=](int64_t start, int64_t stop, float *own) {
                by_rows(start, stop, [=](auto rows, int64_t t) {
                    constexpr int N = decltype(rows)::COUNT, HEARD = STRIDE * (N - 1) + TAPS;
                    const float *from[HEARD];
                    source.template find<HEARD>(STRIDE * t - REACH, from);
                    for (int64_t c = 0; c < channels; c += LANES) {
                        Taps<TAPS> filter(filters + c, channels);
                        vec heard[HEARD], scale = load(norm.scale + c), of_taps[TAPS] = {}, of_bias = {};
                        load_all<HEARD>(from, c, heard);
                        for (int n = 0; n < N; n++) {
                            vec by = load(grad + (t + n) * channels + c) * scale;
                            by += filter.convolve(heard + STRIDE * n) * norm.along + norm.constant;
                            store(behind + (t + n - piece.start + REACH) * width + c, by);
                            for (int k = 0; k < TAPS; k++) of_taps[k] += by * heard[STRIDE * n + k];
                            of_bias += by;
                        }
                        if (!own) continue;
                        for (int k = 0; k < TAPS; k++) add_to(own + k * channels + c, of_taps[k]);
                        add_to(own + TAPS * channels + c, of_bias);
                    }
                });
            };
            if (piece.start < REACH || piece.stop + REACH > steps) memset(behind, 0, sizeof(float) * window);
            find_behind(piece.start ? piece.start - REACH : 0, piece.start, nullptr);
            find_behind(piece.start, piece.stop, taps_sums + thread * taps_size);
            find_behind(piece.stop, piece.stop + REACH < steps ? piece.stop + REACH : steps, nullptr);
            by_rows(piece.start, piece.stop, [=](auto rows, int64_t t) {
                constexpr int N = decltype(rows)::COUNT, HEARD = N + 2 * REACH;
                const float *from[HEARD];
                float *to[STRIDE * N];
                for (int i = 0; i < HEARD; i++) from[i] = behind + (t - piece.start + i) * width;
                for (int i = 0; i < STRIDE * N; i++) /* what lies behind the end goes to a row that nobody reads */
                    to[i] = STRIDE * t + i < length ? grad_x + (STRIDE * t + i) * channels : behind + window - width;
                for (int64_t c = 0; c < channels; c += LANES) {
                    Taps<TAPS> filter(filters + c, channels);
                    vec heard[HEARD];
                    load_all<HEARD>(from, c, heard);
                    for (int i = 0; i < STRIDE * N; i++) {
                        vec sum = adds ? load(to[i] + c) : vec{};
                        for (int k = (i + REACH) % STRIDE; k < TAPS; k += STRIDE) /* those that reach this step */
                            sum += filter.taps[k] * heard[REACH + (i + REACH - k) / STRIDE];
                        store(to[i] + c, sum);
                    }
                }
            });
        });
    }
    unpack_sums<TAPS>(taps_sums, taps_size, threads, channels, grad_weight, grad_bias);
    return 0;
}

/* x (B, length, C), weight (C, TAPS), bias, gain, offset (C), y (B, steps, C), moments (B, 2). `stride` is 1 or 2. 1
   where there is no memory. */
extern "C" int conv_norm(const float *x, const float *weight, const float *bias, const float *gain,
                         const float *offset, float *y, float *moments, float eps, int64_t batch, int64_t length,
                         int64_t steps, int64_t channels, int64_t stride, int64_t threads) {
    return (stride == 1 ? convolve_and_normalise<1> : convolve_and_normalise<2>)(
        x, weight, bias, gain, offset, y, moments, eps, batch, length, steps, channels, threads);
}

/* Gradients by x, weight, bias, gain and offset for `grad` (B, steps, C); that by x is added to what is there where
   `adds` says so. 1 where there is no memory. */
extern "C" int conv_norm_backward(const float *grad, const float *x, const float *weight, const float *bias,
                                  const float *gain, const float *offset, const float *moments, float *grad_x,
                                  float *grad_weight, float *grad_bias, float *grad_gain, float *grad_offset,
                                  int64_t adds, int64_t batch, int64_t length, int64_t steps, int64_t channels,
                                  int64_t stride, int64_t threads) {
    return (stride == 1 ? find_gradients<1> : find_gradients<2>)(
        grad, x, weight, bias, gain, offset, moments, grad_x, grad_weight, grad_bias, grad_gain, grad_offset, adds,
        batch, length, steps, channels, threads);
}
