#include "log.h"

static thread_local std::string                       first_error;
static thread_local std::function<void(const char *)> listener;

void log_note(bool is_error, const char * text) {
    if (is_error && first_error.empty()) {
        first_error = text;
        while (!first_error.empty() && first_error.back() == '\n') {
            first_error.pop_back();
        }
    }
    if (listener) {
        listener(text);
    }
}

std::string log_take_error() {
    std::string res;
    res.swap(first_error);
    return res;
}

log_listener::log_listener(std::function<void(const char *)> f) {
    listener = std::move(f);
}

log_listener::~log_listener() {
    listener = nullptr;
}
