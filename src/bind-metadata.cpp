#include "bind-engine.h"
#include "error.h"

#include "ggml.h"
#include "gguf.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

namespace py = pybind11;

namespace {

py::object decode(const char * text) {
    return py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(text, (py::ssize_t) strlen(text), "replace"));
}

py::object scalar(gguf_type type, const void * data, size_t i) {
    switch (type) {
        case GGUF_TYPE_UINT8:
            return py::int_(((const uint8_t *) data)[i]);
        case GGUF_TYPE_INT8:
            return py::int_(((const int8_t *) data)[i]);
        case GGUF_TYPE_UINT16:
            return py::int_(((const uint16_t *) data)[i]);
        case GGUF_TYPE_INT16:
            return py::int_(((const int16_t *) data)[i]);
        case GGUF_TYPE_UINT32:
            return py::int_(((const uint32_t *) data)[i]);
        case GGUF_TYPE_INT32:
            return py::int_(((const int32_t *) data)[i]);
        case GGUF_TYPE_UINT64:
            return py::int_(((const uint64_t *) data)[i]);
        case GGUF_TYPE_INT64:
            return py::int_(((const int64_t *) data)[i]);
        case GGUF_TYPE_FLOAT32:
            return py::float_(((const float *) data)[i]);
        case GGUF_TYPE_FLOAT64:
            return py::float_(((const double *) data)[i]);
        case GGUF_TYPE_BOOL:
            return py::bool_(((const int8_t *) data)[i] != 0);
        default:
            return py::none();
    }
}

// every key of a GGUF file that model_file_check has passed, but for the strings of the vocabulary
py::dict read_metadata(const std::string & path) {
    const std::unique_ptr<gguf_context, void (*)(gguf_context *)> ctx(
        gguf_init_from_file(path.c_str(), { true, nullptr }), gguf_free);

    py::dict res;
    for (int64_t i = 0; ctx && i < gguf_get_n_kv(ctx.get()); ++i) {
        const py::object key  = decode(gguf_get_key(ctx.get(), i));
        const gguf_type  type = gguf_get_kv_type(ctx.get(), i);

        if (type == GGUF_TYPE_STRING) {
            res[key] = decode(gguf_get_val_str(ctx.get(), i));
        } else if (type != GGUF_TYPE_ARRAY) {
            res[key] = scalar(type, gguf_get_val_data(ctx.get(), i), 0);
        } else if (gguf_get_arr_type(ctx.get(), i) == GGUF_TYPE_FLOAT32) {
            // weights of the modules behind the pooling
            res[key] =
                py::array_t<float>(gguf_get_arr_n(ctx.get(), i), (const float *) gguf_get_arr_data(ctx.get(), i));
        } else if (gguf_get_arr_type(ctx.get(), i) == GGUF_TYPE_STRING) {
            if (strncmp(gguf_get_key(ctx.get(), i), "tokenizer.", 10) == 0) {
                continue;
            }
            py::list items;
            for (size_t j = 0; j < gguf_get_arr_n(ctx.get(), i); ++j) {
                items.append(decode(gguf_get_arr_str(ctx.get(), i, j)));
            }
            res[key] = items;
        } else {
            py::list items;
            for (size_t j = 0; j < gguf_get_arr_n(ctx.get(), i); ++j) {
                items.append(scalar(gguf_get_arr_type(ctx.get(), i), gguf_get_arr_data(ctx.get(), i), j));
            }
            res[key] = items;
        }
    }
    return res;
}

// the F32 tensors of such a file whose names begin with prefix, in numpy's order of dimensions; others are left out
py::dict read_tensors(const std::string & path, const std::string & prefix) {
    ggml_context *                                                meta = nullptr;
    const std::unique_ptr<gguf_context, void (*)(gguf_context *)> ctx(
        gguf_init_from_file(path.c_str(), { true, &meta }), gguf_free);
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> owner(meta, ggml_free);

    py::dict res;
    for (int64_t i = 0; ctx && i < gguf_get_n_tensors(ctx.get()); ++i) {
        const char *        name = gguf_get_tensor_name(ctx.get(), i);
        const ggml_tensor * t    = ggml_get_tensor(meta, name);
        if (strncmp(name, prefix.c_str(), prefix.size()) != 0 || t->type != GGML_TYPE_F32) {
            continue;
        }
        std::vector<py::ssize_t> shape;
        for (int dim = ggml_n_dims(t) - 1; dim >= 0; --dim) {
            shape.push_back(t->ne[dim]);
        }
        py::array_t<float> values(shape);

        std::ifstream file(path, std::ios::binary);
        file.seekg((std::streamoff)(gguf_get_data_offset(ctx.get()) + gguf_get_tensor_offset(ctx.get(), i)));
        file.read((char *) values.mutable_data(), (std::streamsize) ggml_nbytes(t));
        if (!file) {
            throw engine_error(error_kind::MODEL_FILE, path + ": tensor '" + name + "' cannot be read");
        }
        res[decode(name)] = values;
    }
    return res;
}

} // namespace

void register_metadata(py::module_ & m) {
    m.def("read_metadata", read_metadata, py::arg("path"));
    m.def("read_tensors", read_tensors, py::arg("path"), py::arg("prefix"));
}
