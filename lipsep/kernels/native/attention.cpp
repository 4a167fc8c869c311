/* Self-attention with learned relative positions, a few queries at a time: no L x L matrix leaves the cache.

   Queries are divided by sqrt(d) by the caller. The vector of distance i - j, for L steps, is column L - 1 - (i - j) of
   `distances` (d, 2 L - 1): query i finds that of key j at column L - 1 - i + j. Without positions there may be fewer
   or more queries than keys. Weights are dropped by their places in (n, queries, keys). */

#include "vectors.h"

enum {
    WIDE = 2 * LANES, /* columns of a panel */
    ADDED_UP = 32     /* values in one sum; sums of sums keep what is small beside a long sum */
};

struct Sizes {
    int64_t queries, length, d; /* `length` is the number of keys */
    int64_t columns, position_columns; /* of a row of logits, and of a row of logits by distance */
    const float *position_panels;      /* NULL without positions */
};

/* x (d, n), with these steps in memory, -> panels of WIDE columns, each (d, WIDE); zeros behind the last column. */
static void pack_columns(const float *x, int64_t row_step, int64_t column_step, int64_t d, int64_t n, float *panels) {
    for (int64_t start = 0; start < n; start += WIDE, panels += d * WIDE)
        for (int64_t e = 0; e < d; e++)
            for (int64_t j = 0; j < WIDE; j++)
                panels[e * WIDE + j] = start + j < n ? x[e * row_step + (start + j) * column_step] : 0.0f;
}

/* x (n, d), with these steps in memory, -> (n, padded d), zeros behind. */
static void pack_rows(const float *x, int64_t row_step, int64_t column_step, int64_t n, int64_t d, float *rows) {
    int64_t padded = round_up(d, LANES);
    for (int64_t j = 0; j < n; j++)
        for (int64_t e = 0; e < padded; e++) rows[j * padded + e] = e < d ? x[j * row_step + e * column_step] : 0.0f;
}

/* ROWS rows of x (queries, d) from `start` on, zeros in place of those beyond the last. */
static void take_rows(const float *x, int64_t start, const Sizes &s, float *rows) {
    int64_t n = s.queries - start < ROWS ? s.queries - start : ROWS;
    memset(rows, 0, sizeof(float) * ROWS * s.d);
    memcpy(rows, x + start * s.d, sizeof(float) * n * s.d);
}

/* The products of ROWS rows of q (ROWS, d) with a panel, added to `sums`. */
INLINE void add_products(vec sums[ROWS][2], const float *q, const float *panel, int64_t d) {
    for (int64_t e = 0; e < d; e++) {
        vec first = load(panel + e * WIDE), second = load(panel + e * WIDE + LANES);
        for (int r = 0; r < ROWS; r++) {
            sums[r][0] += q[r * d + e] * first;
            sums[r][1] += q[r * d + e] * second;
        }
    }
}

/* Where query `start` finds key 0 in a row of logits by distance, of which the first panel is panel `from`. */
INLINE int64_t first_key(const Sizes &s, int64_t start, int64_t from) { return WIDE + s.length - 1 - start - from * WIDE; }

/* The logits by distance of ROWS queries, from the first panel that one of them needs, which is returned. */
INLINE int64_t weigh_distances(const Sizes &s, const float *q, int64_t start, float *by_distance) {
    int64_t first = s.length - start - ROWS, from = first > 0 ? first / WIDE : 0;
    for (int64_t p = from; p <= (2 * s.length - 2 - start) / WIDE; p++) {
        vec sums[ROWS][2] = {};
        add_products(sums, q, s.position_panels + p * s.d * WIDE, s.d);
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < 2; h++)
                store(by_distance + r * s.position_columns + WIDE + (p - from) * WIDE + h * LANES, sums[r][h]);
    }
    return from;
}

