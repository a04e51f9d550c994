#pragma once

#include <cstdint>
#include <vector>

// the positive values of a vector, by increasing index
struct sparse_vector {
    std::vector<int32_t> index;
    std::vector<float>   value;
};

// top_k: only so many of the largest, of equal ones the first; 0: all
sparse_vector sparse_from_dense(const float * x, int64_t n, int32_t top_k);
