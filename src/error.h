#pragma once

#include <stdexcept>
#include <string>

// what went wrong, so that the binding can raise the fitting Python exception
enum class error_kind {
    INPUT,       // an argument that cannot be used
    MODEL_FILE,  // a damaged, foreign or incomplete GGUF file
    NOT_FOUND,   // no such file, or one that may not be read
    OUTPUT,      // a file that cannot be written
    MEMORY,      // the model or its buffers do not fit
    INTERRUPTED, // the caller asked to stop
};

struct engine_error : std::runtime_error {
    engine_error(error_kind kind, const std::string & msg) : std::runtime_error(msg), kind(kind) {}

    const error_kind kind;
};
