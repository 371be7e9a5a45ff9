#pragma once

namespace actquant {

// As long as one lives, an assertion of ggml that fails on this thread throws FileError with what
// it says, instead of stopping the process: the last net under checks of our own. Only for code
// that builds, where everything is owned by this thread and given back by destructors. While a
// graph is computed other threads wait for this one, and an assertion stops the process as before.
class GgmlGuard {
  public:
    GgmlGuard();
    ~GgmlGuard();
    GgmlGuard(const GgmlGuard&) = delete;
    GgmlGuard& operator=(const GgmlGuard&) = delete;
};

} // namespace actquant
