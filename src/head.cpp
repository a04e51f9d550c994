#include "head.h"

#include "error.h"
#include "ggml-ptr.h"
#include "head-pool.h"
#include "per-channel.h"
#include "pooling.h"
#include "screen.h"
#include "weight-reader.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

// outputs of one product: with N_TOKENS_MAX tokens they stay in the cache until they are pooled
constexpr int64_t N_BLOCK      = 2048;
constexpr int64_t N_TOKENS_MAX = 512;
constexpr int64_t N_PACK       = 16; // packed kernels take this many rows of a weight at a time

// one exact product costs as much as some ten of a matrix product: with more of them than one in so many, over so many
// tokens, screening does not pay
constexpr int64_t N_SCREENED_MIN = 24;
constexpr int64_t N_TOKENS_TRIED = 2048;

struct buffer_deleter {
    void operator()(ggml_backend_buffer * buffer) const { ggml_backend_buffer_free(buffer); }
};
struct backend_deleter {
    void operator()(ggml_backend * backend) const { ggml_backend_free(backend); }
};
struct galloc_deleter {
    void operator()(ggml_gallocr * galloc) const { ggml_gallocr_free(galloc); }
};

using buffer_ptr = std::unique_ptr<ggml_backend_buffer, buffer_deleter>;

ggml_ptr make_context(size_t n_tensors, size_t n_nodes = 0) {
    const size_t size = n_tensors * ggml_tensor_overhead() + (n_nodes ? ggml_graph_overhead_custom(n_nodes, false) : 0);

    ggml_ptr res(ggml_init({ size, nullptr, /*.no_alloc =*/true }));
    if (!res) {
        throw std::bad_alloc();
    }
    return res;
}

// --- activations, of transformers' names ---

float act_gelu_tanh(float x) {
    const double v = x;
    return (float) (0.5 * v * (1.0 + std::tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v))));
}
float act_silu(float x) {
    return (float) (x / (1.0 + std::exp(-(double) x)));
}
float act_relu(float x) {
    return x > 0.0f ? x : 0.0f;
}
float act_tanh(float x) {
    return (float) std::tanh((double) x);
}
float act_sigmoid(float x) {
    return (float) (1.0 / (1.0 + std::exp(-(double) x)));
}

using act_fn = float (*)(float);

struct activation {
    const char * name;
    act_fn       fn; // nullptr: an operation of ggml
};

constexpr activation ACTIVATIONS[] = {
    { "gelu", nullptr },  { "gelu_new", act_gelu_tanh }, { "gelu_pytorch_tanh", act_gelu_tanh },
    { "silu", act_silu }, { "swish", act_silu },         { "relu", act_relu },
    { "tanh", act_tanh }, { "sigmoid", act_sigmoid },
};

void op_activation(ggml_tensor * dst, const ggml_tensor * src, int ith, int nth, void * userdata) {
    const act_fn fn = *(const act_fn *) userdata;

    int64_t begin;
    int64_t end;
    thread_range(ggml_nelements(src), ith, nth, begin, end);
    for (int64_t i = begin; i < end; ++i) {
        ((float *) dst->data)[i] = fn(((const float *) src->data)[i]);
    }
}

// a part of the output layer
struct block {
    ggml_tensor * w        = nullptr;
    ggml_tensor * b        = nullptr;
    ggml_tensor * screen_w = nullptr; // the same rounded, with w as it lies in the file; or nullptr
    screen_rows   screen;

    std::vector<buffer_ptr> buffers; // of w and screen_w
};

} // namespace

struct head::impl {
    impl(const std::string & path, const head_params & params) : path(path), per_channel(params.per_channel) {
        weight_reader file(path);

        open_backend(params.n_threads);

        const std::string arch = file.str("general.architecture", "");
        const std::string task = file.str("modernbert_llama.task", "");
        const bool        lm   = task == "fill-mask" || task == "sparse-embedding";

        n_embd = file.u32(arch + ".embedding_length");

        weight_reader::matrix output = file.find(lm ? "output.weight" : "cls.output.weight", n_embd);
        if (lm && !output.ne1) {
            output = file.find("token_embd.weight", n_embd); // tied
        }
        if (!output.ne1 || (lm && !file.has("cls.norm.weight"))) {
            file.fail("the file holds no head for its tokens: convert a checkpoint that has one");
        }
        eps   = file.f32(arch + ".attention.layer_norm_epsilon", 1e-5f);
        n_out = output.ne1;

