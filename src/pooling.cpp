#include "pooling.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace {

struct named_mode {
    const char * name;
    pooling_mode mode;
};

constexpr named_mode MODES[] = {
    { "cls", pooling_mode::CLS },
    { "mean", pooling_mode::MEAN },
    { "max", pooling_mode::MAX },
    { "mean_sqrt_len", pooling_mode::MEAN_SQRT_LEN },
    { "weightedmean", pooling_mode::WEIGHTED_MEAN },
    { "last", pooling_mode::LAST },
    { "none", pooling_mode::NONE },
};

// the sum of all rows, the row i weighted by weight(i), by divisor, in double
template <typename F>
void pool_sum(const float * hidden,
              int64_t       n_tokens,
              int64_t       n_skip,
              int64_t       n_embd,
              const F &     weight,
              double        divisor,
              float *       dst) {
    std::vector<double> sum(n_embd, 0.0);
    for (int64_t i = n_skip; i < n_tokens; ++i) {
        const double w = weight(i);
        for (int64_t j = 0; j < n_embd; ++j) {
            sum[j] += w * hidden[i * n_embd + j];
        }
    }
    for (int64_t j = 0; j < n_embd; ++j) {
        dst[j] = (float) (sum[j] / divisor);
    }
}

void pool_one(pooling_mode mode, const float * hidden, int64_t n_tokens, int64_t n_skip, int64_t n_embd, float * dst) {
    const auto    one = [](int64_t) { return 1.0; };
    const int64_t n   = n_tokens - n_skip;

    switch (mode) {
        case pooling_mode::CLS: {
            std::copy_n(hidden + n_skip * n_embd, n_embd, dst);
        } break;
        case pooling_mode::LAST: {
            std::copy_n(hidden + (n_tokens - 1) * n_embd, n_embd, dst);
        } break;
        case pooling_mode::NONE: {
            std::copy_n(hidden + n_skip * n_embd, n * n_embd, dst);
        } break;
        case pooling_mode::MEAN: {
            pool_sum(hidden, n_tokens, n_skip, n_embd, one, (double) n, dst);
        } break;
        case pooling_mode::MEAN_SQRT_LEN: {
            pool_sum(hidden, n_tokens, n_skip, n_embd, one, std::sqrt((double) n), dst);
        } break;
        case pooling_mode::WEIGHTED_MEAN: {
            const double sum = 0.5 * n * (n_skip + 1 + n_tokens); // of the positions n_skip + 1 to n_tokens
            pool_sum(hidden, n_tokens, n_skip, n_embd, [](int64_t i) { return (double) (i + 1); }, sum, dst);
        } break;
        case pooling_mode::MAX: {
            std::copy_n(hidden + n_skip * n_embd, n_embd, dst);
            for (int64_t i = n_skip + 1; i < n_tokens; ++i) {
                for (int64_t j = 0; j < n_embd; ++j) {
                    dst[j] = std::max(dst[j], hidden[i * n_embd + j]);
                }
            }
        } break;
    }
}

} // namespace

std::vector<pooling_mode> pooling_modes_from_name(const std::string & name) {
    std::vector<pooling_mode> res;

    for (size_t start = 0, end = 0; end != std::string::npos; start = end + 1) {
        end = name.find('+', start);

        const std::string part = name.substr(start, end == std::string::npos ? end : end - start);
        const auto *      it =
            std::find_if(std::begin(MODES), std::end(MODES), [&](const named_mode & m) { return part == m.name; });
        if (it == std::end(MODES)) {
            throw std::invalid_argument(
                "unknown pooling '" + part +
                "': use cls, mean, max, mean_sqrt_len, weightedmean or last, joined by '+', or none");
        }
        res.push_back(it->mode);
    }
    if (res.size() > 1 && std::find(res.begin(), res.end(), pooling_mode::NONE) != res.end()) {
        throw std::invalid_argument("pooling 'none' cannot be joined with another");
    }
    return res;
}

int64_t pooling_n_rows(const std::vector<pooling_mode> & modes, int64_t n_tokens, int64_t n_skip) {
    return modes[0] == pooling_mode::NONE ? std::max<int64_t>(n_tokens - n_skip, 0) : 1;
}

void pool(const std::vector<pooling_mode> & modes,
          const float *                     hidden,
          int64_t                           n_tokens,
          int64_t                           n_skip,
          int64_t                           n_embd,
          float *                           dst) {
    for (const pooling_mode mode : modes) {
        pool_one(mode, hidden, n_tokens, n_skip, n_embd, dst);
        dst += n_embd;
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
