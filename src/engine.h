#pragma once

#include "head.h"
#include "pooling.h"
#include "sparse.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

struct batch_plan_item;
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

// one node of the graph, or several that are computed as one: the time of each pass over it
struct engine_timing {
    std::string         name;    // of a product its weight, "blk.3.ffn_up.weight"; else the node, "l_out-3"
    std::string         op;      // ggml's name of the operation, "MUL_MAT"
    int64_t             n_flops; // of a matrix product, else 0
    std::vector<double> seconds;
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

    // token ids of each text -> dst [n_rows, modes.size() * n_embd], in the order given: pooling_n_rows rows for each
    // text the first n_skip tokens of each text take part in the forward pass, but not in the pooling
    // n_unseen: how many tokens at the end of each text attend to the others while none attends to them; empty for none
    void embed(const std::vector<std::vector<int32_t>> & ids,
               const std::vector<pooling_mode> &         modes,
               int32_t                                   n_skip,
               const std::vector<int32_t> &              n_unseen,
               float *                                   dst,
               const interrupt_fn &                      interrupt,
               const progress_fn &                       progress);

    // the head of the tokens is read when it is first asked for; throws engine_error if the file has none
    // maxima: see head_params
    int64_t load_head(bool maxima = false);
    bool    head_screened(); // see head

    // outputs of the head for some tokens of each text (rows[i], or all where rows is null) -> dst, in the order given:
    // [sum of rows, what load_head returns]
    void head_rows(const std::vector<std::vector<int32_t>> & ids,
                   const std::vector<std::vector<int32_t>> * rows,
                   float *                                   dst,
                   const interrupt_fn &                      interrupt,
                   const progress_fn &                       progress);

    // SPLADE: see head::pool; of each text the top_k largest, all if top_k is 0
    std::vector<sparse_vector> head_sparse(const std::vector<std::vector<int32_t>> & ids,
                                           head_pooling                              mode,
                                           bool                                      log1p_twice,
                                           int32_t                                   top_k,
                                           const interrupt_fn &                      interrupt,
                                           const progress_fn &                       progress);

    // every named node of the graph of one text, in the order of computation
    std::vector<engine_activation> activations(const std::vector<int32_t> & ids);

    // computes texts that fit into one pass node by node, n_passes times after a first one that is not counted
    std::vector<engine_timing>
    profile(const std::vector<std::vector<int32_t>> & ids, int32_t n_passes, const interrupt_fn & interrupt);

    // llama.cpp's own tokenizer. add_special: put the special tokens around the text;
    // parse_special: read the names of special tokens in the text as these tokens
    std::vector<int32_t> tokenize(const std::string & text, bool add_special, bool parse_special) const;

    // the bytes that the tokens stand for; special: those of special tokens too
    std::string detokenize(const std::vector<int32_t> & ids, bool special) const;

    // the ids that llama.cpp takes for beginning, end and newline, -1 if there is none
    int32_t token_bos() const;
    int32_t token_eos() const;
    int32_t token_nl() const;

private:
    struct context_deleter {
        void operator()(llama_context * ctx) const;
    };
    struct model_deleter {
        void operator()(llama_model * model) const;
    };

    using context_ptr = std::unique_ptr<llama_context, context_deleter>;

    // asked of each node before it is computed (ask: whether to stop there) and after
    using node_fn = bool (*)(ggml_tensor * t, bool ask, void * user_data);

    context_ptr make_context(uint32_t n_tokens, int32_t pooling, node_fn on_node, void * user_data) const;
    void        reserve(uint32_t n_tokens, int32_t pooling);
    void        check_id(int32_t id, const std::string & where) const;
    void        check_ids(const std::vector<std::vector<int32_t>> & ids) const;
    void check_unseen(const std::vector<std::vector<int32_t>> & ids, const std::vector<int32_t> & n_unseen) const;
    void check_finite(const float * x, int64_t n_rows) const;

    // one forward pass; n_unseen as in embed(), for each of seqs
    void encode(llama_context *                                   ctx,
                const std::vector<const std::vector<int32_t> *> & seqs,
                const std::vector<int32_t> &                      n_unseen,
                const interrupt_fn &                              interrupt) const;

    // a pass for each batch of texts: consume is called after it, while the mutex is held
    void passes(const std::vector<std::vector<int32_t>> &                 ids,
                const std::vector<int32_t> &                              n_unseen,
                int32_t                                                   pooling,
                const std::function<void(const batch_plan_item & item)> & consume,
                const interrupt_fn &                                      interrupt,
                const progress_fn &                                       progress);

    // what it computed, valid until the next pass: [n_tokens, n_embd] without pooling, [n_embd] of a sequence with it
    const float * hidden_rows(llama_context * ctx, int64_t n_tokens) const;
    const float * pooled_row(llama_context * ctx, int32_t seq) const;

    const std::string   path;
    const engine_params params;

    std::unique_ptr<llama_model, model_deleter> model;

    context_ptr ctx;
    uint32_t    n_ctx       = 0; // tokens that ctx can take in one pass
    int32_t     ctx_pooling = 0; // llama_pooling_type of ctx

    std::unique_ptr<head> token_head; // once asked for

    std::mutex mutex;
};
