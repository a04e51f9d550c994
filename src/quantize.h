#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

struct quantize_params {
    int32_t ftype            = 0; // enum llama_ftype
    int32_t n_threads        = 1;
    bool    allow_requantize = false;

    // regular expressions of tensor names and the enum ggml_type that each gets in place of the mixture's
    std::vector<std::pair<std::string, int32_t>> tensor_types;
};

// Write the GGUF file src anew to dst through llama.cpp's own quantiser. interrupt is asked before each tensor.
// Throws engine_error; dst may then be there in part.
void quantize(const std::string &           src,
              const std::string &           dst,
              const quantize_params &       params,
              const std::function<bool()> & interrupt);
