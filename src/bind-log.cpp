#include "bind-engine.h"
#include "log.h"

#include "llama.h"

#include <atomic>
#include <cstring>

namespace py = pybind11;

namespace {

// set while Python can be called; cleared at exit, after which messages are dropped
std::atomic<PyObject *> log_callback{ nullptr };

// llama.cpp's levels as those of Python's logging; a continued line keeps the level before it
int python_level(ggml_log_level level) {
    static thread_local int last = 10;
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG:
            last = 10;
            break;
        case GGML_LOG_LEVEL_INFO:
            last = 10;
            break; // chatter of every load: for --verbose only
        case GGML_LOG_LEVEL_WARN:
            last = 20;
            break;
        case GGML_LOG_LEVEL_ERROR:
            last = 40;
            break;
        default:
            break;
    }
    return last;
}

void forward(ggml_log_level level, const char * text, void *) {
    log_note(level == GGML_LOG_LEVEL_ERROR, text);
    if (!log_callback.load() || !Py_IsInitialized()) {
        return;
    }
    const int lvl = python_level(level);

    py::gil_scoped_acquire gil;
    // the log must not disturb an exception that is on its way
    py::error_scope scope;
    try {
        PyObject * callback = log_callback.load();
        if (callback) {
            py::reinterpret_borrow<py::object>(callback)(
                lvl, py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(text, (py::ssize_t) strlen(text), "replace")));
        }
    } catch (py::error_already_set & e) {
        // Ctrl-C while the callback ran: kept for whoever asks next
        if (e.matches(PyExc_KeyboardInterrupt)) {
            PyErr_SetInterrupt();
        } else {
            e.discard_as_unraisable("modernbert_llama log");
        }
    }
}

} // namespace

void register_log(py::module_ & m) {
    m.def(
        "set_log",
        [](const py::object & callback) {
            PyObject * old = log_callback.exchange(callback.is_none() ? nullptr : callback.inc_ref().ptr());
            if (old) {
                py::handle(old).dec_ref();
            }
            llama_log_set(forward, nullptr);
        },
        py::arg("callback").none(true), "Send llama.cpp's log to callback(level, text); None drops it.");
}
