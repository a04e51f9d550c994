#include "bind-engine.h"

#include "llama.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The native engine: a patched llama.cpp. Private; use modernbert_llama.Embedder.";

    llama_backend_init();

    register_log(m);
    register_batch_plan(m);
    register_metadata(m);
    register_engine(m);
    register_quantize(m);
}
