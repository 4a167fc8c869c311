/* The face networks: convolutions of 3 x 3 taps per channel with a linear map across channels behind them, and the little
   that stands around them. A network is a list of steps that a picture goes through, so that small networks do not wait
   for what calls them. Pictures are (height, width, channels), channels are multiples of LANES but in the very first.

   A few pixels at a time are convolved into memory that stays in the cache, and multiplied from there. */

#include "vectors.h"

#ifdef __AVX512F__
enum { PIXELS = 12, RUN = 6 }; /* that are multiplied together, by COLUMNS vectors of channels; that are convolved together */
#else
enum { PIXELS = 6, RUN = 4 };
#endif
enum { COLUMNS = 2, LONE_COLUMNS = 8, STRIP = 8 * PIXELS, SIDE = 3, TAPS = SIDE * SIDE };

/* What a step does. */
enum { STEM, BLAZE, DOUBLE };

/* As `Step` of kernels/blaze.py: places in memory and among the weights are counted in floats. */
struct Step {
    int64_t kind, in, out, height, width, n_in, n_out, stride; /* height, width: of what goes in */
    int64_t plus, n_plus, plus_stride;                         /* a shortcut; plus_stride 0: there is none */
    int64_t filters, weight, bias, slope;                      /* filters, slope below 0: there are none */
    int64_t wide() const { return width / stride; }
    int64_t high() const { return height / stride; }
};

/* A picture with zeros around it. */
struct Pixels {
    const float *x;
    int64_t height, width, channels;
    bool has(int64_t row, int64_t column) const { return row >= 0 && row < height && column >= 0 && column < width; }
    vec at(int64_t row, int64_t column) const {
        return has(row, column) ? load(x + (row * width + column) * channels) : vec{};
    }
};

/* `N` neighbours of one vector of channels, whose windows begin at (row, column), into y (N, step). */
template <int N, int STRIDE>
INLINE void convolve(const Pixels &in, const vec *taps, vec bias, int64_t row, int64_t column, float *y, int64_t step) {
    enum { WIDE = STRIDE * (N - 1) + SIDE };
    vec sums[N];
    for (int n = 0; n < N; n++) sums[n] = bias;
    bool inside = column >= 0 && column + WIDE <= in.width;
    for (int i = 0; i < SIDE; i++) {
        if (row + i < 0 || row + i >= in.height) continue;
        vec heard[WIDE];
        const float *from = in.x + ((row + i) * in.width + column) * in.channels;
        for (int k = 0; k < WIDE; k++) heard[k] = inside ? load(from + k * in.channels) : in.at(row + i, column + k);
        for (int n = 0; n < N; n++)
            for (int k = 0; k < SIDE; k++) sums[n] += taps[i * SIDE + k] * heard[n * STRIDE + k];
    }
    for (int n = 0; n < N; n++) store(y + n * step, sums[n]);
}

/* Pixels first..last-1 of the output, flat over its rows, of all channels, into y (last - first, n_in). */
template <int STRIDE>
static void convolve_strip(const Step &s, const float *x, const float *filters, int64_t first, int64_t last, float *y) {
    int64_t pad = STRIDE == 1, width = s.wide(); /* zeros on every side; where pictures are halved, below and on the right */
    for (int64_t c = 0; c < s.n_in; c += LANES) {
        Pixels in = {x + c, s.height, s.width, s.n_in};
        vec taps[TAPS], bias = load(filters + TAPS * s.n_in + c);
        for (int i = 0; i < TAPS; i++) taps[i] = load(filters + i * s.n_in + c);
        int64_t row = first / width, column = first % width;
        for (float *to = y + c, *end = y + (last - first) * s.n_in; to < end; row++, column = 0) {
            for (; column + RUN <= width && to + (RUN - 1) * s.n_in < end; column += RUN, to += RUN * s.n_in)
                convolve<RUN, STRIDE>(in, taps, bias, STRIDE * row - pad, STRIDE * column - pad, to, s.n_in);
            for (; column < width && to < end; column++, to += s.n_in)
                convolve<1, STRIDE>(in, taps, bias, STRIDE * row - pad, STRIDE * column - pad, to, s.n_in);
        }
    }
}

