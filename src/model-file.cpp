#include "model-file.h"

#include "error.h"
#include "ggml-ptr.h"
#include "log.h"

#include "ggml.h"
#include "gguf.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <unordered_set>
#include <vector>

namespace {

struct file_deleter {
    void operator()(FILE * f) const { fclose(f); }
};

using file_ptr = std::unique_ptr<FILE, file_deleter>;

// the widest limits that llama.cpp itself can hold
constexpr int64_t N_LAYER_MAX = 512;
constexpr int64_t N_EMBD_MAX  = 1 << 16;
constexpr int64_t N_VOCAB_MAX = 1 << 22;

struct model_file {
    std::string path;
    gguf_ptr    gguf;
    ggml_ptr    meta;

    [[noreturn]] void fail(const std::string & msg) const {
        throw engine_error(error_kind::MODEL_FILE, path + ": " + msg);
    }

    static model_file open(const std::string & path) {
        file_ptr f(fopen(path.c_str(), "rb"));
        if (!f) {
            throw engine_error(errno == ENOMEM ? error_kind::MEMORY : error_kind::NOT_FOUND,
                               path + ": " + strerror(errno));
        }

        model_file res;
        res.path = path;

        char magic[4] = {};
        if (fread(magic, 1, sizeof(magic), f.get()) != sizeof(magic) || memcmp(magic, "GGUF", sizeof(magic)) != 0) {
            res.fail(
                "not a GGUF file (it does not begin with 'GGUF'); convert a checkpoint with: modernbert-llama convert");
        }
        f.reset();

        log_take_error();
        ggml_context * meta = nullptr;
        try {
            res.gguf.reset(gguf_init_from_file(path.c_str(), { /*.no_alloc =*/true, /*.ctx =*/&meta }));
        } catch (const std::length_error & e) {
            log_note(true, e.what()); // an old reader trusts the length of a string
        }
        res.meta.reset(meta);
        if (!res.gguf) {
            res.fail("the GGUF header is damaged or truncated (" + log_take_error() +
                     "); convert or download it again");
        }
        return res;
    }

