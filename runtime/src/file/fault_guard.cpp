#include "file/fault_guard.h"

#include <atomic>
#include <cstdint>
#include <mutex>

#include <csignal>
#include <sys/mman.h>
#include <unistd.h>

namespace actquant {

// A handler may take no lock and allocate nothing: ranges are a list that only grows. One that is
// not used any more (size 0) is used again.
struct FaultGuard::Range {
    std::atomic<uintptr_t> begin = 0;
    std::atomic<size_t> size = 0;
    Range* next = nullptr;
};

class BusErrors {
  public:
    static FaultGuard::Range* add(void* address, size_t size) {
        std::lock_guard lock(mutex);
        listen();
        FaultGuard::Range* range = ranges;
        while (range != nullptr && range->size != 0) {
            range = range->next;
        }
        if (range == nullptr) {
            range = new FaultGuard::Range;
            range->next = ranges;
            ranges = range;
        }
        range->begin = reinterpret_cast<uintptr_t>(address);
        range->size = size;
        return range;
    }

    static void remove(FaultGuard::Range* range) {
        std::lock_guard lock(mutex);
        range->size = 0;
    }

  private:
    static void listen() {
        static std::once_flag once;
        std::call_once(once, [] {
            page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
            struct sigaction action = {};
            action.sa_sigaction = answer;
            action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
            sigemptyset(&action.sa_mask);
            sigaction(SIGBUS, &action, &previous);
        });
    }

    static bool is_ours(uintptr_t address) {
        for (FaultGuard::Range* range = ranges; range != nullptr; range = range->next) {
            uintptr_t begin = range->begin;
            if (address >= begin && address - begin < range->size) {
                return true;
            }
        }
        return false;
    }

    static void answer(int signal, siginfo_t* info, void* context) {
        uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
        if (is_ours(address)) {
            void* page = reinterpret_cast<void*>(address / page_bytes * page_bytes);
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            if (mmap(page, page_bytes, PROT_READ, flags, -1, 0) == page) {
                return;
            }
        }
        if ((previous.sa_flags & SA_SIGINFO) != 0) {
            previous.sa_sigaction(signal, info, context);
        } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
            previous.sa_handler(signal);
        } else {
            sigaction(SIGBUS, &previous, nullptr); // and the access fails again
        }
    }

    static inline std::mutex mutex;
    static inline std::atomic<FaultGuard::Range*> ranges = nullptr;
    static inline size_t page_bytes = 0;
    static inline struct sigaction previous = {};
};

FaultGuard::FaultGuard(void* address, size_t size) : range(BusErrors::add(address, size)) {}

FaultGuard::~FaultGuard() {
    BusErrors::remove(range);
}

} // namespace actquant
