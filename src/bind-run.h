#pragma once

#include "error.h"

#include <pybind11/pybind11.h>

#include <chrono>
#include <functional>
#include <memory>

// Lets Ctrl-C stop native code that runs without the GIL: asked often, it looks at Python's signals every 50 ms.
// Only Python's main thread handles signals; in any other thread it never stops the run.
class interrupt_check {
public:
    bool operator()();

    // the exception that the signal handler raised (KeyboardInterrupt)
    void rethrow();

private:
    std::chrono::steady_clock::time_point        last = std::chrono::steady_clock::now();
    std::unique_ptr<pybind11::error_already_set> error;
    bool                                         pending = false;
};

// the Python exception of the error's kind
[[noreturn]] void raise(const engine_error & e);

// run a native call without the GIL, with Ctrl-C, and turn its errors into Python's
template <typename F> auto run(F && f) {
    interrupt_check             check;
    const std::function<bool()> interrupt = [&check] { return check(); };
    try {
        pybind11::gil_scoped_release release;
        return f(interrupt);
    } catch (const engine_error & e) {
        check.rethrow();
        raise(e);
    } catch (const std::bad_alloc &) {
        raise(engine_error(error_kind::MEMORY, "out of memory"));
    } catch (const std::invalid_argument & e) {
        raise(engine_error(error_kind::INPUT, e.what()));
    }
}
