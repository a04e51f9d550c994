#include "bind-engine.h"

#include "batch-plan.h"
#include "bind-run.h"
#include "engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

namespace py = pybind11;

namespace {

using ids_list = std::vector<std::vector<int32_t>>;

py::array_t<float> to_array(std::vector<float> && data, int64_t n_rows, int64_t n_cols) {
    auto *      owned = new std::vector<float>(std::move(data));
    py::capsule free(owned, [](void * p) { delete (std::vector<float> *) p; });
    return py::array_t<float>({ n_rows, n_cols }, owned->data(), free);
}

engine::progress_fn report_to(const py::object & progress) {
    return [&progress](int64_t n_done) {
        py::gil_scoped_acquire gil;
        if (!progress.is_none()) {
            progress(n_done);
        }
    };
}

py::array_t<float> embed(engine &                     self,
                         const ids_list &             ids,
                         const std::string &          pooling,
                         const py::object &           progress,
                         int32_t                      n_skip,
                         const std::vector<int32_t> & n_unseen) {
    const auto modes = run([&](const engine::interrupt_fn &) { return pooling_modes_from_name(pooling); });

    py::ssize_t n_rows = 0;
    for (const auto & seq : ids) {
        n_rows += (py::ssize_t) pooling_n_rows(modes, (int64_t) seq.size(), n_skip);
    }

    py::array_t<float> res({ n_rows, (py::ssize_t) modes.size() * self.n_embd() });
    float *            dst = res.mutable_data();

    run([&](const engine::interrupt_fn & interrupt) {
        self.embed(ids, modes, n_skip, n_unseen, dst, interrupt, report_to(progress));
        return 0;
    });
    return res;
}

py::array_t<float>
head_rows(engine & self, const ids_list & ids, const std::optional<ids_list> & rows, const py::object & progress) {
    const int64_t n_out = run([&](const engine::interrupt_fn &) { return self.load_head(); });

    py::ssize_t n_rows = 0;
    for (const auto & seq : rows ? *rows : ids) {
        n_rows += (py::ssize_t) seq.size();
    }

    py::array_t<float> res({ n_rows, (py::ssize_t) n_out });
    float *            dst = res.mutable_data();
    run([&](const engine::interrupt_fn & interrupt) {
        self.head_rows(ids, rows ? &*rows : nullptr, dst, interrupt, report_to(progress));
        return 0;
    });
    return res;
}

// rows of a CSR matrix: where each begins, the columns, their values
py::tuple head_sparse(engine &            self,
                      const ids_list &    ids,
                      const std::string & pooling,
                      bool                log1p_twice,
                      int32_t             top_k,
                      const py::object &  progress) {
    const std::vector<sparse_vector> texts = run([&](const engine::interrupt_fn & interrupt) {
        if (pooling != "max" && pooling != "sum") {
            throw engine_error(error_kind::INPUT, "pooling is '" + pooling + "', expected 'max' or 'sum'");
        }
        return self.head_sparse(ids, pooling == "max" ? head_pooling::MAX : head_pooling::SUM, log1p_twice, top_k,
                                interrupt, report_to(progress));
    });

    py::array_t<int64_t> starts((py::ssize_t) texts.size() + 1);
    int64_t              n = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
        starts.mutable_at(i) = n;
        n += (int64_t) texts[i].index.size();
    }
    starts.mutable_at(texts.size()) = n;

    py::array_t<int32_t> index(n);
    py::array_t<float>   value(n);
    int32_t *            dst_index = index.mutable_data();
    float *              dst_value = value.mutable_data();
    for (const auto & text : texts) {
        dst_index = std::copy(text.index.begin(), text.index.end(), dst_index);
        dst_value = std::copy(text.value.begin(), text.value.end(), dst_value);
    }
    return py::make_tuple(starts, index, value);
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
        .def("embed", embed, py::arg("ids"), py::arg("pooling"), py::arg("progress") = py::none(),
             py::arg("n_skip") = 0, py::arg("n_unseen") = std::vector<int32_t>())
        .def(
            "load_head",
            [](engine & self, bool maxima) {
                return run([&](const engine::interrupt_fn &) { return self.load_head(maxima); });
            },
            py::kw_only(), py::arg("maxima") = false)
        .def_property_readonly("head_screened", &engine::head_screened)
        .def("head_rows", head_rows, py::arg("ids"), py::arg("rows") = py::none(), py::arg("progress") = py::none())
        .def("head_sparse", head_sparse, py::arg("ids"), py::arg("pooling") = "max", py::arg("log1p_twice") = false,
             py::arg("top_k") = 0, py::arg("progress") = py::none())
        .def("activations", activations, py::arg("ids"))
        .def(
            "profile",
            [](engine & self, const ids_list & ids, int32_t n_passes) {
                py::list res;
                for (const auto & node : run([&](const engine::interrupt_fn & interrupt) {
                         return self.profile(ids, n_passes, interrupt);
                     })) {
                    res.append(py::make_tuple(node.name, node.op, node.n_flops, node.seconds));
                }
                return res;
            },
            py::arg("ids"), py::arg("n_passes") = 1)
        .def(
            "tokenize",
            [](const engine & self, const std::string & text, bool add_special, bool parse_special) {
                return run(
                    [&](const engine::interrupt_fn &) { return self.tokenize(text, add_special, parse_special); });
            },
            py::arg("text"), py::arg("add_special") = true, py::arg("parse_special") = true)
        .def(
            "detokenize",
            [](const engine & self, const std::vector<int32_t> & ids, bool special) {
                return py::bytes(run([&](const engine::interrupt_fn &) { return self.detokenize(ids, special); }));
            },
            py::arg("ids"), py::arg("special") = false)
        .def_property_readonly("token_bos", &engine::token_bos)
        .def_property_readonly("token_eos", &engine::token_eos)
        .def_property_readonly("token_nl", &engine::token_nl);
}
