#include "weight-reader.h"

#include "error.h"
#include "pooling.h"

#include <cstring>

namespace {

bool finite(const weight_reader::matrix & m, const std::vector<uint8_t> & bytes) {
    // an exponent of ones is infinity or NaN
    const auto half = [&](size_t step, uint16_t mask) {
        uint16_t u;
        for (size_t i = 0; i + sizeof(u) <= bytes.size(); i += step) {
            memcpy(&u, bytes.data() + i, sizeof(u));
            if ((u & mask) == mask) {
                return false;
            }
        }
        return true;
    };
    switch (m.type) {
        case GGML_TYPE_F32:
            return all_finite((const float *) bytes.data(), (int64_t) (bytes.size() / sizeof(float)));
        case GGML_TYPE_F16:
            return half(sizeof(uint16_t), 0x7c00);
        case GGML_TYPE_BF16:
            return half(sizeof(uint16_t), 0x7f80);
        case GGML_TYPE_Q8_0: // blocks that begin with their scale
            return half(ggml_type_size(GGML_TYPE_Q8_0), 0x7c00);
        default: {
            std::vector<float> row(m.ne0);
            for (size_t i = 0; i < bytes.size(); i += ggml_row_size(m.type, m.ne0)) {
                ggml_get_type_traits(m.type)->to_float(bytes.data() + i, row.data(), m.ne0);
                if (!all_finite(row.data(), m.ne0)) {
                    return false;
                }
            }
            return true;
        }
    }
}

} // namespace

weight_reader::weight_reader(const std::string & path) : path(path), file(path, std::ios::binary) {
    ggml_context * ctx = nullptr;
    gguf.reset(gguf_init_from_file(path.c_str(), { /*.no_alloc =*/true, /*.ctx =*/&ctx }));
    meta.reset(ctx);
    if (!gguf || !file) {
        fail("cannot be read");
    }
}

void weight_reader::fail(const std::string & msg) const {
    throw engine_error(error_kind::MODEL_FILE, path + ": " + msg);
}

weight_reader::matrix weight_reader::find(const std::string & name, int64_t n_embd) const {
    if (const ggml_tensor * t = ggml_get_tensor(meta.get(), name.c_str())) {
        return { name, t->type, t->ne[0], t->ne[1] };
    }
    const int64_t id = find_array(name);
    return { name, GGML_TYPE_F32, n_embd, id < 0 ? 0 : (int64_t) gguf_get_arr_n(gguf.get(), id) / n_embd };
}

bool weight_reader::has(const std::string & name) const {
    return ggml_get_tensor(meta.get(), name.c_str()) || find_array(name) >= 0;
}

std::string weight_reader::str(const std::string & key, const std::string & fallback) const {
    const int64_t id = gguf_find_key(gguf.get(), key.c_str());
    return id >= 0 && gguf_get_kv_type(gguf.get(), id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf.get(), id)
                                                                           : fallback;
}

int64_t weight_reader::u32(const std::string & key) const {
    return gguf_get_val_u32(gguf.get(), gguf_find_key(gguf.get(), key.c_str()));
}

float weight_reader::f32(const std::string & key, float fallback) const {
    const int64_t id = gguf_find_key(gguf.get(), key.c_str());
    return id >= 0 && gguf_get_kv_type(gguf.get(), id) == GGUF_TYPE_FLOAT32 ? gguf_get_val_f32(gguf.get(), id)
                                                                            : fallback;
}

std::vector<uint8_t> weight_reader::rows(const matrix & m, int64_t begin, int64_t end) {
    const size_t         row_size = ggml_row_size(m.type, m.ne0);
    std::vector<uint8_t> res((end - begin) * row_size);

    const int64_t id = gguf_find_tensor(gguf.get(), m.name.c_str());
    if (id < 0) {
        memcpy(res.data(), (const char *) gguf_get_arr_data(gguf.get(), find_array(m.name)) + begin * row_size,
               res.size());
    } else {
        const size_t offset = gguf_get_data_offset(gguf.get()) + gguf_get_tensor_offset(gguf.get(), id);
        file.seekg((std::streamoff)(offset + begin * row_size));
        file.read((char *) res.data(), (std::streamsize) res.size());
        if (!file) {
            fail("tensor '" + m.name + "' cannot be read");
        }
    }
    if (!finite(m, res)) {
        fail("'" + m.name + "' holds NaN or infinity");
    }
    return res;
}

std::vector<float> weight_reader::vector(const std::string & name) {
    const ggml_tensor * t  = ggml_get_tensor(meta.get(), name.c_str());
    const int64_t       id = find_array(name);
    if (!t && id < 0) {
        return {};
    }
    const int64_t              n     = t ? t->ne[0] : (int64_t) gguf_get_arr_n(gguf.get(), id);
    const std::vector<uint8_t> bytes = rows({ name, GGML_TYPE_F32, n, 1 }, 0, 1);
    std::vector<float>         res(n);
    memcpy(res.data(), bytes.data(), bytes.size());
    return res;
}

int64_t weight_reader::find_array(const std::string & name) const {
    return gguf_find_key(gguf.get(), ("modernbert_llama.head." + name).c_str());
}
