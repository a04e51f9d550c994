#include "engine.h"

#include "batch-plan.h"
#include "error.h"
#include "log.h"
#include "model-file.h"
#include "per-channel.h"

#include "ggml-backend.h"
#include "llama-compat.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

namespace {

// texts that a forward pass can take
int32_t n_seqs_max() {
    return (int32_t) llama_max_parallel_sequences();
}

struct batch_guard {
    llama_batch batch;

    batch_guard(int32_t n_tokens) : batch(llama_batch_init(n_tokens, 0, 2)) {
        if (!batch.token || !batch.pos || !batch.seq_id) {
            throw std::bad_alloc();
        }
    }
    ~batch_guard() { llama_batch_free(batch); }

    void add(llama_token id, llama_pos pos, llama_seq_id seq) {
        const int32_t i = batch.n_tokens++;

        batch.token[i]     = id;
        batch.pos[i]       = pos;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = true;
    }

    // the last token attends to the sequence of its largest id, and is a key of that of its smallest
    void add_seq_id(llama_seq_id seq) {
        const int32_t i = batch.n_tokens - 1;

        batch.seq_id[i][batch.n_seq_id[i]++] = seq;
    }
};

// copies a node of any strides into rows of floats; the node is one of f32 on any backend
engine_activation capture_node(const ggml_tensor * t) {
    engine_activation res;
    res.name = t->name;

    // [head size, heads, tokens] is a row per token; everything else is a row per ne[1]
    const bool heads = t->ne[2] > 1;
    res.n_rows       = heads ? t->ne[2] : t->ne[1];
    res.n_cols       = heads ? t->ne[0] * t->ne[1] : t->ne[0];
    res.data.resize(res.n_rows * res.n_cols);

    for (int64_t i2 = 0; i2 < t->ne[2]; ++i2) {
        for (int64_t i1 = 0; i1 < t->ne[1]; ++i1) {
            ggml_backend_tensor_get(t, res.data.data() + (i2 * t->ne[1] + i1) * t->ne[0], i1 * t->nb[1] + i2 * t->nb[2],
                                    t->ne[0] * sizeof(float));
        }
    }
    return res;
}

bool capture_callback(ggml_tensor * t, bool ask, void * user_data) {
    const bool wanted = t->type == GGML_TYPE_F32 && t->ne[3] == 1 && t->nb[0] == sizeof(float) &&
                        strncmp(t->name, "node_", 5) != 0 && strstr(t->name, " (") == nullptr;

    if (!ask && wanted) {
        ((std::vector<engine_activation> *) user_data)->push_back(capture_node(t));
    }
    return ask ? wanted : true;
}

struct profiler {
    using clock = std::chrono::steady_clock;

    std::vector<engine_timing> nodes;
    size_t                     i_node = 0;
    clock::time_point          start;
};

bool profile_callback(ggml_tensor * t, bool ask, void * user_data) {
    auto & self = *(profiler *) user_data;
    if (ask) {
        // a view costs nothing, and a norm is computed together with the product after it
        const bool apart = t->op != GGML_OP_NONE && t->op != GGML_OP_VIEW && t->op != GGML_OP_RESHAPE &&
                           t->op != GGML_OP_PERMUTE && t->op != GGML_OP_TRANSPOSE && t->op != GGML_OP_NORM;
        self.start = profiler::clock::now();
        return apart;
    }

    const std::chrono::duration<double> seconds = profiler::clock::now() - self.start;
    if (self.i_node == self.nodes.size()) {
        const bool product = t->op == GGML_OP_MUL_MAT;
        self.nodes.push_back({ product ? t->src[0]->name : t->name,
                               ggml_op_desc(t),
                               product ? 2 * t->src[0]->ne[0] * ggml_nelements(t) : 0,
                               {} });
    }
    self.nodes[self.i_node++].seconds.push_back(seconds.count());
    return true;
}

// llama.cpp computes the last layer only for the rows that it pools; all other pooling is ours
enum llama_pooling_type context_pooling(const std::vector<pooling_mode> & modes, int32_t n_skip) {
    if (modes.size() == 1 && modes[0] == pooling_mode::CLS && n_skip == 0) {
        return LLAMA_POOLING_TYPE_CLS;
    }
    if (modes.size() == 1 && modes[0] == pooling_mode::LAST) {
        return LLAMA_POOLING_TYPE_LAST;
    }
    return LLAMA_POOLING_TYPE_NONE;
}

ggml_type attention_type(const llama_model * model) {
    const llama_ftype ftype = llama_compat_ftype(model);

    return ftype == LLAMA_FTYPE_MOSTLY_BF16 || ftype == LLAMA_FTYPE_MOSTLY_Q8_0 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
}

} // namespace

