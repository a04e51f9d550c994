#pragma once

#include <string>

// Check a GGUF file before llama.cpp reads it: llama.cpp aborts the process on some damaged files.
// Verifies the header, the architecture, the keys and the name, type and shape of every tensor.
// Throws engine_error with a message that names the key or the tensor at fault.
void model_file_check(const std::string & path);

// the name of the first tensor that holds NaN or infinity, empty if none does
std::string model_file_find_non_finite(const std::string & path);
