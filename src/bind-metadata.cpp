#include "bind-engine.h"

#include "gguf.h"

#include <pybind11/stl.h>

#include <cstring>
#include <memory>

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

// every key of a GGUF file that model_file_check has passed, but for arrays of strings (the vocabulary)
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
        } else if (gguf_get_arr_type(ctx.get(), i) != GGUF_TYPE_STRING) {
            py::list items;
            for (size_t j = 0; j < gguf_get_arr_n(ctx.get(), i); ++j) {
                items.append(scalar(gguf_get_arr_type(ctx.get(), i), gguf_get_arr_data(ctx.get(), i), j));
            }
            res[key] = items;
        }
    }
    return res;
}

} // namespace

void register_metadata(py::module_ & m) {
    m.def("read_metadata", read_metadata, py::arg("path"));
}
