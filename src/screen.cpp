#include "screen.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

constexpr int64_t N_BLOCK = 32;     // values of a Q8_0 block
constexpr float   QUANT   = 127.0f; // the largest quant
constexpr float   SMALL   = 1e-30f; // values below need no quants

float largest(const float * x, int64_t n) {
    float res = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        res = std::max(res, std::fabs(x[i]));
    }
    return res;
}

} // namespace

void screen_rows::add(const float * w, int64_t n_cols) {
    const float amax = largest(w, n_cols);
    const float d    = amax > SMALL ? amax / QUANT : 0.0f;
    const float id   = amax > SMALL ? QUANT / amax : 0.0f;

    const ggml_fp16_t one = ggml_fp32_to_fp16(1.0f);

    const size_t begin = q8_0.size();
    q8_0.resize(begin + ggml_row_size(GGML_TYPE_Q8_0, n_cols));
    uint8_t * dst = q8_0.data() + begin;

    double sum = 0.0;
    double err = 0.0;
    for (int64_t ib = 0; ib < n_cols / N_BLOCK; ++ib) {
        memcpy(dst, &one, sizeof(one));
        dst += sizeof(one);
        for (int64_t i = 0; i < N_BLOCK; ++i) {
            const float  v = w[ib * N_BLOCK + i];
            const int8_t q = (int8_t) std::lrintf(v * id);
            const double e = (double) v - (double) q * d;

            *dst++ = (uint8_t) q;
            sum += (double) v * v;
            err += e * e;
        }
    }
    scale.push_back(d);
    norm.push_back((float) std::sqrt(sum));
    error.push_back((float) std::sqrt(err));
}

screen_token screen_round(const float * x, int64_t n) {
    const float amax = largest(x, n);
    const float d    = amax / QUANT;
    const float id   = amax != 0.0f ? QUANT / amax : 0.0f;

    double sum = 0.0;
    double err = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double v = std::nearbyintf(x[i] * id) * d;
        const double e = x[i] - v;

        sum += v * v;
        err += e * e;
    }
    return { (float) std::sqrt(sum), (float) std::sqrt(err) };
}

float screen_dot(const float * a, const float * b, int64_t n) {
    constexpr int64_t N_SUMS = 32; // independent, for vector registers

    float   sum[N_SUMS] = {};
    int64_t i           = 0;
    for (; i + N_SUMS <= n; i += N_SUMS) {
        for (int64_t j = 0; j < N_SUMS; ++j) {
            sum[j] += a[i + j] * b[i + j];
        }
    }
    float res = 0.0f;
    for (; i < n; ++i) {
        res += a[i] * b[i];
    }
    for (const float s : sum) {
        res += s;
    }
    return res;
}