/* Sums (P pixels, N vectors) += x (P rows that lie `step` apart, n) times weights (n, n_out). */
template <int P, int N>
INLINE void multiply(vec (*sums)[N], const float *x, int64_t step, int64_t n, const float *weight, int64_t n_out) {
    for (int64_t k = 0; k < n; k++) {
        vec w[N];
        for (int i = 0; i < N; i++) w[i] = load(weight + k * n_out + i * LANES);
        for (int p = 0; p < P; p++)
            for (int i = 0; i < N; i++) sums[p][i] += x[p * step + k] * w[i];
    }
}

/* The greatest of 2 x 2 pixels. */
INLINE vec greatest(const float *above, const float *below, int64_t channels) {
    vec a = load(above), b = load(above + channels), c = load(below), d = load(below + channels);
    a = a > b ? a : b, c = c > d ? c : d;
    return a > c ? a : c;
}

/* y = slope(x weight + bias + shortcut) for `count` pixels from `first` on, N vectors of channels from `c` on. x holds P
   pixels that lie `step` apart; n numbers of each are multiplied, then as many `apart` from there, `parts` times. */
template <int P, int N>
INLINE void map_some(const Step &s, const float *weights, const float *x, int64_t step, int64_t n, int64_t parts,
                     int64_t apart, const float *plus, int64_t first, int64_t count, int64_t c, float *y) {
    vec sums[P][N], steep[N];
    for (int i = 0; i < N; i++) {
        steep[i] = s.slope < 0 ? vec{} : load(weights + s.slope + c + i * LANES);
        for (int p = 0; p < P; p++) sums[p][i] = load(weights + s.bias + c + i * LANES);
    }
    for (int64_t part = 0; part < parts; part++)
        multiply<P, N>(sums, x + part * apart, step, n, weights + s.weight + part * n * s.n_out + c, s.n_out);
    int64_t row = first / s.wide(), column = first % s.wide(), below = 2 * s.wide() * s.n_plus;
    const float *shortcut = s.plus_stride == 2 ? plus + 2 * row * below + c : plus + first * s.n_plus + c;
    for (int p = 0; p < P; p++) {
        if (p >= count) break;
        for (int i = 0; i < N; i++) {
            vec sum = sums[p][i];
            if (c + i * LANES < s.n_plus) {
                const float *from = shortcut + i * LANES;
                sum += s.plus_stride == 2 ? greatest(from + 2 * column * s.n_plus, from + 2 * column * s.n_plus + below, s.n_plus)
                                          : load(from + p * s.n_plus);
            }
            store(y + (first + p) * s.n_out + c + i * LANES, sum > 0.0f ? sum : sum * steep[i]);
        }
        if (++column == s.wide()) column = 0, shortcut += s.plus_stride == 2 ? 2 * below : 0;
    }
}

/* The same for all channels and any count; x holds whole groups of pixels. */
static void map_pixels(const Step &s, const float *weights, const float *x, int64_t step, int64_t n, int64_t parts,
                       int64_t apart, const float *plus, int64_t first, int64_t count, float *y) {
    int64_t done = 0;
    if (count == 1)
        for (; done + LONE_COLUMNS * LANES <= s.n_out; done += LONE_COLUMNS * LANES)
            map_some<1, LONE_COLUMNS>(s, weights, x, step, n, parts, apart, plus, first, 1, done, y);
    for (int64_t p = 0; p < count; p += PIXELS)
        for (int64_t c = done; c < s.n_out; c += COLUMNS * LANES) {
            const float *from = x + p * step;
            if (s.n_out - c >= COLUMNS * LANES)
                map_some<PIXELS, COLUMNS>(s, weights, from, step, n, parts, apart, plus, first + p, count - p, c, y);
            else
                map_some<PIXELS, 1>(s, weights, from, step, n, parts, apart, plus, first + p, count - p, c, y);
        }
}

/* x (height, width, n_in) -> y (height / stride, width / stride, n_out); `own` has room for STRIP pixels of x. */
static void blaze(const Step &s, const float *weights, const float *x, const float *plus, float *y, float *own) {
    int64_t area = s.wide() * s.high();
    for (int64_t first = 0; first < area; first += STRIP) {
        int64_t last = first + STRIP < area ? first + STRIP : area;
        if (s.filters < 0)
            memcpy(own, x + first * s.n_in, sizeof(float) * (last - first) * s.n_in);
        else if (s.stride == 1)
            convolve_strip<1>(s, x, weights + s.filters, first, last, own);
        else
            convolve_strip<2>(s, x, weights + s.filters, first, last, own);
        map_pixels(s, weights, own, s.n_in, s.n_in, 1, 0, plus, first, last - first, y);
    }
}

