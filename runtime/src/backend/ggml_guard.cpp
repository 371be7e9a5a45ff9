#include "backend/ggml_guard.h"

#include "common/error.h"

#include <ggml.h>

#include <cstdio>
#include <mutex>
#include <string>

namespace actquant {
namespace {

thread_local int guards = 0;

// ggml is compiled so that exceptions pass through its C code (cmake/ggml.cmake).
void on_abort(const char* message) {
    if (guards == 0) {
        std::fprintf(stderr, "%s\n", message); // as ggml does; it then calls abort()
        return;
    }
    // "/path/to/ggml.c:123: reason"
    std::string text = message;
    throw FileError("ggml refuses it: " + text.substr(text.find_last_of('/') + 1));
}

} // namespace

GgmlGuard::GgmlGuard() {
    static std::once_flag once;
    std::call_once(once, [] { ggml_set_abort_callback(on_abort); });
    guards++;
}

GgmlGuard::~GgmlGuard() {
    guards--;
}

} // namespace actquant
