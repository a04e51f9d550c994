#pragma once

#include "ggml.h"
#include "gguf.h"

#include <memory>

struct gguf_deleter {
    void operator()(gguf_context * ctx) const { gguf_free(ctx); }
};
struct ggml_deleter {
    void operator()(ggml_context * ctx) const { ggml_free(ctx); }
};

using gguf_ptr = std::unique_ptr<gguf_context, gguf_deleter>;
using ggml_ptr = std::unique_ptr<ggml_context, ggml_deleter>;
