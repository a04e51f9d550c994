#include "quantize.h"

#include "error.h"
#include "llama-compat.h"
#include "log.h"
#include "model-file.h"

#include "llama.h"

#include <cstring>

namespace {

struct interrupted : std::exception {};

// "[   1/  18] blk.0.ffn_up.weight - [..." -> "blk.0.ffn_up.weight", empty for any other line
std::string tensor_name(const char * text) {
    const char * begin = text[0] == '[' ? strstr(text, "] ") : nullptr;
    const char * end   = begin ? strstr(begin, " - [") : nullptr;
    if (!end) {
        return "";
    }
    std::string res(begin + 2, end);
    res.erase(0, res.find_first_not_of(' '));
    res.erase(res.find_last_not_of(' ') + 1);
    return res;
}

bool contains(const std::string & text, const char * part) {
    return text.find(part) != std::string::npos;
}

} // namespace

void quantize(const std::string &           src,
              const std::string &           dst,
              const quantize_params &       params,
              const std::function<bool()> & interrupt) {
    model_file_check(src);

    llama_model_quantize_params qparams = llama_model_quantize_default_params();
    qparams.ftype                       = (llama_ftype) params.ftype;
    qparams.nthread                     = params.n_threads;
    qparams.allow_requantize            = params.allow_requantize;

    llama_compat_tensor_types types(qparams, params.tensor_types);

    // llama.cpp has no other way to stop than an exception, which it catches; it logs each tensor before it begins it
    bool               stopped = false;
    std::string        tensor;
    const log_listener listener([&](const char * text) {
        const std::string name = tensor_name(text);
        if (name.empty()) {
            return;
        }
        tensor = name;
        if (!stopped && interrupt()) {
            stopped = true;
            throw interrupted();
        }
    });

    log_take_error();
    if (llama_model_quantize(src.c_str(), dst.c_str(), &qparams) == 0) {
        return;
    }

    const std::string error = log_take_error();
    if (stopped) {
        throw engine_error(error_kind::INTERRUPTED, "interrupted");
    }
    if (contains(error, "bad_alloc")) {
        throw engine_error(error_kind::MEMORY, "out of memory while quantising " + src);
    }
    if (contains(error, "iostream")) { // what std::ofstream says whatever the cause
        throw engine_error(error_kind::OUTPUT, "the disk is full or a file-size limit is reached");
    }
    const std::string where = tensor.empty() ? "" : ", tensor '" + tensor + "'";
    throw engine_error(error_kind::MODEL_FILE, src + where + ": llama.cpp cannot quantise it: " + error);
}
