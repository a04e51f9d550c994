#include "engine.h"

#include "batch-plan.h"
#include "error.h"
#include "log.h"
#include "model-file.h"

#include "ggml-backend.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace {

constexpr int32_t N_SEQS_MAX = 256; // LLAMA_MAX_SEQ of llama.cpp

struct batch_guard {
    llama_batch batch;

    batch_guard(int32_t n_tokens) : batch(llama_batch_init(n_tokens, 0, 1)) {
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

ggml_type attention_type(const llama_model * model) {
    const llama_ftype ftype = llama_model_ftype(model);

    return ftype == LLAMA_FTYPE_MOSTLY_BF16 || ftype == LLAMA_FTYPE_MOSTLY_Q8_0 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
}

// nullptr if the CPU backend has none
ggml_backend_buffer_type_t per_channel_buffer_type() {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!dev) {
        return nullptr;
    }

    void * get = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev),
                                                   "ggml_backend_cpu_per_channel_buffer_type");

    return get ? ((ggml_backend_buffer_type_t(*)()) get)() : nullptr;
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

    const llama_model_tensor_buft_override overrides[] = {
        { "\\.(attn_qkv|attn_output|ffn_gate|ffn_up|ffn_down)\\.weight$", per_channel_buffer_type() },
        { nullptr, nullptr },
    };
    if (params.per_channel) {
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

engine::context_ptr engine::make_context(uint32_t n_tokens, void * capture) const {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = n_tokens;
    cparams.n_batch         = n_tokens;
    cparams.n_ubatch        = n_tokens;
    cparams.n_seq_max       = std::min<uint32_t>(n_tokens, N_SEQS_MAX); // no more than outputs
    cparams.kv_unified      = true;
    cparams.n_threads       = params.n_threads;
    cparams.n_threads_batch = params.n_threads;
    cparams.embeddings      = true;
    cparams.no_perf         = true;
    cparams.pooling_type    = LLAMA_POOLING_TYPE_NONE;
    cparams.attention_type  = LLAMA_ATTENTION_TYPE_NON_CAUSAL;
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;

    // products of attention as exact as those with the weights: never in half precision, in BF16 where the weights are
    cparams.type_k = attention_type(model.get());
    cparams.type_v = cparams.type_k;

    if (capture) {
        cparams.cb_eval           = capture_callback;
        cparams.cb_eval_user_data = capture;
    }

    context_ptr res(llama_init_from_model(model.get(), cparams));
    if (!res) {
        throw engine_error(error_kind::MEMORY,
                           "no memory for a forward pass of " + std::to_string(n_tokens) + " tokens");
    }
    return res;
}

void engine::reserve(uint32_t n_tokens) {
    if (ctx && n_tokens <= n_ctx) {
        return;
    }

    uint32_t n_new = (uint32_t) params.n_batch;
    if (n_tokens > n_new) {
        n_new = (n_tokens + 511) / 512 * 512;
    }

    ctx.reset(); // first, so that the two never exist side by side
    ctx   = make_context(n_new, nullptr);
    n_ctx = n_new;
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
            if (id < 0 || id >= n_vocab()) {
                throw engine_error(error_kind::INPUT, "text " + std::to_string(i) + " has the token id " +
                                                          std::to_string(id) + ", outside the vocabulary of " +
                                                          std::to_string(n_vocab()));
            }
        }
    }
}

const float * engine::encode(llama_context *                                   lctx,
                             const std::vector<const std::vector<int32_t> *> & seqs,
                             const interrupt_fn &                              interrupt) const {
    size_t n_tokens = 0;
    for (const auto * seq : seqs) {
        n_tokens += seq->size();
    }

    batch_guard guard((int32_t) n_tokens);
    for (size_t s = 0; s < seqs.size(); ++s) {
        for (size_t i = 0; i < seqs[s]->size(); ++i) {
            guard.add((*seqs[s])[i], (llama_pos) i, (llama_seq_id) s);
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

    const float * hidden = llama_get_embeddings(lctx);
    if (!hidden) {
        throw engine_error(error_kind::MODEL_FILE, path + ": llama.cpp returned no embeddings");
    }
    if (!all_finite(hidden, (int64_t) n_tokens * n_embd())) {
        const std::string name = model_file_find_non_finite(path);
        throw engine_error(error_kind::MODEL_FILE,
                           path + ": the model computes NaN or infinity" +
                               (name.empty() ? std::string("; its weights are finite but overflow")
                                             : ": tensor '" + name + "' holds it"));
    }
    return hidden;
}

void engine::embed(const std::vector<std::vector<int32_t>> & ids,
                   pooling_mode                              mode,
                   float *                                   dst,
                   const interrupt_fn &                      interrupt,
                   const progress_fn &                       progress) {
    check_ids(ids);

    std::vector<int32_t> lengths;
    for (const auto & seq : ids) {
        lengths.push_back((int32_t) seq.size());
    }

    const int64_t n_out  = n_embd();
    int64_t       n_done = 0;

    for (const auto & item : batch_plan(lengths, params.n_batch, N_SEQS_MAX)) {
        if (interrupt()) {
            throw engine_error(error_kind::INTERRUPTED, "interrupted");
        }

        std::vector<const std::vector<int32_t> *> seqs;
        for (const int32_t i : item.index) {
            seqs.push_back(&ids[i]);
        }

        // held for one pass only, so that other threads take turns
        std::lock_guard<std::mutex> lock(mutex);

        reserve((uint32_t) item.n_tokens);

        const float * hidden = encode(ctx.get(), seqs, interrupt);
        for (const int32_t i : item.index) {
            pool(mode, hidden, lengths[i], n_out, dst + i * n_out);
            hidden += lengths[i] * n_out;
        }

        n_done += (int64_t) item.index.size();
        progress(n_done);
    }
}

std::vector<float> engine::hidden(const std::vector<int32_t> & ids, const interrupt_fn & interrupt) {
    check_ids({ ids });

    std::lock_guard<std::mutex> lock(mutex);

    reserve((uint32_t) ids.size());

    const float * data = encode(ctx.get(), { &ids }, interrupt);
    return std::vector<float>(data, data + ids.size() * n_embd());
}

std::vector<engine_activation> engine::activations(const std::vector<int32_t> & ids) {
    check_ids({ ids });

    std::vector<engine_activation> res;
    const context_ptr              lctx = make_context((uint32_t) ids.size(), &res);
    encode(lctx.get(), { &ids }, [] { return false; });
    return res;
}

std::vector<int32_t> engine::tokenize(const std::string & text) const {
    const llama_vocab * vocab = llama_model_get_vocab(model.get());

    std::vector<int32_t> res(text.size() + 16);
    int32_t n = llama_tokenize(vocab, text.data(), (int32_t) text.size(), res.data(), (int32_t) res.size(), true, true);
    if (n < 0) {
        res.resize(-n);
        n = llama_tokenize(vocab, text.data(), (int32_t) text.size(), res.data(), (int32_t) res.size(), true, true);
    }
    res.resize(std::max(n, 0));
    return res;
}
