#pragma once

#include <cstdint>
#include <string>
#include <vector>

// how the hidden states of a text become one vector: the modes of sentence-transformers
enum class pooling_mode {
    CLS,           // the first row
    MEAN,          // the mean of all rows
    MAX,           // the largest value of each column
    MEAN_SQRT_LEN, // the sum of all rows by the root of their number
    WEIGHTED_MEAN, // the mean of all rows, each weighted by its position from 1
    LAST,          // the last row
    NONE,          // every row
};

// several modes but NONE are joined by '+': their vectors lie one after the other
// throws std::invalid_argument for an unknown name
std::vector<pooling_mode> pooling_modes_from_name(const std::string & name);

// rows of the result for a text of n_tokens, of which n_skip are left out
int64_t pooling_n_rows(const std::vector<pooling_mode> & modes, int64_t n_tokens, int64_t n_skip);

// hidden: [n_tokens, n_embd] row-major; the first n_skip rows, those of a prompt, are left out but keep their positions
// n_tokens > n_skip >= 0; dst: [pooling_n_rows, modes.size(), n_embd]
void pool(const std::vector<pooling_mode> & modes,
          const float *                     hidden,
          int64_t                           n_tokens,
          int64_t                           n_skip,
          int64_t                           n_embd,
          float *                           dst);

// true if every value is a number, neither NaN nor infinite
bool all_finite(const float * x, int64_t n);
