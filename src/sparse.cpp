#include "sparse.h"

#include <algorithm>

sparse_vector sparse_from_dense(const float * x, int64_t n, int32_t top_k) {
    sparse_vector res;
    for (int64_t i = 0; i < n; ++i) {
        if (x[i] > 0.0f) {
            res.index.push_back((int32_t) i);
        }
    }
    if (top_k > 0 && (int64_t) res.index.size() > top_k) {
        std::nth_element(res.index.begin(), res.index.begin() + top_k, res.index.end(),
                         [x](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
        res.index.resize(top_k);
        std::sort(res.index.begin(), res.index.end());
    }
    for (const int32_t i : res.index) {
        res.value.push_back(x[i]);
    }
    return res;
}