    // the value of a required unsigned 32-bit key within [lo, hi]
    int64_t get_u32(const std::string & key, int64_t lo, int64_t hi) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0) {
            fail("key '" + key + "' is missing");
        }
        if (gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_UINT32) {
            fail("key '" + key + "' is not a 32-bit unsigned integer");
        }
        const int64_t v = gguf_get_val_u32(gguf.get(), id);
        if (v < lo || v > hi) {
            fail("key '" + key + "' is " + std::to_string(v) + ", outside " + std::to_string(lo) + " to " +
                 std::to_string(hi));
        }
        return v;
    }

    bool has(const std::string & key) const { return gguf_find_key(gguf.get(), key.c_str()) >= 0; }

    void check_f32(const std::string & key, bool required) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0) {
            if (required) {
                fail("key '" + key + "' is missing");
            }
            return;
        }
        if (gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_FLOAT32) {
            fail("key '" + key + "' is not a 32-bit float");
        }
        const float v = gguf_get_val_f32(gguf.get(), id);
        if (!std::isfinite(v) || v <= 0.0f) {
            fail("key '" + key + "' is not a positive number");
        }
    }

    // llama.cpp asserts that the type is one that it knows, and divides by the factor
    void check_rope_scaling(const std::string & prefix, const std::string & suffix) const {
        const std::string key  = prefix + "type" + suffix;
        const std::string type = has(key) ? get_str(key) : "none";
        if (type != "none" && type != "linear" && type != "yarn") {
            fail("key '" + key + "' is '" + type + "', expected 'none', 'linear' or 'yarn'");
        }
        check_f32(prefix + "factor" + suffix, type != "none" && !suffix.empty());
        for (const char * name : { "attn_factor", "yarn_beta_fast", "yarn_beta_slow" }) {
            check_f32(prefix + name + suffix, false);
        }
        if (has(prefix + "original_context_length" + suffix)) {
            get_u32(prefix + "original_context_length" + suffix, 1, 1 << 24);
        }
        if (type != "none" && !LLAMA_HAS_ROPE_SCALING_SWA) {
            fail("key '" + key + "' is '" + type + "': this llama.cpp lacks the patch for RoPE scaling");
        }
    }

    std::string get_str(const std::string & key) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0 || gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_STRING) {
            fail("key '" + key + "' is missing or not a string");
        }
        return gguf_get_val_str(gguf.get(), id);
    }

    // the length of a required array of the given element type
    int64_t get_arr_n(const std::string & key, gguf_type type) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0 || gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_ARRAY ||
            gguf_get_arr_type(gguf.get(), id) != type) {
            fail("key '" + key + "' is missing or not an array of " + gguf_type_name(type));
        }
        return gguf_get_arr_n(gguf.get(), id);
    }

    bool get_bool(const std::string & key, bool fallback) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0) {
            return fallback;
        }
        if (gguf_get_kv_type(gguf.get(), id) != GGUF_TYPE_BOOL) {
            fail("key '" + key + "' is not a boolean");
        }
        return gguf_get_val_bool(gguf.get(), id);
    }

    void check_vocab(int64_t n_vocab) const {
        const std::string model = get_str("tokenizer.ggml.model");

        static const char * special[] = { "bos", "eos", "unknown", "seperator", "padding", "cls", "mask" };
        for (const char * name : special) {
            const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
            if (has(key)) {
                get_u32(key, 0, n_vocab - 1);
            }
        }

        if (model == "none" || model == "no_vocab") {
            get_u32(get_str("general.architecture") + ".vocab_size", n_vocab, n_vocab);
            return;
        }
        if (model != "gpt2" && model != "gemma4" && model != "llama" && model != "t5" && model != "bert") {
            fail("key 'tokenizer.ggml.model' is '" + model +
                 "', expected 'gpt2', 'gemma4', 'llama', 't5', 'bert' or 'none'");
        }

        const std::unordered_set<std::string> tokens = check_tokens(n_vocab);

        if (model == "gpt2" || model == "gemma4") {
            get_arr_n("tokenizer.ggml.merges", GGUF_TYPE_STRING);
        }
        if (model == "llama") {
            // any byte of a text may have to become one of these
            static const char * hex = "0123456789ABCDEF";
            for (int b = 0; b < 256; ++b) {
                const std::string token = std::string("<0x") + hex[b >> 4] + hex[b & 15] + ">";
                if (tokens.find(token) == tokens.end()) {
                    fail("key 'tokenizer.ggml.tokens' lacks the token '" + token + "'");
                }
            }
        }
        if (model == "t5") {
            require_id("unknown");
        }

        // llama.cpp asserts that a token which it is to add exists
        const std::string pre   = has("tokenizer.ggml.pre") ? get_str("tokenizer.ggml.pre") : "";
        const bool        gemma = model == "gemma4" || pre == "gemma4" || pre == "granite-embed-multi-311m";
        if (model == "bert") {
            require_id("bos");
            require_id("seperator");
        } else if (model == "t5" || gemma) {
            if (gemma || get_bool("tokenizer.ggml.add_bos_token", false)) {
                require_id("bos");
            }
            if (get_bool("tokenizer.ggml.add_eos_token", model == "t5")) {
                require_id("eos");
            }
        }
    }

    void require_id(const std::string & name) const {
        const std::string key = "tokenizer.ggml." + name + "_token_id";
        if (!has(key)) {
            fail("key '" + key + "' is missing");
        }
    }

    // the texts of the tokens: llama.cpp asserts that every one is another
    std::unordered_set<std::string> check_tokens(int64_t n_vocab) const {
        const int64_t n_tokens = get_arr_n("tokenizer.ggml.tokens", GGUF_TYPE_STRING);
        if (n_tokens != n_vocab) {
            fail("key 'tokenizer.ggml.tokens' holds " + std::to_string(n_tokens) + " tokens, but the embedding has " +
                 std::to_string(n_vocab) + " rows");
        }
        const int64_t                   id_tokens = gguf_find_key(gguf.get(), "tokenizer.ggml.tokens");
        std::unordered_set<std::string> seen;
        for (int64_t i = 0; i < n_tokens; ++i) {
            if (!seen.insert(gguf_get_arr_str(gguf.get(), id_tokens, i)).second) {
                fail("key 'tokenizer.ggml.tokens' holds the token " + std::to_string(i) + " twice");
            }
        }
        if (has("tokenizer.ggml.token_type") && get_arr_n("tokenizer.ggml.token_type", GGUF_TYPE_INT32) != n_vocab) {
            fail("key 'tokenizer.ggml.token_type' does not have one entry a token");
        }
        return seen;
    }

    void check_tensor(std::map<std::string, const ggml_tensor *> & found,
                      const std::string &                          name,
                      int64_t                                      ne0,
                      int64_t                                      ne1,
                      bool                                         required) const {
        const auto it = found.find(name);
        if (it == found.end()) {
            if (required) {
                fail("tensor '" + name + "' is missing");
            }
            return;
        }
        const ggml_tensor * t = it->second;
        if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != 1 || t->ne[3] != 1) {
            fail("tensor '" + name + "' has the shape [" + std::to_string(t->ne[0]) + ", " + std::to_string(t->ne[1]) +
                 "], expected [" + std::to_string(ne0) + ", " + std::to_string(ne1) + "]");
        }
        // a matrix of one row is no vector
        if (ne1 == 1 && t->type != GGML_TYPE_F32 && name != "cls.output.weight") {
            fail("tensor '" + name + "' is " + ggml_type_name(t->type) + ", expected f32");
        }
        found.erase(it);
    }

    // weights of the head that llama.cpp must not see, or cannot hold
    void check_head_array(const std::string & name, int64_t n) const {
        const std::string key = "modernbert_llama.head." + name;
        if (has(key) && get_arr_n(key, GGUF_TYPE_FLOAT32) != n) {
            fail("key '" + key + "' does not have " + std::to_string(n) + " values");
        }
    }

    // the head of a reranker, a classifier or a masked language model beside the encoder
    void check_head(std::map<std::string, const ggml_tensor *> & found,
                    const std::string &                          arch,
                    int64_t                                      n_embd,
                    int64_t                                      n_vocab) const {
        const std::string key_labels = arch + ".classifier.output_labels";
        const int64_t     n_labels   = has(key_labels) ? get_arr_n(key_labels, GGUF_TYPE_STRING) : 1;

        check_tensor(found, "cls.weight", n_embd, n_embd, false);
        check_tensor(found, "cls.bias", n_embd, 1, false);
        check_tensor(found, "cls.norm.weight", n_embd, 1, false);
        check_tensor(found, "cls.norm.bias", n_embd, 1, false);
        check_tensor(found, "cls.output.weight", n_embd, n_labels, false);
        check_tensor(found, "cls.output.bias", n_labels, 1, false);
        check_tensor(found, "output.weight", n_embd, n_vocab, false);
        check_head_array("cls.weight", n_embd * n_embd);
        check_head_array("cls.bias", n_embd);
        check_head_array("cls.norm.weight", n_embd);
        check_head_array("cls.norm.bias", n_embd);
        check_head_array("cls.output.weight", n_embd * n_labels);
        check_head_array("cls.output.bias", n_labels);
        check_head_array("decoder.bias", n_vocab);

        for (const char * key : { "modernbert_llama.task", "modernbert_llama.head.activation" }) {
            if (has(key)) {
                get_str(key);
            }
        }
    }
};

} // namespace