        const std::string act_name = file.str("modernbert_llama.head.activation", "gelu");
        const auto *      found    = std::find_if(std::begin(ACTIVATIONS), std::end(ACTIVATIONS),
                                                  [&](const activation & a) { return act_name == a.name; });
        if (found == std::end(ACTIVATIONS)) {
            file.fail("key 'modernbert_llama.head.activation' is '" + act_name + "', which is not known");
        }
        act = found->fn;

        weights = make_context(8 + 4 * (n_out / N_BLOCK + 1));

        if (file.has("cls.weight")) {
            dense   = load_dense(file);
            dense_b = load_vector(file.vector("cls.bias"));
        }
        if (file.has("cls.norm.weight")) {
            norm   = load_vector(file.vector("cls.norm.weight"));
            norm_b = load_vector(file.vector("cls.norm.bias"));
        }
        std::vector<float> bias = file.vector(lm ? "decoder.bias" : "cls.output.bias");
        bias.resize((n_out + N_PACK - 1) / N_PACK * N_PACK); // zeros where there is none

        const bool off = std::getenv("MODERNBERT_LLAMA_NO_SCREEN") != nullptr;
        load_output(file, output, bias, params.maxima && !off ? screen_buft() : nullptr);
    }

    // screen: where products of the rounded weight are fast, or nullptr for no screening
    void load_output(weight_reader &               file,
                     const weight_reader::matrix & output,
                     const std::vector<float> &    bias,
                     ggml_backend_buffer_type_t    screen) {
        screened = screen != nullptr;

        for (int64_t i0 = 0; i0 < n_out; i0 += N_BLOCK) {
            block res;

            const int64_t i1 = std::min(n_out, i0 + N_BLOCK);
            // of what is screened single rows are read
            res.w = new_matrix(output.type, output.ne0, i1 - i0, file.rows(output, i0, i1),
                               screen ? ggml_backend_dev_buffer_type(dev) : nullptr, res.buffers);
            res.b = load_vector({ bias.begin() + i0, bias.begin() + i0 + res.w->ne[1] });

            if (screen) {
                std::vector<float> scratch;
                for (int64_t i = 0; i < res.w->ne[1]; ++i) {
                    res.screen.add(weight_row(res.w, i, scratch), n_embd);
                }
                res.screen_w =
                    new_matrix(GGML_TYPE_Q8_0, n_embd, res.w->ne[1], std::move(res.screen.q8_0), screen, res.buffers);
            }
            blocks.push_back(std::move(res));
        }
    }

    // from here on all products are computed, with the weights where these are fastest
    void stop_screening() {
        screened = false;

        for (block & of : blocks) {
            const uint8_t * bytes = (const uint8_t *) of.w->data;

            block res;
            res.w = new_matrix(of.w->type, of.w->ne[0], of.w->ne[1], { bytes, bytes + ggml_nbytes(of.w) }, nullptr,
                               res.buffers);
            res.b = of.b;
            of    = std::move(res);
        }
    }