/* e^(logit - largest) of ROWS queries from `start` on, (ROWS, columns), and 1 / sum of each row. */
INLINE void weigh(const Sizes &s, const float *q, int64_t start, const float *key_panels, float *weights,
                  float *by_distance, float inverse[ROWS]) {
    int64_t shift = s.position_panels ? first_key(s, start, weigh_distances(s, q, start, by_distance)) : 0;
    vec most[ROWS];
    for (int r = 0; r < ROWS; r++) most[r] = all(-3e38f);
    for (int64_t j = 0; j < s.length; j += WIDE) {
        vec sums[ROWS][2] = {};
        if (s.position_panels)
            for (int r = 0; r < ROWS; r++)
                for (int h = 0; h < 2; h++)
                    sums[r][h] = load(by_distance + r * s.position_columns + shift - r + j + h * LANES);
        add_products(sums, q, key_panels + j * s.d, s.d);
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < 2; h++) {
                int64_t n_left = s.length - j - h * LANES;
                for (int64_t i = n_left > 0 ? n_left : 0; i < LANES; i++) sums[r][h][i] = -3e38f; /* behind the last key */
                store(weights + r * s.columns + j + h * LANES, sums[r][h]);
                most[r] = most[r] < sums[r][h] ? sums[r][h] : most[r];
            }
    }
    for (int r = 0; r < ROWS; r++) {
        vec greatest = all(greatest_of(most[r])), sum = {};
        for (int64_t j = 0; j < s.columns; j += LANES) {
            vec weight = exponential(load(weights + r * s.columns + j) - greatest);
            store(weights + r * s.columns + j, weight);
            sum += weight;
        }
        inverse[r] = 1.0f / sum_of(sum);
    }
}

/* What counts of the weights (ROWS, columns) of ROWS queries, into `kept`. */
INLINE void drop(const Sizes &s, const Dropout &dropout, int64_t head, int64_t start, const float *weights, float *kept) {
    for (int r = 0; r < ROWS; r++) {
        int64_t row = (head * s.queries + start + r) * s.length;
        for (int64_t j = 0; j < s.columns; j += LANES)
            store(kept + r * s.columns + j, dropout.keep(load(weights + r * s.columns + j), row + j));
    }
}

template <int VECTORS>
static void attend_head(const Sizes &s, const Dropout &dropout, int64_t head, const float *q, const float *key_panels,
                        const float *value_rows, float *weights, float *by_distance, float *some, float *y) {
    for (int64_t start = 0; start < s.queries; start += ROWS) {
        float inverse[ROWS];
        take_rows(q, start, s, some);
        weigh(s, some, start, key_panels, weights, by_distance, inverse);
        if (dropout.limit) drop(s, dropout, head, start, weights, weights);
        vec sums[ROWS][VECTORS] = {};
        for (int64_t first = 0; first < s.length; first += ADDED_UP) {
            vec some_sums[ROWS][VECTORS] = {};
            for (int64_t j = first; j < s.length && j < first + ADDED_UP; j++)
                for (int i = 0; i < VECTORS; i++) {
                    vec row = load(value_rows + (j * VECTORS + i) * LANES);
                    for (int r = 0; r < ROWS; r++) some_sums[r][i] += weights[r * s.columns + j] * row;
                }
            for (int r = 0; r < ROWS; r++)
                for (int i = 0; i < VECTORS; i++) sums[r][i] += some_sums[r][i];
        }
        for (int r = 0; r < ROWS && start + r < s.queries; r++)
            for (int64_t e = 0; e < s.d; e++)
                y[(start + r) * s.d + e] = sums[r][e / LANES][e % LANES] * inverse[r];
    }
}

static Sizes sizes_of(int64_t queries, int64_t length, int64_t d) {
    return {queries, length, d, round_up(length, WIDE), round_up(length + ROWS, WIDE) + 3 * WIDE, NULL};
}

/* Attention of each of n heads: q, y (n, queries, d), k, v (n, L, d), distances (d, 2 L - 1) or NULL, d at most
   4 * LANES. Returns 0, or 1 where there is no memory. */
extern "C" int attend(const float *q, const float *k, const float *v, const float *distances, int64_t seed, float p,
                      float *y, int64_t n, int64_t queries, int64_t length, int64_t d, int64_t threads) {
    Sizes s = sizes_of(queries, length, d);
    Dropout dropout(seed, p);
    int64_t n_positions = 2 * length - 1, padded = round_up(d, LANES);
    float *panels = distances ? room(round_up(n_positions, WIDE) * d) : NULL;
    if (distances && !panels) return 1;
    if (distances) pack_columns(distances, n_positions, 1, d, n_positions, panels);
    s.position_panels = panels;
    int failed = 0;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t head = 0; head < n; head++) {
        Room space(s.columns * (d + ROWS) + length * padded + ROWS * (s.position_columns + d));
        if (space.failed()) {
            failed = 1;
            continue;
        }
        float *key_panels = space.take(s.columns * d), *weights = space.take(ROWS * s.columns);
        float *value_rows = space.take(length * padded), *by_distance = space.take(ROWS * s.position_columns);
        float *some = space.take(ROWS * d);
        int64_t at = head * length * d, from = head * queries * d;
        pack_columns(k + at, 1, d, d, length, key_panels);
        pack_rows(v + at, d, 1, length, d, value_rows);
        memset(by_distance, 0, sizeof(float) * ROWS * s.position_columns);
        auto attend_one = padded == LANES       ? attend_head<1>
                          : padded == 2 * LANES ? attend_head<2>
                          : padded == 3 * LANES ? attend_head<3>
                                                : attend_head<4>;
        attend_one(s, dropout, head, q + from, key_panels, value_rows, weights, by_distance, some, y + from);
    }
    free(panels);
    return failed;
}

