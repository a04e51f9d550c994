#pragma once

#include <cstdint>
#include <vector>

// one forward pass: the indices of the texts in it
struct batch_plan_item {
    std::vector<int32_t> index;
    int32_t              n_tokens = 0;
};

// Pack texts of the given lengths (in tokens, each > 0) into batches of at most n_tokens_max tokens and n_seqs_max
// texts. Texts of like length share a batch; a text longer than n_tokens_max gets a batch of its own. Every index
// appears exactly once; the longest texts come first, so that buffers grow once.
std::vector<batch_plan_item> batch_plan(const std::vector<int32_t> & lengths, int32_t n_tokens_max, int32_t n_seqs_max);
