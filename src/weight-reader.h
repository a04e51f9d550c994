#pragma once

#include "ggml-ptr.h"

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

// The weights of a GGUF file that model_file_check has passed. What cannot be read, and NaN or infinity among the
// weights, throws engine_error.
class weight_reader {
public:
    explicit weight_reader(const std::string & path);

    [[noreturn]] void fail(const std::string & msg) const;

    // a matrix: a tensor, or a key of f32 values where llama.cpp must not see one
    struct matrix {
        std::string name;
        ggml_type   type;
        int64_t     ne0;
        int64_t     ne1; // 0: there is none
    };

    matrix find(const std::string & name, int64_t n_embd) const;
    bool   has(const std::string & name) const;

    std::string str(const std::string & key, const std::string & fallback) const;
    int64_t     u32(const std::string & key) const; // a key that must be there
    float       f32(const std::string & key, float fallback) const;

    // the rows [begin, end) as they lie in the file
    std::vector<uint8_t> rows(const matrix & m, int64_t begin, int64_t end);

    // empty if there is none
    std::vector<float> vector(const std::string & name);

private:
    int64_t find_array(const std::string & name) const;

    std::string   path;
    std::ifstream file;
    gguf_ptr      gguf;
    ggml_ptr      meta;
};
