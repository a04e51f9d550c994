#include "bind-run.h"

namespace py = pybind11;

bool interrupt_check::operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (pending || now - last < std::chrono::milliseconds(50)) {
        return pending;
    }
    last = now;

    py::gil_scoped_acquire gil;
    pending = PyErr_CheckSignals() != 0;
    if (pending) {
        error = std::make_unique<py::error_already_set>();
    }
    return pending;
}

void interrupt_check::rethrow() {
    if (error) {
        throw *error;
    }
}

void raise(const engine_error & e) {
    const char * name = "ModernBertLlamaError";
    switch (e.kind) {
        case error_kind::INPUT:
            name = "InputError";
            break;
        case error_kind::MODEL_FILE:
            name = "ModelFileError";
            break;
        case error_kind::NOT_FOUND:
            name = "ModelNotFoundError";
            break;
        case error_kind::OUTPUT:
            name = "ConversionError";
            break;
        case error_kind::MEMORY:
            name = "OutOfMemoryError";
            break;
        case error_kind::INTERRUPTED:
            name = "ModernBertLlamaError";
            break;
    }
    // a damaged file may put bytes into the message that are no UTF-8
    const std::string what = e.what();
    const auto        message =
        py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(what.data(), (py::ssize_t) what.size(), "replace"));
    PyErr_SetObject(py::module_::import("modernbert_llama.errors").attr(name).ptr(), message.ptr());
    throw py::error_already_set();
}