/* What the backward pass of one head works in. */
struct Workplace {
    const float *key_panels, *value_panels, *key_rows, *position_rows;
    float *grad_keys, *grad_values, *grad_positions; /* (L, padded d), and (2 L - 1, padded d) */
    float *weights, *kept, *slopes, *by_distance;    /* `slopes` (ROWS, margin + columns + margin) */
    float *q, *grad;                                 /* (ROWS, d) */
    float *q_rows, *grad_rows;                       /* (ROWS, padded d) */
};

INLINE int64_t slope_columns(const Sizes &s) { return s.columns + 2 * WIDE; }

/* Gradients by the logits of ROWS queries, from w.weights (e^logit) and w.kept (those that count). */
INLINE void find_slopes(const Sizes &s, const Workplace &w, const float inverse[ROWS],
                        const float products[ROWS]) {
    for (int64_t j = 0; j < s.length; j += WIDE) {
        vec sums[ROWS][2] = {};
        add_products(sums, w.grad, w.value_panels + j * s.d, s.d);
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < 2; h++) {
                int64_t column = r * s.columns + j + h * LANES;
                vec slope = load(w.kept + column) * sums[r][h] - load(w.weights + column) * products[r];
                store(w.slopes + r * slope_columns(s) + WIDE + j + h * LANES, slope * inverse[r]);
            }
    }
    for (int r = 0; r < ROWS; r++) /* nothing behind the last key */
        memset(w.slopes + r * slope_columns(s) + WIDE + s.length, 0, sizeof(float) * (s.columns - s.length));
}

template <int VECTORS>
static void differentiate_head(const Sizes &s, const Dropout &dropout, int64_t head, const float *q, const float *y,
                               const float *grad, const Workplace &w, float *grad_q) {
    int64_t stride = slope_columns(s);
    for (int64_t start = 0; start < s.queries; start += ROWS) {
        float inverse[ROWS], products[ROWS] = {};
        take_rows(q, start, s, w.q);
        take_rows(grad, start, s, w.grad);
        weigh(s, w.q, start, w.key_panels, w.weights, w.by_distance, inverse);
        drop(s, dropout, head, start, w.weights, w.kept);
        for (int r = 0; r < ROWS && start + r < s.queries; r++)
            for (int64_t e = 0; e < s.d; e++) products[r] += w.grad[r * s.d + e] * y[(start + r) * s.d + e];
        find_slopes(s, w, inverse, products);
        pack_rows(w.q, s.d, 1, ROWS, s.d, w.q_rows);
        for (int r = 0; r < ROWS; r++)
            for (int64_t e = 0; e < s.d; e++) w.grad[r * s.d + e] *= inverse[r];
        pack_rows(w.grad, s.d, 1, ROWS, s.d, w.grad_rows);
        for (int i = 0; i < VECTORS; i++) {
            vec q_of[ROWS], grad_of[ROWS], grad_q_of[ROWS] = {};
            for (int r = 0; r < ROWS; r++) {
                q_of[r] = load(w.q_rows + (r * VECTORS + i) * LANES);
                grad_of[r] = load(w.grad_rows + (r * VECTORS + i) * LANES);
            }
            for (int64_t j = 0; j < s.length; j++) {
                int64_t at = (j * VECTORS + i) * LANES;
                vec key = load(w.key_rows + at), of_key = load(w.grad_keys + at), of_value = load(w.grad_values + at);
                for (int r = 0; r < ROWS; r++) {
                    float slope = w.slopes[r * stride + WIDE + j];
                    grad_q_of[r] += slope * key;
                    of_key += slope * q_of[r];
                    of_value += w.kept[r * s.columns + j] * grad_of[r];
                }
                store(w.grad_keys + at, of_key);
                store(w.grad_values + at, of_value);
            }
            if (s.position_panels) {
                int64_t zero = s.length - 1 - start; /* the column of query `start` with key 0 */
                for (int64_t c = zero < ROWS ? 0 : zero - ROWS + 1; c < zero + s.length; c++) {
                    int64_t at = (c * VECTORS + i) * LANES;
                    vec position = load(w.position_rows + at), of_position = load(w.grad_positions + at);
                    for (int r = 0; r < ROWS; r++) {
                        float slope = w.slopes[r * stride + WIDE + c - zero + r];
                        grad_q_of[r] += slope * position;
                        of_position += slope * q_of[r];
                    }
                    store(w.grad_positions + at, of_position);
                }
            }
            for (int r = 0; r < ROWS && start + r < s.queries; r++)
                for (int64_t e = i * LANES; e < s.d && e < (i + 1) * LANES; e++)
                    grad_q[(start + r) * s.d + e] = grad_q_of[r][e % LANES];
        }
    }
}