void engine::context_deleter::operator()(llama_context * ctx) const {
    llama_free(ctx);
}
void engine::model_deleter::operator()(llama_model * model) const {
    llama_model_free(model);
}

engine::engine(const std::string & path, const engine_params & params) : path(path), params(params) {
    if (params.n_threads < 1 || params.n_batch < 1) {
        throw engine_error(error_kind::INPUT, "n_threads and n_batch must be at least 1");
    }

    model_file_check(path);

    llama_model_params mparams = llama_model_default_params();
    mparams.n_gpu_layers       = params.n_gpu_layers;

    llama_model_tensor_buft_override overrides[] = {
        { "\\.(attn_qkv|attn_output|ffn_gate|ffn_up|ffn_down)\\.weight$", nullptr },
        { nullptr, nullptr },
    };
    if (params.per_channel) {
        overrides[0].buft = per_channel_buffer_type();
        if (!overrides[0].buft) {
            throw engine_error(error_kind::INPUT, "per_channel is not possible with this build of llama.cpp");
        }
        mparams.tensor_buft_overrides = overrides;
    }

    log_take_error();
    model.reset(llama_model_load_from_file(path.c_str(), mparams));
    if (!model) {
        throw engine_error(error_kind::MODEL_FILE, path + ": llama.cpp could not load the model: " + log_take_error());
    }
}

engine::~engine() = default;

int32_t engine::n_embd() const {
    return llama_model_n_embd(model.get());
}
int32_t engine::n_ctx_train() const {
    return llama_model_n_ctx_train(model.get());
}
int32_t engine::n_vocab() const {
    return llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
}

engine::context_ptr engine::make_context(uint32_t n_tokens, int32_t pooling, node_fn on_node, void * user_data) const {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = n_tokens;
    cparams.n_batch         = n_tokens;
    cparams.n_ubatch        = n_tokens;
    cparams.n_seq_max       = std::min<uint32_t>(n_tokens, n_seqs_max()); // no more than outputs
    cparams.kv_unified      = true;
    cparams.n_threads       = params.n_threads;
    cparams.n_threads_batch = params.n_threads;
    cparams.embeddings      = true;
    cparams.no_perf         = true;
    cparams.pooling_type    = (enum llama_pooling_type) pooling;
    cparams.attention_type  = LLAMA_ATTENTION_TYPE_NON_CAUSAL;

    llama_compat_enable_flash_attn(cparams);

    // products of attention as exact as those with the weights: never in half precision, in BF16 where the weights are
    cparams.type_k = attention_type(model.get());
    cparams.type_v = cparams.type_k;

    cparams.cb_eval           = on_node;
    cparams.cb_eval_user_data = user_data;

    context_ptr res(llama_init_from_model(model.get(), cparams));
    if (!res) {
        throw engine_error(error_kind::MEMORY,
                           "no memory for a forward pass of " + std::to_string(n_tokens) + " tokens");
    }
    return res;
}

void engine::reserve(uint32_t n_tokens, int32_t pooling) {
    if (ctx && n_tokens <= n_ctx && pooling == ctx_pooling) {
        return;
    }

    uint32_t n_new = (uint32_t) params.n_batch;
    if (n_tokens > n_new) {
        n_new = (n_tokens + 511) / 512 * 512;
    }

    ctx.reset(); // first, so that the two never exist side by side
    ctx   = make_context(n_new, pooling, nullptr, nullptr);
    n_ctx = n_new;

    ctx_pooling = pooling;
}