void model_file_check(const std::string & path) {
    const model_file mf = model_file::open(path);

    const std::string arch = mf.get_str("general.architecture");
    if (arch != "modern-bert" && arch != "modernbert") {
        mf.fail("the architecture is '" + arch + "', expected 'modern-bert' or 'modernbert'");
    }
    const auto key   = [&](const char * name) { return arch + "." + name; };
    const bool split = arch == "modernbert";

    const int64_t n_layer = mf.get_u32(key("block_count"), 1, N_LAYER_MAX);
    const int64_t n_embd  = mf.get_u32(key("embedding_length"), 1, N_EMBD_MAX);
    const int64_t n_ff    = mf.get_u32(key("feed_forward_length"), 1, 4 * N_EMBD_MAX);
    const int64_t n_head  = mf.get_u32(key("attention.head_count"), 1, n_embd);
    mf.get_u32(key("context_length"), 1, 1 << 24);

    if (n_embd % n_head != 0 || (n_embd / n_head) % 2 != 0) {
        mf.fail("key '" + key("attention.head_count") +
                "' does not divide the embedding length into heads of even size");
    }

    mf.check_f32(key("attention.layer_norm_epsilon"), true);
    mf.check_f32(key(split ? "rope.freq_base_global" : "rope.freq_base"), split);
    mf.check_f32(key(split ? "rope.freq_base_local" : "rope.freq_base_swa"), split);

    const std::string key_window = key(split ? "attention.local_attn_window" : "attention.sliding_window");
    if (mf.has(key_window)) {
        mf.get_u32(key_window, 0, std::numeric_limits<int32_t>::max());
    }
    mf.check_rope_scaling(key("rope.scaling."), "");
    mf.check_rope_scaling(key("rope.scaling."), "_swa");
    if (mf.has(key("pooling_type"))) {
        mf.get_u32(key("pooling_type"), 0, 4);
    }

    // llama.cpp asserts on these, and the architecture has no use for them
    static const char * foreign[] = {
        "expert_count",         "expert_used_count",    "expert_group_count",     "expert_group_used_count",
        "nextn_predict_layers", "attention.key_length", "attention.value_length", "attention.head_count_kv",
        "rope.dimension_count", "embedding_length_out", "attention.clamp_kqv",
    };
    for (const char * name : foreign) {
        if (mf.has(key(name))) {
            mf.fail("key '" + key(name) + "' does not belong to this architecture");
        }
    }

    std::map<std::string, const ggml_tensor *> found;
    const int64_t                              n_tensors = gguf_get_n_tensors(mf.gguf.get());

    FILE * f = fopen(path.c_str(), "rb");
    if (!f) {
        throw engine_error(error_kind::NOT_FOUND, path + ": " + strerror(errno));
    }
    file_ptr file(f);
#ifdef _WIN32
    _fseeki64(f, 0, SEEK_END);
    const int64_t n_bytes = _ftelli64(f);
#else
    fseeko(f, 0, SEEK_END);
    const int64_t n_bytes = ftello(f);
#endif

    for (int64_t i = 0; i < n_tensors; ++i) {
        const char *        name = gguf_get_tensor_name(mf.gguf.get(), i);
        const ggml_tensor * t    = ggml_get_tensor(mf.meta.get(), name);

        const uint64_t end = gguf_get_data_offset(mf.gguf.get()) + gguf_get_tensor_offset(mf.gguf.get(), i) +
                             gguf_get_tensor_size(mf.gguf.get(), i);
        if (end > (uint64_t) n_bytes) {
            mf.fail(std::string("the file ends inside tensor '") + name + "': it is truncated");
        }
        found[name] = t;
    }

    if (found.find("token_embd.weight") == found.end()) {
        mf.fail("tensor 'token_embd.weight' is missing");
    }
    const int64_t n_vocab = found["token_embd.weight"]->ne[1];
    if (n_vocab > N_VOCAB_MAX) {
        mf.fail("tensor 'token_embd.weight' has too many rows");
    }
    mf.check_vocab(n_vocab);

    const std::string key_pattern = key("attention.sliding_window_pattern");
    const std::string key_every   = split ? key("attention.global_attn_every_n_layers") : key_pattern;

    const int64_t id_pattern = gguf_find_key(mf.gguf.get(), key_pattern.c_str());
    if (id_pattern >= 0 && gguf_get_kv_type(mf.gguf.get(), id_pattern) == GGUF_TYPE_ARRAY) {
        const gguf_type type = gguf_get_arr_type(mf.gguf.get(), id_pattern);
        if (type != GGUF_TYPE_BOOL && type != GGUF_TYPE_UINT32 && type != GGUF_TYPE_INT32) {
            mf.fail("key '" + key_pattern + "' is not an array of bool");
        }
        if ((int64_t) gguf_get_arr_n(mf.gguf.get(), id_pattern) != n_layer) {
            mf.fail("key '" + key_pattern + "' does not have one entry a layer");
        }
    } else if (mf.has(key_every)) {
        mf.get_u32(key_every, 0, N_LAYER_MAX);
    }

    const auto check = [&](const std::string & name, int64_t n_in, int64_t n_out, bool required = true) {
        mf.check_tensor(found, name + ".weight", n_in, n_out, required);
        mf.check_tensor(found, name + ".bias", n_out, 1, false);
    };
    const auto check_norm = [&](const std::string & name, bool required = true) {
        mf.check_tensor(found, name + ".weight", n_embd, 1, required);
        mf.check_tensor(found, name + ".bias", n_embd, 1, false);
    };

    check("token_embd", n_embd, n_vocab);
    check_norm("token_embd_norm");
    check_norm("output_norm");

    for (int64_t il = 0; il < n_layer; ++il) {
        const std::string blk = "blk." + std::to_string(il) + ".";

        check_norm(blk + "attn_norm", il != 0);
        check(blk + "attn_qkv", n_embd, 3 * n_embd);
        check(blk + "attn_output", n_embd, n_embd);
        check_norm(blk + "ffn_norm");
        if (split) {
            check(blk + "ffn_gate", n_embd, n_ff);
        }
        check(blk + "ffn_up", n_embd, split ? n_ff : 2 * n_ff);
        check(blk + "ffn_down", n_ff, n_embd);
    }

    mf.check_head(found, arch, n_embd, n_vocab);

    if (!found.empty()) {
        mf.fail("tensor '" + found.begin()->first + "' does not belong to this architecture");
    }
}

