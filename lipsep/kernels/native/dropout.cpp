/* Dropout of a tensor, or of the gradient by it. */

#include "vectors.h"

extern "C" int drop(const float *x, float *y, int64_t count, int64_t seed, float p, int64_t threads) {
    Dropout dropout(seed, p);
    int64_t vectors = (count + LANES - 1) / LANES;
#pragma omp parallel for num_threads((int)threads) if (threads > 1)
    for (int64_t i = 0; i < vectors; i++) {
        int64_t place = i * LANES;
        store_some(y + place, dropout.keep(load_some(x + place, count - place), place), count - place);
    }
    return 0;
}
