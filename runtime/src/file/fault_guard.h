#pragma once

#include <cstddef>

namespace actquant {

// While this lives, reading a page of a mapping that its file no longer has gives zeros, where the
// system would end the process (SIGBUS): a file may be truncated while it is open. Whoever reads
// the mapping must look at the file afterwards. Other bus errors go where they went before.
class FaultGuard {
  public:
    FaultGuard(void* address, size_t size);
    FaultGuard(const FaultGuard&) = delete;
    FaultGuard& operator=(const FaultGuard&) = delete;
    ~FaultGuard();

  private:
    struct Range;
    Range* range;
    friend class BusErrors;
};

} // namespace actquant