void engine::check_id(int32_t id, const std::string & where) const {
    if (id < 0 || id >= n_vocab()) {
        throw engine_error(error_kind::INPUT, where + " has the id " + std::to_string(id) +
                                                  ", outside the vocabulary of " + std::to_string(n_vocab()));
    }
}

void engine::check_ids(const std::vector<std::vector<int32_t>> & ids) const {
    for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i].empty()) {
            throw engine_error(error_kind::INPUT, "text " + std::to_string(i) + " has no tokens");
        }
        if (ids[i].size() > (size_t) std::max(n_ctx_train(), params.n_batch)) {
            throw engine_error(error_kind::INPUT, "text " + std::to_string(i) + " has " +
                                                      std::to_string(ids[i].size()) + " tokens, the model takes " +
                                                      std::to_string(n_ctx_train()));
        }
        for (const int32_t id : ids[i]) {
            check_id(id, "text " + std::to_string(i));
        }
    }
}

void engine::check_unseen(const std::vector<std::vector<int32_t>> & ids, const std::vector<int32_t> & n_unseen) const {
    if (!LLAMA_HAS_QUERIES_THAT_ARE_NO_KEYS && !n_unseen.empty()) {
        throw engine_error(error_kind::INPUT, "tokens that attend and are not attended to need another llama.cpp: "
                                              "build on the default upstream");
    }
    if (!n_unseen.empty() && n_unseen.size() != ids.size()) {
        throw engine_error(error_kind::INPUT, "n_unseen has " + std::to_string(n_unseen.size()) + " entries for " +
                                                  std::to_string(ids.size()) + " texts");
    }
    for (size_t i = 0; i < n_unseen.size(); ++i) {
        if (n_unseen[i] < 0 || (size_t) n_unseen[i] >= ids[i].size()) {
            throw engine_error(error_kind::INPUT, "n_unseen of text " + std::to_string(i) + " is " +
                                                      std::to_string(n_unseen[i]) + ", it has " +
                                                      std::to_string(ids[i].size()) + " tokens");
        }
    }
}

void engine::encode(llama_context *                                   lctx,
                    const std::vector<const std::vector<int32_t> *> & seqs,
                    const std::vector<int32_t> &                      n_unseen,
                    const interrupt_fn &                              interrupt) const {
    size_t n_tokens = 0;
    for (const auto * seq : seqs) {
        n_tokens += seq->size();
    }

    batch_guard  guard((int32_t) n_tokens);
    llama_seq_id n_ids = 0;
    for (size_t s = 0; s < seqs.size(); ++s) {
        // the unseen tokens are keys of a sequence that no token attends to
        const size_t       n_seen = seqs[s]->size() - (n_unseen.empty() ? 0 : n_unseen[s]);
        const llama_seq_id unseen = n_seen < seqs[s]->size() ? n_ids++ : -1;
        const llama_seq_id id     = n_ids++;
        for (size_t i = 0; i < seqs[s]->size(); ++i) {
            guard.add((*seqs[s])[i], (llama_pos) i, id);
            if (i >= n_seen) {
                guard.add_seq_id(unseen);
            }
        }
    }

    llama_set_abort_callback(lctx, [](void * data) { return (*(const interrupt_fn *) data)(); }, (void *) &interrupt);
    const int32_t ret = llama_encode(lctx, guard.batch);
    llama_set_abort_callback(lctx, nullptr, nullptr);

    switch (ret) {
        case 0:
            break;
        case 2:
            throw engine_error(error_kind::INTERRUPTED, "interrupted");
        case -2:
            throw engine_error(error_kind::MEMORY,
                               "no memory for a forward pass of " + std::to_string(n_tokens) + " tokens");
        default:
            throw engine_error(error_kind::MODEL_FILE,
                               path + ": llama.cpp failed to encode (code " + std::to_string(ret) + ")");
    }
}