/* The first convolution, x (height, width, 3) -> y (height / 2, width / 2, n_out); `own` has room for three rows. */
static void stem(const Step &s, const float *weights, const float *x, float *y, float *own, int64_t row_room) {
    for (int64_t row = 0; row < s.high(); row++) {
        for (int64_t k = 0; k < SIDE; k++) {
            float *to = own + k * row_room;
            if (2 * row + k < s.height)
                memcpy(to, x + (2 * row + k) * s.width * SIDE, sizeof(float) * s.width * SIDE);
            else
                memset(to, 0, sizeof(float) * s.width * SIDE);
            memset(to + s.width * SIDE, 0, sizeof(float) * SIDE); /* the column on the right */
        }
        map_pixels(s, weights, own, 2 * SIDE, TAPS, SIDE, row_room, NULL, row * s.wide(), s.wide(), y);
    }
}

/* y = plus + x in twice its size, as PyTorch's bilinear interpolation has it: pixel 2 k lies a quarter before pixel k. */
static void add_doubled(const Step &s, const float *x, const float *plus, float *y) {
    int64_t wide = 2 * s.width;
    for (int64_t row = 0; row < 2 * s.height; row++)
        for (int64_t column = 0; column < wide; column++) {
            int64_t near_row = row / 2, far_row = row % 2 ? near_row + 1 : near_row - 1;
            int64_t near = column / 2, far = column % 2 ? near + 1 : near - 1;
            far_row = far_row < 0 || far_row >= s.height ? near_row : far_row, far = far < 0 || far >= s.width ? near : far;
            const float *a = x + near_row * s.width * s.n_in, *b = x + far_row * s.width * s.n_in;
            for (int64_t c = 0; c < s.n_in; c += LANES) {
                vec upper = 0.75f * load(a + near * s.n_in + c) + 0.25f * load(a + far * s.n_in + c);
                vec lower = 0.75f * load(b + near * s.n_in + c) + 0.25f * load(b + far * s.n_in + c);
                int64_t at = (row * wide + column) * s.n_in + c;
                store(y + at, load(plus + at) + 0.75f * upper + 0.25f * lower);
            }
        }
}

/* Each of the pictures x (B, x_size) through `n_steps`, in memory for `size` floats, of which `y_size` from `y_place` on are
   the result, y (B, y_size). A step that reads from below 0 reads the picture itself. 1 where there is no memory. */
extern "C" int face_net(const float *x, const int64_t *steps, const float *weights, float *y, int64_t batch, int64_t x_size,
                        int64_t n_steps, int64_t size, int64_t y_place, int64_t y_size, int64_t threads) {
    const Step *list = (const Step *)steps;
    int64_t widest = 0;
    for (int64_t i = 0; i < n_steps; i++) {
        int64_t row = round_up(list[i].width, 2 * PIXELS) * SIDE + SIDE;
        int64_t wanted = list[i].kind == STEM ? SIDE * row : STRIP * list[i].n_in;
        widest = wanted > widest ? wanted : widest;
    }
    threads = threads < batch ? threads : batch;
    Room space(threads * (size + widest));
    if (space.failed()) return 1;
    float *memories = space.take(threads * size), *rooms = space.take(threads * widest);
    memset(rooms, 0, sizeof(float) * threads * widest); /* whole groups are multiplied, also where less is there */
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t thread = 0; thread < threads; thread++)
        for (int64_t picture = thread * batch / threads; picture < (thread + 1) * batch / threads; picture++) {
            float *memory = memories + thread * size, *own = rooms + thread * widest;
            for (int64_t i = 0; i < n_steps; i++) {
                const Step &s = list[i];
                const float *in = s.in < 0 ? x + picture * x_size : memory + s.in, *plus = memory + s.plus;
                if (s.kind == STEM)
                    stem(s, weights, in, memory + s.out, own, round_up(s.width, 2 * PIXELS) * SIDE + SIDE);
                else if (s.kind == BLAZE)
                    blaze(s, weights, in, plus, memory + s.out, own);
                else
                    add_doubled(s, in, plus, memory + s.out);
            }
            memcpy(y + picture * y_size, memory + y_place, sizeof(float) * y_size);
        }
    return 0;
}
