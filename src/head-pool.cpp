#include "head-pool.h"

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t N_LANES = 256; // outputs that a thread pools at a time

void pool_max(const float * x, size_t stride, int64_t n_tokens, int64_t n, float * dst) {
    std::copy_n(x, n, dst);
    for (int64_t t = 1; t < n_tokens; ++t) {
        const float * row = (const float *) ((const char *) x + t * stride);
        for (int64_t i = 0; i < n; ++i) {
            dst[i] = row[i] > dst[i] ? row[i] : dst[i];
        }
    }
}

// a sum of logarithms is the logarithm of a product, taken before that leaves the range of a double
void pool_sum(
    const float * x, size_t stride, int64_t n_tokens, const float * bias, bool log1p_twice, int64_t n, float * dst) {
    constexpr int64_t N_FACTORS = 6; // (3.4e38)^6 * 1e60 is in the range

    double product[N_LANES];
    double sum[N_LANES];
    std::fill_n(product, n, 1.0);
    std::fill_n(sum, n, 0.0);

    for (int64_t t = 0; t < n_tokens; ++t) {
        const float * row = (const float *) ((const char *) x + t * stride);
        if (log1p_twice) {
            for (int64_t i = 0; i < n; ++i) {
                const float v = row[i] + bias[i];
                if (v > 0.0f) {
                    product[i] *= 1.0 + std::log1p((double) v);
                }
            }
        } else {
            for (int64_t i = 0; i < n; ++i) {
                const float v = row[i] + bias[i];
                product[i] *= 1.0 + (double) (v > 0.0f ? v : 0.0f);
            }
        }
        if (t % N_FACTORS == N_FACTORS - 1) {
            for (int64_t i = 0; i < n; ++i) {
                if (product[i] > 1e60) {
                    sum[i] += std::log(product[i]);
                    product[i] = 1.0;
                }
            }
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        dst[i] = (float) (product[i] > 1.0 ? sum[i] + std::log(product[i]) : sum[i]);
    }
}

} // namespace

void thread_range(int64_t n, int ith, int nth, int64_t & begin, int64_t & end) {
    const int64_t step = (n + nth - 1) / nth;

    begin = std::min<int64_t>(n, ith * step);
    end   = std::min<int64_t>(n, begin + step);
}

void op_pool(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const pool_params & params = *(const pool_params *) userdata;
    const ggml_tensor * src    = dst->src[0];
    const float *       bias   = (const float *) dst->src[1]->data;

    int64_t begin;
    int64_t end;
    thread_range((src->ne[0] + N_LANES - 1) / N_LANES, ith, nth, begin, end);

    for (int64_t il = begin; il < end; ++il) {
        const int64_t i0 = il * N_LANES;
        const int64_t n  = std::min(N_LANES, src->ne[0] - i0);
        const char *  x  = (const char *) src->data + i0 * sizeof(float);

        for (size_t ir = 0; ir < params.runs.size(); ++ir) {
            const int64_t n_tokens = params.runs[ir].n_tokens;
            float *       y        = (float *) ((char *) dst->data + ir * dst->nb[1]) + i0;

            if (params.mode == head_pooling::MAX) {
                // rounding keeps the order: the bias may be added to the maximum
                pool_max((const float *) x, src->nb[1], n_tokens, n, y);
                for (int64_t i = 0; i < n; ++i) {
                    y[i] += bias[i0 + i];
                }
            } else {
                pool_sum((const float *) x, src->nb[1], n_tokens, bias + i0, params.log1p_twice, n, y);
            }
            x += n_tokens * src->nb[1];
        }
    }
}

void op_screen_round(ggml_tensor * dst, int ith, int nth, void * /*userdata*/) {
    const ggml_tensor * src = dst->src[0];

    int64_t begin;
    int64_t end;
    thread_range(src->ne[1], ith, nth, begin, end);
    for (int64_t t = begin; t < end; ++t) {
        ((screen_token *) dst->data)[t] =
            screen_round((const float *) ((const char *) src->data + t * src->nb[1]), src->ne[0]);
    }
}

const float * weight_row(const ggml_tensor * w, int64_t i, std::vector<float> & scratch) {
    const void * row = (const char *) w->data + i * w->nb[1];
    if (w->type == GGML_TYPE_F32) {
        return (const float *) row;
    }
    scratch.resize(w->ne[0]);
    ggml_get_type_traits(w->type)->to_float(row, scratch.data(), w->ne[0]);
    return scratch.data();
}

void op_pool_screened(ggml_tensor * dst, int ith, int nth, void * userdata) {
    screen_params &     params = *(screen_params *) userdata;
    const screen_rows & rows   = *params.rows;
    const ggml_tensor * src    = dst->src[0];
    const ggml_tensor * hidden = dst->src[2];
    const float *       bias   = params.bias;

    int64_t begin;
    int64_t end;
    thread_range((src->ne[0] + N_LANES - 1) / N_LANES, ith, nth, begin, end);

    int64_t            n_exact = 0;
    std::vector<float> scratch;

    for (int64_t il = begin; il < end; ++il) {
        const int64_t i0 = il * N_LANES;
        const int64_t n  = std::min(N_LANES, src->ne[0] - i0);

        int64_t t0 = 0;
        for (size_t ir = 0; ir < params.runs->size(); ++ir) {
            const int64_t n_tokens = (*params.runs)[ir].n_tokens;
            const char *  x        = (const char *) src->data + t0 * src->nb[1] + i0 * sizeof(float);
            float *       y        = (float *) ((char *) dst->data + ir * dst->nb[1]) + i0;

            screen_token worst;
            for (int64_t t = t0; t < t0 + n_tokens; ++t) {
                const screen_token & token = ((const screen_token *) dst->src[1]->data)[t];

                worst.norm  = std::max(worst.norm, token.norm);
                worst.error = std::max(worst.error, token.error);
            }
            pool_max((const float *) x, src->nb[1], n_tokens, n, y);

            for (int64_t i = 0; i < n; ++i) {
                const int64_t row   = i0 + i;
                const float   scale = rows.scale[row];
                const float   bound = screen_bound(rows.norm[row], rows.error[row], worst);
                const float   top   = scale * y[i];

                float best = 0.0f;
                if (!(top + bound + bias[row] <= 0.0f)) { // of weights near the end of the range it may be NaN
                    const float   least = std::max(top - bound, -bias[row]) - bound;
                    const float * w     = weight_row(params.w, row, scratch);
                    for (int64_t t = 0; t < n_tokens; ++t) {
                        if (!(scale * ((const float *) (x + t * src->nb[1]))[i] < least)) {
                            const float * h = (const float *) ((const char *) hidden->data + (t0 + t) * hidden->nb[1]);

                            best = std::max(best, screen_dot(w, h, hidden->ne[0]) + bias[row]);
                            ++n_exact;
                        }
                    }
                }
                y[i] = best;
            }
            t0 += n_tokens;
        }
    }
    params.n_exact += n_exact;
}
