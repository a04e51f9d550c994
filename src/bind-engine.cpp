#include "bind-engine.h"

#include "batch-plan.h"
#include "engine.h"
#include "error.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>

namespace py = pybind11;

namespace {

using ids_list = std::vector<std::vector<int32_t>>;

// Lets Ctrl-C stop native code that runs without the GIL: asked often, it looks at Python's signals every 50 ms.
// Only Python's main thread handles signals; in any other thread it never stops the run.
class interrupt_check {
public:
    bool operator()() {
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

    // the exception that the signal handler raised (KeyboardInterrupt)
    void rethrow() {
        if (error) {
            throw *error;
        }
    }

private:
    std::chrono::steady_clock::time_point  last = std::chrono::steady_clock::now();
    std::unique_ptr<py::error_already_set> error;
    bool                                   pending = false;
};

[[noreturn]] void raise(const engine_error & e) {
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

// run a native call without the GIL, with Ctrl-C, and turn its errors into Python's
template <typename F> auto run(F && f) {
    interrupt_check            check;
    const engine::interrupt_fn interrupt = [&check] { return check(); };
    try {
        py::gil_scoped_release release;
        return f(interrupt);
    } catch (const engine_error & e) {
        check.rethrow();
        raise(e);
    } catch (const std::bad_alloc &) {
        raise(engine_error(error_kind::MEMORY, "out of memory"));
    } catch (const std::invalid_argument & e) {
        raise(engine_error(error_kind::INPUT, e.what()));
    }
}

py::array_t<float> to_array(std::vector<float> && data, int64_t n_rows, int64_t n_cols) {
    auto *      owned = new std::vector<float>(std::move(data));
    py::capsule free(owned, [](void * p) { delete (std::vector<float> *) p; });
    return py::array_t<float>({ n_rows, n_cols }, owned->data(), free);
}

py::array_t<float>
embed(engine & self, const ids_list & ids, const std::string & pooling, const py::object & progress) {
    py::array_t<float> res({ (py::ssize_t) ids.size(), (py::ssize_t) self.n_embd() });
    float *            dst = res.mutable_data();

    const engine::progress_fn report = [&progress](int64_t n_done) {
        py::gil_scoped_acquire gil;
        if (!progress.is_none()) {
            progress(n_done);
        }
    };
    run([&](const engine::interrupt_fn & interrupt) {
        self.embed(ids, pooling_mode_from_name(pooling), dst, interrupt, report);
        return 0;
    });
    return res;
}

py::list activations(engine & self, const std::vector<int32_t> & ids) {
    auto nodes = run([&](const engine::interrupt_fn &) { return self.activations(ids); });

    py::list res;
    for (auto & node : nodes) {
        res.append(py::make_tuple(node.name, to_array(std::move(node.data), node.n_rows, node.n_cols)));
    }
    return res;
}

} // namespace

void register_batch_plan(py::module_ & m) {
    m.def(
        "batch_plan",
        [](const std::vector<int32_t> & lengths, int32_t n_tokens_max, int32_t n_seqs_max) {
            std::vector<std::vector<int32_t>> res;
            for (auto & item : batch_plan(lengths, n_tokens_max, n_seqs_max)) {
                res.push_back(std::move(item.index));
            }
            return res;
        },
        py::arg("lengths"), py::arg("n_tokens_max"), py::arg("n_seqs_max"));
}

void register_engine(py::module_ & m) {
    py::class_<engine>(m, "Engine")
        .def(py::init([](const std::string & path, int32_t n_threads, int32_t n_gpu_layers, int32_t n_batch,
                         bool per_channel) {
                 return run([&](const engine::interrupt_fn &) {
                     return std::make_unique<engine>(path,
                                                     engine_params{ n_threads, n_gpu_layers, n_batch, per_channel });
                 });
             }),
             py::arg("path"), py::kw_only(), py::arg("n_threads"), py::arg("n_gpu_layers") = 0,
             py::arg("n_batch") = 512, py::arg("per_channel") = false)
        .def_property_readonly("n_embd", &engine::n_embd)
        .def_property_readonly("n_vocab", &engine::n_vocab)
        .def_property_readonly("n_ctx_train", &engine::n_ctx_train)
        .def("embed", embed, py::arg("ids"), py::arg("pooling"), py::arg("progress") = py::none())
        .def(
            "hidden",
            [](engine & self, const std::vector<int32_t> & ids) {
                return to_array(
                    run([&](const engine::interrupt_fn & interrupt) { return self.hidden(ids, interrupt); }),
                    (int64_t) ids.size(), self.n_embd());
            },
            py::arg("ids"))
        .def("activations", activations, py::arg("ids"))
        .def(
            "tokenize",
            [](const engine & self, const std::string & text) {
                return run([&](const engine::interrupt_fn &) { return self.tokenize(text); });
            },
            py::arg("text"));
}