void engine::check_finite(const float * x, int64_t n_rows) const {
    if (!x) {
        throw engine_error(error_kind::MODEL_FILE, path + ": llama.cpp returned no embeddings");
    }
    if (!all_finite(x, n_rows * n_embd())) {
        const std::string name = model_file_find_non_finite(path);
        throw engine_error(error_kind::MODEL_FILE,
                           path + ": the model computes NaN or infinity" +
                               (name.empty() ? std::string("; its weights are finite but overflow")
                                             : ": tensor '" + name + "' holds it"));
    }
}

const float * engine::hidden_rows(llama_context * lctx, int64_t n_tokens) const {
    const float * res = llama_get_embeddings(lctx);
    check_finite(res, n_tokens);
    return res;
}

const float * engine::pooled_row(llama_context * lctx, int32_t seq) const {
    const float * res = llama_get_embeddings_seq(lctx, seq);
    check_finite(res, 1);
    return res;
}

void engine::embed(const std::vector<std::vector<int32_t>> & ids,
                   const std::vector<pooling_mode> &         modes,
                   int32_t                                   n_skip,
                   const std::vector<int32_t> &              n_unseen,
                   float *                                   dst,
                   const interrupt_fn &                      interrupt,
                   const progress_fn &                       progress) {
    check_ids(ids);
    check_unseen(ids, n_unseen);

    const int32_t pooling = n_unseen.empty() ? context_pooling(modes, n_skip) : LLAMA_POOLING_TYPE_NONE;
    const int64_t n_out   = (int64_t) modes.size() * n_embd();

    std::vector<int32_t> lengths;
    std::vector<float *> rows; // of each text
    for (size_t i = 0; i < ids.size(); ++i) {
        if ((int64_t) ids[i].size() <= n_skip) {
            throw engine_error(error_kind::INPUT, "text " + std::to_string(i) + " has " +
                                                      std::to_string(ids[i].size()) + " tokens, and the prompt takes " +
                                                      std::to_string(n_skip) + ": nothing is left to pool");
        }
        lengths.push_back((int32_t) ids[i].size());
        rows.push_back(dst);
        dst += pooling_n_rows(modes, lengths.back(), n_skip) * n_out;
    }

    const auto consume = [&](const batch_plan_item & item) {
        if (pooling == LLAMA_POOLING_TYPE_NONE) {
            const float * hidden = hidden_rows(ctx.get(), item.n_tokens);
            for (const int32_t i : item.index) {
                pool(modes, hidden, lengths[i], n_skip, n_embd(), rows[i]);
                hidden += (int64_t) lengths[i] * n_embd();
            }
        } else {
            for (size_t s = 0; s < item.index.size(); ++s) {
                std::copy_n(pooled_row(ctx.get(), (int32_t) s), n_out, rows[item.index[s]]);
            }
        }
    };
    passes(ids, n_unseen, pooling, consume, interrupt, progress);
}

void engine::passes(const std::vector<std::vector<int32_t>> &                 ids,
                    const std::vector<int32_t> &                              n_unseen,
                    int32_t                                                   pooling,
                    const std::function<void(const batch_plan_item & item)> & consume,
                    const interrupt_fn &                                      interrupt,
                    const progress_fn &                                       progress) {
    std::vector<int32_t> lengths;
    for (const auto & seq : ids) {
        lengths.push_back((int32_t) seq.size());
    }

    int64_t n_done = 0;

    const int32_t n_ids = n_unseen.empty() ? 1 : 2; // of one text

    for (const auto & item : batch_plan(lengths, params.n_batch, n_seqs_max() / n_ids)) {
        if (interrupt()) {
            throw engine_error(error_kind::INTERRUPTED, "interrupted");
        }

        std::vector<const std::vector<int32_t> *> seqs;
        std::vector<int32_t>                      unseen;
        for (const int32_t i : item.index) {
            seqs.push_back(&ids[i]);
            if (!n_unseen.empty()) {
                unseen.push_back(n_unseen[i]);
            }
        }

        {
            // held for one pass only, so that other threads take turns
            std::lock_guard<std::mutex> lock(mutex);

            reserve((uint32_t) item.n_tokens, pooling);
            encode(ctx.get(), seqs, unseen, interrupt);
            consume(item);
        }

        n_done += (int64_t) item.index.size();
        progress(n_done);
    }
}

