#pragma once

#include <functional>
#include <string>

// llama.cpp's log: kept here per thread, so that an exception can say what llama.cpp complained of

// called for every piece of text that llama.cpp logs
void log_note(bool is_error, const char * text);

// the first line logged as an error in this thread since the call before, without its newline; empty if none
std::string log_take_error();

// While it lives, f hears every piece of text that llama.cpp logs in this thread; what f throws goes through llama.cpp.
class log_listener {
public:
    explicit log_listener(std::function<void(const char *)> f);
    ~log_listener();

    log_listener(const log_listener &)             = delete;
    log_listener & operator=(const log_listener &) = delete;
};
