#include "batch-plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

std::vector<batch_plan_item>
batch_plan(const std::vector<int32_t> & lengths, int32_t n_tokens_max, int32_t n_seqs_max) {
    if (n_tokens_max <= 0 || n_seqs_max <= 0) {
        throw std::invalid_argument("batch_plan: the limits must be positive");
    }

    std::vector<int32_t> order(lengths.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });

    std::vector<batch_plan_item> res;

    for (const int32_t i : order) {
        if (lengths[i] <= 0) {
            throw std::invalid_argument("batch_plan: a text has no tokens");
        }

        const bool fits = !res.empty() && (int64_t) res.back().n_tokens + lengths[i] <= n_tokens_max &&
                          (int32_t) res.back().index.size() < n_seqs_max;

        if (!fits) {
            res.emplace_back();
        }

        res.back().index.push_back(i);
        res.back().n_tokens += lengths[i];
    }

    return res;
}
