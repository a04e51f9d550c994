#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

enum class head_pooling { MAX, SUM };

struct head_params {
    int32_t n_threads   = 1;
    bool    per_channel = false; // see engine_params
    bool    maxima      = false; // mostly the largest outputs are asked for: read what finds them fast (screen.h)
};

// What stands on the hidden states of the tokens: dense, activation and norm (cls.*), then a classifier (cls.output) or
// the decoder of a masked language model (output, or the token embedding). Read from the file of the model, beside it:
// llama.cpp knows no such head. It is computed on the CPU, whatever computes the encoder.
// Not for two threads at once.
class head {
public:
    using interrupt_fn = std::function<bool()>; // true: stop

    // a file that model_file_check has passed; throws engine_error if it has no such head
    head(const std::string & path, const head_params & params);
    ~head();

    head(const head &)             = delete;
    head & operator=(const head &) = delete;

    int64_t n_out() const;
    bool    screened() const; // whether maxima are found the fast way; not where that proved to be the slower one

    // hidden [n_rows, n_embd] -> dst [n_rows, n_out()]
    void rows(const float * hidden, int64_t n_rows, float * dst, const interrupt_fn & interrupt);

    // SPLADE (Formal et al., 2021): dst [n_texts, n_out()], over the tokens of each text the maximum or the sum of
    // log(1 + relu(x)), or of log(1 + log(1 + relu(x))) if log1p_twice. The outputs of the tokens never exist all at
    // once: those of a block of the vocabulary are pooled as soon as they are there
    void pool(const float *                hidden,
              const std::vector<int32_t> & n_tokens,
              head_pooling                 mode,
              bool                         log1p_twice,
              float *                      dst,
              const interrupt_fn &         interrupt);

private:
    struct impl;
    std::unique_ptr<impl> p;
};
