#include "pooling.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

pooling_mode pooling_mode_from_name(const std::string & name) {
    if (name == "cls") {
        return pooling_mode::CLS;
    }
    if (name == "mean") {
        return pooling_mode::MEAN;
    }
    if (name == "last") {
        return pooling_mode::LAST;
    }
    throw std::invalid_argument("unknown pooling '" + name + "': use cls, mean or last");
}

void pool(pooling_mode mode, const float * hidden, int64_t n_tokens, int64_t n_embd, float * dst) {
    switch (mode) {
        case pooling_mode::CLS: {
            std::copy_n(hidden, n_embd, dst);
        } break;
        case pooling_mode::LAST: {
            std::copy_n(hidden + (n_tokens - 1) * n_embd, n_embd, dst);
        } break;
        case pooling_mode::MEAN: {
            std::vector<double> sum(n_embd, 0.0);
            for (int64_t i = 0; i < n_tokens; ++i) {
                for (int64_t j = 0; j < n_embd; ++j) {
                    sum[j] += hidden[i * n_embd + j];
                }
            }
            for (int64_t j = 0; j < n_embd; ++j) {
                dst[j] = (float) (sum[j] / n_tokens);
            }
        } break;
    }
}

bool all_finite(const float * x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(x[i])) {
            return false;
        }
    }
    return true;
}