std::string model_file_find_non_finite(const std::string & path) {
    const model_file mf = model_file::open(path);

    file_ptr f(fopen(path.c_str(), "rb"));
    if (!f) {
        return "";
    }

    std::vector<uint8_t> data;
    std::vector<float>   row;

    for (int64_t i = 0; i < gguf_get_n_tensors(mf.gguf.get()); ++i) {
        const char *                    name   = gguf_get_tensor_name(mf.gguf.get(), i);
        const ggml_tensor *             t      = ggml_get_tensor(mf.meta.get(), name);
        const struct ggml_type_traits * traits = ggml_get_type_traits(t->type);
        const size_t offset = gguf_get_data_offset(mf.gguf.get()) + gguf_get_tensor_offset(mf.gguf.get(), i);

        data.resize(ggml_nbytes(t));
        row.resize(t->ne[0]);
#ifdef _WIN32
        _fseeki64(f.get(), (int64_t) offset, SEEK_SET);
#else
        fseeko(f.get(), (off_t) offset, SEEK_SET);
#endif
        if (fread(data.data(), 1, data.size(), f.get()) != data.size()) {
            return name;
        }
        for (int64_t ir = 0; ir < ggml_nrows(t); ++ir) {
            const uint8_t * src = data.data() + ir * t->nb[1];
            if (t->type == GGML_TYPE_F32) {
                memcpy(row.data(), src, row.size() * sizeof(float));
            } else {
                traits->to_float(src, row.data(), t->ne[0]);
            }
            for (const float v : row) {
                if (!std::isfinite(v)) {
                    return name;
                }
            }
        }
    }
    return "";
}