static void unpack_rows(const float *rows, int64_t n, int64_t d, float *x) {
    for (int64_t j = 0; j < n; j++) memcpy(x + j * d, rows + j * round_up(d, LANES), sizeof(float) * d);
}

/* Gradients by q (n, queries, d), k, v (n, L, d) and distances (d, 2 L - 1) for `grad`, that by y. 1 where there is no memory. */
extern "C" int attend_backward(const float *grad, const float *q, const float *k, const float *v,
                               const float *distances, int64_t seed, float p, const float *y, float *grad_q,
                               float *grad_k, float *grad_v, float *grad_distances, int64_t n, int64_t queries,
                               int64_t length, int64_t d, int64_t threads) {
    Sizes s = sizes_of(queries, length, d);
    Dropout dropout(seed, p);
    int64_t n_positions = distances ? 2 * length - 1 : 0, padded = round_up(d, LANES);
    Room shared(n_positions * padded * (n + 1) + round_up(n_positions, WIDE) * d);
    if (shared.failed()) return 1;
    float *grad_positions = shared.take(n * n_positions * padded), *position_rows = shared.take(n_positions * padded);
    float *panels = shared.take(round_up(n_positions, WIDE) * d);
    memset(grad_positions, 0, sizeof(float) * n * n_positions * padded);
    if (distances) {
        pack_columns(distances, n_positions, 1, d, n_positions, panels);
        pack_rows(distances, 1, n_positions, n_positions, d, position_rows);
        s.position_panels = panels;
    }
    int failed = 0;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t head = 0; head < n; head++) {
        int64_t at = head * length * d, from = head * queries * d, rows = length * padded;
        Room space(2 * s.columns * d + 3 * rows +
                   ROWS * (2 * s.columns + slope_columns(s) + s.position_columns + 2 * d + 2 * padded));
        if (space.failed()) {
            failed = 1;
            continue;
        }
        float *key_panels = space.take(s.columns * d), *value_panels = space.take(s.columns * d);
        float *key_rows = space.take(rows);
        pack_columns(k + at, 1, d, d, length, key_panels);
        pack_columns(v + at, 1, d, d, length, value_panels);
        pack_rows(k + at, d, 1, length, d, key_rows);
        Workplace w = {};
        w.key_panels = key_panels, w.value_panels = value_panels, w.key_rows = key_rows, w.position_rows = position_rows;
        w.grad_keys = space.take(rows), w.grad_values = space.take(rows);
        w.grad_positions = grad_positions + head * n_positions * padded;
        w.weights = space.take(ROWS * s.columns), w.kept = space.take(ROWS * s.columns);
        w.slopes = space.take(ROWS * slope_columns(s)), w.by_distance = space.take(ROWS * s.position_columns);
        w.q = space.take(ROWS * d), w.grad = space.take(ROWS * d);
        w.q_rows = space.take(ROWS * padded), w.grad_rows = space.take(ROWS * padded);
        memset(w.grad_keys, 0, sizeof(float) * 2 * rows);
        memset(w.slopes, 0, sizeof(float) * ROWS * slope_columns(s));
        memset(w.by_distance, 0, sizeof(float) * ROWS * s.position_columns);
        auto differentiate = padded == LANES       ? differentiate_head<1>
                             : padded == 2 * LANES ? differentiate_head<2>
                             : padded == 3 * LANES ? differentiate_head<3>
                                                   : differentiate_head<4>;
        differentiate(s, dropout, head, q + from, y + from, grad + from, w, grad_q + from);
        unpack_rows(w.grad_keys, length, d, grad_k + at);
        unpack_rows(w.grad_values, length, d, grad_v + at);
    }
    for (int64_t c = 0; c < n_positions; c++)
        for (int64_t e = 0; e < d; e++) {
            float sum = 0;
            for (int64_t head = 0; head < n; head++) sum += grad_positions[(head * n_positions + c) * padded + e];
            grad_distances[e * n_positions + c] = sum;
        }
    return failed;
}
