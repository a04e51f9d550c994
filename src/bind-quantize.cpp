#include "bind-engine.h"
#include "bind-run.h"
#include "quantize.h"

#include <pybind11/stl.h>

namespace py = pybind11;

void register_quantize(py::module_ & m) {
    m.def(
        "quantize",
        [](const std::string & src, const std::string & dst, int32_t ftype, int32_t n_threads, bool allow_requantize,
           const std::vector<std::pair<std::string, int32_t>> & tensor_types) {
            run([&](const std::function<bool()> & interrupt) {
                quantize(src, dst, { ftype, n_threads, allow_requantize, tensor_types }, interrupt);
                return 0;
            });
        },
        py::arg("source"), py::arg("target"), py::kw_only(), py::arg("ftype"), py::arg("n_threads"),
        py::arg("allow_requantize"), py::arg("tensor_types"));
}
