#pragma once

#include <cstdint>
#include <vector>

// The largest of many products <w, x> without computing them: both vectors are rounded to 8 bits, which gives every
// product within
//
//   |<w, x> - <w', x'>| <= |w| |x - x'| + |w - w'| |x'|                                             (Cauchy-Schwarz)
//
// and only those that may be the largest are computed exactly. With w' = scale * quants.

// rows of a weight, rounded
struct screen_rows {
    std::vector<uint8_t> q8_0;  // quants as Q8_0 blocks whose scales are 1
    std::vector<float>   scale; // of the quants of each row
    std::vector<float>   norm;  // |w|
    std::vector<float>   error; // |w - w'|

    // n_cols is a multiple of the block size of Q8_0
    void add(const float * w, int64_t n_cols);
};

// a vector as the per-channel products of ggml-cpu round it, or bounds of several
struct screen_token {
    float norm  = 0.0f; // |x'|
    float error = 0.0f; // |x - x'|
};
screen_token screen_round(const float * x, int64_t n);

// how far the product of a row with a token may be from that of their rounded ones, computed in F32
inline float screen_bound(float row_norm, float row_error, screen_token token) {
    // some thousand terms, each rounded a few times
    constexpr float ROUNDING = 1e-5f;
    return 1.001f * (row_norm * token.error + row_error * token.norm) +
           ROUNDING * row_norm * (token.norm + token.error);
}

float screen_dot(const float * a, const float * b, int64_t n);
