#pragma once

#include "head.h"
#include "screen.h"

#include "ggml.h"

#include <atomic>
#include <cstdint>
#include <vector>

// Custom operations of ggml that pool a block of the outputs of a head before the next block is computed.

// the tokens of a text among those of a product
struct text_run {
    int64_t text;
    int64_t n_tokens;
};

struct pool_params {
    head_pooling          mode;
    bool                  log1p_twice;
    std::vector<text_run> runs;
};

// src[0]: outputs [n_block, n_tokens], src[1]: their bias [n_block], userdata: pool_params -> [n_block, n_runs]
void op_pool(ggml_tensor * dst, int ith, int nth, void * userdata);

// src[0]: tokens [n_embd, n_tokens] -> a screen_token each
void op_screen_round(ggml_tensor * dst, int ith, int nth, void * userdata);

struct screen_params {
    const ggml_tensor *           w; // as it lies in the file
    const float *                 bias;
    const screen_rows *           rows;
    const std::vector<text_run> * runs;
    std::atomic<int64_t>          n_exact{ 0 }; // how many products were computed exactly
};

// src[0]: products of the rounded weight [n_block, n_tokens], src[1]: what op_screen_round made of the tokens,
// src[2]: the tokens [n_embd, n_tokens], userdata: screen_params -> [n_block, n_runs]: the maximum of each text with
// its bias, or 0 if that is negative
void op_pool_screened(ggml_tensor * dst, int ith, int nth, void * userdata);

// row i of a weight of any type as F32
const float * weight_row(const ggml_tensor * w, int64_t i, std::vector<float> & scratch);

// the rows that thread ith of nth takes of n
void thread_range(int64_t n, int ith, int nth, int64_t & begin, int64_t & end);
