#pragma once

#include "pooling.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

struct llama_model;
struct llama_context;
struct ggml_tensor;

struct engine_params {
    int32_t n_threads    = 1;
    int32_t n_gpu_layers = 0;
    int32_t n_batch      = 512;   // tokens a forward pass aims at; a longer text gets a pass of its own
    bool    per_channel  = false; // Q8_0 products with one scale per row and per token, on the CPU
};

// one named node of the graph, row-major [n_rows, n_cols]
struct engine_activation {
    std::string        name;
    int64_t            n_rows;
    int64_t            n_cols;
    std::vector<float> data;
};

// A model and its contexts. Every method may be called from any thread; calls run one after the other.
class engine {
public:
    using interrupt_fn = std::function<bool()>; // true: stop
    using progress_fn  = std::function<void(int64_t n_texts_done)>;

    engine(const std::string & path, const engine_params & params);
    ~engine();

    engine(const engine &)             = delete;
    engine & operator=(const engine &) = delete;

    int32_t n_embd() const;
    int32_t n_vocab() const;
    int32_t n_ctx_train() const;

    // token ids of each text -> dst [n_texts, n_embd], in the order given
    void embed(const std::vector<std::vector<int32_t>> & ids,
               pooling_mode                              mode,
               float *                                   dst,
               const interrupt_fn &                      interrupt,
               const progress_fn &                       progress);

    // hidden states of one text after the final norm -> [n_tokens, n_embd]
    std::vector<float> hidden(const std::vector<int32_t> & ids, const interrupt_fn & interrupt);

    // every named node of the graph of one text, in the order of computation
    std::vector<engine_activation> activations(const std::vector<int32_t> & ids);

    // llama.cpp's own tokenizer, with the special tokens around the text
    std::vector<int32_t> tokenize(const std::string & text) const;

private:
    struct context_deleter {
        void operator()(llama_context * ctx) const;
    };
    struct model_deleter {
        void operator()(llama_model * model) const;
    };

    using context_ptr = std::unique_ptr<llama_context, context_deleter>;

    context_ptr make_context(uint32_t n_tokens, void * capture) const;
    void        reserve(uint32_t n_tokens);
    void        check_ids(const std::vector<std::vector<int32_t>> & ids) const;

    // one forward pass -> [n_tokens, n_embd], valid until the next pass
    const float * encode(llama_context *                                   ctx,
                         const std::vector<const std::vector<int32_t> *> & seqs,
                         const interrupt_fn &                              interrupt) const;

    const std::string   path;
    const engine_params params;

    std::unique_ptr<llama_model, model_deleter> model;

    context_ptr ctx;
    uint32_t    n_ctx = 0; // tokens that ctx can take in one pass

    std::mutex mutex;
};