int64_t engine::load_head(bool maxima) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!token_head) {
        token_head = std::make_unique<head>(path, head_params{ params.n_threads, params.per_channel, maxima });
    }
    return token_head->n_out();
}

bool engine::head_screened() {
    std::lock_guard<std::mutex> lock(mutex);
    return token_head && token_head->screened();
}

void engine::head_rows(const std::vector<std::vector<int32_t>> & ids,
                       const std::vector<std::vector<int32_t>> * rows,
                       float *                                   dst,
                       const interrupt_fn &                      interrupt,
                       const progress_fn &                       progress) {
    check_ids(ids);

    const int64_t n_out = load_head();

    if (rows && rows->size() != ids.size()) {
        throw engine_error(error_kind::INPUT, "rows is for " + std::to_string(rows->size()) + " texts, there are " +
                                                  std::to_string(ids.size()));
    }
    std::vector<float *> dsts; // of each text
    for (size_t i = 0; i < ids.size(); ++i) {
        for (const int32_t row : rows ? (*rows)[i] : std::vector<int32_t>()) {
            if (row < 0 || row >= (int32_t) ids[i].size()) {
                throw engine_error(error_kind::INPUT,
                                   "text " + std::to_string(i) + " has no token " + std::to_string(row));
            }
        }
        dsts.push_back(dst);
        dst += (int64_t) (rows ? (*rows)[i] : ids[i]).size() * n_out;
    }

    std::vector<float> chosen; // hidden rows of a batch
    std::vector<float> outputs;

    const auto consume = [&](const batch_plan_item & item) {
        const float * hidden = hidden_rows(ctx.get(), item.n_tokens);

        chosen.clear();
        for (const int32_t i : item.index) {
            const int64_t n_tokens = (int64_t) ids[i].size();
            if (rows) {
                for (const int32_t row : (*rows)[i]) {
                    chosen.insert(chosen.end(), hidden + row * (int64_t) n_embd(),
                                  hidden + (row + 1) * (int64_t) n_embd());
                }
            } else {
                chosen.insert(chosen.end(), hidden, hidden + n_tokens * n_embd());
            }
            hidden += n_tokens * n_embd();
        }

        const int64_t n_rows = (int64_t) chosen.size() / n_embd();
        outputs.resize(n_rows * n_out);
        token_head->rows(chosen.data(), n_rows, outputs.data(), interrupt);

        const float * src = outputs.data();
        for (const int32_t i : item.index) {
            const int64_t n = (int64_t) (rows ? (*rows)[i] : ids[i]).size() * n_out;
            std::copy_n(src, n, dsts[i]);
            src += n;
        }
    };
    passes(ids, {}, LLAMA_POOLING_TYPE_NONE, consume, interrupt, progress);
}

std::vector<sparse_vector> engine::head_sparse(const std::vector<std::vector<int32_t>> & ids,
                                               head_pooling                              mode,
                                               bool                                      log1p_twice,
                                               int32_t                                   top_k,
                                               const interrupt_fn &                      interrupt,
                                               const progress_fn &                       progress) {
    check_ids(ids);
    if (top_k < 0) {
        throw engine_error(error_kind::INPUT, "top_k is negative");
    }

    const int64_t n_out = load_head();

    std::vector<sparse_vector> res(ids.size());
    std::vector<float>         pooled;

    const auto consume = [&](const batch_plan_item & item) {
        std::vector<int32_t> lengths;
        for (const int32_t i : item.index) {
            lengths.push_back((int32_t) ids[i].size());
        }
        pooled.resize(item.index.size() * n_out);
        token_head->pool(hidden_rows(ctx.get(), item.n_tokens), lengths, mode, log1p_twice, pooled.data(), interrupt);

        for (size_t s = 0; s < item.index.size(); ++s) {
            res[item.index[s]] = sparse_from_dense(pooled.data() + s * n_out, n_out, top_k);
        }
    };
    passes(ids, {}, LLAMA_POOLING_TYPE_NONE, consume, interrupt, progress);
    return res;
}

