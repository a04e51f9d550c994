#pragma once

#include <cstdint>
#include <string>

// how the hidden states of a text become one vector
enum class pooling_mode {
    CLS,  // the first token
    MEAN, // the mean over all tokens, summed in double
    LAST, // the last token
};

// throws std::invalid_argument on an unknown name
pooling_mode pooling_mode_from_name(const std::string & name);

// hidden: [n_tokens, n_embd] row-major, n_tokens > 0; dst: [n_embd]
void pool(pooling_mode mode, const float * hidden, int64_t n_tokens, int64_t n_embd, float * dst);

// true if every value is a number, neither NaN nor infinite
bool all_finite(const float * x, int64_t n);
