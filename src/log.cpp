#include "log.h"

static thread_local std::string first_error;

void log_note(bool is_error, const char * text) {
    if (is_error && first_error.empty()) {
        first_error = text;
        while (!first_error.empty() && first_error.back() == '\n') {
            first_error.pop_back();
        }
    }
}

std::string log_take_error() {
    std::string res;
    res.swap(first_error);
    return res;
}
