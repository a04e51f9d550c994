#pragma once

#include <string>

// llama.cpp's log: kept here per thread, so that an exception can say what llama.cpp complained of

// called for every piece of text that llama.cpp logs
void log_note(bool is_error, const char * text);

// the first line logged as an error in this thread since the call before, without its newline; empty if none
std::string log_take_error();