    // where Q8_0 products have one scale a row and a token; nullptr if that is not possible here
    ggml_backend_buffer_type_t screen_buft() {
        const ggml_backend_buffer_type_t buft = per_channel_buffer_type();
        if (!buft || n_embd % ggml_blck_size(GGML_TYPE_Q8_0) != 0) {
            return nullptr;
        }
        const ggml_ptr          ctx = make_context(1);
        std::vector<buffer_ptr> scratch;

        ggml_tensor * t = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_Q8_0, n_embd, N_PACK);
        allocate(t, buft, scratch);
        return t->extra ? buft : nullptr; // what cannot be packed stays as it is
    }

    void open_backend(int32_t n_threads) {
        dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        backend.reset(dev ? ggml_backend_dev_init(dev, nullptr) : nullptr);
        if (!backend) {
            throw engine_error(error_kind::MODEL_FILE, "llama.cpp has no CPU backend");
        }
        galloc.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend.get())));

        ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
        if (void * fn = ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads")) {
            ((ggml_backend_set_n_threads_t) fn)(backend.get(), n_threads);
        }
        set_abort = (ggml_backend_set_abort_callback_t) ggml_backend_reg_get_proc_address(
            reg, "ggml_backend_set_abort_callback");

        bufts.push_back(ggml_backend_dev_buffer_type(dev));
        if (void * fn = ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts")) {
            ggml_backend_buffer_type_t * extra = ((ggml_backend_dev_get_extra_bufts_t) fn)(dev);
            for (; extra && *extra; ++extra) {
                bufts.insert(bufts.end() - 1, *extra);
            }
        }
    }

    static void allocate(ggml_tensor * t, ggml_backend_buffer_type_t buft, std::vector<buffer_ptr> & buffers) {
        buffer_ptr buffer(ggml_backend_buft_alloc_buffer(buft, ggml_backend_buft_get_alloc_size(buft, t)));
        if (!buffer) {
            throw std::bad_alloc();
        }
        ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        ggml_backend_tensor_alloc(buffer.get(), t, ggml_backend_buffer_get_base(buffer.get()));
        buffers.push_back(std::move(buffer));
    }

    // where a product with the weight is fastest: as llama.cpp chooses it
    ggml_backend_buffer_type_t matrix_buft(const ggml_tensor * like) {
        if (per_channel && like->type == GGML_TYPE_Q8_0 && per_channel_buffer_type()) {
            return per_channel_buffer_type();
        }
        for (ggml_backend_buffer_type_t buft : bufts) {
            const ggml_ptr   ctx = make_context(4);
            const buffer_ptr none(ggml_backend_buft_alloc_buffer(buft, 0));

            ggml_tensor * w = ggml_new_tensor_2d(ctx.get(), like->type, like->ne[0], like->ne[1]);
            ggml_tensor * op =
                ggml_mul_mat(ctx.get(), w, ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, like->ne[0], 512));
            w->buffer = none.get();
            if (ggml_backend_dev_supports_op(dev, op)) {
                return buft;
            }
        }
        throw engine_error(error_kind::MODEL_FILE,
                           path + ": no product with weights of the type " + ggml_type_name(like->type));
    }

    // n_rows of a weight, followed by zeros up to a whole number of packed rows; buft: nullptr for the fastest
    ggml_tensor * new_matrix(ggml_type                  type,
                             int64_t                    n_cols,
                             int64_t                    n_rows,
                             std::vector<uint8_t>       bytes,
                             ggml_backend_buffer_type_t buft,
                             std::vector<buffer_ptr> &  buffers) {
        ggml_tensor * t = ggml_new_tensor_2d(weights.get(), type, n_cols, (n_rows + N_PACK - 1) / N_PACK * N_PACK);
        allocate(t, buft ? buft : matrix_buft(t), buffers);
        bytes.resize(ggml_nbytes(t));
        ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
        return t;
    }

    ggml_tensor * load_dense(weight_reader & file) {
        const weight_reader::matrix src = file.find("cls.weight", n_embd);
        return new_matrix(src.type, src.ne0, n_embd, file.rows(src, 0, n_embd), nullptr, buffers);
    }

    ggml_tensor * load_vector(const std::vector<float> & values) {
        if (values.empty()) {
            return nullptr;
        }
        ggml_tensor * t = ggml_new_tensor_1d(weights.get(), GGML_TYPE_F32, (int64_t) values.size());
        allocate(t, ggml_backend_dev_buffer_type(dev), buffers);
        ggml_backend_tensor_set(t, values.data(), 0, values.size() * sizeof(float));
        return t;
    }

    // dense, activation, norm: [n_embd, n_tokens]
    ggml_tensor * build_transform(ggml_context * ctx, ggml_tensor * cur) {
        if (dense) {
            cur = ggml_mul_mat(ctx, dense, cur);
            if (cur->ne[0] != n_embd) {
                cur = ggml_cont(ctx, ggml_view_2d(ctx, cur, n_embd, cur->ne[1], cur->nb[1], 0));
            }
            if (dense_b) {
                cur = ggml_add(ctx, cur, dense_b);
            }
            cur = act ? ggml_map_custom1(ctx, cur, op_activation, GGML_N_TASKS_MAX, &act) : ggml_gelu_erf(ctx, cur);
        }
        if (norm) {
            cur = ggml_mul(ctx, ggml_norm(ctx, cur, eps), norm);
            if (norm_b) {
                cur = ggml_add(ctx, cur, norm_b);
            }
        }
        return cur;
    }

    // outputs of n_tokens hidden rows, block by block: made(ctx, x, block) builds what is kept of a block,
    // take(tensor, offset, n) is given it
    void run(const float *                                                                        hidden,
             int64_t                                                                              n_tokens,
             const std::function<ggml_tensor *(ggml_context *, ggml_tensor * x, const block &)> & made,
             const std::function<void(const ggml_tensor *, int64_t offset, int64_t n)> &          take,
             const interrupt_fn &                                                                 interrupt) {
        const size_t   n_nodes = 16 + 4 * blocks.size();
        const ggml_ptr owner   = make_context(2 * n_nodes, n_nodes);
        ggml_context * ctx     = owner.get();
        ggml_cgraph *  gf      = ggml_new_graph_custom(ctx, n_nodes, false);

        ggml_tensor * inp = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_tokens);
        ggml_set_input(inp);
        ggml_tensor * x = build_transform(ctx, inp);
        ggml_set_output(x);

        std::vector<ggml_tensor *> res;
        for (const auto & block : blocks) {
            res.push_back(made(ctx, x, block));
            ggml_set_output(res.back());
            ggml_build_forward_expand(gf, res.back());
        }
        if (!ggml_gallocr_alloc_graph(galloc.get(), gf)) {
            throw engine_error(error_kind::MEMORY, "no memory for the head of " + std::to_string(n_tokens) + " tokens");
        }
        ggml_backend_tensor_set(inp, hidden, 0, ggml_nbytes(inp));

        if (set_abort) {
            set_abort(backend.get(), [](void * data) { return (*(const interrupt_fn *) data)(); }, (void *) &interrupt);
        }
        const ggml_status status = ggml_backend_graph_compute(backend.get(), gf);
        if (set_abort) {
            set_abort(backend.get(), nullptr, nullptr);
        }
        switch (status) {
            case GGML_STATUS_SUCCESS:
                break;
            case GGML_STATUS_ABORTED:
                throw engine_error(error_kind::INTERRUPTED, "interrupted");
            case GGML_STATUS_ALLOC_FAILED:
                throw std::bad_alloc();
            default:
                throw engine_error(error_kind::MODEL_FILE, path + ": llama.cpp failed to compute the head");
        }
        // of infinities the products might make what a maximum leaves out
        if (!all_finite((const float *) x->data, ggml_nelements(x))) {
            overflow();
        }
        for (size_t ib = 0; ib < blocks.size(); ++ib) {
            const int64_t offset = (int64_t) ib * N_BLOCK;
            take(res[ib], offset, std::min(N_BLOCK, n_out - offset));
        }
    }

    [[noreturn]] void overflow() const {
        throw engine_error(error_kind::MODEL_FILE,
                           path + ": the head computes NaN or infinity; its weights are finite but overflow");
    }

    // the largest output of each text -> dst, which holds what other tokens of it made
    void pool_max_screened(const float *                 hidden,
                           int64_t                       n_tokens,
                           const std::vector<text_run> & runs,
                           float *                       dst,
                           const interrupt_fn &          interrupt) {
        std::vector<screen_params> params(blocks.size());

        size_t        ib    = 0;
        ggml_tensor * round = nullptr; // of the tokens, once for all blocks

        run(
            hidden, n_tokens,
            [&](ggml_context * ctx, ggml_tensor * x, const block & of) {
                if (!round) {
                    round = ggml_custom_4d(ctx, GGML_TYPE_F32, sizeof(screen_token) / sizeof(float), n_tokens, 1, 1, &x,
                                           1, op_screen_round, GGML_N_TASKS_MAX, nullptr);
                }
                params[ib].w         = of.w;
                params[ib].bias      = (const float *) of.b->data;
                params[ib].rows      = &of.screen;
                params[ib].runs      = &runs;
                ggml_tensor * args[] = { ggml_mul_mat(ctx, of.screen_w, x), round, x };
                return ggml_custom_4d(ctx, GGML_TYPE_F32, of.w->ne[1], (int64_t) runs.size(), 1, 1, args, 3,
                                      op_pool_screened, GGML_N_TASKS_MAX, &params[ib++]);
            },
            [&](const ggml_tensor * t, int64_t offset, int64_t n_block) {
                take(t, offset, n_block, runs, head_pooling::MAX, dst);
            },
            interrupt);

        n_tried += n_tokens;
        for (const screen_params & p : params) {
            n_exact += p.n_exact;
        }
        if (n_tried >= N_TOKENS_TRIED && n_exact * N_SCREENED_MIN > n_tried * n_out) { // outputs too much alike
            stop_screening();
        }
    }

    // outputs of a block, pooled over the tokens of a product -> dst, which holds what other tokens of a text made
    void take(const ggml_tensor *           t,
              int64_t                       offset,
              int64_t                       n_block,
              const std::vector<text_run> & runs,
              head_pooling                  mode,
              float *                       dst) const {
        for (size_t ir = 0; ir < runs.size(); ++ir) {
            const float * src = (const float *) ((const char *) t->data + ir * t->nb[1]);
            float *       y   = dst + runs[ir].text * n_out + offset;
            for (int64_t i = 0; i < n_block; ++i) {
                y[i] = mode == head_pooling::SUM ? y[i] + src[i] : std::max(y[i], src[i]);
            }
        }
    }

    const std::string path;
    const bool        per_channel;

    int64_t n_embd = 0;
    int64_t n_out  = 0;
    float   eps    = 0.0f;
    act_fn  act    = nullptr;

    ggml_backend_dev_t                             dev = nullptr;
    std::unique_ptr<ggml_backend, backend_deleter> backend;
    std::unique_ptr<ggml_gallocr, galloc_deleter>  galloc;
    std::vector<ggml_backend_buffer_type_t>        bufts; // for products, the best first
    ggml_backend_set_abort_callback_t              set_abort = nullptr;

    ggml_ptr                weights;
    std::vector<buffer_ptr> buffers;

    ggml_tensor * dense   = nullptr;
    ggml_tensor * dense_b = nullptr;
    ggml_tensor * norm    = nullptr;
    ggml_tensor * norm_b  = nullptr;

    std::vector<block> blocks; // of the output layer
    bool               screened = false;
    int64_t            n_tried  = 0; // tokens that were screened
    int64_t            n_exact  = 0; // products that were then computed
};