std::vector<engine_activation> engine::activations(const std::vector<int32_t> & ids) {
    check_ids({ ids });

    std::vector<engine_activation> res;
    const context_ptr lctx = make_context((uint32_t) ids.size(), LLAMA_POOLING_TYPE_NONE, capture_callback, &res);
    encode(lctx.get(), { &ids }, {}, [] { return false; });
    return res;
}

std::vector<engine_timing>
engine::profile(const std::vector<std::vector<int32_t>> & ids, int32_t n_passes, const interrupt_fn & interrupt) {
    check_ids(ids);

    std::vector<const std::vector<int32_t> *> seqs;
    size_t                                    n_tokens = 0;
    for (const auto & seq : ids) {
        seqs.push_back(&seq);
        n_tokens += seq.size();
    }
    if (n_passes < 1 || ids.empty() || ids.size() > (size_t) n_seqs_max()) {
        throw engine_error(error_kind::INPUT,
                           "expected at least one pass over 1 to " + std::to_string(n_seqs_max()) + " texts");
    }

    std::lock_guard<std::mutex> lock(mutex);

    profiler          prof;
    const context_ptr lctx = make_context((uint32_t) n_tokens, LLAMA_POOLING_TYPE_NONE, profile_callback, &prof);
    for (int32_t i = 0; i <= n_passes; ++i) {
        prof.i_node = 0;
        encode(lctx.get(), seqs, {}, interrupt);
    }
    for (auto & node : prof.nodes) {
        node.seconds.erase(node.seconds.begin());
    }
    return prof.nodes;
}

std::vector<int32_t> engine::tokenize(const std::string & text, bool add_special, bool parse_special) const {
    const llama_vocab * vocab = llama_model_get_vocab(model.get());

    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        throw engine_error(error_kind::MODEL_FILE,
                           path + ": the file holds no vocabulary for llama.cpp's own tokenizer");
    }

    const auto tokenize = [&](std::vector<int32_t> & dst) {
        try {
            return llama_tokenize(vocab, text.data(), (int32_t) text.size(), dst.data(), (int32_t) dst.size(),
                                  add_special, parse_special);
        } catch (const std::exception & e) { // a damaged charsmap, a text too long for std::regex
            throw engine_error(error_kind::MODEL_FILE, path + ": llama.cpp cannot tokenize the text: " + e.what());
        }
    };

    std::vector<int32_t> res(text.size() + 16);
    int32_t              n = tokenize(res);
    if (n < 0) {
        res.resize(-n);
        n = tokenize(res);
    }
    res.resize(std::max(n, 0));
    return res;
}

std::string engine::detokenize(const std::vector<int32_t> & ids, bool special) const {
    const llama_vocab * vocab = llama_model_get_vocab(model.get());

    std::string res;
    std::string piece(64, '\0');
    for (size_t i = 0; i < ids.size(); ++i) {
        check_id(ids[i], "token " + std::to_string(i));

        int32_t n = llama_token_to_piece(vocab, ids[i], &piece[0], (int32_t) piece.size(), 0, special);
        if (n < 0) {
            piece.resize(-n);
            n = llama_token_to_piece(vocab, ids[i], &piece[0], (int32_t) piece.size(), 0, special);
        }
        res.append(piece, 0, std::max(n, 0));
    }
    return res;
}

int32_t engine::token_bos() const {
    return llama_vocab_bos(llama_model_get_vocab(model.get()));
}
int32_t engine::token_eos() const {
    return llama_vocab_eos(llama_model_get_vocab(model.get()));
}
int32_t engine::token_nl() const {
    return llama_vocab_nl(llama_model_get_vocab(model.get()));
}