head::head(const std::string & path, const head_params & params) : p(std::make_unique<impl>(path, params)) {}
head::~head() = default;

int64_t head::n_out() const {
    return p->n_out;
}

bool head::screened() const {
    return p->screened;
}

void head::rows(const float * hidden, int64_t n_rows, float * dst, const interrupt_fn & interrupt) {
    const int64_t n_out = p->n_out;

    for (int64_t i0 = 0; i0 < n_rows; i0 += N_TOKENS_MAX) {
        const int64_t n = std::min(N_TOKENS_MAX, n_rows - i0);

        p->run(
            hidden + i0 * p->n_embd, n,
            [](ggml_context * ctx, ggml_tensor * x, const block & of) {
                return ggml_add(ctx, ggml_mul_mat(ctx, of.w, x), of.b);
            },
            [&](const ggml_tensor * t, int64_t offset, int64_t n_block) {
                for (int64_t i = 0; i < n; ++i) {
                    memcpy(dst + (i0 + i) * n_out + offset, (const char *) t->data + i * t->nb[1],
                           n_block * sizeof(float));
                }
            },
            interrupt);
    }
    if (!all_finite(dst, n_rows * n_out)) {
        p->overflow();
    }
}

void head::pool(const float *                hidden,
                const std::vector<int32_t> & n_tokens,
                head_pooling                 mode,
                bool                         log1p_twice,
                float *                      dst,
                const interrupt_fn &         interrupt) {
    const int64_t n_out   = p->n_out;
    const int64_t n_texts = (int64_t) n_tokens.size();
    std::fill_n(dst, n_texts * n_out, 0.0f); // what relu leaves of a text whose outputs are all negative

    int64_t text = 0;
    int64_t done = 0; // tokens of this text
    while (text < n_texts) {
        pool_params params{ mode, log1p_twice, {} };
        int64_t     n = 0;
        while (text < n_texts && n < N_TOKENS_MAX) {
            const int64_t n_run = std::min<int64_t>(n_tokens[text] - done, N_TOKENS_MAX - n);
            params.runs.push_back({ text, n_run });
            n += n_run;
            done += n_run;
            if (done == n_tokens[text]) {
                ++text;
                done = 0;
            }
        }
        if (mode == head_pooling::MAX && p->screened) {
            p->pool_max_screened(hidden, n, params.runs, dst, interrupt);
        } else {
            p->run(
                hidden, n,
                [&](ggml_context * ctx, ggml_tensor * x, const block & of) {
                    ggml_tensor * args[] = { ggml_mul_mat(ctx, of.w, x), of.b };
                    return ggml_custom_4d(ctx, GGML_TYPE_F32, of.w->ne[1], (int64_t) params.runs.size(), 1, 1, args, 2,
                                          op_pool, GGML_N_TASKS_MAX, &params);
                },
                [&](const ggml_tensor * t, int64_t offset, int64_t n_block) {
                    p->take(t, offset, n_block, params.runs, mode, dst);
                },
                interrupt);
        }
        hidden += n * p->n_embd;
    }

    if (!all_finite(dst, n_texts * n_out)) {
        p->overflow();
    }
    if (mode == head_pooling::MAX) {
        for (int64_t i = 0; i < n_texts * n_out; ++i) {
            if (dst[i] > 0.0f) {
                const double v = std::log1p((double) dst[i]);
                dst[i]         = (float) (log1p_twice ? std::log1p(v) : v);
            }
        }
    }
}
